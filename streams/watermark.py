"""The contiguous watermark of one partition: what may be committed although work ends out of order."""

from __future__ import annotations

from collections import deque


class Watermark:
    """Offsets are taken in log order (gaps allowed) and finished in any order.

    ``position``: the offset to commit; everything below it is finished.
    """

    __slots__ = ("_finished", "_open", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._open: deque[int] = deque()
        self._finished: set[int] = set()

    def take(self, offset: int) -> None:
        """A record enters work. Offsets must grow; raises ValueError otherwise (it would be lost)."""
        if offset < self.position or (self._open and offset <= self._open[-1]):
            raise ValueError(f"offset {offset} was taken already (position {self.position})")
        self._open.append(offset)

    def finish(self, offset: int) -> None:
        """A record is settled: all its outputs are acknowledged."""
        opened = self._open
        if not opened or opened[0] != offset:
            self._finished.add(offset)
            return
        opened.popleft()
        self.position = offset + 1
        finished = self._finished
        while opened and opened[0] in finished:
            done = opened.popleft()
            finished.discard(done)
            self.position = done + 1

    def __len__(self) -> int:
        """Records in work."""
        return len(self._open) - len(self._finished)

    @property
    def span(self) -> int:
        """Records between the watermark and the newest one taken: finished ones behind a slow one count."""
        return len(self._open)

    @property
    def oldest(self) -> int | None:
        """The offset that holds the watermark back."""
        return self._open[0] if self._open else None
