"""``mailsluice bench``: how many messages per second, beside what this machine's RSA allows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.table import Table

from streams.ops import bench_import, bench_intake, bench_memory, bench_peers, bench_priority, bench_scale
from streams.ops.bench_machine import BenchFailed
from streams.ops.bench_parts import PARTS, measure
from streams.ops.bench_pipeline import UNLIMITED, Options, run
from streams.ops.ending import ENDED, EXIT_ENDED, by_sigterm

FILE = "bench.json"
T = TypeVar("T")

HELP = f"""Measure SECTION: pipeline (default), peers, priority, intake, import, memory, scale, {", ".join(PARTS)}, or all of these.

\b
Example: mailsluice bench pipeline --messages 50000
         mailsluice bench dkim --json

pipeline starts a broker, all agents and a sink on this machine, publishes the sends and takes the time
from the first send to the sink's last 250. Before and after it measures how many RSA-2048 signatures per
second all cores make, and gives the ratio: it means the same on a busy machine and on a quiet one.
priority fills every stage with bulk mail (--messages, --lane-rate) and gives the milliseconds from a
transactional send to its 250.
intake gives the CPU of enqueue and screen for one recipient, over few and over many suppressions and contacts.
import suppresses --suppressions people from a CSV file, then lets the stage fill its state anew.
memory publishes --messages to slow lanes (--lane-rate, 50/s here) and watches the workers for --seconds.
scale lets one worker of compose and of deliver work off a backlog, then two.
peers measures the pipeline and then, with as many mails of that size to the same sink, Postfix with
OpenDKIM, where installed (Debian: apt install postfix opendkim; as root).
The other sections give the microseconds of one step in one process.

With --broker HOST:PORT topics with a prefix of their own are made there and deleted afterwards. With
--sink smtp-sink (it comes with Postfix) or HOST:PORT (a loopback address) the last 250 is that which
deliver saw, and nobody counts duplicates.

The results are also written to {FILE}. Exit code: 0 measured, nothing lost and nothing twice; 1 otherwise."""


@click.command("bench", help=HELP)
@click.argument(
    "section",
    type=click.Choice(
        ["pipeline", "peers", "priority", "intake", "import", "memory", "scale", *PARTS, "all"]
    ),
    default="pipeline",
)
@click.option("--size", default=10_240, show_default=True, help="Bytes of a rendered mail.")
@click.option("--messages", default=20_000, show_default=True, type=click.IntRange(1))
@click.option("--broker", default="apache", show_default=True, metavar="apache|embedded|HOST:PORT")
@click.option("--sink", default="own", show_default=True, metavar="own|smtp-sink|HOST:PORT")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option("--warm-up", default=2_000, show_default=True, type=click.IntRange(1), help="Mails before.")
@click.option("--lane-rate", default=UNLIMITED, show_default=True, help="Mails/s that each lane is given.")
@click.option("--suppressions", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--contacts", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=60.0, show_default=True, help="How long memory is watched.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(FILE), help="Where the JSON goes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def bench(
    section: str,
    size: int,
    messages: int,
    broker: str,
    sink: str,
    partitions: int,
    warm_up: int,
    lane_rate: float,
    suppressions: int,
    contacts: int,
    seconds: float,
    out: Path,
    as_json: bool,
) -> None:
    """The command; its help text is HELP."""
    console = Console(stderr=True)
    options = Options(
        size, messages, broker, sink, warm_up, partitions, lane_rate=lane_rate, suppressions=suppressions
    )
    found: dict[str, Any] = {}
    code = 0
    try:
        if section in ("pipeline", "peers", "all"):
            if not as_json:
                console.print(f"measuring the pipeline: {messages:,} mails of {size:,} bytes ...")
            result = _run(run(options))
            found["pipeline"] = result.as_dict()
            code = 1 if result.lost or result.duplicates else 0
        if section in ("peers", "all"):
            if why := bench_peers.missing():
                console.print(f"no peer to measure: {why}")
            else:
                console.print(f"measuring Postfix with OpenDKIM: {messages:,} mails of {size:,} bytes ...")
                peer = _run(bench_peers.run(options, result.messages_per_second))
                found["peers"] = [peer.as_dict()]
        if section in ("priority", "all"):
            if not as_json:
                console.print(f"measuring transactional mail beside {messages:,} bulk mails ...")
            raced = _run(bench_priority.run(options))
            found["priority"] = raced.as_dict()
            code = code or int(raced.missing > 0)
        if section in ("intake", "all"):
            asked = bench_intake.Options(
                suppressions, contacts, messages, broker=broker, partitions=partitions
            )
            found["intake"] = _run(bench_intake.run(asked)).as_dict()
        if section == "import":
            found["import"] = _run(bench_import.run(suppressions, broker, partitions)).as_dict()
        if section in ("memory", "all"):
            rate = bench_memory.RATE if lane_rate == UNLIMITED else lane_rate
            soaked = _run(bench_memory.run(replace(options, lane_rate=rate), seconds))
            found["memory"] = soaked.as_dict()
        if section in ("scale", "all"):
            found["scale"] = [each.as_dict() for each in _run(bench_scale.run(options))]
        for part in PARTS if section == "all" else [section]:
            if part in PARTS:
                found[part] = measure(part, size)
    except (BenchFailed, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except ENDED:
        sys.exit(EXIT_ENDED)
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2)
    out.write_bytes(text + b"\n")
    if as_json:
        click.echo(text)
    else:
        show(found, Console())
    sys.exit(code)


def _run(work: Coroutine[Any, Any, T]) -> T:
    runner: Callable[..., Any] = asyncio.run
    try:
        import uvloop
    except ImportError:  # Windows has none
        pass
    else:
        runner = uvloop.run
    result: T = runner(by_sigterm(work))
    return result


def show(found: dict[str, Any], console: Console) -> None:
    """The results as tables."""
    for name, result in found.items():
        if name == "pipeline":
            _show_pipeline(result, console)
            continue
        if name == "priority":
            console.print(
                f"transactional, publish to 250: p50 {result['p50']:.0f} ms, p90 {result['p90']:.0f} ms, "
                f"p99 {result['p99']:.0f} ms, worst {result['worst']:.0f} ms ({result['sent']} sends, "
                f"{result['missing']} missing; {result['waiting']:,} bulk mails were waiting); "
                + ", ".join(f"{stage} {p50:.0f}/{p99:.0f}" for stage, (p50, p99) in result["stages"].items())
            )
            continue
        if name == "peers":
            for peer in result:
                console.print(
                    f"{peer['name']}: {peer['messages_per_second']:,.0f} messages/s ({peer['messages']:,} finished mails "
                    f"of one content), ratio {peer['ratio']:.3f}, {peer['cpu_in_signatures']:.2f} RSA signatures of CPU "
                    f"each; ours is {peer['ours_to_theirs']:.2f} times as fast"
                )
            continue
        if name == "memory":
            _show_memory(result, console)
            continue
        if name == "import":
            console.print(
                f"{result['rows']:,} rows: {result['rows_per_second']:,} rows/s ({result['command_cpu']:.0f} s of CPU, peak "
                f"{result['command_peak']:.0f} MB, {result['command_first']:.0f} MB after a tenth); all in state after "
                f"{result['in_state']:.0f} s ({result['worker_cpu']:.0f} s of CPU, peak {result['worker_peak']:.0f} MB, "
                f"{result['worker_first']:.0f} MB after a tenth was written); from nothing in {result['rebuild']:.0f} s "
                f"({result['rebuild_cpu']:.0f} s of CPU, peak {result['rebuild_peak']:.0f} MB)"
            )
            continue
        if name == "scale":
            for each in result:
                console.print(
                    f"{each['group']}: {each['one']:,.0f} mails/s with one worker, {each['two']:,.0f} with two: "
                    f"{each['ratio']:.2f} times (these cores allow {each['allowed']:.2f}); a core of its own brings "
                    f"{each['one_more_core']:,.0f}"
                )
            continue
        if name == "intake":
            _show_intake(result, console)
            continue
        table = Table(title=f"{name}: microseconds of CPU for one mail", title_justify="left")
        table.add_column("step")
        table.add_column("µs", justify="right")
        for step, value in result.items():
            table.add_row(step, f"{value:,.1f}")
        console.print(table)


def _show_intake(result: dict[str, Any], console: Console) -> None:
    what, few = result["conditions"], result["cpu_us_per_recipient_few"]
    table = Table(title="intake: CPU microseconds for one recipient", title_justify="left")
    for title in ("stage", f"{what['few']:,} rows", f"{what['suppressions']:,} rows"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage, value in result["cpu_us_per_recipient"].items():
        table.add_row(stage, f"{few[stage]:,.0f}", f"{value:,.0f}")
    console.print(table)
    console.print(
        f"{result['recipients_per_second_per_core']:,.0f} recipients/s a core; an RSA-2048 signature takes "
        f"{result['rsa_cpu_us']:,.0f} µs here and now"
    )


def _show_memory(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"memory in MB, {result['backlog']:,} mails waiting", title_justify="left")
    for column in ("process", "peak", "at the end", "MB an hour"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for name, peak in result["peak"].items():
        table.add_row(
            name,
            f"{peak:,.0f}",
            f"{result['at_end'][name]:,.0f}",
            f"{result['slope'][name]:+,.0f}" if name in result["slope"] else "-",
        )
    console.print(table)
    if result["fetched_to_used"] is not None:
        console.print(f"bytes fetched by deliver to bytes used: {result['fetched_to_used']:.2f}")


def _show_pipeline(result: dict[str, Any], console: Console) -> None:
    table = Table(title="pipeline: CPU microseconds for one mail, by process", title_justify="left")
    table.add_column("process")
    table.add_column("µs", justify="right")
    table.add_column("RSA signatures", justify="right")
    table.add_column("MB", justify="right")
    for name, value in result["cpu_us_per_message"].items():
        memory = result["memory_mb"].get(name)
        worth = value / result["rsa_cpu_us"] if result["rsa_cpu_us"] else 0.0
        table.add_row(name, f"{value:,.0f}", f"{worth:.2f}", f"{memory:,.0f}" if memory else "")
    console.print(table)
    what = result["conditions"]
    console.print(
        f"{result['messages_per_second']:,.0f} messages/s end to end ({result['messages']:,} mails of "
        f"{result['bytes_per_message']:,} bytes in {result['seconds']:.1f} s); all agents at rest after "
        f"{result['settled_seconds']:.1f} s"
    )
    console.print(
        f"this machine signs {result['rsa_limit_per_second']:,.0f} times a second (RSA-2048, {what['cores']} cores, "
        f"load {what['load'][0]} before): ratio {result['ratio']:.3f}"
    )
    if result["lost"] or result["duplicates"]:
        console.print(f"[bold red]lost {result['lost']}, duplicates {result['duplicates']}[/]")
