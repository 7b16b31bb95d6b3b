"""``mailsluice chaos``: the command."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

import click
import orjson

from streams.ops.chaos.plan import BY_NAME
from streams.ops.chaos.run import Chaos, Options
from streams.ops.ending import ENDED, EXIT_ENDED, by_sigterm


@click.command("chaos")
@click.option(
    "--kills",
    default=20,
    show_default=True,
    help="SIGKILLs of workers and broker; half as many other faults.",
)
@click.option(
    "--seed", default=0, help="Which faults, when, to whom; 0 takes one of the clock and prints it."
)
@click.option("--messages", default=0, help="Sends in all; default 40 to 60 a second of the run.")
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Keep logs, topics and ledgers here."
)
@click.option(
    "--only", default="", metavar="A,B", help=f"So many faults of these kinds only: {', '.join(BY_NAME)}."
)
@click.option("--json", "as_json", is_flag=True, help="Print the last line only.")
def command(kills: int, seed: int, messages: int, home: Path | None, only: str, as_json: bool) -> None:
    """Break everything under load, then balance the books from the providers' own records.

    Runs Apache Kafka, the whole pipeline as separate processes and simulated providers on this machine;
    kills, freezes, fills disks, breaks connections, at moments from a seed. Then: nothing lost, nothing
    twice but what was in flight at a crash, nobody mailed after a suppression was known, nothing stuck.
    The last line is one JSON object. A failed run keeps its home and says how to repeat it.

    \b
    Example: mailsluice chaos --kills 100 --seed 42
    Exit code: 0 only if all of it holds; 1 something does not; 2 wrong usage.
    """
    if kills < 1:
        raise click.BadParameter("at least 1", param_hint="--kills")
    kinds = tuple(name.strip() for name in only.split(",") if name.strip())
    if unknown := set(kinds) - set(BY_NAME):
        raise click.BadParameter(f"no such kind: {', '.join(sorted(unknown))}", param_hint="--only")
    logging.basicConfig(level="ERROR", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel("CRITICAL")
    options = Options(kills, seed or int(time.time()) % 1_000_000 + 1, messages, home, kinds)
    chaos = Chaos(options, (lambda text: None) if as_json else click.echo)
    if not as_json:
        click.echo(f"seed {options.seed}")
    try:
        report = asyncio.run(by_sigterm(chaos.run()))
    except ENDED:
        sys.exit(EXIT_ENDED)
    if not report.ok and not as_json:
        for check, lines in report.judgement.failed.items():
            click.secho(f"NOT KEPT: {check}", fg="red", bold=True)
            for line in lines[:20]:
                click.echo(f"  {line}")
        again = f"--kills {kills} --seed {options.seed}" + (f" --messages {messages}" if messages else "")
        again += f" --only {','.join(kinds)}" if kinds else ""
        click.echo(f"kept: {chaos.home} (logs, broker, ledger, plan.json)\nagain: mailsluice chaos {again}")
    click.echo(orjson.dumps(report.line()).decode())
    sys.exit(0 if report.ok else 1)
