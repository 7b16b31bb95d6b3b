"""``mailsluice simulate``: how a policy does with providers that hide what they tolerate."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import click

from agents.shape.figures import Settings
from agents.shape.rules import BadPolicy
from streams.ops.ask import as_json, console, echo_json
from streams.ops.simulate.compare import POLICIES, Outcome, settings_of, simulate
from streams.ops.simulate.describe import described
from streams.ops.simulate.generate import generated
from streams.ops.simulate.measures import PERMITTED
from streams.ops.simulate.plot import svg
from streams.ops.simulate.providers_file import (
    MONTHS,
    BadProviders,
    Model,
    Providers,
    read_providers,
)
from streams.ops.simulate.scores import missed, scored
from streams.ops.simulate.table import tables

LARGEST = 4_000_000


def _describe(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(described())
        ctx.exit()


def _example(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo((resources.files("streams.ops.simulate") / "providers.toml").read_text("utf-8"), nl=False)
        ctx.exit()


def _generate(ctx: click.Context, _: click.Parameter, seed: int | None) -> None:
    if seed is not None:
        click.echo(generated(seed), nl=False)
        ctx.exit()


@click.command(context_settings={"max_content_width": 100}, epilog="")
@click.option("--providers", "file", metavar="FILE", help="The models (TOML); default: the nine that ship.")
@click.option(
    "--days", default=30.0, show_default=True, type=click.FloatRange(0.1, MONTHS), help="Simulated days."
)
@click.option(
    "--policy",
    default="adaptive",
    show_default=True,
    type=click.Choice((*POLICIES, "all")),
    help="Who decides; all: each in turn, beside each other.",
)
@click.option(
    "--seeds",
    metavar="A-B",
    help="In the place of a file: the models that --generate draws from each of these seeds.",
)
@click.option(
    "--law", "law", metavar="FILE", help="A policy.toml for adaptive in the place of the one that ships."
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this provider of the file (may be repeated)."
)
@click.option("--plot", "plot", metavar="FILE.svg", help="Draw rate, limit and hidden capacity over time.")
@click.option("--seed", type=int, help="In the place of the file's.")
@click.option("--jobs", default=0, type=click.IntRange(0, 256), help="Processes; 0: one a processor.")
@click.option(
    "--help-providers",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_describe,
    help="Every key of a providers file, with unit and default.",
)
@click.option(
    "--example",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_example,
    help="Print the providers file that ships.",
)
@click.option(
    "--generate",
    type=int,
    is_eager=True,
    expose_value=False,
    callback=_generate,
    metavar="SEED",
    help="Print a providers file drawn at random.",
)
@as_json
def command(
    file: str | None, days: float, policy: str, seeds: str | None, law: str | None, only: tuple[str, ...],
    plot: str | None, seed: int | None, jobs: int, as_json: bool,
) -> None:  # fmt: skip
    """Try a sending policy against models of providers: a month in seconds, no network, no broker.

    adaptive is the code and the policy.toml of production; fixed the best constant rate that a search over
    the same model finds; rules a constant rate (the best, too) with reactions of fixed duration; all the
    three beside each other.

    Capacity is what a sender would have had taken who knows every hidden budget and keeps the warm-up plan
    and the gate on complaints: the least of hidden capacity, plan and demand. Printed by provider: used, the
    share of it that was taken; deferred, the share of attempts refused as too fast, over all and after the
    first hour; the longest suspension, hours; days until an hour is used by 90 %; complaint overshoot, the
    worst day's complaints per message above 0.1 %; hours from the end of a capacity drop or ordered
    suspension, whichever is later, to 90 % of the full rate; growth, a cold source's worst day as a multiple
    of the largest before (the plan's first day begins it), at most 1.4 permitted. Then how many meet what is
    asked: 90 % used, 1 % deferred after the first hour, growth permitted, full rate within 2 hours.

    \b
    Providers file (TOML), one table a provider; every key is optional, --help-providers explains them all:
      seed = 7
      [providers.strict]
      rate = 12.0             # messages/s that it takes
      per_day = 600_000       # and a day
      connections = 4
      latency = 0.2           # seconds that a message occupies its connection
      demand = 900_000        # messages a day that there are to send; 0 = always more
      drops = [{ day = 12, hours = 6, to = 0.2 }]
      suspensions = [{ day = 20, hours = 2, reply = "421 4.7.0 try again in {hours} hours" }]

    \b
    Example: mailsluice simulate --days 30 --policy all --plot month.svg
             mailsluice simulate --example > p.toml && mailsluice simulate --providers p.toml --json
    Models that the law was not tuned on (tuned: seeds 1 to 50, 1001 to 1008, 2008), some minutes a ten of them:
             mailsluice simulate --seeds 3001-3010 --policy all
    Exit code: 0; 2 wrong usage, providers file or policy.
    """
    settings = _settings(law)
    if plot and not plot.lower().endswith(".svg"):
        raise click.UsageError(f"--plot {plot}: only SVG is drawn; name a file that ends in .svg")
    if seeds and file:
        raise click.UsageError("--seeds draws the models: give it or --providers")
    texts = _drawn(seeds) if seeds else [_providers(file)]
    models = _chosen([model for providers in texts for model in providers.models], only)
    drawn = texts[0].seed if seed is None else seed
    policies = POLICIES if policy == "all" else (policy,)
    found = {name: _all(models, name, days, drawn, settings, jobs) for name in policies}
    if plot:
        try:
            Path(plot).write_text(svg(f"{days:g} days, seed {drawn}", found), "utf-8")
        except OSError as error:
            raise click.ClickException(f"{plot}: {error.strerror or error}") from None
    if as_json:
        echo_json(_json(found, policy, days, drawn))
    else:
        out = console()
        for table in tables(found):
            out.print(table)


def _json(found: dict[str, list[Outcome]], policy: str, days: float, seed: int) -> dict[str, Any]:
    each = {
        name: {
            "providers": {o.name: o.figures | {"missed": missed(o.figures)} for o in outcomes},
            "met": scored(outcomes),
        }
        for name, outcomes in found.items()
    }
    head = {"policy": policy, "days": days, "seed": seed, "permitted_growth": PERMITTED}
    return head | ({"policies": each} if policy == "all" else each[policy])


def _drawn(seeds: str) -> list[Providers]:
    first, _, last = seeds.partition("-")
    if not (first.isdigit() and (last or first).isdigit()) or not 0 <= int(last or first) - int(first) < 1000:
        raise click.UsageError(f"--seeds {seeds}: must be A or A-B, whole numbers, at most 1,000 of them")
    numbers = range(int(first), int(last or first) + 1)
    return [read_providers(generated(number), f"seed {number}") for number in numbers]


def _providers(file: str | None) -> Providers:
    try:
        if file is None:
            where = "providers.toml"
            text = (resources.files("streams.ops.simulate") / where).read_text("utf-8")
        else:
            where = file
            with Path(file).open("rb") as source:
                raw = source.read(LARGEST + 1)
            if len(raw) > LARGEST:
                raise click.UsageError(f"{file}: has more than {LARGEST} bytes")
            text = raw.decode("utf-8")
        return read_providers(text, where)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except BadProviders as error:
        raise click.UsageError(str(error)) from None


def _chosen(models: list[Model], only: tuple[str, ...]) -> list[Model]:
    names = [model.name for model in models]
    for name in only:
        if name not in names:
            raise click.UsageError(f"--only {name}: no such provider; there are {', '.join(names)}")
    return [model for model in models if not only or model.name in only]


def _settings(law: str | None) -> Settings:
    try:
        return settings_of(Path(law).read_text("utf-8"), law) if law else settings_of()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{law}: {getattr(error, 'strerror', None) or error}") from None
    except BadPolicy as error:
        raise click.UsageError(str(error)) from None


def _all(
    models: list[Model], policy: str, days: float, seed: int, settings: Settings, jobs: int
) -> list[Outcome]:
    """Every model, in the order of the file; side by side where there are processors."""
    one = partial(_one, policy=policy, days=days, seed=seed, settings=settings)
    jobs = min(jobs or os.cpu_count() or 1, len(models))
    if jobs < 2:
        return [one(model) for model in models]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(one, models))


def _one(model: Model, policy: str, days: float, seed: int, settings: Settings) -> Outcome:
    return simulate(model, policy, days, seed, settings)
