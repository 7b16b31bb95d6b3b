"""Fault points: the places between two acknowledgements at which a worker can be made to fall.

A random kill hits the long waits of a process, hardly ever the microseconds between an answer of the broker
and what follows from it. Here each such place has a name, ``PHASE PLACE``:

- ``before TOPIC``  a batch is about to be written: nobody has it
- ``acked TOPIC``   the broker has a batch, and the process has not heard of it yet
- ``after TOPIC``   the process has acted on the acknowledgement: what follows is put, and not yet written
- ``before commit STAGE``, ``after commit STAGE``  around a stage's commit of its offsets
- ``smtp PHASE``    of deliver: before MAIL, after the 354, before the dot and its check, after the dot, and
  after the reply, before anything follows from it

``streams.ops.chaos.stumble`` runs a worker that falls where it is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PHASES = ("before", "acked", "after")
TOPICS: Mapping[str, tuple[str, ...]] = {
    "intake": ("mail-enqueued", "mail-screen-log", "mail-screened"),
    "compose": ("mail-lane-*",),
    "deliver": ("mail-outcomes", "mail-wait-*"),
    "hygiene": ("mail-events", "mail-suppressions", "mail-consents", "mail-contacts", "mail-lane-*"),
}
"""Stage group -> what its workers write; hygiene's lanes are the ladder's mail coming back."""
COMMITS: Mapping[str, tuple[str, ...]] = {
    "intake": ("enqueue", "screen"),
    "compose": ("render",),
    "deliver": ("deliver",),
    "hygiene": ("wait", "classify", "suppress", "score"),
}
SMTP = ("before MAIL", "after 354", "before dot", "after dot", "after reply")
RARE = frozenset({"mail-wait-*", "mail-suppressions", "mail-consents", "mail-lane-*"})
"""What is not written all the time: the first such moment has to do."""
FLIPS = ("clock", "dns", "template", "suppress", "cancel", "")
"""What is different at the second try, so that it may decide otherwise."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the workers of a group. ``rare``: it is not passed all the time."""

    group: str
    name: str
    rare: bool = False


def _points() -> Iterator[Point]:
    for group, topics in TOPICS.items():
        for topic in topics:
            yield from (Point(group, f"{phase} {topic}", topic in RARE) for phase in PHASES)
    for group, stages in COMMITS.items():
        for stage in stages:
            yield from (Point(group, f"{phase} commit {stage}") for phase in ("before", "after"))
    yield from (Point("deliver", f"smtp {phase}") for phase in SMTP)


POINTS = tuple(_points())
"""Every one at which a worker may be killed."""
STOPS = (
    *(point for point in POINTS if point.name.startswith("smtp ")),
    *(Point("deliver", f"{phase} mail-outcomes") for phase in ("before", "acked")),
    *(Point("deliver", f"{phase} mail-wait-*", True) for phase in ("before", "acked")),
    Point("intake", "before mail-screen-log"),
    Point("hygiene", "before mail-suppressions", True),
    Point("hygiene", "before mail-consents", True),
    Point("hygiene", "before mail-contacts"),
)
"""Those at which a worker may be stopped and wake as somebody who owns nothing any more: deliver with mail
under way, the others as the late writer of an older row."""
