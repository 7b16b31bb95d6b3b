"""What the topics are: one record on ``mail-topology``. Workers that find another one refuse to run."""

from __future__ import annotations

import msgspec

from schemas.codec import event


@event("topology", 1)
class Topology(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``partitions`` is P: never taken from what the broker shows. ``lanes`` is the literal lane list."""

    partitions: int
    lanes: tuple[str, ...]
    format: int = 1
