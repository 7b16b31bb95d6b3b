"""Which fault, when, to whom: a pure function of the seed, so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from random import Random

from streams.ops.chaos.points import FLIPS, POINTS, STOPS, Point

GROUPS: Mapping[str, int] = {"intake": 2, "compose": 2, "deliver": 2, "hygiene": 2, "edge": 1, "control": 1}
"""Stage group -> workers. One edge a machine: its ports are settings."""
SHORT: Mapping[str, int] = {**GROUPS, "compose": 1, "hygiene": 1}
"""Fewer for a run of a minute: on a busy machine a worker's start alone costs seconds."""
OWNERS = ("intake", "compose", "deliver", "hygiene")
"""Groups whose workers own partitions."""
ROOMY = 20
"""Kills from which on a plan has every kind of fault in it."""


LARGE = ("gmail", "outlook", "many")
"""Providers of ``world.toml`` that a fault of the SMTP side may befall."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. It befalls a worker of ``groups`` or one of ``providers``, or all. ``kills``: SIGKILLs
    of workers or broker that it takes. ``lasts``: seconds, from and to; ``short`` the same where the whole
    run is short. ``alone``: nothing else begins before it is over, and ``rest`` seconds later."""

    name: str
    weight: float
    groups: tuple[str, ...] = ()
    kills: int = 0
    lasts: tuple[float, float] = (0.0, 0.0)
    short: tuple[float, float] = (0.0, 0.0)
    alone: bool = False
    rest: float = 0.0
    providers: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    """Where a worker may be made to fall: the next of them each time, in an order of the seed's."""


KINDS: tuple[Kind, ...] = (
    Kind("kill-intake", 3, ("intake",), 1),
    Kind("kill-compose", 2, ("compose",), 1),
    Kind("kill-deliver", 6, ("deliver",), 1),
    Kind("kill-hygiene", 3, ("hygiene",), 1),
    Kind("kill-edge", 3, ("edge",), 1),
    Kind("kill-control", 2, ("control",), 1),
    Kind("wipe", 2, ("intake", "deliver", "hygiene"), 1),
    Kind("kill-broker", 1, (), 1, (0.5, 2.0), (0.5, 1.0), alone=True, rest=8.0),
    Kind("outage", 0, (), 1, (60.0, 60.0), (10.0, 10.0), alone=True, rest=8.0),
    Kind("point-kill", 14, OWNERS, 1, (9.0, 9.0), (9.0, 9.0), points=POINTS),
    Kind("freeze", 4, OWNERS, 0, (6.0, 10.0), (5.5, 6.0)),
    Kind("point-stop", 4, OWNERS, 0, (6.0, 8.0), (5.5, 6.0), points=STOPS),
    Kind("term", 3, tuple(GROUPS)),
    Kind("rolling", 0.5, alone=True),
    Kind("grow", 2, OWNERS, 0, (8.0, 14.0), (5.0, 6.0)),
    Kind("shrink", 2, OWNERS, 0, (6.0, 10.0), (3.0, 4.0)),
    Kind("disk-full", 2, ("intake", "deliver", "hygiene"), 0, (4.0, 8.0), (3.0, 4.0)),
    Kind("smtp-refuse", 2, (), 0, (2.0, 6.0), (2.0, 3.0), providers=LARGE),
    Kind("smtp-reset-before-354", 2, providers=LARGE),
    Kind("smtp-reset-inside-data", 2, providers=LARGE),
    Kind("smtp-reset-after-dot", 2, providers=LARGE),
    Kind("tarpit", 1, (), 0, (10.0, 20.0), (4.0, 5.0), providers=("tar",)),
    Kind("unsubscribe", 2, (), 0, (4.0, 8.0), (4.0, 4.0)),
    Kind("cancel", 2, (), 0, (4.0, 8.0), (4.0, 4.0)),
)
"""Every kind. They are drawn in proportion to their weights, and each at least once where there is room
(one of weight 0 just once)."""
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``at``: seconds after the plan's begin; ``target``: the worker or provider, or nothing;
    ``seconds``: how long it lasts; ``number`` counts from 1."""

    number: int
    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    point: str = ""
    """Where it falls (``points.py``), at the time that it passes there for the ``after``th time."""
    after: int = 0
    flip: str = ""
    """What is different at the second try."""

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.0f} s" if self.seconds else ""
        where = f" at {self.point!r} ({self.after})" if self.point else ""
        flip = f", then another {self.flip}" if self.flip else ""
        return f"{self.kind}{' ' + self.target if self.target else ''}{where}{flip}{lasts}"


def workers(groups: Mapping[str, int] = GROUPS) -> dict[str, str]:
    """Worker -> its group. The first of a group is named like it."""
    return {f"{g}-{n}" if n else g: g for g, count in groups.items() for n in range(count)}


def plan(
    seed: int,
    kills: int,
    gap: float = 3.0,
    groups: Mapping[str, int] = GROUPS,
    only: Sequence[str] = (),
) -> tuple[Fault, ...]:
    """The faults of a run in their order: ``kills`` SIGKILLs, and half as many faults of other kinds.

    ``gap``: mean seconds between two. From ROOMY kills on every kind occurs; below, every group of
    workers is killed in turn, and the other kinds are drawn without repetition. ``only``: so many faults of
    these kinds instead.
    """
    random = Random(f"chaos {seed}")
    if only:
        chosen = [BY_NAME[name] for name in only]
        kinds = [*chosen, *random.choices(chosen, k=kills - len(chosen))][:kills]
    else:
        kinds = _drawn(random, kills)
    return tuple(_timed(random, kinds, gap, kills < ROOMY, groups))


def seconds(faults: Sequence[Fault]) -> float:
    """When the last of them is over."""
    return max((fault.at + fault.seconds for fault in faults), default=0.0)


def _drawn(random: Random, kills: int) -> list[Kind]:
    killing = [kind for kind in KINDS if kind.kills]
    others = [kind for kind in KINDS if not kind.kills]
    if kills < ROOMY:
        firsts = [kind for kind in killing if kind.name.startswith("kill-") and kind.groups]
        found = _sample(random, firsts, kills)
        found += _weighted(random, killing, kills - len(found))
        # A rolling restart stands before the plan anyway.
        found += _sample(random, [kind for kind in others if not kind.alone], max(1, kills // 2))
    else:
        found = [*killing, *_weighted(random, killing, kills - len(killing))]
        found += [*others, *_weighted(random, others, kills // 2 - len(others))]
    random.shuffle(found)
    return found


def _weighted(random: Random, kinds: Sequence[Kind], count: int) -> list[Kind]:
    if not kinds:
        return []
    return random.choices(kinds, [kind.weight for kind in kinds], k=max(0, count))


def _sample(random: Random, kinds: Sequence[Kind], count: int) -> list[Kind]:
    """``count`` different ones, likelier the heavier."""
    ordered = sorted(kinds, key=lambda kind: random.random() ** (1 / kind.weight), reverse=True)
    return ordered[:count]


def _timed(
    random: Random, kinds: Sequence[Kind], gap: float, short: bool, groups: Mapping[str, int]
) -> Iterator[Fault]:
    """In time; a worker that is down or frozen is left alone until it is back."""
    at, names = 0.0, workers(groups)
    points = {kind.name: cycle(random.sample(kind.points, len(kind.points))) for kind in KINDS if kind.points}
    flips = cycle(random.sample(FLIPS, len(FLIPS)))
    busy: dict[str, float] = {}
    for number, kind in enumerate(kinds, 1):
        lasts = random.uniform(*(kind.short if short else kind.lasts))
        point = next(points[kind.name]) if kind.points else None
        candidates = [n for n, group in names.items() if group in ((point.group,) if point else kind.groups)]
        if kind.name == "grow":
            candidates = [f"{group}-{groups[group]}" for group in kind.groups]
        candidates += kind.providers
        target = ""
        if candidates:
            random.shuffle(candidates)
            target = min(candidates, key=lambda name: max(at, busy.get(name, 0.0)))
            at = max(at, busy.get(target, 0.0))
        fault = Fault(number, at, kind.name, target, lasts)
        if point:
            after = 1 if point.rare else random.randint(1, 30)
            fault = replace(fault, point=point.name, after=after, flip=next(flips))
        yield replace(fault, at=round(fault.at, 3), seconds=round(fault.seconds, 3))
        if target:
            busy[target] = at + lasts + gap
        at += random.uniform(0.4, 1.6) * gap + (lasts + kind.rest if kind.alone else 0.0)
