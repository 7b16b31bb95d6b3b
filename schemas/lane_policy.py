"""How fast a source may feed a provider, and who may use how much of it: ``mail-lane-policy`` (compacted)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event


@event("lane_policy", 1)
class LanePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limit of one source x provider, or DKIM domain x provider. The stricter of the two wins.

    ``rate`` messages/s, ``minimum`` the floor that workers without a lease share, ``connections`` in
    all, ``per_connection`` messages before QUIT. ``suspended_until`` Unix seconds. ``epoch`` is the
    leader's (offset of its first record): a lower epoch behind a higher one is ignored.

    ``base`` … ``frozen_until`` are what the next leader of shape has to remember; workers need none of it:
    the rate without the passing cap, the rate at which the provider pushed back, when the law last cut
    and raised, until when a reaction caps (``cap_until``) and until when growth is frozen; until when
    connections that the provider refused, or ended after ``per_connection`` messages, are not tried again.
    """

    kind: Literal["source", "dkim"]
    name: str
    provider: str
    rate: float
    minimum: float
    connections: int
    per_connection: int
    suspended_until: float = 0.0
    reason: str = ""
    time: float = 0.0
    epoch: int = 0
    base: float = 0.0
    ceiling: float = 0.0
    cut_at: float = 0.0
    raised_at: float = 0.0
    cap_until: float = 0.0
    frozen_until: float = 0.0
    connections_until: float = 0.0
    per_connection_until: float = 0.0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"policy|{self.kind}|{self.name}|{self.provider}".encode()


@event("lease", 1)
class Lease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A share of a limit, lent to one worker incarnation in answer to its report ``number``.

    The worker counts ``duration`` (seconds) from the moment it *sent* that report, on its monotonic
    clock; shape counts from publishing: the worker stops first. A lease comes on top of the floor
    (policy minimum x owned partitions / P) and never adds up, over all workers, to more than policy rate
    - minimum; ``connections`` 0 means: it is another worker's turn. ``time`` Unix seconds, for people.
    """

    worker: str
    number: int
    provider: str
    kind: Literal["source", "dkim"]
    name: str
    rate: float
    connections: int
    per_connection: int
    duration: float
    time: float = 0.0
    epoch: int = 0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"lease|{self.worker}|{self.kind}|{self.name}|{self.provider}".encode()


@event("decision", 1)
class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a limit changed: the dated line that ``mailsluice lanes explain`` prints."""

    kind: Literal["source", "dkim"]
    name: str
    provider: str
    time: float
    what: str
    reason: str
    sample: str = ""
    rate: float = 0.0
    epoch: int = 0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic: the time keeps a short history under compaction."""
        return f"decision|{self.kind}|{self.name}|{self.provider}|{self.time:.3f}".encode()


@event("leader", 1)
class Leader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A new leader of shape announces itself; the offset of this record is its epoch."""

    worker: str
    time: float
    key: bytes = b"leader"
