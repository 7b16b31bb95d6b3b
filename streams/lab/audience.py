"""The demo's audience: synthetic recipients, streamed as CSV, spread over the providers by their shares."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

from streams.lab.providers import WorldSettings, chance


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Ada Ben Chloé Dario Elif Femi Grete Hana Ivo Jana Kofi Léa Mila Noor Otto Pia Quentin Rosa Søren Tariq "
    "Uma Vera Wim Ximena Yara Zoltán"
)
LAST = _words(
    "Abara Berg Costa Dubois Eriksen Fischer García Hansen Ito Jansen Kowalski Lindqvist Moreau Novák Okafor "
    "Petrov Quinn Rossi Šimić Tanaka Ueda Vogel Weiß Yilmaz Zhang"
)
CITIES = _words(
    "Bergen Bologna Bremen Brno Dakar Gent Graz Lille Łódź Oaxaca Porto Sapporo Split Tartu Turku"
)
ZONES = ("Europe/Berlin", "Europe/Paris", "Europe/London", "America/New_York", "Asia/Tokyo")
ASCII = str.maketrans("éáíščćžøłŁÓóźŠßıü", "eaisccZolLOozSsiu")


class Recipient(NamedTuple):
    """One row. ``consent``: o and c for opens and clicks that may be tracked; the last four are variables."""

    to: str
    name: str
    time_zone: str
    consent: str
    city: str
    plan: str
    points: int
    code: str


def recipients(world: WorldSettings, count: int, seed: int = 1) -> Iterator[Recipient]:
    """``count`` recipients, each with an address of its own; the same for the same seed and world."""
    for number in range(count):
        first, last, city, zone = (
            pick[int(chance(seed, what, number) * len(pick))]
            for what, pick in (("first", FIRST), ("last", LAST), ("city", CITIES), ("zone", ZONES))
        )
        domain = _domain(world, seed, number)
        local = "".join(c for c in f"{first}.{last}.{number}".translate(ASCII) if c.isascii()).lower()
        points = int(chance(seed, "points", number) * 5000)
        yield Recipient(
            to=f"{local}@{domain}",
            name=f"{first} {last}",
            time_zone=zone,
            consent="oc" if chance(seed, "consent", number) < 0.9 else "",
            city=city,
            plan=("basic", "plus", "pro")[number % 3],
            points=points,
            code=f"{number:06x}".upper(),
        )


def csv_rows(found: Iterator[Recipient]) -> Iterator[str]:
    """The header and then one line per recipient, each ending in a line feed; nothing is held in memory."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in _with_header(found):
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _with_header(found: Iterator[Recipient]) -> Iterator[tuple[object, ...]]:
    yield Recipient._fields
    yield from found


def _domain(world: WorldSettings, seed: int, number: int) -> str:
    drawn = chance(seed, "provider", number)
    for provider in world.providers:
        if drawn < provider.share:
            break
        drawn -= provider.share
    return provider.domains[int(chance(seed, "domain", number) * len(provider.domains))]
