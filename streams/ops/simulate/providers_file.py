"""The providers file of ``mailsluice simulate``: every key with its unit, validated whole, all faults in one error.

TOML, or JSON of the same form. Where a file can mean only one thing it is read so: ``4.0`` for 4, one table
in the place of a list of one, ``[[providers]]`` with a ``name`` for ``[providers.NAME]``.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from schemas.faults import Faulty
from schemas.lanes import SUFFIXES
from streams.lab.dialects import DIALECTS

T = TypeVar("T")
KNOWN = frozenset(name for _, name in SUFFIXES)
PATTERNS = ("flat", "day", "burst")
MONTHS = 400.0


class BadProviders(Faulty):
    """The providers file is wrong; ``faults`` names every place."""


def key(default: Any, text: str, low: float = 0.0, high: float = 1e9) -> Any:
    """A key of the file: what it is when left out, what it says with its unit, its range."""
    return field(default=default, metadata={"text": text, "low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Drop:
    """The provider takes less for a while."""

    day: float = field(metadata={"text": "when it begins, days from the start", "low": 0, "high": MONTHS})
    hours: float = field(metadata={"text": "how long", "low": 0.01, "high": 24 * MONTHS})
    to: float = field(metadata={"text": "part of the usual capacity that is left", "low": 0, "high": 1})


@dataclass(frozen=True, slots=True)
class Pause:
    """The provider orders a stop: everything is answered ``reply`` until it is over."""

    day: float = field(metadata={"text": "when it begins, days from the start", "low": 0, "high": MONTHS})
    hours: float = field(metadata={"text": "how long", "low": 0.01, "high": 24 * MONTHS})
    reply: str = key(
        "", "the reply, for instance '421 4.7.0 try again in {hours} hours'; empty: the model's own"
    )


@dataclass(frozen=True, slots=True)
class Spike:
    """More complaints for a while."""

    day: float = field(metadata={"text": "when it begins, days from the start", "low": 0, "high": MONTHS})
    hours: float = field(metadata={"text": "how long", "low": 0.01, "high": 24 * MONTHS})
    to: float = field(metadata={"text": "complaints per delivered message", "low": 0, "high": 1})


@dataclass(frozen=True, slots=True)
class Model:
    """One provider. Only ``demand`` and ``pattern`` are the sender's; all the rest is hidden from the policy."""

    name: str
    provider: str = key(
        "",
        "name of schemas/lanes.py whose policy and reply rules apply; empty: the table's name where it is one, else the unknown provider's",
    )
    dialect: str = key("", f"how it words replies: {', '.join(DIALECTS)}; empty: by provider, else plain")
    replies: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "text": "own wording by situation: rate, suspended, connections, messages, unknown, greylist"
        },
    )
    demand: float = key(0.0, "messages a day that there are to send; 0: always more than it takes")
    pattern: str = key(
        "flat", "when they come: flat, day (most at 14 h, none at 2 h), burst (all within the hour from 9 h)"
    )
    rate: float = key(0.0, "messages/s that it takes; 0: no such limit")
    burst: float = key(10.0, "seconds' worth of rate that may come at once after a pause", 0.1, 86400)
    per_minute: float = key(0.0, "messages in a minute (a bucket that refills evenly); 0: no such limit")
    per_hour: float = key(0.0, "messages in an hour; 0: no such limit")
    sliding: bool = key(False, "the hour is the last 60 minutes (false: from full hour to full hour)")
    per_day: float = key(0.0, "messages from midnight to midnight (UTC); 0: no such limit")
    connections: int = key(20, "open at once; one more is refused at its greeting", 1, 100_000)
    per_connection: int = key(
        1000, "messages on one connection; the next is refused and the connection closed", 1, 1_000_000
    )
    latency: float = key(0.1, "seconds that a message occupies its connection", 0.001, 600)
    wander: float = key(0.0, "its capacity goes up and down by this part within a day", 0, 0.5)
    drops: tuple[Drop, ...] = field(
        default=(), metadata={"text": "times of less capacity: [{day = 12, hours = 6, to = 0.2}]", "of": Drop}
    )
    suspensions: tuple[Pause, ...] = field(
        default=(),
        metadata={"text": "stops that it orders: [{day = 20, hours = 2, reply = '421 ...'}]", "of": Pause},
    )
    reputation: float = key(1.0, "of the source at the beginning: 0 worst, 1 best", 0, 1)
    worst: float = key(0.3, "part of the capacity at reputation 0", 0.01, 1)
    patience: float = key(
        0.05, "refusals in the last hour, as a part of what it takes in an hour, that it does not mind", 0, 1
    )
    harm: float = key(0.1, "reputation lost in an hour of sending on against refusals", 0, 10)
    gain: float = key(0.2, "reputation won in a day of clean sending", 0, 24)
    tolerance: float = key(
        0.003, "complaints per message of the last day above which reputation is lost too", 0, 1
    )
    suspend_share: float = key(
        0.0,
        "it suspends the source itself when refusals of the last hour are above this part of what it takes in an hour; 0: never",
    )
    suspend_hours: float = key(2.0, "... for so many hours", 0.01, 1000)
    greylist: float = key(
        0.0, "seconds that a new pair of source and recipient is deferred; 0: no greylisting", 0, 86400
    )
    fresh: float = key(0.3, "part of the messages that go to such a new pair", 0, 1)
    unknown: float = key(0.005, "part of the messages to users that do not exist (550)", 0, 0.5)
    complaints: float = key(0.0003, "complaints per delivered message", 0, 1)
    complaint_hours: float = key(6.0, "hours until a complaint comes back", 0, 240)
    spikes: tuple[Spike, ...] = field(
        default=(),
        metadata={"text": "times of more complaints: [{day = 9, hours = 24, to = 0.004}]", "of": Spike},
    )
    established: float = key(
        0.0,
        "messages a day that it knows of this source at the beginning (a cold source: 300): it warms up by a plan, from the day after so many; 0: a warm source",
    )
    plan: str = key(
        "",
        "warm-up plan of policy.toml that a cold source goes by; empty: the provider's own, else conservative",
    )
    growth: float = key(
        1.5,
        "a day's volume above this times the largest before is too much for it; only with established",
        1,
        100,
    )

    @property
    def dialect_used(self) -> str:
        """The dialect, also where the file leaves it out."""
        return self.dialect or (self.policy_name if self.policy_name in DIALECTS else "plain")

    @property
    def policy_name(self) -> str:
        """The provider of schemas.lanes, or a name that no policy knows."""
        return self.provider or (self.name if self.name in KNOWN else "unknown")


@dataclass(frozen=True, slots=True)
class Providers:
    """A whole file. ``seed`` draws the random parts of all models."""

    seed: int
    models: tuple[Model, ...]


def read_providers(text: str, where: str = "providers") -> Providers:
    """The models in a TOML or JSON text. Raises BadProviders with every fault."""
    data = _parsed(text, where)
    faults = [
        f"{name}: no such key; there are seed and [providers.NAME]{_meant(name, fields_of(Model), ' inside a provider')}"
        for name in data
        if name not in ("seed", "providers")
    ]
    seed = data.get("seed", 1)
    if isinstance(seed, bool) or not isinstance(seed, int):
        faults.append("seed: must be a whole number")
    tables = _by_name(data.get("providers"), faults)
    if not isinstance(tables, dict) or not tables:
        faults.append("providers: there must be at least one table [providers.NAME]")
        tables = {}
    models = []
    for name, table in tables.items():
        at = f"providers.{name}"
        if not name or len(name) > 60 or not name.isprintable() or "|" in name:
            faults.append(f"{at[:80]!r}: a name has 1 to 60 printable characters and no |")
        model = _read(Model, table, at, faults, name=name)
        if model is not None:
            faults += [f"{at}.{fault}" for fault in _check(model)]
            models.append(model)
    if faults:
        raise BadProviders(where, faults)
    return Providers(int(seed), tuple(models))


def _parsed(text: str, where: str) -> dict[str, Any]:
    as_json = text.lstrip()[:1] == "{"
    try:
        data = json.loads(text) if as_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadProviders(where, [f"not {'JSON' if as_json else 'TOML'}: {error}"]) from None
    return data if isinstance(data, dict) else {}


def _by_name(tables: Any, faults: list[str]) -> Any:
    """``[[providers]]`` with names as ``[providers.NAME]``."""
    if not isinstance(tables, list):
        return tables
    found: dict[str, Any] = {}
    for n, table in enumerate(tables):
        name = table.get("name") if isinstance(table, dict) else None
        if not isinstance(name, str) or name in found:
            faults.append(f"providers[{n}].name: must be a text, and another one for each provider")
        else:
            found[name] = {key: value for key, value in table.items() if key != "name"}
    return found


def fields_of(cls: type[Any]) -> list[str]:
    """The keys of a table."""
    return [f.name for f in fields(cls) if f.name != "name"]


def _meant(name: str, known: Iterable[str], where: str = "") -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}{where}?)" if close else ""


def _read(cls: type[T], table: Any, at: str, faults: list[str], **given: Any) -> T | None:
    if not isinstance(table, dict):
        faults.append(f"{at}: must be a table")
        return None
    listed = {f.name: f for f in fields(cls) if f.name not in given}  # type: ignore[arg-type]
    before = len(faults)
    for name in table:
        if name not in listed:
            meant = _meant(name, listed) or f"; there are {', '.join(listed)}"
            faults.append(f"{at}.{name}: no such key{meant}")
    for name, f in listed.items():
        if name in table:
            given[name] = _value(f, table[name], f"{at}.{name}", faults)
        elif f.default is MISSING and f.default_factory is MISSING:
            faults.append(f"{at}.{name}: is missing ({f.metadata['text']})")
    return cls(**given) if len(faults) == before else None


def _value(f: Any, value: Any, at: str, faults: list[str]) -> Any:
    kind = str(f.type)
    if "of" in f.metadata:
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            faults.append(f"{at}: must be a list of tables, as {f.metadata['text']}")
            return ()
        return tuple(_read(f.metadata["of"], item, f"{at}[{n}]", faults) for n, item in enumerate(value))
    if kind.startswith("Mapping"):
        if not isinstance(value, dict) or not all(isinstance(v, str) and v for v in value.values()):
            faults.append(f"{at}: must be a table of texts")
            return {}
        return value
    if kind == "bool" or kind == "str":
        if not isinstance(value, bool if kind == "bool" else str):
            faults.append(f"{at}: must be {'true or false' if kind == 'bool' else 'a text'}")
        return value
    whole = kind == "int"
    if whole and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        faults.append(f"{at}: must be a {'whole ' if whole else ''}number ({f.metadata['text']})")
        return f.default
    low, high = f.metadata["low"], f.metadata["high"]
    if not math.isfinite(value) or not low <= value <= high:
        faults.append(f"{at}: is {value}, must be from {low:g} to {high:g} ({f.metadata['text']})")
    return value if whole else float(value)


def _check(model: Model) -> list[str]:
    faults = []
    if model.dialect and model.dialect not in DIALECTS:
        faults.append(f"dialect: is {model.dialect!r:.40}; there are {', '.join(DIALECTS)}")
    if model.provider and model.provider not in KNOWN:
        faults.append(f"provider: is {model.provider!r:.40}; there are {', '.join(sorted(KNOWN))}")
    if model.pattern not in PATTERNS:
        faults.append(f"pattern: is {model.pattern!r:.40}; there are {', '.join(PATTERNS)}")
    situations = ("rate", "suspended", "connections", "messages", "unknown", "greylist")
    for name, text in model.replies.items():
        if name not in situations:
            faults.append(f"replies.{name}: no such situation; there are {', '.join(situations)}")
        elif text[:1] not in "45" or not text[:3].isdigit():
            faults.append(f"replies.{name}: must begin with a code 4xx or 5xx")
    for n, pause in enumerate(model.suspensions):
        if pause.reply and (pause.reply[:1] not in "45" or not pause.reply[:3].isdigit()):
            faults.append(f"suspensions[{n}].reply: must begin with a code 4xx or 5xx")
    return faults
