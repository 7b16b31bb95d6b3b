"""Reads ``policy.toml``, ``demo.toml`` and an operator's own file: all faults in one error.

Layers, each over the one before: ``[default]``, ``[provider.X]``, ``[source."NAME"]`` or
``[dkim."DOMAIN"]``, and of those ``[source."NAME".provider.X]``; then the same sections of the override.
A section names only what differs. One that gives ``connections`` without ``max_connections`` means both.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

from agents.shape.figures import GROWTH, WARM, Feedback, Law, Limits, Plan, Reaction, Settings, Sweep, signed
from schemas.faults import Faulty

__all__ = ["BadPolicy", "Law", "Limits", "Plan", "Reaction", "Settings", "Sweep", "parse_policy"]
T = TypeVar("T")
Layer = Mapping[str, Any]
"""Fields of Limits that a section gives."""
SECTIONS = ("default", "provider", "source", "dkim", "plan", "reaction", "law", "sweep", "campaign", "tenant")


class BadPolicy(Faulty):
    """The policy text is wrong; ``faults`` names every place."""


@dataclass
class _Text:
    """One file: its plain tables, and the layers of limits in it."""

    tables: dict[str, Any]
    providers: dict[str, Layer] = field(default_factory=dict)
    named: dict[tuple[str, str, str], Layer] = field(default_factory=dict)

    def layers(self, kind: str, name: str, provider: str) -> Iterable[Layer]:
        """What the file says of a name at a provider, the general first."""
        return (self.named.get((kind, name, at), {}) for at in dict.fromkeys(("", provider)))


def parse_policy(text: str, where: str = "policy.toml", override: str = "", by: str = "override") -> Settings:
    """The settings in a policy text, under those of an operator's ``override``. Raises BadPolicy with every fault."""
    faults: list[str] = []
    base = _text(text, where if override else "", faults)
    over = _text(override, by, faults)
    both = f"{where} with {by}" if override else where
    if base is None or over is None:
        raise BadPolicy(both, faults)
    joined: dict[str, Any] = {
        name: _joined(base.tables.get(name, {}), over.tables.get(name, {}))
        for name in ("default", "law", "sweep", "plan", "campaign")
    }
    if "default" not in base.tables and "default" not in over.tables:
        joined["default"] = None
    law = _read(Law, joined["law"], "law", faults, _check_law)
    sweep = _read(Sweep, joined["sweep"], "sweep", faults, _check_sweep)
    default = _read(Limits, joined["default"], "default", faults, _check_limits)
    plans = _plans(joined["plan"], faults)
    reactions = _reactions(_named(base.tables.get("reaction", []), over.tables.get("reaction", [])), faults)
    if default is None:
        raise BadPolicy(both, faults)
    campaign = _read(Feedback, joined["campaign"], "campaign", faults, _check_feedback)
    tenants = _tenants(joined["campaign"], base, over, faults)
    made = Settings(
        default,
        {},
        reactions,
        law or Law(),
        sweep or Sweep(),
        campaign=campaign or Feedback(),
        tenants=tenants,
        plans=plans,
    )
    made = _limits(made, base, over, faults)
    _check_plans(made, faults)
    if faults:
        raise BadPolicy(both, faults)
    return made


def _text(text: str, where: str, faults: list[str]) -> _Text | None:
    """A file's tables; faults name the file where there are two."""
    before = f"{where}: " if where else ""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{before}not TOML: {error}")
        return None
    found = _Text(tables)
    mine: list[str] = []
    for name in tables.keys() - set(SECTIONS):
        mine.append(f"[{name}]: no such section; there are {', '.join(SECTIONS)}")
    for name, entry in _tables(tables.get("provider", {}), "provider", mine):
        found.providers[name] = _layer(entry, f"provider.{name}", mine)
    for kind in ("source", "dkim"):
        for name, entry in _tables(tables.get(kind, {}), kind, mine):
            own = {key: value for key, value in entry.items() if key != "provider"}
            found.named[(kind, name, "")] = _layer(own, f"{kind}.{name}", mine)
            for at, inner in _tables(entry.get("provider", {}), f"{kind}.{name}.provider", mine):
                found.named[(kind, name, at)] = _layer(inner, f"{kind}.{name}.provider.{at}", mine)
    faults += [before + fault for fault in mine]
    return found


def _tables(entry: Any, where: str, faults: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(entry, dict):
        faults.append(f"{where}: must be tables [{where}.NAME]")
        return []
    faults += [
        f"[{where}.{name}]: not a table" for name, value in entry.items() if not isinstance(value, dict)
    ]
    return [(name, value) for name, value in entry.items() if isinstance(value, dict)]


def _joined(below: Any, above: Any) -> Any:
    """Two tables, the upper one's entries first; what is no table at all is told by whoever reads it."""
    return {**below, **above} if isinstance(below, dict) and isinstance(above, dict) else above or below


def _named(below: Any, above: Any) -> Any:
    """Two lists of reactions: one of a name that is there already takes its place."""
    if not isinstance(below, list) or not isinstance(above, list):
        return below if isinstance(above, list) else above
    mine = {entry.get("name"): entry for entry in above if isinstance(entry, dict)}
    replaced = [mine.get(entry.get("name"), entry) if isinstance(entry, dict) else entry for entry in below]
    kept = {entry.get("name") for entry in below if isinstance(entry, dict)}
    return replaced + [e for e in above if not (isinstance(e, dict) and e.get("name") in kept)]


def _limits(made: Settings, base: _Text, over: _Text, faults: list[str]) -> Settings:
    """The layers laid over each other, for every provider and name that a section names."""
    providers: dict[str, Limits] = {}
    for name in base.providers | over.providers:
        layers = (base.providers.get(name, {}), over.providers.get(name, {}))
        providers[name] = _laid(made.default, layers, f"provider.{name}", faults)
    named: dict[tuple[str, str, str], Limits] = {}
    said = base.named | over.named
    for kind, name in dict.fromkeys((kind, name) for kind, name, _ in said):
        own = [at for of, whose, at in said if (of, whose) == (kind, name)]
        for at in dict.fromkeys(("", *own, *providers)):
            below = providers.get(at, made.default)
            again = [over.providers.get(at, {})] if kind == "source" else []
            mine = (*base.layers(kind, name, at), *again, *over.layers(kind, name, at))
            where = f"{kind}.{name}" + (f".provider.{at}" if at else "")
            start = below if kind == "source" else signed(below, made.signer)
            named[(kind, name, at)] = _laid(start, mine, where, faults)
    return replace(made, providers=providers, named=named)


def _laid(below: Limits, layers: Iterable[Layer], where: str, faults: list[str]) -> Limits:
    """``below`` under the layers. A lower maximum takes start and minimum down with it."""
    for layer in layers:
        values = dict(layer)
        if "connections" in layer:
            values.setdefault("max_connections", 0)
        top = values.get("maximum", below.maximum)
        values.setdefault("start", max(min(below.start, top), values.get("minimum", 0.0)))
        values.setdefault("minimum", min(below.minimum, values["start"]))
        below = replace(below, **values)
    told = [fault for fault in _check_limits(below) if f"[default] {fault}" not in faults]
    faults += [f"[{where}] {fault}" for fault in told]
    return below


def _layer(entry: dict[str, Any], where: str, faults: list[str]) -> Layer:
    return _values(Limits, entry, where, faults)


def _plans(entries: Any, faults: list[str]) -> dict[str, Plan]:
    found = {}
    for name, entry in _tables(entries, "plan", faults):
        plan = _read(Plan, entry, f"plan.{name}", faults, _check_plan)
        if name == WARM:
            faults.append(f"[plan.{name}]: the name says that there is no plan")
        if plan is not None:
            found[name] = plan
    return found


def _tenants(campaign: Any, base: _Text, over: _Text, faults: list[str]) -> dict[str, Feedback]:
    """``[tenant."NAME"]`` over ``[campaign]``, the override's last."""
    layers: dict[str, dict[str, Any]] = {}
    for text in (base, over):
        for name, entry in _tables(text.tables.get("tenant", {}), "tenant", faults):
            below = campaign if isinstance(campaign, dict) else {}
            layers[name] = {**layers.get(name, below), **entry}
    read = (
        (name, _read(Feedback, e, f"tenant.{name}", faults, _check_feedback)) for name, e in layers.items()
    )
    return {name: found for name, found in read if found is not None}


def _check_feedback(feedback: Feedback) -> list[str]:
    faults = [
        f"{name}: is a share, above 0 and at most 1"
        for name in ("bounces", "complaints")
        if not 0 < getattr(feedback, name) <= 1
    ]
    if feedback.minimum < 20:
        faults.append("minimum: must be at least 20 mails: fewer say nothing")
    return faults


def _check_plan(plan: Plan) -> list[str]:
    faults = []
    table = plan.day or plan.hourly
    if bool(plan.day) == bool(plan.hourly):
        faults.append("day or hourly: give one of them")
    if any(step < 1 for step in table):
        faults.append("each step must be at least 1 message")
    faults += [
        f"from {before} to {after} is more than x{GROWTH} a day"
        for before, after in pairwise(table)
        if before >= 1 and after > before * GROWTH * (1 + 1e-9)
    ]
    faults += [f"from {before} to {after} goes down" for before, after in pairwise(table) if after < before]
    if not 1 < plan.grow <= GROWTH:
        faults.append(f"grow: must be above 1 and at most {GROWTH}")
    for name in ("hour", "filled", "deferred", "bounced", "complaints"):
        if not 0 < getattr(plan, name) <= 1:
            faults.append(f"{name}: is a share, above 0 and at most 1")
    if plan.rest < 86400:
        faults.append("rest: must be a day (86400) at least")
    return faults


def _check_plans(made: Settings, faults: list[str]) -> None:
    """Every plan that a section names must be there."""
    places = {"default": made.default}
    places |= {f"provider.{name}": limits for name, limits in made.providers.items()}
    places |= {
        f"{kind}.{name}.provider.{at}": limits for (kind, name, at), limits in made.named.items() if at
    }
    places |= {f"{kind}.{name}": limits for (kind, name, at), limits in made.named.items() if not at}
    told: set[str] = set()
    for where, limits in places.items():
        if limits.warm_up not in (WARM, *made.plans) and limits.warm_up not in told:
            told.add(limits.warm_up)
            there = ", ".join((WARM, *made.plans))
            faults.append(f"[{where}] warm_up: no plan {limits.warm_up!r}; there are {there}")


def _reactions(entries: Any, faults: list[str]) -> tuple[Reaction, ...]:
    if not isinstance(entries, list):
        faults.append("reaction: must be [[reaction]] entries")
        return ()
    found: list[Reaction] = []
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        reaction = _read(Reaction, entry, f"reaction {name or index + 1}", faults, _check_reaction)
        if reaction is None:
            continue
        if any(other.name == reaction.name for other in found):
            faults.append(f"reaction {reaction.name}: the name is used twice")
        found.append(reaction)
    return tuple(found)


def _read(
    cls: type[T], entry: Any, where: str, faults: list[str], check: Callable[[T], list[str]]
) -> T | None:
    """One table as ``cls``; faults are appended, and then None is returned."""
    if not isinstance(entry, dict):
        faults.append(f"[{where}]: missing or not a table")
        return None
    before = len(faults)
    values = _values(cls, entry, where, faults)
    for f in fields(cls):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in entry:
            faults.append(f"[{where}] {f.name}: missing")
    if len(faults) > before:
        return None
    made = cls(**values)
    faults.extend(f"[{where}] {fault}" for fault in check(made))
    return made


def _values(cls: type[Any], entry: dict[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    """The fields of ``cls`` that a table gives, fitted to their types; faults are appended."""
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in known:
            faults.append(f"[{where}] {name}: no such setting; there are {', '.join(known)}")
            continue
        fitted = _fit(value, str(known[name].type))
        if fitted is None:
            faults.append(f"[{where}] {name}: must be {known[name].type}, not {value!r}")
            continue
        values[name] = fitted
    return values


def _fit(value: Any, kind: str) -> Any:
    """``value`` as the annotated type, or None where it does not fit (a bool is no number)."""
    if kind.startswith("tuple[int"):
        whole = isinstance(value, list) and all(type(n) is int and 0 <= n <= 1e9 for n in value)
        return tuple(value) if whole else None
    if kind.startswith("tuple"):
        texts = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        return tuple(value) if texts else None
    if kind == "str":
        return value if isinstance(value, str) and value else None
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        return None
    if not math.isfinite(value) or not 0 <= value <= 1e9:
        return None
    return value if kind == "int" else float(value)


def _positive(section: Any) -> list[str]:
    """Every figure of a section must be above zero."""
    return [f"{f.name}: must be above 0" for f in fields(section) if getattr(section, f.name) <= 0]


def _check_law(law: Law) -> list[str]:
    faults = _positive(law)
    for name in ("share", "margin", "first", "deepest", "near", "used"):
        if getattr(law, name) >= 1:
            faults.append(f"{name}: is a share and must be below 1")
    if law.grow <= 1 or law.grow > 2:
        faults.append("grow: must be above 1 and at most 2 (never more than double)")
    if law.settle > law.cut_after:
        faults.append("settle: must not be longer than cut_after")
    return faults


def _check_sweep(sweep: Sweep) -> list[str]:
    faults = _positive(sweep)
    if sweep.engaged < sweep.complaints:
        faults.append("engaged: must not be below complaints")
    if sweep.engaged_share > 1:
        faults.append("engaged_share: is a share, at most 1")
    return faults


def _check_limits(limits: Limits) -> list[str]:
    faults = []
    if limits.connections < 1 or limits.per_connection < 1:
        faults.append("connections and per_connection: must be at least 1")
    if limits.max_connections and limits.max_connections < limits.connections:
        faults.append("max_connections: must not be below connections")
    if not 0 < limits.minimum <= limits.start <= limits.maximum:
        faults.append("must keep 0 < minimum <= start <= maximum")
    return faults


def _check_reaction(reaction: Reaction) -> list[str]:
    faults = []
    if not reaction.rules and not reaction.classes:
        faults.append("rules or classes: name at least one")
    if reaction.count < 1 or reaction.window <= 0:
        faults.append("count must be at least 1 and window above 0")
    if not 0 < reaction.factor <= 1:
        faults.append("factor: must be above 0 and at most 1")
    if (reaction.rate or reaction.connections) and not reaction.lasting:
        faults.append("lasting: say for how many seconds rate and connections are capped")
    if reaction.factor == 1 and not (reaction.rate or reaction.connections or reaction.suspend):
        faults.append("has no effect: give factor, rate, connections or suspend")
    return faults
