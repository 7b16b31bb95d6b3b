"""``mailsluice settings`` and ``mailsluice version``: what can be set, what is, and on what it stands."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import platform
import textwrap
from importlib import metadata
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from streams.ops.ask import as_json, console, echo_json
from streams.settings import BadSettings, Settings, as_text, load, variable

SECRET = ("secret", "retired_secrets")
"""Fields whose value is never shown."""
STANDS_ON = (
    "aiokafka",
    "faust-streaming",
    "aiohttp",
    "aiosmtplib",
    "aiosmtpd",
    "cryptography",
    "minijinja",
    "msgspec",
)


def field_texts(cls: type[Any]) -> dict[str, str]:
    """The docstring after each field of a class, by the field's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for item, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if (
            isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[item.target.id] = inspect.cleandoc(after.value.value).replace("``", "")
    return found


def rows(current: Settings) -> list[dict[str, Any]]:
    """Every setting: variable, text, default and present value, whether it is set."""
    texts, default = field_texts(Settings), Settings()
    found = []
    for item in dataclasses.fields(Settings):
        if item.name == "extra":
            continue
        now, usual = getattr(current, item.name), getattr(default, item.name)
        masked = item.name in SECRET and now
        found.append(
            {
                "variable": variable(item.name),
                "text": texts.get(item.name, ""),
                "default": as_text(usual),
                "value": "(set, hidden)" if masked else as_text(now),
                "set": variable(item.name) in os.environ,
            }
        )
    return found


@click.command()
@click.option("--changed", is_flag=True, help="Only those that are set.")
@as_json
def settings(changed: bool, as_json: bool) -> None:
    """Every MAILSLUICE_* variable: what it means, its default, its present value. Secrets are not shown.

    \b
    Example: MAILSLUICE_BROKER=127.0.0.1:9092 mailsluice settings --changed
    Exit code: 0; 2 where the environment holds a wrong or unknown setting (all of them are named).
    """
    try:
        current, fault = load(os.environ), ""
    except BadSettings as error:
        # What may be set is worth most to who has just set something wrong.
        current, fault = Settings(), str(error)
    found = [row for row in rows(current) if row["set"] or not changed]
    if as_json:
        echo_json(found)
    elif found:
        _print(found)
    if fault:
        raise click.UsageError(fault + (" (the values above are the defaults)" if found else ""))


def _print(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("variable", "value", "meaning"):
        table.add_column(name, no_wrap=name == "variable", overflow="fold")
    for row in found:
        value = Text(row["value"] or "(empty)", style="bold green" if row["set"] else "")
        if row["set"] and row["value"] != row["default"]:
            value.append(f"\ninstead of {row['default'] or '(empty)'}", style="bright_black")
        table.add_row(row["variable"], value, Text(row["text"]))
    console().print(table)


@click.command()
@as_json
def version(as_json: bool) -> None:
    """The versions of Mailsluice and of what it stands on: for reports of faults.

    \b
    Example: mailsluice version --json
    """
    found = {"mailsluice": metadata.version("mailsluice"), "python": platform.python_version()}
    for name in STANDS_ON:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    if as_json:
        echo_json(found)
        return
    for name, text in found.items():
        click.echo(f"{name} {text}")
