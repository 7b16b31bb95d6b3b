"""``mailsluice topics schema``: the contracts with outsiders, written from the code.

JSON Schema for every event on a topic that outsiders write or read, and one AsyncAPI document over those
topics. They are committed; a test compares them with what this makes today.
"""

from __future__ import annotations

import inspect
from importlib import resources
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson

from schemas.campaign import Campaign
from schemas.codec import name_of
from schemas.consent import StreamConsent
from schemas.contact import Contact
from schemas.event import MailEvent
from schemas.send import Send
from schemas.suppression import Suppression
from streams.ops.asyncapi import document
from streams.topics import TOPICS

OUTSIDE = (Campaign, Send, MailEvent, Suppression, StreamConsent, Contact)
"""The events on topics that outsiders write or read."""
_RFC3339 = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_BASE64 = "^[A-Za-z0-9+/]*={0,2}$"
_NO_LINE_FEED = {"pattern": "\\n"}


def documents() -> dict[str, bytes]:
    """Every generated file: path below ``schemas/`` -> its bytes."""
    found = {f"json/{file_name(cls)}": _pretty(json_schema(cls)) for cls in OUTSIDE}
    found["asyncapi.json"] = _pretty(asyncapi())
    return found


def file_name(cls: type[Any]) -> str:
    """The schema file of an event class."""
    name, version = name_of(cls)
    return f"{name}.v{version}.json"


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """An event's JSON Schema (draft 2020-12), self-contained."""
    name, version = name_of(cls)
    found = portable(msgspec.json.schema(cls))
    parts = found["$defs"]
    root = parts.pop(cls.__name__)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mailsluice:{name}:{version}",
    }
    return {**head, **root, **({"$defs": parts} if parts else {})}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document over the topics of outsiders, with the schemas and two examples each inside."""
    _, parts = msgspec.json.schema_components(OUTSIDE, ref_template="#/components/schemas/{name}")
    return document(
        [topic for topic in TOPICS if topic.outside],
        {name_of(cls)[0]: cls.__name__ for cls in OUTSIDE},
        portable(parts),
        {name_of(cls)[0]: _examples(*name_of(cls)) for cls in OUTSIDE},
    )


def portable(node: Any) -> Any:
    """msgspec's schema in words that every validator understands alike.

    Python's ``$`` also matches before a final line feed, and look-aheads are unknown to RE2: so a pattern
    ends in plain ``$`` and line feeds are refused by a second one. A time without a zone is refused by a
    pattern, because ``format`` only annotates. Docstrings become paragraphs.
    """
    if isinstance(node, list):
        return [portable(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: portable(value) for key, value in node.items() if (key, value) != ("required", [])}
    if isinstance(found.get("description"), str):
        found["description"] = inspect.cleandoc(found["description"]).replace("``", "`")
    pattern = found.get("pattern")
    if isinstance(pattern, str):
        found |= {"pattern": pattern.removesuffix("(?!\\n)"), "not": _NO_LINE_FEED}
    elif found.get("format") == "date-time":
        found |= {"pattern": _RFC3339, "not": _NO_LINE_FEED}
    elif found.get("contentEncoding") == "base64":
        found |= {"pattern": _BASE64, "not": _NO_LINE_FEED}
    return found


def _examples(event: str, version: int) -> dict[str, Any]:
    folder = resources.files("schemas") / "examples" / event / f"v{version}"
    return {name: orjson.loads((folder / f"{name}.json").read_bytes()) for name in ("minimal", "full")}


def _pretty(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def stale(folder: Path) -> list[str]:
    """What in ``folder`` is missing, differs from what the code says, or is of no use any more."""
    wanted = documents()
    old = [
        name
        for name, raw in wanted.items()
        if not (folder / name).exists() or (folder / name).read_bytes() != raw
    ]
    return old + sorted(
        f"json/{path.name}" for path in (folder / "json").glob("*.json") if f"json/{path.name}" not in wanted
    )


def write(folder: Path) -> list[str]:
    """Write every document below ``folder``; the names of those that changed."""
    changed = []
    for name, raw in documents().items():
        path = folder / name
        if not path.exists() or path.read_bytes() != raw:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            changed.append(name)
    return changed


@click.command("schema")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a file is not up to date.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write to; default: the package `schemas`.",
)
def schema(check: bool, out: Path | None) -> None:
    """Write JSON Schema and AsyncAPI of the topics that others write or read.

    \b
    Example: mailsluice topics schema --out build/contracts
    Exit code: 0 written, or --check found all up to date; 1 --check found some that are not; 2 wrong usage.
    """
    folder = out or Path(str(resources.files("schemas")))
    if not check:
        changed = write(folder)
        click.echo(
            f"{len(documents())} files in {folder}, {len(changed)} changed: {', '.join(changed) or 'none'}"
        )
        return
    old = stale(folder)
    if old:
        raise click.ClickException(f"not up to date: {', '.join(old)}; run `mailsluice topics schema`")
    click.echo("up to date")
