"""A campaign from a TOML file: the fields of the event, and files for its templates."""

from __future__ import annotations

import re
import tomllib
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import orjson

from schemas.address import normalise
from schemas.campaign import Campaign
from schemas.codec import Malformed, parse

LARGEST = 8_000_000
"""Bytes of the file, and of each template file."""
EXAMPLE = '''\
id = "spring-2027"                      # letters, digits and . _ : -
from = "Lakeside Shop <news@shop.example>"
reply_to = "help@shop.example"
subject = "{{ first_name }}, spring is here"
list_id = "news.shop.example"
html_file = "spring.html"               # or html = """..."""; paths are relative to this file
text = "Hello {{ first_name }}"         # or text_file; made from the HTML when missing
# stream = "transactional"              # default: marketing
# tenant = "default"
# tracking = true
# priority = 5                          # 0 (last) to 9 (first)
# guarantee = "at_most_once"            # default: at_least_once
# [schedule]
# at = 2027-03-21T09:00:00+01:00
# expires_at = 2027-03-22T09:00:00+01:00
# [headers]
# X-Shop = "lakeside"
'''
_WHERE = re.compile(r"at `\$\.?([^`]*)`")
_FIELD = re.compile(r"field `([^`]+)`")
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


class BadCampaign(Exception):
    """The file is no campaign; the text names file, line and field."""


def read_campaign(path: Path) -> Campaign:
    """The campaign in ``path``. Raises BadCampaign."""
    text = _read(path, str(path))
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadCampaign(f"{path}: no valid TOML: {error}") from None
    except RecursionError:
        raise BadCampaign(f"{path}: no valid TOML: nested too deeply") from None
    for part in ("html", "text"):
        _take_template(fields, part, path, text)
    try:
        campaign = parse(orjson.dumps(fields, default=str), Campaign)
    except (Malformed, orjson.JSONEncodeError) as error:
        detail = error.detail if isinstance(error, Malformed) else str(error)
        raise BadCampaign(f"{path}{_at(text, _path_in(detail))}: {detail}") from None
    _check(campaign, path, text)
    return campaign


def _check(campaign: Campaign, path: Path, text: str) -> None:
    if not (campaign.html or campaign.text):
        raise BadCampaign(f"{path}: give html, html_file, text or text_file")
    for name, mailbox in (("from", campaign.sender), ("reply_to", campaign.reply_to)):
        if mailbox or name == "from":
            try:
                normalise(parseaddr(mailbox)[1])
            except Malformed as error:
                raise BadCampaign(
                    f"{path}{_at(text, [name])}: {error.detail}; write Name <address>"
                ) from None


def _take_template(fields: dict[str, Any], part: str, path: Path, text: str) -> None:
    name = fields.pop(f"{part}_file", None)
    if name is None:
        return
    here = f"{path}{_at(text, [f'{part}_file'])}"
    if part in fields:
        raise BadCampaign(f"{here}: give {part} or {part}_file, not both")
    if not isinstance(name, str):
        raise BadCampaign(f"{here}: must be the name of a file")
    fields[part] = _read(path.parent / name, here)


def _read(path: Path, here: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise BadCampaign(f"{here}: {path} is larger than {LARGEST} bytes")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise BadCampaign(f"{here}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadCampaign(f"{here}: {path} is no UTF-8 (byte {error.start + 1})") from None


def _path_in(detail: str) -> list[str]:
    """The field that a message of msgspec names, as its path."""
    where, field = _WHERE.search(detail), _FIELD.search(detail)
    found = [part for part in (where[1].split(".") if where else []) if part]
    return [*found, field[1]] if field else found


def _at(text: str, wanted: list[str]) -> str:
    """`` line N, field F`` for the path of a field; the line only where it can be found."""
    if not wanted:
        return ""
    table: list[str] = []
    quote = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not quote and (key := _KEY.match(line)):
            if [*table, *_parts(key[1])] == wanted:
                return f" line {number}, field {'.'.join(wanted)}"
        elif not quote and (head := _TABLE.match(line)):
            table = _parts(head[1])
        for mark in ('"""', "'''"):
            # Inside a multi-line text nothing is a key.
            if quote in ("", mark) and line.count(mark) % 2:
                quote = "" if quote else mark
    return f" field {'.'.join(wanted)}"


def _parts(key: str) -> list[str]:
    return [part.strip().strip("\"'") for part in key.split(".")]
