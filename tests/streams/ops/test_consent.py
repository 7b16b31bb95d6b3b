"""``mailsluice consent``: what people and files say comes on record with its proof, is told, and goes out again."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from schemas.codec import Malformed
from schemas.consent import Change, StreamConsent
from streams.cli import main
from streams.ops.consents import COLUMNS, HISTORY, Said, cells_of, granted, history_of, read_consents
from tests.support.stories import Story

NOW = 1_790_000_000.0
SAID = Said(basis="purchase", given=NOW - 86400, proof="order 4711", by="jane")


def rows(text: str, said: Said = SAID):
    return list(read_consents(text.splitlines(keepends=True), said, NOW))


def test_a_row_says_for_itself_what_it_says_and_the_options_fill_the_rest():
    head = "Email;tenant;basis;given;opens;clicks;wording;source;proof\n"
    one, two = rows(
        head + "Anna@Example.org;shop;express;2026-03-01T08:00:00Z;yes;no;I want, news;https://s.test;log 7\n"
        "b@c.example;;;;;;;;\n"
    )
    event = one.event
    assert (event.kind, event.to, event.tenant, event.basis) == (
        "consented",
        "anna@example.org",
        "shop",
        "express",
    )
    assert (event.time, event.tracking, event.wording) == (1772352000.0, "o", "I want, news")
    assert (event.url, event.detail, event.by) == ("https://s.test", "log 7", "jane")
    assert (two.event.basis, two.event.detail, two.event.tracking) == ("purchase", "order 4711", "")


def test_a_day_is_its_first_moment():
    (row,) = rows("to,given,until\na@b.example,2026-03-01,2026-12-31\n")
    assert (row.event.time, row.event.until) == (1772323200.0, 1798675200.0)
    (bad,) = rows("to,given\na@b.example,2026-02-30\n")
    assert "given is no RFC 3339 time" in bad.why


def test_the_same_row_makes_the_same_event_whoever_imports_it():
    (one,), (two,) = rows("to\na@b.example\n"), rows("to\na@b.example\n", SAID._replace(by="joe"))
    assert one.event.id == two.event.id
    assert rows("to,proof\na@b.example,other\n")[0].event.id != one.event.id


@pytest.mark.parametrize(
    ("row", "said", "why"),
    [
        ("nobody,,,,", SAID, "there is no @"),
        ("a@b.example,mood,,,", SAID, "basis must be one of"),
        ("a@b.example,,yesterday,,", SAID, "given is no RFC 3339 time"),
        ("a@b.example,,2030-01-01T00:00:00Z,,", SAID, "given lies in the future"),
        ("a@b.example,,0001-01-01T00:00:00+01:00,,", SAID, "given lies before 1970: 0001-01-01 00:00:00Z"),
        ("a@b.example,,,perhaps,", SAID, "opens must be yes or no"),
        ("a@b.example,double_opt_in,,,", SAID, "a double opt-in needs its source"),
        ("a@b.example,,,,", SAID._replace(proof=""), "what proves it?"),
        ("a@b.example,,,,", SAID._replace(given=0.0), "when was it given?"),
        ("a@b.example,,,,", SAID._replace(basis=""), "what is agreed to?"),
        ("a@b.example,,,,transactional", SAID, "stream must be one of marketing"),
        ("a@b.example,,,,\udcff", SAID, "not UTF-8"),
    ],
)
def test_a_bad_row_says_why_and_the_next_one_counts(row, said, why):
    bad, good = rows(
        f"to,basis,given,opens,stream\n{row}\nc@d.example,express,2026-03-01T08:00:00Z,yes,\n", said
    )
    assert bad.event is None
    assert why in bad.why
    assert good.event is not None or "proves" in why


def test_an_end_before_all_time_is_none():
    (row,) = rows("to,until\na@b.example,0001-01-01T00:00:00+01:00\n")
    assert row.why.startswith("until lies before 1970: 0001-01-01 00:00:00Z")


def test_only_tracking_may_be_agreed_to():
    event = granted("a@b.example", SAID._replace(basis="", tracking="oc"), NOW)
    assert (event.basis, event.tracking) == ("", "oc")
    with pytest.raises(Malformed, match="bad_stream"):
        granted("a@b.example", SAID._replace(stream="news"), NOW)


def test_an_export_has_who_is_agreed_and_a_stranger_s_words_are_no_formula():
    change = Change(id="e", says="granted", time=NOW, basis="express", source="=1+1", proof="p", tracking="o")
    row = StreamConsent(
        tenant="t",
        to="a@b.example",
        state="granted",
        basis="express",
        since=NOW,
        tracking="o",
        changes=(change,),
    )
    cells = dict(zip(COLUMNS, cells_of(row), strict=True))
    assert (cells["basis"], cells["opens"], cells["clicks"], cells["source"]) == (
        "express",
        "yes",
        "no",
        "'=1+1",
    )
    assert cells_of(StreamConsent(tenant="t", to="a@b.example", state="revoked")) is None
    (line,) = history_of(row)
    assert dict(zip(HISTORY, line, strict=True))["about"] == "mail opens"


# -- with a broker


async def asked(story: Story, *arguments: str, text: str | None = None):
    environment = {**story.scene.settings.environment(), "COLUMNS": "200"}
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["consent", *arguments], env=environment, input=text
    )


@pytest.mark.timeout(120)
async def test_what_is_put_on_record_is_shown_exported_and_revoked(embedded_broker, prefix, tmp_path: Path):
    async with Story(embedded_broker, prefix, tmp_path, {"hygiene": 1}) as story:
        done = await asked(
            story, "grant", "Anna@gmail.test", "--basis", "express", "--proof", "call 4711", "--opens",
            "--wording", "monthly news", "--by", "jane", "--wait", "40",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "until it is revoked: express, tenant default, marketing; opens may be tracked" in done.output
        listed = "to,given\nb@gmail.test,2026-01-31T00:00:00Z\nbad,\nc@gmail.test,2020-01-01T00:00:00Z\n"
        given = await asked(
            story, "import", "-", "--basis", "inquiry", "--proof", "crm", "--by", "joe", text=listed
        )
        assert given.exit_code == 2
        assert "line 3: " in given.output
        assert "2 written, 1 bad rows" in given.output
        out = tmp_path / "out.csv"
        for _ in range(50):
            await asked(story, "export", str(out), "--history")
            history = list(csv.DictReader(out.open()))
            if len(history) == 3:
                break
            await asyncio.sleep(0.2)
        assert {line["by"] for line in history} == {"jane", "joe"}
        await asked(story, "export", str(out))
        in_force = {line["to"]: line for line in csv.DictReader(out.open())}
        assert "c@gmail.test" not in in_force  # an inquiry of 2020
        assert in_force["anna@gmail.test"]["wording"] == "monthly news"
        ended = await asked(story, "show", "b@gmail.test")
        assert "until 2026-07-31 00:00:00Z" in ended.output  # six calendar months after 31 January
        again = await asked(story, "import", str(out), "--check")
        assert again.exit_code == 0, again.output

        less = await asked(story, "revoke", "anna@gmail.test", "--opens", "--why", "asked", "--wait", "20")
        assert less.exit_code == 0, less.output
        assert "nothing may be tracked" in less.output
        ended = await asked(
            story, "revoke", "anna@gmail.test", "--why", "by telephone", "--wait", "20", "--json"
        )
        assert json.loads(ended.output)["row"]["state"] == "revoked"
        gone = await asked(story, "show", "anna@gmail.test")
        assert gone.exit_code == 1
        assert "revoked (mail)" in gone.output
        assert "proof: by telephone" in gone.output
        # It counts as an unsubscribe: who asks for no consent stops, too, and a grant alone brings nobody back.
        back = await asked(
            story, "grant", "anna@gmail.test", "--basis", "express", "--proof", "letter", "--wait", "20"
        )
        assert "still suppressed (unsubscribe)" in back.output


def test_rules_are_told_and_checked(tmp_path: Path):
    file = tmp_path / "consent.toml"
    file.write_text('[shop.marketing]\nrequire = true\nfrom = "a@shop.test"\nwording = "w"\n')
    found = CliRunner().invoke(main, ["consent", "rules", "--check", str(file)])
    assert found.exit_code == 0
    assert (
        "shop.marketing: a consent is required; tracking as each send says; subscriptions are taken"
        in found.output
    )
    file.write_text("[shop.marketing]\nrequire = 1\nhours = 0\n")
    found = CliRunner().invoke(main, ["consent", "rules", "--check", str(file)])
    assert found.exit_code == 2
    assert "has 2 fault(s)" in found.output
