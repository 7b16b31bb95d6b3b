"""What ``policy.toml`` and ``demo.toml`` say, validated as a whole: all faults in one error."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

T = TypeVar("T")


class BadPolicy(ValueError):
    """The policy text is wrong; ``faults`` names every place."""

    def __init__(self, where: str, faults: list[str]) -> None:
        super().__init__(f"{where} has {len(faults)} fault(s):\n- " + "\n- ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Limits:
    """What one source may do at a provider. Rates in messages/s."""

    connections: int
    """To begin with; one more where they are the bottleneck, up to ``max_connections``."""
    per_connection: int
    """Messages before QUIT."""
    start: float
    """Rate of a source that nothing is known about."""
    minimum: float
    """The law never goes below; workers without a lease share it."""
    maximum: float
    """The law never goes above."""
    max_connections: int = 0
    """0: the same as ``connections``."""


@dataclass(frozen=True, slots=True)
class Law:
    """Figures of the control law. Times in seconds, the rest are shares and factors."""

    window: float = 30.0
    """How far back attempts and throttle replies are counted."""
    cut_after: float = 60.0
    """At most one cut in this time (the best adaptive engine: once a minute)."""
    settle: float = 3.0
    """Replies this soon after a cut belong to mail sent before it."""
    share: float = 0.02
    """Share of throttled attempts in the window that calls for a cut."""
    margin: float = 0.92
    """The new rate is this part of what the provider took while it pushed back."""
    first: float = 0.75
    """The same for the first cut after free growth."""
    deepest: float = 0.3
    """One cut goes down to this part of the rate at most."""
    raise_after: float = 3600.0
    """Quiet time before a raise, and between raises (the best adaptive engine: once an hour)."""
    grow: float = 1.3
    """Factor of a raise while no ceiling is known or near."""
    near: float = 0.9
    """From this part of the ceiling on, raises are probes."""
    probe: float = 0.02
    """A probe adds this part of the ceiling."""
    probe_after: float = 7200.0
    """Quiet time before a probe."""
    probes: int = 6
    """After so many probes that nobody minded the ceiling is forgotten."""
    used: float = 0.7
    """Only a limit used this far is raised; one used less may be short of connections."""
    short: int = 5
    """Reports in the window that must say that all were busy before there is one more."""
    connect_after: float = 3600.0
    """Time between changes of connections upwards."""
    refused_for: float = 7200.0
    """Connections that were refused, or messages too many on one, are not tried again for so long."""
    lease: float = 5.0
    """Duration of a lease."""
    forget: float = 30 * 86400.0
    """A limit unused for so long starts again (providers.md: warm up again after 30 idle days)."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rules over all replies of a limit together, once it made ``attempts`` within ``window`` seconds."""

    window: float = 86400.0
    attempts: int = 2000
    refused: float = 0.20
    """Share of 5xx that suspends."""
    blocked_slow: float = 0.03
    """Share of blocks (action hold) that halves the rate."""
    blocked: float = 0.10
    """Share of blocks that suspends."""
    suspend: float = 4 * 3600.0
    complaints: float = 0.001
    """Complaints per delivered mail whose 95 % lower bound freezes growth."""
    delivered: int = 1000
    """Deliveries in the window before complaints are judged."""
    freeze: float = 86400.0


@dataclass(frozen=True, slots=True)
class Reaction:
    """What to do when ``count`` replies of a kind came within ``window`` seconds.

    ``rules`` are names of ``replies.toml`` (wildcards allowed), ``classes`` its classes; one match is
    enough. ``factor`` multiplies the rate for good; ``rate`` caps for ``lasting`` seconds;
    ``connections`` there are at most, with no growth for ``lasting`` seconds; ``suspend`` stops the lane for so many seconds.
    """

    name: str
    rules: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    count: int = 1
    window: float = 3600.0
    factor: float = 1.0
    rate: float = 0.0
    connections: int = 0
    lasting: float = 0.0
    suspend: float = 0.0

    def takes(self, provider: str, rule: str, klass: str) -> bool:
        """Whether a reply of this rule and class at this provider counts."""
        if self.providers and provider not in self.providers:
            return False
        return any(fnmatchcase(rule, want) for want in self.rules) or klass in self.classes


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that shape goes by."""

    default: Limits
    providers: Mapping[str, Limits] = field(default_factory=dict)
    reactions: tuple[Reaction, ...] = ()
    law: Law = Law()
    sweep: Sweep = Sweep()
    max_limits: int = 20_000
    """More source x provider pairs than this are refused: they stay at the workers' floor."""

    signer: float = 10.0
    """A DKIM domain starts at, and may reach, so many times the maximum of one source."""

    def limits(self, provider: str, kind: str = "source") -> Limits:
        """The limits of a source (or DKIM domain) at a provider; unknown providers have the default."""
        found = self.providers.get(provider, self.default)
        if kind == "source":
            return found
        top = found.maximum * self.signer
        connections = int(max(found.connections, found.max_connections) * self.signer)
        return replace(found, start=top, maximum=top, connections=connections, max_connections=0)


def parse_policy(text: str, where: str = "policy.toml") -> Settings:
    """The settings in a policy text. Raises BadPolicy with every fault."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPolicy(where, [f"not TOML: {error}"]) from None
    faults: list[str] = []
    for name in data.keys() - {"default", "provider", "reaction", "law", "sweep"}:
        faults.append(f"[{name}]: no such section; there are default, provider, reaction, law, sweep")
    law = _read(Law, data.get("law", {}), "law", faults, _check_law)
    sweep = _read(Sweep, data.get("sweep", {}), "sweep", faults, _positive)
    default = _read(Limits, data.get("default"), "default", faults, _check_limits)
    providers: dict[str, Limits | None] = {}
    table = data.get("provider", {})
    if isinstance(table, dict):
        for name, entry in table.items():
            providers[name] = _read(Limits, entry, f"provider.{name}", faults, _check_limits)
    else:
        faults.append("provider: must be tables [provider.NAME]")
    reactions = _reactions(data.get("reaction", []), faults)
    if faults or law is None or sweep is None or default is None:
        raise BadPolicy(where, faults)
    known = {name: limits for name, limits in providers.items() if limits is not None}
    return Settings(default, known, reactions, law, sweep)


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
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in known:
            faults.append(f"[{where}] {name}: no such setting; there are {', '.join(known)}")
            continue
        fitted = _fit(value, str(known[name].type))
        if fitted is None:
            faults.append(f"[{where}] {name}: must be {known[name].type}, not {value!r}")
        values[name] = fitted
    for name, f in known.items():
        if f.default is MISSING and name not in entry:
            faults.append(f"[{where}] {name}: missing")
    if len(faults) > before:
        return None
    made = cls(**values)
    faults.extend(f"[{where}] {fault}" for fault in check(made))
    return made


def _fit(value: Any, kind: str) -> Any:
    """``value`` as the annotated type, or None where it does not fit (a bool is no number)."""
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
