"""May marketing mail go to this address now? Pure: mail, contact, rules and time in; verdict and reason out.

Transactional mail never comes here: it stops on a bad address or an explicit block alone.

Who cannot be seen (no consent to open or click tracking, and never seen to read) is not judged by recency:
silence says nothing where nobody listens. Machine opens are no sign of life.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from agents.screen.domains import Lists, Place
from schemas.address import domain_of
from schemas.send import Consent

DAY = 86400.0
Action = Literal["stop", "warn", "off"]
ACTIONS: tuple[Action, ...] = ("stop", "warn", "off")
SWITCHES = ("role", "disposable", "mistyped", "frequency", "dormant", "recycled")
"""The rules that can be set to stop, warn or off."""
REASONS = (
    *("role_address", "disposable_domain", "mistyped_domain", "too_many", "dormant", "recycled_risk"),
    *("relaunch", "no_consent"),
)
"""What ``Verdict.reason`` may be: bounded, a label of metrics."""


class Known(msgspec.Struct, frozen=True, gc=False):
    """What screen reads of a contact (``schemas.contact``). Times are Unix seconds, 0 = never."""

    delivered: int = 0
    first_seen: float = 0.0
    last_delivered: float = 0.0
    last_open: float = 0.0
    last_click: float = 0.0
    recent: tuple[int, ...] = ()
    consent: Consent | None = None

    @property
    def engaged(self) -> float:
        """When the contact was last seen to read."""
        return max(self.last_open, self.last_click)


STRANGER = Known()
"""A contact of whom nothing is known: new."""
read_known = msgspec.json.Decoder(Known).decode
"""A row of mail-contacts. Raises msgspec.MsgspecError."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Who was last seen to read at most ``within`` days ago gets at most ``most`` mails in ``days`` days."""

    within: float
    most: int
    days: float


@dataclass(frozen=True, slots=True)
class Sunset:
    """A sender who writes every ``every`` days or more often lets go after ``after`` days of silence."""

    every: float
    after: float


@dataclass(frozen=True, slots=True)
class Step:
    """From day ``day`` of a relaunch on: only who was seen to read within ``engaged`` days (0 = everybody)."""

    day: float
    engaged: float


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one tenant."""

    role: Action = "stop"
    disposable: Action = "stop"
    mistyped: Action = "stop"
    frequency: Action = "stop"
    dormant: Action = "stop"
    recycled: Action = "stop"
    ceilings: tuple[Ceiling, ...] = (Ceiling(14, 10, 7),)
    """By growing ``within``; the last holds for everybody who was seen to read longer ago."""
    new: Ceiling = Ceiling(30, 10, 7)
    """For who is known for at most ``within`` days."""
    unseen: Ceiling = Ceiling(0, 5, 7)
    """For who cannot be seen to read."""
    sunsets: tuple[Sunset, ...] = (Sunset(2, 30), Sunset(10, 60), Sunset(20, 90), Sunset(45, 180))
    """By growing ``every``."""
    sunset_always: float = 365.0
    """Days of silence after which everybody is dormant, whatever the sender's pace."""
    sunset_mails: int = 3
    """Mails that must have been delivered since the last sign of life: who got none ignored none."""
    recycled_after: float = 365.0
    """Days without a delivery or sign of life after which an address may belong to a trap."""
    relaunch: float = 0.0
    """When a relaunch after damage began, Unix seconds; 0 = there is none."""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Screening:
    """All tenants' rules, and the lists."""

    default: Rules = Rules()
    tenants: Mapping[str, Rules] = field(default_factory=dict)
    lists: Lists = field(default_factory=Lists)

    def of(self, tenant: str) -> Rules:
        """The tenant's own, or the default."""
        return self.tenants.get(tenant, self.default)


class Verdict(NamedTuple):
    """``reason`` is empty where the mail may go. ``suggestion``: the address that was most likely meant.

    ``warned``: reasons of the rules that are set to warn and would have stopped it.
    """

    reason: str = ""
    detail: str = ""
    suggestion: str = ""
    warned: tuple[str, ...] = ()


PASS = Verdict()


def meant(to: str, place: Place) -> Verdict:
    """What the writer of a mistyped address most likely meant; PASS where nothing is known."""
    if not place.meant:
        return PASS
    return Verdict(
        "mistyped_domain", f"{place.meant} was most likely meant", f"{to.rpartition('@')[0]}@{place.meant}"
    )


def judge(
    to: str,
    tenant: str,
    known: Known,
    tracked: bool,
    passed: Sequence[float],
    screening: Screening,
    now: float,
) -> Verdict:
    """The first rule that stops a mail, or PASS.

    ``to`` is normalised; ``tracked``: its opens or clicks may be seen; ``passed``: when marketing mail to it
    passed here lately (Unix seconds), for what is not delivered yet.
    """
    rules, lists = screening.of(tenant), screening.lists
    warned: tuple[str, ...] = ()
    place = lists.place(domain_of(to))
    if place.meant and rules.mistyped != "off":
        if rules.mistyped == "stop":
            return meant(to, place)
        warned += ("mistyped_domain",)
    if place.disposable and rules.disposable != "off":
        if rules.disposable == "stop":
            return Verdict("disposable_domain", "the domain gives addresses away for an hour")
        warned += ("disposable_domain",)
    if rules.role != "off" and lists.is_role(to):
        if rules.role == "stop":
            return Verdict("role_address", "the address names a function, not a person")
        warned += ("role_address",)
    for action, rule in ((rules.recycled, _recycled), (rules.dormant, _dormant), ("stop", _relaunch)):
        if action != "off" and (found := rule(known, tracked, rules, now)):
            if action == "stop":
                return found
            warned += (found.reason,)
    if rules.frequency != "off" and (found := _frequency(known, tracked, passed, rules, now)):
        if rules.frequency == "stop":
            return found
        warned += (found.reason,)
    return Verdict(warned=warned) if warned else PASS


def _seen(known: Known, tracked: bool) -> bool:
    return tracked or known.engaged > 0


def _recycled(known: Known, tracked: bool, rules: Rules, now: float) -> Verdict | None:
    last = max(known.last_delivered, known.engaged)
    if not last or now - last <= rules.recycled_after * DAY:
        return None
    days = (now - last) / DAY
    return Verdict(
        "recycled_risk", f"nothing was delivered or read for {days:.0f} days: the address may be a trap now"
    )


def _dormant(known: Known, tracked: bool, rules: Rules, now: float) -> Verdict | None:
    if not known.delivered or not _seen(known, tracked):
        return None
    alive = known.engaged
    ignored = sum(when > alive for when in known.recent)
    if ignored < rules.sunset_mails:
        return None
    silent = (now - (alive or known.first_seen)) / DAY
    after = _patience(known.recent, rules)
    if silent <= after:
        return None
    return Verdict("dormant", f"no sign of life for {silent:.0f} days; at this pace the limit is {after:.0f}")


def _patience(recent: Sequence[int], rules: Rules) -> float:
    """Days of silence that are borne, by the pace at which the contact was written to."""
    if len(recent) >= 3:
        pace = (max(recent) - min(recent)) / (len(recent) - 1) / DAY
        for sunset in rules.sunsets:
            if pace <= sunset.every:
                return min(sunset.after, rules.sunset_always)
    return rules.sunset_always


def _relaunch(known: Known, tracked: bool, rules: Rules, now: float) -> Verdict | None:
    if not rules.relaunch:
        return None
    day = (now - rules.relaunch) / DAY
    engaged = next((step.engaged for step in reversed(rules.steps) if step.day <= day), None)
    if engaged is None:
        return Verdict("relaunch", "the relaunch has not begun yet")
    if not engaged or now - known.engaged <= engaged * DAY:
        return None
    return Verdict(
        "relaunch", f"day {day:.0f} of the relaunch: only who was seen to read within {engaged:g} days"
    )


def ceiling_of(known: Known, tracked: bool, rules: Rules, now: float) -> Ceiling:
    """How many mails a contact may get, by recency of its last sign of life."""
    if known.engaged:
        age = (now - known.engaged) / DAY
        return next((c for c in rules.ceilings if age <= c.within), rules.ceilings[-1])
    if not known.first_seen or now - known.first_seen <= rules.new.within * DAY:
        return rules.new
    return rules.ceilings[-1] if tracked else rules.unseen


def _frequency(
    known: Known, tracked: bool, passed: Sequence[float], rules: Rules, now: float
) -> Verdict | None:
    if len(known.recent) + len(passed) == 0:
        return None
    ceiling = ceiling_of(known, tracked, rules, now)
    since = now - ceiling.days * DAY
    # The greater one, not the sum: what passed lately may be delivered by now, and counted there.
    count = max(sum(when > since for when in known.recent), sum(when > since for when in passed))
    if count < ceiling.most:
        return None
    return Verdict("too_many", f"{count} mails in {ceiling.days:g} days; at most {ceiling.most}")
