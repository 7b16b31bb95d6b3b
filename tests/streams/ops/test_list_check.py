"""``mailsluice list check``: what is said of a list before it is written to."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents.screen.rules import Screening
from schemas.codec import Record, encode
from schemas.consent import StreamConsent
from schemas.consent_rules import ConsentRule, ConsentRules
from schemas.contact import Contact
from schemas.erasure import Pseudonyms
from schemas.hosts import NO_DOMAIN, NULL_MX, UNKNOWN, MailHosts, MxHost
from schemas.identity import partition_of
from schemas.send import Consent
from schemas.suppression import Suppression
from streams.app import screening_of
from streams.cli import main
from streams.ops.list_bounces import DECAY, MONTH, NEW, Bounces, gone
from streams.ops.list_check import Checked, Gathered, Person, check_list
from streams.settings import Settings
from tests.support.stories import Story

NOW, DAY = 1_790_000_000.0, 86400.0
PLAIN = Screening()


class Dns:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cached(self, domain: str) -> MailHosts | None:
        return None

    async def mail_hosts(self, domain: str) -> MailHosts:
        self.asked.append(domain)
        await asyncio.sleep(0)
        odd = {"null.test": NULL_MX, "gone.test": NO_DOMAIN, "silent.test": UNKNOWN}
        return odd.get(domain, MailHosts((MxHost(0, "mx.test"),), "ok"))

    async def addresses(self, host: str) -> tuple[str, ...]:
        raise AssertionError("mailboxes and their hosts are left alone")


async def records(*rows: Suppression | Contact | StreamConsent) -> AsyncIterator[Record]:
    topics = {Suppression: "mail-suppressions", Contact: "mail-contacts", StreamConsent: "mail-consents"}
    for row in rows:
        yield Record(topics[type(row)], 0, 0, 0, row.key, encode(row), {})


def check(
    home: Path,
    text: str,
    *rows: Suppression | Contact | StreamConsent,
    dns: Dns | None = None,
    stream: str = "marketing",
    screening: Screening = PLAIN,
    rules: ConsentRules | None = None,
) -> tuple[Checked, dict[str, Person]]:
    found, gathered = Checked(), Gathered(home, "t", stream)
    gathered.read(text.splitlines(keepends=True), found)
    asyncio.run(check_list(gathered, found, records(*rows), dns, lambda: None))
    people = {p.to: p for p in gathered.judge(screening, rules or ConsentRules(), found, NOW)}
    gathered.close()
    return found, people


def contact(to: str, **fields: float) -> Contact:
    return Contact(tenant="t", to=to, **fields)  # type: ignore[arg-type]


def test_rows_addresses_and_duplicates_add_up(tmp_path: Path) -> None:
    text = "Email;name\nA@x.test;A\na@x.test;B\nbad;C\nb@x.test\nb@x.test;D\n"
    found, people = check(tmp_path, text)
    assert (found.rows, found.bad_rows, found.people, found.duplicates) == (5, 2, 2, 1)
    assert [(row.line, row.why.split(":")[0]) for row in found.bad] == [
        (4, "an address is local-part@domain; there is no @"),
        (5, "1 columns, the header line has 2"),
    ]
    assert [people[to].line for to in ("a@x.test", "b@x.test")] == [2, 6]
    assert found.mailed == 2


def test_each_domain_is_asked_for_once_and_silence_of_dns_is_no_verdict(tmp_path: Path) -> None:
    dns = Dns()
    names = [
        f"p{n}@{domain}" for n in range(3) for domain in ("x.test", "null.test", "gone.test", "silent.test")
    ]
    found, people = check(tmp_path, "to\n" + "\n".join(names), dns=dns)
    assert sorted(dns.asked) == ["gone.test", "null.test", "silent.test", "x.test"]
    assert (found.verdicts, found.unsure, found.mailed) == ({"no_mail_host": 6}, 3, 6)
    assert people["p0@null.test"].detail == "null_mx"
    assert found.poor == 6


def test_who_is_suppressed_counts_by_reason_and_only_in_the_scope(tmp_path: Path) -> None:
    rows = [
        Suppression(tenant="t", to="a@x.test", reason="hard_bounce"),
        Suppression(tenant="t", to="b@x.test", reason="unsubscribe", scope="stream", stream="marketing"),
        Suppression(tenant="other", to="c@x.test", reason="complaint"),
        Suppression(tenant="t", to="d@x.test", reason="manual"),
        Suppression(tenant="t", to="d@x.test", reason="manual", active=False, version=2),
        Suppression(tenant="t", to="a@x.test.other", reason="manual"),
        Suppression(tenant="", scope="global", to="e@x.test", reason="manual", until=NOW - 1),
    ]
    text = "to\n" + "".join(f"{name}@x.test\n" for name in "abcde")
    found, _ = check(tmp_path, text, *rows)
    assert (found.verdicts, found.mailed) == ({"hard_bounce": 1, "unsubscribe": 1}, 3)
    (home := tmp_path / "2").mkdir()
    found, _ = check(home, text, *rows, stream="transactional")
    assert found.verdicts == {"hard_bounce": 1}


def test_who_was_erased_is_found_by_the_hash(tmp_path: Path) -> None:
    names = Pseudonyms([b"0123456789abcdef0123456789abcdef"]).of
    mark = Suppression(tenant="", to=names("a@x.test")[0], scope="global", reason="erased")
    found, gathered = Checked(), Gathered(tmp_path, "t", "transactional", names)
    gathered.read(["to\n", "a@x.test\n", "b@x.test\n"], found)
    asyncio.run(check_list(gathered, found, records(mark), None, lambda: None))
    assert [(p.to, p.verdict) for p in gathered.judge(PLAIN, ConsentRules(), found, NOW)] == [
        ("a@x.test", "erased"),
        ("b@x.test", ""),
    ]
    gathered.close()


def test_screen_s_rules_and_consents_say_what_they_would_say_of_a_mail(tmp_path: Path) -> None:
    rules = ConsentRules({("t", "marketing"): ConsentRule(require=True)})
    text = "to\nanna@gmial.com\ninfo@x.test\nx@mailinator.com\nyes@x.test\nno@x.test\nover@x.test\n"
    agreed = [
        StreamConsent(tenant="t", to=to, state="granted")
        for to in ("anna@gmial.com", "info@x.test", "x@mailinator.com", "yes@x.test")
    ]
    over = StreamConsent(tenant="t", to="over@x.test", state="granted", until=NOW - 1)
    foreign = StreamConsent(tenant="other", to="no@x.test", state="granted")
    screening = screening_of(Settings())
    found, people = check(tmp_path, text, *agreed, over, foreign, screening=screening, rules=rules)
    assert {to: person.verdict for to, person in people.items()} == {
        "anna@gmial.com": "mistyped_domain",
        "info@x.test": "role_address",
        "x@mailinator.com": "disposable_domain",
        "yes@x.test": "",
        "no@x.test": "no_consent",
        "over@x.test": "no_consent",
    }
    assert people["anna@gmial.com"].suggestion == "anna@gmail.com"
    assert found.suggestions == {"gmail.com": 1}


def test_who_may_be_seen_to_read_is_a_matter_of_record_where_tracking_needs_a_consent(tmp_path: Path) -> None:
    silent = contact(
        "a@x.test",
        delivered=99,
        first_seen=NOW - 900 * DAY,
        last_delivered=NOW - DAY,
        recent=tuple(int(NOW - n * 40 * DAY) for n in range(1, 20)),
        consent=Consent(opens=True),
    )
    rules = ConsentRules({("t", "marketing"): ConsentRule(tracking="consent")})
    screening = screening_of(Settings())
    verdicts = []
    for number, (asked, rows) in enumerate(
        [
            (ConsentRules(), []),
            (rules, []),
            (rules, [StreamConsent(tenant="t", to="a@x.test", state="granted", tracking="o")]),
        ]
    ):
        (home := tmp_path / str(number)).mkdir()
        _, people = check(home, "to\na@x.test\n", silent, *rows, screening=screening, rules=asked)
        verdicts.append(people["a@x.test"].verdict)
    assert verdicts == ["dormant", "", "dormant"]


def test_engagement_cohorts(tmp_path: Path) -> None:
    rows = [
        contact("a@x.test", delivered=1, last_open=NOW - 3 * DAY),
        contact("b@x.test", delivered=1, last_click=NOW - 60 * DAY),
        contact("c@x.test", delivered=1, last_open=NOW - 900 * DAY),
        contact("d@x.test", delivered=4, last_delivered=NOW - DAY),
        Contact(tenant="other", to="e@x.test", last_open=NOW),
    ]
    found, _ = check(tmp_path, "to\n" + "".join(f"{name}@x.test\n" for name in "abcde"), *rows)
    assert found.cohorts == {
        "read within 14 days": 1,
        "read within 90 days": 1,
        "read over 365 days ago": 1,
        "written to, never seen to read": 1,
        "never written to": 1,
    }


# -- how many will bounce


def test_bounces_grow_with_silence_and_say_what_they_stand_on() -> None:
    assert gone(0) == 0.0
    assert gone(12 * MONTH) == pytest.approx(1 - 0.98**12)
    found = Bounces()
    for age in (0.0, 12 * MONTH, None):
        found.add(age)
    assert found.expected == pytest.approx(gone(12 * MONTH) + NEW)
    first, second = found.basis()
    assert f"{DECAY:.1%} a month (assumed)" in first
    assert second.startswith("1 of which no delivery is known: 3.00% (assumed: fewer than 1,000")
    assert Bounces().rate == 0.0


def test_the_tenant_s_own_experience_counts_unless_it_was_imported() -> None:
    own = Bounces(bad=80, tried=1600, unknown=10)
    assert own.rate == pytest.approx(0.05)
    assert "of 1,600 addresses that were written to 80 proved bad" in own.basis()[0]
    assert Bounces(bad=900, tried=1600).rate_of_new == (NEW, "assumed: 900 suppressed of 1,600 known tells of imports, not of bounces")  # fmt: skip
    assert Bounces(bad=80, tried=1600, new=0.4).rate_of_new == (0.4, "as given")


def test_experience_is_of_the_tenant_alone(tmp_path: Path) -> None:
    bad = [Suppression(tenant="t", to=f"b{n}@y.test", reason="hard_bounce") for n in range(60)]
    back = Suppression(tenant="t", to="b0@y.test", reason="hard_bounce", active=False, version=2)
    good = [contact(f"g{n}@y.test", delivered=1) for n in range(1000)]
    others = [Contact(tenant="other", to=f"g{n}@z.test", delivered=1) for n in range(500)]
    found, _ = check(tmp_path, "to\na@x.test\n", *bad, back, *good, *others)
    assert (found.bounces.bad, found.bounces.tried) == (59, 1059)


# -- the command


def call(*arguments: str, text: str | None = None, **environment: str):
    return CliRunner().invoke(main, ["list", "check", *arguments], input=text, env=environment)


def test_thresholds_decide_the_exit_code_and_a_file_says_it_of_each(tmp_path: Path) -> None:
    text, out = "email\na@x.test\nb@x.test\nx@mailinator.com\nnobody\n", tmp_path / "out.csv"
    calm = call("-", "--offline", "--no-mx", "--rows", str(out), text=text)
    assert calm.exit_code == 0, calm.output
    assert "4 rows: 3 different addresses, 0 repeated, 1 bad rows" in calm.output
    assert "not looked at: suppressions, consents and engagement and mail hosts" in calm.output
    assert {row["to"]: row["verdict"] for row in csv.DictReader(out.open())} == {
        "a@x.test": "", "b@x.test": "", "x@mailinator.com": "disposable_domain",
    }  # fmt: skip
    strict = call("-", "--offline", "--no-mx", "--max-bad", "49", "--json", text=text)
    assert strict.exit_code == 1
    told = json.loads(strict.stdout)
    assert (told["bad_share"], told["above"]) == (0.5, ["bad rows: 50.00 % is above 49 %"])
    assert call("-", "--offline", "--no-mx", "--max-bounces", "5", text=text).exit_code == 0
    assert call("-", "--offline", "--no-mx", "--max-bounces", "5", "--new", "6", text=text).exit_code == 1
    wrong = call("-", "--offline", "--no-mx", text="name\nAnna\n")
    assert wrong.exit_code == 2
    assert "no column to, email or address" in wrong.output


@pytest.mark.timeout(90)
async def test_it_asks_the_broker_and_the_configured_resolver(
    embedded_broker, prefix, tmp_path: Path
) -> None:
    async with Story(embedded_broker, prefix, tmp_path, {}) as story:
        settings = story.scene.settings
        row = Suppression(tenant="default", to="a@gmail.test", reason="complaint")
        place = partition_of("a@gmail.test", settings.partitions)
        await story.publish([encode(row)], "mail-suppressions", key=row.key, partition=place)
        text = "to\na@gmail.test\nb@gmail.test\nc@example.test\nd@nowhere.test\n"
        done = await asyncio.to_thread(call, "-", "--json", text=text, **settings.environment())
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert told["would_not"] == {"complaint": 1, "no_mail_host": 2}
        assert (told["would_be_mailed"], told["domains"]) == (1, 3)
