"""Lines of files that people hand over: none is read into memory beyond a bound, whatever the file is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Protocol


class Source(Protocol):
    """What bytes are read from."""

    def readline(self, size: int, /) -> bytes:
        """A line, or so many bytes of one; empty at the end."""


def text_lines(file: BinaryIO, longest: int) -> Iterator[str]:
    """Lines of UTF-8 with their ends; what is no UTF-8 becomes surrogates. A line beyond ``longest`` characters comes
    in pieces."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    return iter(partial(text.readline, longest), "")


def numbered_lines(source: Source, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, line); None for one of more than ``longest`` bytes, which is passed over."""
    number = 0
    while line := source.readline(longest + 1):
        number += 1
        if len(line) <= longest:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(longest)
        yield number, None
