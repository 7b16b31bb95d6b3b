"""Reads ``rules.toml`` and an operator's file over it: all faults in one error. Pure: text is an argument."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time
from itertools import pairwise
from typing import Any

from agents.screen.domains import Lists
from agents.screen.rules import ACTIONS, SWITCHES, Ceiling, Rules, Screening, Step, Sunset
from schemas.contact import REMEMBERED
from schemas.faults import Faulty, only

SECTIONS = ("default", "tenant", "frequency", "new", "unseen", "dormant", "recycled", "relaunch", "lists",
            "mistyped", "endings")  # fmt: skip
EFFECTS = {
    "frequency": (
        "people who do not read get as much as those who do: complaints come from them first, 0.3 % of a day's mail "
        "costs the inbox at Gmail and Yahoo, and recovering takes weeks"
    ),
    "dormant": (
        "mail goes on to people who have not read for months: opens per mail fall, spam-folder placement follows for "
        "the readers too, and dead mailboxes among them begin to bounce"
    ),
    "recycled": (
        "addresses that were silent for a year are written to again: providers turn some of them into traps, and one "
        "hit can list a sending address"
    ),
}
"""What it costs to switch a rule off."""


class BadRules(Faulty):
    """The text is wrong; ``faults`` names every place."""


def read_rules(
    text: str,
    where: str = "rules.toml",
    override: str = "",
    by: str = "override",
    disposable: Collection[str] = (),
) -> Screening:
    """The rules in ``text`` under those of an operator's ``override``. Raises BadRules with every fault.

    ``disposable``: domains beside those in the text.
    """
    faults: list[str] = []
    base, over = _tables(text, where, faults), _tables(override, by, faults)
    if faults:
        raise BadRules(f"{where} with {by}" if override else where, faults)
    made = _made(base, over, frozenset(disposable), faults)
    if faults:
        raise BadRules(f"{where} with {by}" if override else where, faults)
    return made


def warnings_of(screening: Screening) -> list[str]:
    """A sentence for each rule of recency or frequency that is switched off, with what it costs."""
    found = []
    for name, rules in (("everybody", screening.default), *sorted(screening.tenants.items())):
        for rule, effect in EFFECTS.items():
            action = getattr(rules, rule)
            if action == "stop" or (name != "everybody" and action == getattr(screening.default, rule)):
                continue
            whom = "" if name == "everybody" else f" for tenant {name}"
            found.append(f"screen rule {rule} is {action}{whom}: {effect}")
    return found


def _tables(text: str, where: str, faults: list[str]) -> dict[str, Any]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{where}: {error}")
        return {}
    only(found, SECTIONS, f"{where}: ", faults)
    for name in SECTIONS:
        kind: type = list if name == "frequency" else dict
        if not isinstance(found.get(name, kind()), kind):
            faults.append(f"{where}: {name} must be [{'[' + name + ']' if kind is list else name}]")
    return found


def _made(
    base: dict[str, Any], over: dict[str, Any], disposable: frozenset[str], faults: list[str]
) -> Screening:
    def joined(name: str) -> dict[str, Any]:
        return {**base.get(name, {}), **over.get(name, {})}

    ceilings = tuple(
        _ceiling(item, f"frequency {n}", faults)
        for n, item in enumerate(over.get("frequency") or base.get("frequency", []), 1)
    )
    if not ceilings:
        faults.append("frequency: at least one [[frequency]] is needed")
    _growing([c.within for c in ceilings], "frequency: within", faults)
    dormant, recycled = joined("dormant"), joined("recycled")
    only(dormant, ("always", "mails", "sunsets"), "dormant: ", faults)
    only(recycled, ("after",), "recycled: ", faults)
    relaunch = joined("relaunch")
    only(relaunch, ("steps",), "relaunch: ", faults)
    sunsets = tuple(
        Sunset(*_numbers(item, ("every", "after"), f"dormant.sunsets {n}", faults))
        for n, item in _items(dormant.get("sunsets", []), "dormant.sunsets", faults)
    )
    _growing([s.every for s in sunsets], "dormant.sunsets: every", faults)
    steps = tuple(
        Step(*_numbers(item, ("day", "engaged"), f"relaunch.steps {n}", faults))
        for n, item in _items(relaunch.get("steps", []), "relaunch.steps", faults)
    )
    _growing([s.day for s in steps], "relaunch.steps: day", faults)
    shared: dict[str, Any] = {
        "ceilings": ceilings,
        "new": _ceiling(joined("new"), "new", faults),
        "unseen": _ceiling({"within": 0, **joined("unseen")}, "unseen", faults),
        "sunsets": sunsets,
        "sunset_always": _number(dormant, "always", "dormant", faults),
        "sunset_mails": int(_number(dormant, "mails", "dormant", faults)),
        "recycled_after": _number(recycled, "after", "recycled", faults),
        "steps": steps,
    }
    default = joined("default")
    tenants = {**base.get("tenant", {}), **over.get("tenant", {})}
    return Screening(
        Rules(**shared, **_switches(default, "default", faults)),
        {
            name: Rules(**shared, **_switches({**default, **own}, f"tenant.{name}", faults))
            for name, own in tenants.items()
            if _is_table(own, f"tenant.{name}", faults)
        },
        _lists(base, over, disposable, faults),
    )


def _switches(found: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    only(found, (*SWITCHES, "relaunch"), f"{where}: ", faults)
    made: dict[str, Any] = {}
    for name in SWITCHES:
        value = found.get(name, "stop")
        if value not in ACTIONS:
            faults.append(f"{where}.{name} is {str(value)[:40]!r}, not one of {', '.join(ACTIONS)}")
        made[name] = value
    if "relaunch" in found:
        made["relaunch"] = _day(found["relaunch"], f"{where}.relaunch", faults)
    return made


def _day(value: object, where: str, faults: list[str]) -> float:
    if isinstance(value, datetime):
        return value.timestamp() if value.tzinfo else value.replace(tzinfo=UTC).timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    faults.append(f"{where} must be a day without quotes, such as 2026-12-01, not {str(value)[:40]!r}")
    return 0.0


def _lists(
    base: dict[str, Any], over: dict[str, Any], disposable: frozenset[str], faults: list[str]
) -> Lists:
    def both(section: str, key: str) -> list[str]:
        return [
            word.lower()
            for tables in (base, over)
            for word in _words(tables.get(section, {}).get(key, []), f"{section}.{key}", faults)
        ]

    for tables in (base, over):
        only(tables.get("lists", {}), ("roles", "disposable", "allowed"), "lists: ", faults)
    ends = {key for tables in (base, over) for key in tables.get("endings", {}) if key != "names"}
    mistyped = {
        wrong: meant.lower()
        for meant in {**base.get("mistyped", {}), **over.get("mistyped", {})}
        for wrong in both("mistyped", meant)
    }
    twice = sorted(set(mistyped) & set(mistyped.values()))
    faults += [f"mistyped: {name} is both a mistake and meant" for name in twice]
    allowed = frozenset(both("lists", "allowed"))
    return Lists(
        roles=frozenset(both("lists", "roles")),
        disposable=(disposable | frozenset(both("lists", "disposable"))) - allowed,
        mistyped=mistyped,
        allowed=allowed,
        names=frozenset(both("endings", "names")),
        endings={wrong: end for end in sorted(ends) for wrong in both("endings", end)},
    )


# -- small things


def _is_table(value: object, where: str, faults: list[str]) -> bool:
    if not isinstance(value, dict):
        faults.append(f"{where} must be a table: [{where}]")
    return isinstance(value, dict)


def _items(value: object, where: str, faults: list[str]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        faults.append(f"{where} must be a list of tables")
        return ()
    return enumerate(value, 1)


def _words(value: object, where: str, faults: list[str]) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value):
        return value
    faults.append(f"{where} must be a list of texts")
    return []


def _number(found: Mapping[str, Any], key: str, where: str, faults: list[str]) -> float:
    value = found.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    faults.append(f"{where}.{key} must be a number of 0 or more, not {str(value)[:40]!r}")
    return 1.0


def _numbers(found: Mapping[str, Any], keys: tuple[str, ...], where: str, faults: list[str]) -> list[float]:
    only(found, keys, f"{where}: ", faults)
    return [_number(found, key, where, faults) for key in keys]


def _ceiling(found: object, where: str, faults: list[str]) -> Ceiling:
    if not isinstance(found, dict):
        faults.append(f"{where} must be a table")
        return Ceiling(0, 1, 1)
    within, most, days = _numbers(found, ("within", "most", "days"), where, faults)
    if not 1 <= most <= REMEMBERED or most != int(most):
        faults.append(
            f"{where}.most must be a whole number from 1 to {REMEMBERED}: so many mails are remembered"
        )
    return Ceiling(within, int(most), days)


def _growing(found: list[float], where: str, faults: list[str]) -> None:
    if any(later <= earlier for earlier, later in pairwise(found)):
        faults.append(f"{where} must grow from one to the next")
