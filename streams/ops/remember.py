"""``mailsluice suppress remember``: the hashes of erased people, brought to a cluster with another P.

They lie in the partition of an address that nobody knows any more: there every partition gets them.
"""

from __future__ import annotations

import asyncio
import re
from typing import BinaryIO

import click
from msgspec.structs import replace

from schemas.codec import Malformed, encode, header_list, parse
from schemas.contact import Contact
from schemas.suppression import Suppression
from streams.ops.ask import as_json, asked, at_broker, echo_json, run
from streams.ops.suppressions import producing
from streams.settings import Settings

HASH = re.compile(r"#[0-9a-f]{8}\.[0-9a-f]{32}")
"""As ``schemas.erasure.Pseudonyms`` makes them."""
AT_ONCE = 1_000
"""Records that are awaited together."""
_SUPPRESSION = header_list({"type": b"suppression", "version": b"1"})
_CONTACT = header_list({"type": b"contact", "version": b"1"})


@click.command("remember")
@click.argument("file", type=click.File("rb"))
@at_broker
@as_json
def remember(file: BinaryIO, broker: str | None, prefix: str | None, as_json: bool) -> None:
    """Put the hashes of erased people in FILE (- for standard input) on record, when P was changed.

    FILE has what `suppress list` told of them on the old topics. It says no address, so that nobody knows the
    partition of one: every partition gets all. With other secrets than before nobody is known by them.

    \b
    Example: mailsluice suppress list --reason erased --json --limit 1000000000 > erased.jsonl
             mailsluice suppress remember erased.jsonl
    Exit code: 0 on record; 1 the broker did not take them all; 2 a line is bad, and nothing was written.
    """
    rows = read(file)
    count = run(settings := asked(broker, prefix), _write(settings, rows))
    if as_json:
        echo_json({"people": len(rows), "partitions": count})
    else:
        click.echo(f"{len(rows):,} people who were erased are on record in each of {count} partitions")


def read(lines: BinaryIO) -> list[Suppression]:
    """The rows of a file, each person once. Raises UsageError."""
    found: dict[bytes, Suppression] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line, Suppression)
        except Malformed as error:
            raise click.UsageError(f"line {number}: {error.detail}") from None
        if row.reason != "erased" or not HASH.fullmatch(row.to):
            raise click.UsageError(f"line {number} is not the hash of somebody who was erased")
        # No event of the new topics explains it: as of one that was imported.
        found[row.key] = replace(row, origin="")
    return list(found.values())


async def _write(settings: Settings, rows: list[Suppression]) -> int:
    """Returns P. Raises WrongTopology, KafkaError."""
    async with producing(settings) as (producer, partitions):
        waiting = []
        for partition in range(partitions):
            for row in rows:
                contact = Contact(tenant="", to=row.to, erased=row.time, version=row.version)
                for topic, fact, headers in (
                    ("mail-suppressions", row, _SUPPRESSION),
                    ("mail-contacts", contact, _CONTACT),
                ):
                    name, value = settings.topic(topic), encode(fact)
                    waiting.append(await producer.send(name, value, fact.key, partition, headers=headers))
                if len(waiting) >= AT_ONCE:
                    await asyncio.gather(*waiting)
                    waiting.clear()
        await asyncio.gather(*waiting)
    return partitions
