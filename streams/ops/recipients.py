"""Recipients from a CSV file of any size, row by row: each a send, or why not, with its line number."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import orjson

from schemas.address import normalise
from schemas.campaign import Campaign
from schemas.codec import Malformed, parse
from schemas.send import Send
from streams.ops.csv_rows import Cells

ADDRESS = ("to", "email", "address")
TEXTS = ("name", "key", "time_zone")
CONSENTS = {"consent_opens": "opens", "consent_clicks": "clicks"}
_YES, _NO = frozenset(("1", "true", "yes", "y")), frozenset(("", "0", "false", "no", "n"))
LONGEST_FIELD = 131_072
"""Characters of one field."""
MOST_COLUMNS = 500


class Row(NamedTuple):
    """One row: its ``send``, or None and ``why`` it is none. ``line`` is where it begins, from 1."""

    line: int
    send: Send | None
    why: str = ""


class BadFile(Exception):
    """The file has no usable header line; the text says what is missing."""


def read_rows(lines: Iterable[str], campaign: Campaign) -> Iterator[Row]:
    """The rows of a CSV file with a header line. Raises BadFile before the first row.

    Separated by comma, semicolon or tab, as the header is. Columns: one of to, email, address; if
    wanted name, key (idempotency key), time_zone, consent_opens, consent_clicks (yes or no); every
    other one is a variable of the templates. Open the file with ``newline=""`` and
    ``errors="surrogateescape"``: a row that is no UTF-8 is bad, the others are not.
    """
    found = Cells(lines, LONGEST_FIELD)
    columns = _columns(found.head)
    found.address = columns.index("to")
    for line, cells in found:
        yield Row(line, None, cells) if isinstance(cells, str) else _row(line, cells, columns, campaign)


def _columns(cells: list[str]) -> list[str]:
    names = [_known(cell.strip()) for cell in cells]
    if not any(names):
        raise BadFile("the first line must name the columns, one of them to, email or address")
    if len(names) > MOST_COLUMNS:
        raise BadFile(f"{len(names)} columns; at most {MOST_COLUMNS}")
    if "" in names:
        raise BadFile(f"column {names.index('') + 1} has no name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadFile(f"column {twice[0]!r} is there twice")
    if "to" not in names:
        raise BadFile(f"no column to, email or address; there are {', '.join(names[:20])}")
    return names


def _known(name: str) -> str:
    lower = name.lower()
    if lower in ADDRESS:
        return "to"
    return lower if lower in TEXTS or lower in CONSENTS else name


def _row(line: int, cells: list[str], columns: list[str], campaign: Campaign) -> Row:
    fields: dict[str, Any] = {"campaign": campaign.id, "tenant": campaign.tenant}
    variables: dict[str, str] = {}
    consent: dict[str, bool] = {}
    for name, cell in zip(columns, cells, strict=True):
        text = cell.strip()
        if name == "to" or name in TEXTS:
            fields[name] = text
        elif name in CONSENTS:
            if text.lower() not in _YES | _NO:
                return Row(line, None, f"{name} must be yes or no")
            consent[CONSENTS[name]] = text.lower() in _YES
        else:
            variables[name] = cell
    fields |= {"variables": variables, "consent": consent}
    try:
        normalise(fields["to"])
        send = parse(orjson.dumps(fields), Send)
    except Malformed as error:
        return Row(line, None, error.detail)
    except orjson.JSONEncodeError:
        return Row(line, None, "not UTF-8")
    if send.time_zone and _zones() and send.time_zone not in _zones():
        return Row(line, None, "time_zone is no name of the IANA database, such as Europe/Zurich")
    return Row(line, send)


@cache
def _zones() -> frozenset[str]:
    """Known time zones; empty where the machine has no database: then any name goes."""
    return frozenset(zoneinfo.available_timezones())
