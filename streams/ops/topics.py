"""``mailsluice topics``: make the Kafka topics that the pipeline needs, and list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import click
from aiokafka.admin import AIOKafkaAdminClient
from rich.table import Table
from rich.text import Text

from schemas.topology import Topology
from streams import admin
from streams.broker import started
from streams.ops.ask import as_json, asked, at_broker, console, echo_json, run
from streams.ops.schema import schema
from streams.settings import Settings
from streams.topics import TOPICS, Topic


@click.group()
def topics() -> None:
    """Make the Kafka topics that the pipeline needs, list them, write their schemas.

    \b
    Example: mailsluice topics apply --broker 127.0.0.1:9092 --partitions 16
    """


topics.add_command(schema)


@topics.command("apply")
@at_broker
@click.option(
    "--partitions", type=click.IntRange(1, 10_000), help="P of a new cluster; default MAILSLUICE_PARTITIONS."
)
@click.option(
    "--replication", type=click.IntRange(1), help="Copies of each partition; default MAILSLUICE_REPLICATION."
)
@as_json
def apply(
    broker: str | None, prefix: str | None, partitions: int | None, replication: int | None, as_json: bool
) -> None:
    """Make what is missing, and set the settings of topics that are there as the table says; never delete or
    shrink: a retention or size that you raised stays, and is told.

    Writes the topology record at first: the partition count P and the lanes, which every worker checks
    at its start. On a cluster that has one already its P is kept, whatever --partitions says.

    \b
    Example: mailsluice topics apply --partitions 16 --replication 3
    Exit code: 0 all topics are there (settings that the broker does not change are told); 1 they are not, or others than this version works on;
    2 wrong usage or settings.
    """
    settings = asked(broker, prefix)
    wanted: dict[str, Any] = {"partitions": partitions, "replication": replication}
    # One record is written: no need for an idempotent producer, which the embedded broker does not know.
    wanted["broker_idempotent"] = False
    settings = replace(settings, **{name: value for name, value in wanted.items() if value is not None})
    applied, topology = run(settings, _apply(settings))
    if as_json:
        echo_json({**asdict(applied), "partitions": topology.partitions})
        return
    click.echo(
        f"{len(applied.created)} topics made, {len(applied.present)} were there; "
        f"P = {topology.partitions} on {settings.broker}"
    )
    for told in applied.changed:
        click.echo(f"changed: {told}")
    for told in applied.raised:
        click.echo(f"left as it is: {told}")
    for told in (*applied.faults, *applied.differ):
        click.echo(f"not changed: {told}", err=True)
    if partitions not in (None, topology.partitions):
        click.echo(
            f"P stays {topology.partitions}: changing it to {partitions} is a migration (see deploy/README.md)",
            err=True,
        )


async def _apply(settings: Settings) -> tuple[admin.Applied, Topology]:
    applied = await admin.apply(settings)
    topology = await admin.read_topology(settings)
    assert topology is not None
    return applied, topology


@topics.command("list")
@at_broker
@click.option("--planned", is_flag=True, help="Only what the pipeline needs; asks no broker.")
@as_json
def list_topics(broker: str | None, prefix: str | None, planned: bool, as_json: bool) -> None:
    """Every topic: what it carries, how long it is kept, and whether the broker has it.

    \b
    Example: mailsluice topics list --json
    Exit code: 0 every topic is there (or --planned); 1 some are missing, or no broker; 2 wrong usage.
    """
    settings = asked(broker, prefix)
    there = None if planned else run(settings, partition_counts(settings))
    rows = [_row(settings, topic, there) for topic in TOPICS]
    if as_json:
        for row in rows:
            echo_json(row)
    else:
        console().print(_table(rows))
    missing = [row["topic"] for row in rows if row["present"] is False]
    if missing:
        click.echo(
            f"{len(missing)} of {len(rows)} topics are missing: run `mailsluice topics apply`", err=True
        )
        raise SystemExit(1)


async def partition_counts(settings: Settings) -> Mapping[str, int]:
    """Topics of the broker and their partition counts."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await started(client, 10.0)
    try:
        names = set(await client.list_topics()) & {settings.topic(topic.name) for topic in TOPICS}
        return {
            found["topic"]: len(found["partitions"]) for found in await client.describe_topics(sorted(names))
        }
    finally:
        await client.close()


def _row(settings: Settings, topic: Topic, there: Mapping[str, int] | None) -> dict[str, Any]:
    name = settings.topic(topic.name)
    return {
        "topic": name,
        "event": topic.event,
        "what": topic.what,
        "kept": topic.kept,
        "outside": topic.outside,
        "dlq": topic.dlq,
        "planned": topic.partitions or "P",
        "partitions": None if there is None else there.get(name, 0),
        "present": None if there is None else name in there,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("topic", "partitions", "kept", "outside", "carries"):
        table.add_column(name, no_wrap=name != "carries", justify="right" if name == "partitions" else "left")
    for row in rows:
        count = str(row["planned"] if row["partitions"] is None else row["partitions"])
        shown = Text("missing", style="red") if row["present"] is False else Text(count)
        table.add_row(row["topic"], shown, row["kept"], row["outside"], row["what"])
    return table
