"""How fast a source may feed a provider, and who may use how much of it: ``mail-lane-policy`` (compacted)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event

ALL = "*"
"""In the place of a provider: a limit over all providers together."""


class Spent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages of a counted limit. ``used`` in the day since ``day_start`` (Unix seconds), of ``per_day``
    (0: no day is counted); ``ahead``: granted, or about to be, and not told of yet; ``fullest``: the most
    in any window of the day; ``lately``: (until when, how many) within the last ``span`` seconds, in which
    at most ``per_span`` may go."""

    per_day: int = 0
    per_span: int = 0
    span: float = 3600.0
    day_start: float = 0.0
    used: int = 0
    ahead: int = 0
    fullest: int = 0
    lately: tuple[tuple[int, int], ...] = ()


@event("lane_policy", 1)
class LanePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limit of one source x provider, or DKIM domain x provider. The stricter of the two wins.

    ``rate`` messages/s, ``minimum`` the floor that workers without a lease share, ``connections`` in
    all, ``per_connection`` messages before QUIT. ``suspended_until`` Unix seconds. ``epoch`` is the
    leader's (offset of its first record): a lower epoch behind a higher one is ignored.

    ``base`` … ``frozen_until`` are what the next leader of shape has to remember; workers need none of it:
    the rate without the passing cap, the rate at which the provider pushed back, when the law last cut
    and raised, until when a reaction caps (``cap_until``) and until when growth is frozen; until when
    connections that the provider refused, or ended after ``per_connection`` messages, are not tried again;
    the rate that the provider took for long (``proven``), when it did last, and since when an order to stop
    is being obeyed (``stopped_at``).

    ``spent``: the limit is counted (warm-up, a gate): workers send only what a lease's ``most`` allows, and
    have no floor. ``plan`` and ``step`` (0 = the first day): where its warm-up stands; ``day``: the counts
    of its day; ``volumes`` delivered on the days before; ``engaged_only``: too many complaints, so
    only contacts that clicked lately should get mail, ``gate_day`` a day at most, until ``good_days``
    measured days were good. ``seen``: the last report about it; ``ordered``: the last order followed.

    ``by_from``, of a DKIM domain over all providers: while it warms up each of its From addresses has a limit
    of its own (kind ``from``, over all providers), and without a lease of that sends nothing.
    """

    kind: Literal["source", "dkim", "from"]
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
    spent: Spent | None = None
    plan: str = ""
    step: int = 0
    day: tuple[float, ...] = ()
    volumes: tuple[int, ...] = ()
    engaged_only: bool = False
    gate_day: int = 0
    good_days: int = 0
    seen: float = 0.0
    ordered: float = 0.0
    proven: float = 0.0
    proven_at: float = 0.0
    stopped_at: float = 0.0
    by_from: bool = False

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
    ``most``: messages of this limit that the worker may have started since it came up; -1: not counted.
    """

    worker: str
    number: int
    provider: str
    kind: Literal["source", "dkim", "from"]
    name: str
    rate: float
    connections: int
    per_connection: int
    duration: float
    most: int = -1
    time: float = 0.0
    epoch: int = 0

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"lease|{self.worker}|{self.kind}|{self.name}|{self.provider}".encode()


@event("decision", 1)
class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a limit changed: the dated line that ``mailsluice lanes explain`` prints."""

    kind: Literal["source", "dkim", "from"]
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


@event("lane_order", 1)
class LaneOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator wants of a limit: followed once, and written down as a Decision with who and why.

    ``what``: ``warm`` (known to the provider, no plan), ``day`` (day ``value`` of its plan), ``restart`` (the first
    day), ``engaged_only`` (``value`` messages a day, only to those who clicked lately), ``lift`` (no
    gate, growth is free). ``plan``: the plan of ``day`` and ``restart``; empty: its own. ``time`` Unix seconds.
    """

    kind: Literal["source", "dkim"]
    name: str
    provider: str
    what: Literal["warm", "day", "restart", "engaged_only", "lift"]
    value: int = 0
    plan: str = ""
    who: str
    why: str
    time: float

    @property
    def key(self) -> bytes:
        """The key on the compacted topic: the newest order on a limit stays."""
        return f"order|{self.kind}|{self.name}|{self.provider}".encode()


@event("leader", 1)
class Leader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A new leader of shape announces itself; the offset of this record is its epoch."""

    worker: str
    time: float
    key: bytes = b"leader"
