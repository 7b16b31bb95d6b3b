"""How often somebody may come: buckets by key, bounded in memory. Pure but for its own state."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

MOST_KEYS = 50_000
"""Keys that are remembered; the one not seen for longest is forgotten first."""


class Limit:
    """At most ``most`` at once and ``most`` more in ``seconds``, for each key. ``clock`` in seconds."""

    def __init__(self, most: float, seconds: float, clock: Callable[[], float]) -> None:
        self._most, self._rate, self._clock = most, most / seconds, clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str, weight: float = 1.0) -> bool:
        """Whether one more may come; it is counted if so. ``weight`` below 1: a key that may come more often."""
        now = self._clock()
        left, since = self._left.pop(key, (self._most, now))
        left = min(self._most, left + max(0.0, now - since) * self._rate)
        allowed = left >= weight
        self._left[key] = (left - weight if allowed else left, now)
        if len(self._left) > MOST_KEYS:
            del self._left[next(iter(self._left))]
        return allowed


class Repeats:
    """Who said the same a moment ago: a link can be pressed, or replayed, any number of times. ``seconds``: for so long
    the same word says nothing new. ``clock`` in seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._said: dict[str, tuple[str, float]] = {}

    def again(self, key: str, word: str) -> bool:
        """Whether ``word`` was the last that was said under ``key``, and just now."""
        last, when = self._said.get(key, ("", 0.0))
        return last == word and 0.0 <= self._clock() - when < self._seconds

    def said(self, key: str, word: str) -> None:
        """It is on record."""
        self._said.pop(key, None)
        self._said[key] = (word, self._clock())
        if len(self._said) > MOST_KEYS:
            del self._said[next(iter(self._said))]


def source_of(peer: str, forwarded: str, proxies: tuple[str, ...]) -> str:
    """Whose request it is: the peer's, or where the peer is a proxy of ours (CIDRs), the last address in
    X-Forwarded-For that is none. What others write into that header is not believed."""
    nets = [ip_network(proxy, strict=False) for proxy in proxies]
    found = peer
    for hop in reversed(forwarded.split(",")):
        try:
            if not any(_plain(found) in net for net in nets):
                return found
            found = str(_plain(hop.strip()))
        except ValueError:
            return found
    return found


def network_of(address: str, prefix: int = 64) -> str:
    """What one subscriber of an access provider has: an IPv4 address, or a /64 of IPv6, and at most a /48 (RFC 6177)."""
    try:
        found = _plain(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(ip_network((found, prefix), strict=False))
    return str(found)


def _plain(address: str) -> IPv4Address | IPv6Address:
    """An address; of one that a socket for both families shows as ::ffff:192.0.2.1, the IPv4 one, and without the port
    that some proxies write behind it. Raises ValueError."""
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
