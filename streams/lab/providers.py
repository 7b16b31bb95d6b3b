"""The settings of the lab's world: its providers, their hidden budgets, their users. Read from TOML.

``providers.toml`` beside this file is the demo's world and the documentation of every setting. The
pipeline never reads any of it: it has to find the budgets out from the replies.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar

from streams.lab.dialects import DIALECTS, SITUATIONS
from streams.lab.dns import Zone, ZoneError

T = TypeVar("T")

DEFAULT = Path(__file__).with_name("providers.toml")
"""The demo's world."""

Fate = Literal["ok", "unknown", "full", "late_bounce", "complaint"]
"""What becomes of mail to an address, whatever the mail."""


class BadWorld(ValueError):
    """The providers file is wrong; the text lists every fault with its place."""


def _share(default: float = 0.0) -> Any:
    return field(default=default, metadata={"low": 0.0, "high": 1.0})


def _above(low: float, default: float) -> Any:
    return field(default=default, metadata={"low": low})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSettings:
    """What the users do with their mail. Shares are of the messages taken, delays in seconds."""

    open: float = _share()
    click: float = _share()
    """Of those who open."""
    unsubscribe: float = _share()
    """Of all messages taken that offer it."""
    delay: float = _above(0.0, 1.0)
    """The mean; each act takes between a quarter and twice of it."""
    prefetch: float = _share()
    """Messages whose images a privacy proxy loads at once, read or not."""
    scanner: float = _share()
    """Messages whose links a gateway follows, the unsubscribe link too, before anybody reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One simulated provider."""

    name: str
    domains: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    address: str = ""
    share: float = _share()
    dialect: str = "plain"
    rate: float = _above(0.01, 50.0)
    burst: float = _above(0.0, 1.0)
    connections: int = _above(1, 10)
    per_connection: int = _above(1, 100)
    recipient_rate: int = _above(0, 0)
    throttle_at: Literal["mail", "dot"] = "mail"
    unknown: float = _share()
    unknown_pattern: str = ""
    full: float = _share()
    full_tries: int = _above(0, 2)
    greylist: float = _above(0.0, 0.0)
    late_bounce: float = _share()
    late_bounce_after: float = _above(0.0, 2.0)
    complaint: float = _share()
    complaint_after: float = _above(0.0, 2.0)
    latency: float = _above(0.0, 0.0)
    verify: float = _share(1.0)
    require_dkim: bool = False
    starttls: bool = True
    require_tls: bool = False
    smtputf8: bool = False
    eager_data: bool = False
    max_size: int = _above(1000, 26_214_400)
    replies: dict[str, str] = field(default_factory=dict)
    readers: ReaderSettings = ReaderSettings()

    def fate(self, seed: int, address: str) -> Fate:
        """What becomes of mail to ``address`` (any case): the same in every run with this seed."""
        address = address.lower()
        if self.unknown_pattern and re.search(self.unknown_pattern, address.partition("@")[0]):
            return "unknown"
        drawn = chance(seed, "fate", address)
        fates: tuple[tuple[Fate, float], ...] = (
            ("unknown", self.unknown),
            ("full", self.full),
            ("late_bounce", self.late_bounce),
            ("complaint", self.complaint),
        )
        for fate, share in fates:
            if drawn < share:
                return fate
            drawn -= share
        return "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """The whole world. ``records`` are DNS records of others (the sender's own domains), by name and kind."""

    seed: int = 1
    providers: tuple[ProviderSettings, ...] = ()
    records: dict[str, Any] = field(default_factory=dict)

    def provider_of(self, address: str) -> ProviderSettings | None:
        """Whose user an address is."""
        domain = address.rpartition("@")[2].lower()
        return next((p for p in self.providers if domain in p.domains), None)


def chance(*parts: object) -> float:
    """A number in [0, 1) that is drawn from ``parts`` alone: the same whenever and wherever it is drawn."""
    text = "\n".join(map(str, parts)).encode("utf-8", "replace")
    return int.from_bytes(blake2b(text, digest_size=7).digest(), "big") / 2**56


def load(source: Path | str = DEFAULT) -> WorldSettings:
    """The world in a TOML file (a Path) or text. Raises BadWorld with every fault, OSError without a file."""
    text = source.read_text("utf-8") if isinstance(source, Path) else source
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadWorld(f"not TOML: {error}") from None
    faults: list[str] = []
    providers = []
    named = table.pop("providers", {})
    if not isinstance(named, dict) or not named:
        faults.append("no [providers.NAME] table; a world needs at least one")
        named = {}
    for name, settings in named.items():
        values = settings if isinstance(settings, dict) else {}
        provider = _fill(ProviderSettings, {**values, "name": name}, f"providers.{name}.", faults)
        providers.append(provider)
        faults += [f"providers.{name}.{fault}" for fault in _provider_faults(provider)]
    world: WorldSettings = _fill(WorldSettings, {**table, "providers": tuple(providers)}, "", faults)
    faults += _world_faults(world)
    if faults:
        raise BadWorld("; ".join(faults))
    return world


def _fill(kind: type[T], table: Mapping[str, Any], place: str, faults: list[str]) -> T:
    """A settings object from its table. What is wrong keeps its default, so that all faults are found."""
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in fields:
            faults.append(f"{place}{name}: no such setting")
            continue
        try:
            values[name] = _value(hints[name], value, f"{place}{name}.", fields[name].metadata, faults)
        except ValueError as error:
            faults.append(f"{place}{name}: {error}")
    return kind(**values)


def _value(hint: Any, value: Any, place: str, bounds: Mapping[str, float], faults: list[str]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _fill(typing.cast(type[Any], hint), _typed(value, dict), place, faults)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{value!r} is none of {', '.join(typing.get_args(hint))}")
        return value
    if typing.get_origin(hint) is tuple:
        items = tuple(_typed(value, (list, tuple)))
        return tuple(_typed(item, typing.get_args(hint)[0]) for item in items)
    found = _typed(value, (int, float) if hint is float else (typing.get_origin(hint) or hint))
    if "low" in bounds and not bounds["low"] <= found <= bounds.get("high", float("inf")):
        raise ValueError(f"{found:g} is not from {bounds['low']:g} to {bounds.get('high', float('inf')):g}")
    return float(found) if hint is float else found


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {bool: "true or false", int: "whole number", str: "text", dict: "table"}.get(kind)
        raise ValueError(f"{str(value)[:40]!r} is no {wanted or ('list' if list in kind else 'number')}")
    return value


def _provider_faults(provider: ProviderSettings) -> list[str]:
    faults = []
    if not provider.domains or not provider.mx:
        faults.append("domains and mx: name at least one each")
    faults += [f"domains: {d} must end in .test" for d in provider.domains if not d.endswith(".test")]
    try:
        if not ip_address(provider.address).is_loopback:
            faults.append(f"address: {provider.address} is not a loopback address")
    except ValueError:
        faults.append(f"address: {provider.address!r} is no IP address")
    if provider.dialect not in DIALECTS:
        faults.append(f"dialect: {provider.dialect!r} is none of {', '.join(DIALECTS)}")
    if provider.unknown + provider.full + provider.late_bounce + provider.complaint > 1:
        faults.append("unknown, full, late_bounce and complaint are together more than everybody")
    for situation, text in provider.replies.items():
        if situation not in SITUATIONS:
            faults.append(f"replies.{situation}: no such situation; one of {', '.join(SITUATIONS)}")
        if not isinstance(text, str) or not re.match(r"[45]\d\d \S", text):
            faults.append(f"replies.{situation}: {text!r} is no refusal; begin it with 4xx or 5xx")
    try:
        re.compile(provider.unknown_pattern)
    except re.error as error:
        faults.append(f"unknown_pattern: {error}")
    return faults


def _world_faults(world: WorldSettings) -> list[str]:
    faults = []
    total = sum(provider.share for provider in world.providers)
    if abs(total - 1) > 0.001:
        faults.append(f"the providers' shares add up to {total:g}, not to 1")
    for what in ("address", "domains", "mx"):
        values: list[str] = []
        for provider in world.providers:
            found = getattr(provider, what)
            values += [found] if isinstance(found, str) else found
        faults += [
            f"{what}: {twice} is there twice" for twice in sorted({v for v in values if values.count(v) > 1})
        ]
    try:
        Zone(world.records)
    except (ZoneError, AttributeError, TypeError) as error:
        faults.append(f"records: {error}")
    return faults
