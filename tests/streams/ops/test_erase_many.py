"""``mailsluice erase --file``: everybody in it, with a bad line named and passed over."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
from click.testing import CliRunner

from schemas.erasure import Pseudonyms
from schemas.suppression import Suppression
from streams import admin
from streams.app import App
from streams.cli import main
from streams.ops import erase_many
from streams.ops.suppressions import all_rows
from streams.settings import Settings

SECRET = secrets.token_hex(24)
FILE = 'email;why\nann@shop.test;\n"Ben@shop.test";her ben@shop.test wrote\nnobody;\nann@shop.test;\ncee@shop.test;\n'


def call(settings: Settings, *arguments: str, text: str):
    return CliRunner().invoke(main, ["erase", *arguments], env=settings.environment(), input=text)


@pytest.fixture
async def settings(embedded_broker, prefix, tmp_path):
    found = Settings(
        broker=embedded_broker.bootstrap, broker_idempotent=False, prefix=prefix, secret=SECRET,
        state=tmp_path / "state", partitions=2, session=4.0,
    )  # fmt: skip
    await admin.apply(found)
    return found


@pytest.fixture
async def suppress(settings):
    """The stage that does it."""
    faults: list[str] = []
    app = App(
        settings,
        await admin.check(settings),
        ["suppress"],
        fatal=lambda code, why: faults.append(f"{code}: {why}"),
    )
    await app.start()
    yield
    await app.stop()
    assert not faults


async def test_everybody_in_a_file_is_erased_and_a_bad_line_is_named(settings, suppress, monkeypatch):
    monkeypatch.setattr(erase_many, "BATCH", 2)
    done = await asyncio.to_thread(
        call, settings, "--file", "-", "--why", "they left", "--wait", "40", "--json", text=FILE
    )
    assert done.exit_code == 2, done.output
    # Ann is there twice, in two batches: she was erased, and is.
    assert json.loads(done.output) == {
        "erased": 4,
        "not_seen": 0,
        "bad": 1,
        "bad_rows": [{"line": 4, "why": "an address is local-part@domain; there is no @"}],
        "given_up_at_line": None,
    }
    marks: list[Suppression] = [row async for row in all_rows(settings)]
    names = Pseudonyms(settings.hash_secrets())
    assert sorted(row.to for row in marks) == sorted(
        names.of(f"{who}@shop.test")[0] for who in ("ann", "ben", "cee")
    )
    assert {(row.reason, row.scope, row.active) for row in marks} == {("erased", "global", True)}


async def test_where_nobody_erases_it_is_given_up(settings, monkeypatch):
    monkeypatch.setattr(erase_many, "BATCH", 1)
    done = await asyncio.to_thread(call, settings, "--file", "-", "--why", "x", "--wait", "0.2", text=FILE)
    assert done.exit_code == 1
    assert "0 erased" in done.output
    assert "given up at line 2" in done.output


def test_reasons_name_nobody():
    settings = Settings(secret=SECRET)
    rows = list(erase_many.read_people(FILE.splitlines(keepends=True), "left", "jane", settings))
    ben = rows[1].event
    assert ben.to == "ben@shop.test"
    assert ben.detail == f"her {Pseudonyms(settings.hash_secrets()).of(ben.to)[0]} wrote"
    assert (rows[0].event.detail, rows[0].event.by, rows[0].event.kind) == ("left", "jane", "erased")


@pytest.mark.parametrize(
    ("arguments", "text", "why"),
    [
        ((), "", "give one ADDRESS, or --file"),
        (("ann@shop.test", "--file", "-"), FILE, "give one ADDRESS, or --file"),
        (("--file", "-", "--check"), FILE, "--check takes one ADDRESS"),
        (("--file", "-"), FILE, "give --why"),
        (("--file", "-", "--dry-run"), "name\nAnn\n", "to, email or address"),
    ],
)
def test_wrong_usage(arguments, text, why):
    found = call(Settings(broker="127.0.0.1:1", secret=SECRET), *arguments, text=text)
    assert found.exit_code == 2
    assert why in found.output


def test_a_dry_run_reads_the_file_alone():
    found = call(Settings(broker="127.0.0.1:1", secret=SECRET), "--file", "-", "--dry-run", text=FILE)
    assert found.exit_code == 2
    assert "4 good" in found.output
    assert "line 4: an address is local-part@domain" in found.output
