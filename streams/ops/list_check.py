"""A list looked at before it is written to: what is wrong with it, and what screen would say of each address.

The list and what is known of its people are gathered in a database file on disk, so that memory does not grow with
them. Nothing is sent, no mailbox is asked; DNS is asked once for each domain, through the configured resolver.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from agents.screen.consents import FREE, agreed, is_seen, read_standing
from agents.screen.rules import STRANGER, Known, Screening, judge, meant, read_known
from schemas.address import domain_of, normalise
from schemas.campaign import Campaign
from schemas.codec import Record, parse
from schemas.consent_rules import ConsentRules
from schemas.hosts import Hosts
from schemas.suppression import Suppression
from streams.ops.list_bounces import Bounces
from streams.ops.recipients import Row, read_rows

QUESTIONS = 100
"""Domains that are asked for at once."""
SHOWN = 20
"""Bad rows that are kept to be named."""
COHORTS = (14, 90, 365)
"""Days since the last sign of life, as screen's frequency ceilings have them."""
TOPICS = ("mail-suppressions", "mail-contacts", "mail-consents")
DAY = 86400.0


class Person(NamedTuple):
    """What is said of one address. ``verdict`` empty: it would be mailed."""

    line: int
    to: str
    verdict: str
    detail: str = ""
    suggestion: str = ""


@dataclass(slots=True)
class Checked:
    """What a list is worth. ``verdicts``: reason -> people who would not be mailed; ``warned``: who would all the
    same; ``unsure``: people at domains of which DNS could say nothing."""

    rows: int = 0
    bad_rows: int = 0
    bad: list[Row] = field(default_factory=list)
    people: int = 0
    mailed: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    cohorts: Counter[str] = field(default_factory=Counter)
    domains: int = 0
    unsure: int = 0
    suggestions: Counter[str] = field(default_factory=Counter)
    bounces: Bounces = field(default_factory=Bounces)

    @property
    def duplicates(self) -> int:
        """Rows that repeat an address."""
        return self.rows - self.bad_rows - self.people

    @property
    def poor(self) -> int:
        """Rows that speak against the list itself: no address, no such host, mistyped, disposable, known as bad."""
        return self.bad_rows + sum(self.verdicts[reason] for reason in POOR)


POOR = ("no_mail_host", "mistyped_domain", "disposable_domain", "hard_bounce", "recycled_risk")


class Gathered:
    """The list in a database file in ``home``. Use it in a ``with`` block's directory: it is not deleted here."""

    def __init__(
        self,
        home: Path,
        tenant: str,
        stream: str,
        names: Callable[[str], tuple[str, ...]] = lambda address: (),
    ) -> None:
        """``names`` gives the keyed hashes under which an address may be known that was erased."""
        self.tenant, self.stream = tenant, stream
        self._names = names
        self._erased = False
        self._db = sqlite3.connect(home / "list.sqlite", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=off; PRAGMA synchronous=off; PRAGMA temp_store=file; BEGIN"
        )
        self._db.execute("CREATE TABLE raw (who TEXT, line INTEGER, tracked INTEGER)")
        self._db.execute(
            "CREATE TABLE known (key BLOB PRIMARY KEY, who TEXT, topic TEXT, value BLOB) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE bad (h INTEGER PRIMARY KEY)")
        self._db.execute("CREATE TABLE tried (h INTEGER PRIMARY KEY)")
        self._db.execute("CREATE TABLE hosts (domain TEXT PRIMARY KEY, status TEXT) WITHOUT ROWID")

    def read(self, lines: Iterable[str], found: Checked) -> None:
        """Take the rows of a CSV file, as ``mailsluice send`` reads them. Raises BadFile."""
        campaign = Campaign(id="check", tenant=self.tenant, sender="check@localhost")

        def good() -> Iterator[tuple[str, int, int]]:
            for row in read_rows(lines, campaign):
                found.rows += 1
                if row.send is None:
                    found.bad_rows += 1
                    if len(found.bad) < SHOWN:
                        found.bad.append(row)
                    continue
                consent = row.send.consent
                yield normalise(row.send.to).key, row.line, int(consent.opens or consent.clicks)

        self._db.executemany("INSERT INTO raw VALUES (?, ?, ?)", good())
        self._db.execute(
            "CREATE TABLE people (who TEXT PRIMARY KEY, line INTEGER, tracked INTEGER, domain TEXT) WITHOUT ROWID"
        )
        self._db.create_function("domain_of", 1, domain_of, deterministic=True)
        self._db.execute(
            "INSERT INTO people SELECT who, min(line), max(tracked), domain_of(who) FROM raw GROUP BY who ORDER BY who"
        )
        self._db.execute("DROP TABLE raw")
        (found.people,) = self._db.execute("SELECT count(*) FROM people").fetchone()

    async def learn(self, records: AsyncIterator[Record], found: Checked) -> None:
        """Take what is on the state topics about the people of the list, and how many of all that the tenant ever
        wrote to proved bad."""
        async for record in records:
            key = record.key
            if key is None:
                continue
            who, _, rest = key.decode("utf-8", "replace").partition("|")
            self._experience(record, who, rest)
            if who.startswith("#"):
                self._erased = True
            elif not self._db.execute("SELECT 1 FROM people WHERE who = ?", (who,)).fetchone():
                continue
            name = record.topic.encode() + b"|" + key
            if record.value:
                row = (name, who, record.topic, record.value)
                self._db.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", row)
            else:
                self._db.execute("DELETE FROM known WHERE key = ?", (name,))
        (found.bounces.bad,) = self._db.execute("SELECT count(*) FROM bad").fetchone()
        both = "SELECT count(*) FROM (SELECT h FROM bad UNION SELECT h FROM tried)"
        (found.bounces.tried,) = self._db.execute(both).fetchone()

    def _experience(self, record: Record, who: str, rest: str) -> None:
        parts = rest.split("|")
        if record.topic == "mail-suppressions":
            if parts[0] in (self.tenant, "") and parts[-1] == "hard_bounce" and record.value:
                active = parse(record.value, Suppression).active
                act = "INSERT OR IGNORE INTO bad VALUES (?)" if active else "DELETE FROM bad WHERE h = ?"
                self._db.execute(act, (_number(who),))
        elif record.topic == "mail-contacts" and parts[0] == self.tenant and record.value:
            self._db.execute("INSERT OR IGNORE INTO tried VALUES (?)", (_number(who),))

    async def resolve(
        self, hosts: Hosts, found: Checked, on_domain: Callable[[], None] = lambda: None
    ) -> None:
        """Ask for the mail hosts of each domain once."""
        domains = self._db.execute("SELECT domain FROM people GROUP BY domain").fetchall()
        waiting = iter(domains)
        found.domains = len(domains)

        async def ask() -> None:
            for (domain,) in waiting:
                answer = await hosts.mail_hosts(domain)
                if answer.refused or answer.status == "unknown":
                    self._db.execute("INSERT INTO hosts VALUES (?, ?)", (domain, answer.refused or "unknown"))
                on_domain()

        await asyncio.gather(*(ask() for _ in range(QUESTIONS)))

    def judge(
        self, screening: Screening, rules: ConsentRules, found: Checked, now: float
    ) -> Iterator[Person]:
        """What would become of each, in the order of the list. ``now`` in Unix seconds."""
        people = self._db.execute(
            "SELECT line, who, tracked, status FROM people LEFT JOIN hosts USING (domain) ORDER BY line"
        )
        for line, who, tracked, status in people:
            known: dict[str, list[bytes]] = {topic: [] for topic in TOPICS}
            for topic, value in self._known(who):
                known[topic].append(value)
            contact = next((read_known(value) for value in known["mail-contacts"]), STRANGER)
            found.cohorts[cohort(contact, now)] += 1
            person = self._person(
                line, who, bool(tracked), status or "", known, contact, screening, rules, found, now
            )
            if person.verdict:
                found.verdicts[person.verdict] += 1
            else:
                found.mailed += 1
                last = max(contact.last_delivered, contact.engaged)
                found.bounces.add(now - last if last else None)
            if person.suggestion:
                found.suggestions[domain_of(person.suggestion)] += 1
            yield person

    def _known(self, who: str) -> Iterator[tuple[str, bytes]]:
        contact = f"mail-contacts|{who}|{self.tenant}".encode()
        consent = f"mail-consents|{who}|{self.tenant}|{self.stream}".encode()
        yield from self._db.execute("SELECT topic, value FROM known WHERE key IN (?, ?)", (contact, consent))
        for name in (who, *(self._names(who) if self._erased else ())):
            first = f"mail-suppressions|{name}|".encode()
            between = (first, first[:-1] + b"}")
            yield from self._db.execute("SELECT topic, value FROM known WHERE key >= ? AND key < ?", between)

    def _person(
        self, line: int, who: str, tracked: bool, status: str, known: dict[str, list[bytes]], contact: Known,
        screening: Screening, rules: ConsentRules, found: Checked, now: float,
    ) -> Person:  # fmt: skip
        marketing = self.stream == "marketing"
        place = screening.lists.place(domain_of(who))
        for value in known["mail-suppressions"]:
            row = parse(value, Suppression)
            if row.applies(self.tenant, self.stream, now):
                return Person(line, who, row.reason, "suppressed")
        if status in ("null_mx", "no_domain"):
            suggestion = meant(who, place).suggestion
            return Person(line, who, "no_mail_host", status, suggestion)
        found.unsure += status == "unknown"
        if not marketing:
            return Person(line, who, "")
        rule = rules.of(self.tenant, self.stream)
        said = FREE
        if rule.asks:
            said = agreed(read_standing(next(iter(known["mail-consents"]), b"{}")), rule, now)
            if said.refusal:
                return Person(line, who, "no_consent", said.refusal)
        verdict = judge(who, self.tenant, contact, is_seen(tracked, contact, said), (), screening, now)
        found.warned.update(verdict.warned)
        return Person(line, who, verdict.reason, verdict.detail, verdict.suggestion)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def cohort(contact: Known, now: float) -> str:
    """Where somebody stands by their last sign of life."""
    if contact.engaged:
        days = (now - contact.engaged) / DAY
        return next(
            (f"read within {limit} days" for limit in COHORTS if days <= limit),
            f"read over {COHORTS[-1]} days ago",
        )
    return "written to, never seen to read" if contact.delivered else "never written to"


def cohort_names() -> list[str]:
    """Every cohort, the best first."""
    named = [f"read within {limit} days" for limit in COHORTS]
    return [*named, f"read over {COHORTS[-1]} days ago", "written to, never seen to read", "never written to"]


def _number(who: str) -> int:
    return int.from_bytes(blake2b(who.encode(), digest_size=8).digest(), "big", signed=True)


async def check_list(
    gathered: Gathered, found: Checked, records: Any, hosts: Hosts | None, on_domain: Callable[[], None]
) -> None:
    """Learn what the broker knows (``records``, None without one) and what DNS says (``hosts``, None: not asked)."""
    if records is not None:
        async with aclosing(records) as read:
            await gathered.learn(read, found)
    if hosts is not None:
        await gathered.resolve(hosts, found, on_domain)
