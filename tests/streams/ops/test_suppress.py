"""``mailsluice suppress``: a person's word comes into force, is told, goes out and comes back as a file."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from schemas.codec import Malformed
from streams.cli import main
from streams.ops.suppressions import BadFile, Wanted, event_of, read_rows
from tests.support.stories import Story

NOW = 1_790_000_000.0
WANTED = Wanted(scope="tenant", reason="manual", by="jane", why="asked")


def rows(text: str, wanted: Wanted = WANTED):
    return list(read_rows(text.splitlines(keepends=True), wanted, NOW))


def test_a_file_needs_one_column_only_and_the_options_fill_the_rest():
    found = rows("Email\nAnna@Example.org\n")
    (event,) = [row.event for row in found]
    assert (event.kind, event.to, event.scope, event.reason) == (
        "blocked",
        "anna@example.org",
        "tenant",
        "manual",
    )
    assert (event.by, event.detail, event.until) == ("jane", "asked", 0.0)


def test_a_row_says_for_itself_what_it_says():
    head = "to;tenant;scope;stream;reason;until;why;more\n"
    (row,) = rows(head + "a@b.example;shop;stream;news;complaint;2027-01-01T00:00:00Z;told us;x\n")
    assert (row.event.tenant, row.event.scope, row.event.stream) == ("shop", "stream", "news")
    assert (row.event.reason, row.event.detail, row.event.until) == ("complaint", "told us", 1798761600.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nobody,manual,", "there is no @"),
        ("a@b.example,mood,", "reason must be one of"),
        ("a@b.example,soft_bounces,", "soft bounces are counted, not set"),
        ("a@b.example,manual,tomorrow", "until is no RFC 3339 time"),
        ("a@b.example,manual,2027-01-01T00:00:00", "until has no zone"),
        ("a@b.example,manual", "2 columns, the header line has 3"),
    ],
)
def test_a_bad_row_says_why_and_where_and_the_next_one_counts(line, why):
    bad, good = rows(f"to,reason,until\n{line}\nc@d.example,,\n")
    assert bad.event is None
    assert bad.line == 2
    assert why in bad.why
    assert good.event.to == "c@d.example"


def test_an_open_quote_leaves_nobody_else_unsuppressed():
    bad, *good = rows('email\n"open@b.example\n' + "".join(f"u{n}@b.example\n" for n in range(1000)))
    assert (bad.line, bad.event) == (2, None)
    assert [(row.line, row.event.to) for row in good] == [(n + 3, f"u{n}@b.example") for n in range(1000)]


def test_a_file_without_addresses_is_refused():
    with pytest.raises(BadFile, match="to, email or address"):
        rows("x" * 60_000 + "\n")
    with pytest.raises(BadFile, match="to, email or address"):
        rows("name,reason\nAnna,manual\n")


def test_scope_stream_needs_its_stream():
    with pytest.raises(Malformed) as error:
        event_of("blocked", "a@b.example", Wanted(scope="stream"), NOW)
    assert "needs the name of a stream" in error.value.detail


def call(story: Story, *arguments: str, text: str | None = None):
    environment = {**story.scene.settings.environment(), "COLUMNS": "200"}
    return CliRunner().invoke(main, ["suppress", *arguments], env=environment, input=text)


async def asked(story: Story, *arguments: str, text: str | None = None):
    return await asyncio.to_thread(call, story, *arguments, text=text)


@pytest.mark.timeout(120)
async def test_what_people_say_holds_from_then_on(broker, prefix, tmp_path):
    groups = dict.fromkeys(("intake", "compose", "deliver", "hygiene", "control"), 1)
    async with Story(broker, prefix, tmp_path, groups) as story:
        await story.campaign()
        done = await asked(
            story, "add", "Anna@gmail.test", "--why", "telephone", "--by", "jane", "--wait", "40", "--json"
        )
        assert done.exit_code == 0, done.output
        told = json.loads(done.output)
        assert told["to"] == "anna@gmail.test"
        assert told["row"]["reason"] == "manual"
        await story.send("anna@gmail.test", "ben@gmail.test")
        await story.settled(60, wanted=2)
        assert {e["kind"]: e["to"] for e in await events(story) if e["kind"] in ("suppressed", "delivered")} == {
            "suppressed": "anna@gmail.test", "delivered": "ben@gmail.test",
        }  # fmt: skip
        (blocked,) = [e for e in await events(story) if e["kind"] == "blocked"]
        assert (blocked["by"], blocked["detail"]) == ("jane", "telephone")

        imported = await asked(
            story,
            "import",
            "-",
            "--reason",
            "complaint",
            "--why",
            "old",
            text="to\nc@gmail.test\nbad\nd@gmail.test\n",
        )
        assert imported.exit_code == 2
        assert "line 3: " in imported.output
        assert "2 written, 1 bad rows" in imported.output
        shown = await asked(story, "show", "anna@gmail.test")
        assert shown.exit_code == 1
        assert "suppressed for ever: manual, tenant default" in shown.output
        out = tmp_path / "out.csv"
        for _ in range(50):
            await asked(story, "export", str(out))
            lines = out.read_text().splitlines()
            if len(lines) == 4:
                break
            await asyncio.sleep(0.2)
        assert lines[0] == "to,tenant,scope,stream,reason,until,why"
        assert sorted(line.split(",")[0] for line in lines[1:]) == [
            "anna@gmail.test",
            "c@gmail.test",
            "d@gmail.test",
        ]
        listed = await asked(story, "list", "--reason", "complaint")
        assert "2 in force: 2 complaint" in listed.output
        again = await asked(story, "import", str(out), "--why", "the same again", "--check")
        assert again.exit_code == 0
        assert "3 good, 0 bad rows" in again.output

        released = await asked(
            story, "release", "anna@gmail.test", "--why", "asked to be back", "--wait", "20"
        )
        assert released.exit_code == 0, released.output
        assert (await asked(story, "show", "anna@gmail.test")).exit_code == 0
        nothing = await asked(story, "release", "nobody@gmail.test", "--why", "a mistake", "--wait", "0.5")
        assert nothing.exit_code == 1
        assert "no change seen" in nothing.output


async def events(story: Story):
    return [json.loads(record.value) for record in await story.records("mail-events")]


def test_no_address_is_told_with_what_is_wrong():
    found = CliRunner().invoke(main, ["suppress", "add", "nobody", "--why", "x"])
    assert found.exit_code == 2
    assert "nobody: an address is local-part@domain; there is no @" in found.output


@pytest.mark.parametrize("command", ["suppress", "consent"])
def test_an_export_that_finds_no_broker_leaves_the_older_file_as_it_is(command, tmp_path):
    file = tmp_path / "old.csv"
    file.write_text("kept")
    found = CliRunner().invoke(main, [command, "export", str(file), "--broker", "127.0.0.1:1"])
    assert found.exit_code == 1
    assert file.read_text() == "kept"
