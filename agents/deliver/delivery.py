"""What ``delivery.toml`` says: TLS, sources, pools and address families; all faults in one error. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from agents.deliver.requirement import TlsMode
from agents.deliver.sources import Pool, Proxy, Source, Sources
from schemas.faults import Faulty, only
from schemas.lanes import SUFFIXES

_MODES = ("opportunistic", "require", "verify")
_FAMILIES = ("ipv4", "ipv6")
_PROVIDERS = frozenset(provider for _, provider in SUFFIXES)
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_HOST = re.compile(r"(?=.{1,253}$)(?:[a-z0-9-]{1,63}\.)+[a-z0-9-]{1,63}", re.IGNORECASE)


class BadDelivery(Faulty):
    """The text is wrong; the message lists every fault."""


@dataclass(frozen=True, slots=True)
class Asks:
    """What our own settings ask of TLS: by recipient domain, by provider, else ``default``.

    opportunistic, require (encrypted or not at all) or verify (with a certificate for the MX host)."""

    default: TlsMode = "opportunistic"
    providers: Mapping[str, TlsMode] = field(default_factory=dict)
    domains: Mapping[str, TlsMode] = field(default_factory=dict)

    def mode(self, domain: str, provider: str) -> TlsMode:
        """For a domain whose MX hosts are the provider's."""
        return self.domains.get(domain) or self.providers.get(provider) or self.default


@dataclass(frozen=True, slots=True)
class Delivery:
    """The whole file."""

    asks: Asks = Asks()
    sources: Sources = field(default_factory=Sources)


def read_delivery(text: str, where: str = "delivery.toml") -> Delivery:
    """The file's text. Raises BadDelivery with every fault, unknown keys included."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadDelivery(where, [str(error)]) from None
    faults: list[str] = []
    only(found, ("tls", "family", "source", "pool"), "", faults)
    tls = _table(found, "tls", faults)
    only(tls, ("default", "providers", "domains"), "tls: ", faults)
    family = _table(found, "family", faults)
    only(family, ("default", "providers"), "family: ", faults)
    asks = Asks(
        _choice(tls.get("default", "opportunistic"), _MODES, "tls.default", faults),
        _choices(tls, "providers", _MODES, "tls.providers", _is_provider, faults),
        _choices(tls, "domains", _MODES, "tls.domains", _is_domain, faults),
    )
    sources = [_source(n, item, faults) for n, item in enumerate(_tables(found, "source", faults), 1)]
    names = [source.name for source in sources]
    faults += [f"source {name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    pools = [_pool(n, item, names, faults) for n, item in enumerate(_tables(found, "pool", faults), 1)]
    made = Sources(
        sources,
        pools,
        _choice(family.get("default", "ipv4"), _FAMILIES, "family.default", faults),
        _choices(family, "providers", _FAMILIES, "family.providers", _is_provider, faults),
    )
    if faults:
        raise BadDelivery(where, faults)
    return Delivery(asks, made)


def _source(n: int, found: Mapping[str, Any], faults: list[str]) -> Source:
    where = f"source {n}"
    only(found, ("name", "address", "helo", "proxy"), f"{where}: ", faults)
    texts = {key: _text(found, key, where, faults) for key in ("name", "address", "helo", "proxy")}
    address, name = texts["address"], texts["name"] or texts["address"]
    if not _NAME.fullmatch(name) or name == "default":
        faults.append(f"{where}: needs a name of at most 64 letters, digits, dots and dashes, not 'default'")
    if address and not _is_address(address):
        faults.append(f"{where}: address {address[:60]!r} is no IP address")
    if texts["helo"] and not _HOST.fullmatch(texts["helo"]):
        faults.append(f"{where}: helo {texts['helo'][:60]!r} is no host name with a domain")
    proxy = None
    if texts["proxy"]:
        try:
            proxy = Proxy.parse(texts["proxy"])
        except ValueError as error:
            faults.append(f"{where}: {error}")
        if proxy is not None and proxy.kind != "socks5" and not address:
            faults.append(f"{where}: a {proxy.kind} proxy needs the address to send from")
    return Source(name, address, texts["helo"], proxy)


def _pool(n: int, found: Mapping[str, Any], sources: Sequence[str], faults: list[str]) -> Pool:
    where = f"pool {n}"
    only(found, ("name", "sources", "streams", "tenants"), f"{where}: ", faults)
    lists: dict[str, tuple[str, ...]] = {}
    for key in ("sources", "streams", "tenants"):
        value = found.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            faults.append(f"{where}: {key} must be a list of texts")
            value = []
        lists[key] = tuple(value)
    if not lists["sources"]:
        faults.append(f"{where}: needs sources")
    faults += [f"{where}: there is no source {name!r}" for name in lists["sources"] if name not in sources]
    return Pool(_text(found, "name", where, faults), lists["sources"], lists["streams"], lists["tenants"])


def _table(found: Mapping[str, Any], key: str, faults: list[str]) -> Mapping[str, Any]:
    value = found.get(key, {})
    if isinstance(value, dict):
        return value
    faults.append(f"{key} must be a table: [{key}]")
    return {}


def _tables(found: Mapping[str, Any], key: str, faults: list[str]) -> list[Mapping[str, Any]]:
    value = found.get(key, [])
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    faults.append(f"{key} must be a list of tables: [[{key}]]")
    return []


def _text(found: Mapping[str, Any], key: str, where: str, faults: list[str]) -> str:
    value = found.get(key, "")
    if isinstance(value, str):
        return value
    faults.append(f"{where}: {key} must be a text")
    return ""


def _choice(value: object, known: Sequence[str], where: str, faults: list[str]) -> Any:
    if value not in known:
        faults.append(f"{where} is {str(value)[:40]!r}, not one of {', '.join(known)}")
        return known[0]
    return value


def _choices(
    found: Mapping[str, Any],
    key: str,
    known: Sequence[str],
    where: str,
    good: Callable[[str], str],
    faults: list[str],
) -> dict[str, Any]:
    table = _table(found, key, faults)
    faults += [f"{where}: {why}" for name in table if (why := good(name))]
    return {name: _choice(value, known, f"{where}.{name}", faults) for name, value in table.items()}


def _is_provider(name: str) -> str:
    return "" if name in _PROVIDERS else f"{name[:40]!r} is no provider that is known (schemas/lanes.py)"


def _is_domain(name: str) -> str:
    good = _HOST.fullmatch(name) and name == name.lower()
    return "" if good else f"{name[:60]!r} is no domain in lower case (IDNs as xn--...)"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
