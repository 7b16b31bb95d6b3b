"""What the states should hold, computed anew from the topics by the agents' own policies. Pure; no clock, no files.

One object per partition and state; feed it the records in offset order, then ask. See ``streams.ops.recompute``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from agents import Reject
from agents.score import erased as score_erased
from agents.score import policy as score
from agents.screen.agent import candidate
from agents.screen.policy import Candidate, keys_of, looked_up, missing
from agents.suppress import consent, erased
from agents.suppress import policy as suppress
from schemas.codec import Malformed, Record, decode, encode, parse
from schemas.consent import StreamConsent
from schemas.consent_rules import ConsentRules
from schemas.contact import Contact
from schemas.erasure import Erasure
from schemas.event import MailEvent, written
from schemas.gate import GateRow
from schemas.suppression import Suppression

DAY = 86400.0
Names = Callable[[str], tuple[str, ...]]
Row = tuple[bytes, float]
"""(value as the file keeps it, Unix seconds until which; 0 = for ever)."""


class Merged:
    """A compacted topic (or the journal) as a file holds it: ``newer(old, new)`` or the log's order decides."""

    def __init__(
        self,
        reduce: Callable[[bytes], Row] | None = None,
        newer: Callable[[bytes, bytes], bool] | None = None,
    ) -> None:
        self._reduce = reduce or (lambda value: (value, 0.0))
        self._newer = newer
        self.rows: dict[bytes, Row] = {}

    def add(self, record: Record) -> None:
        """The next record of the log. Raises Malformed where it cannot be read."""
        key = record.key
        if key is None:
            return
        if not record.value:
            self.rows.pop(key, None)
            return
        row = self._reduce(record.value)
        old = self.rows.get(key)
        if old is None or self._newer is None or old[0] == row[0] or self._newer(old[0], row[0]):
            self.rows[key] = row


class Told:
    """The values that a key may have: the one at the committed position, and those of the events behind it,
    which may have been worked on or not."""

    def __init__(self) -> None:
        self._values: dict[bytes, list[bytes | None]] = {}

    def put(self, key: bytes, value: bytes | None, sure: bool) -> None:
        """``value`` None: it was deleted. ``sure``: the event that it follows from is committed."""
        if sure:
            self._values[key] = [value]
        else:
            self._values.setdefault(key, [None]).append(value)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    def get(self, key: bytes) -> list[bytes | None]:
        """What may be found under ``key``; None stands for nothing."""
        return self._values.get(key, [None])


class Suppressions(Told):
    """``mail-suppressions`` from ``mail-events``; ``consents``: the same of ``mail-consents``. ``names`` gives the
    keyed hashes of an address, ``rules`` say who takes subscriptions, ``settings`` are those of suppress."""

    def __init__(
        self, names: Names, rules: ConsentRules | None = None, settings: suppress.Settings | None = None
    ) -> None:
        super().__init__()
        self.consents = Told()
        self._agreed: dict[str, dict[bytes, StreamConsent]] = {}
        self._least: dict[bytes, int] = {}
        """The least version that a row may have: one whose time was over may have gone, and begun anew."""
        self._rules = rules or ConsentRules()
        self._names = names
        self._rows: dict[str, dict[bytes, Suppression]] = {}
        self._settings = settings or suppress.Settings()

    def add(self, record: Record, sure: bool) -> None:
        """The next event."""
        event = _event(record)
        if event is None or not (suppress.matters(event) or consent.matters(event)):
            return
        rows, now = self._rows.setdefault(event.to, {}), written(record, event)
        if event.kind == "erased":
            mark, gone = erased.erase(event, list(rows.values()), self._names(event.to)[0], now)
            for row in gone:
                del rows[row.key]
                self.put(row.key, None, sure)
            old = erased.mark_among(list(rows.values()))
            if mark is not None or (old is not None and old.active):
                for key in self._agreed.pop(event.to, ()):
                    self.consents.put(key, None, sure)
            return self._put(rows, mark, sure)
        mark = erased.mark_among(list(rows.values()))
        if erased.silent(event, mark, now):
            return self._put(rows, erased.take_back(event, mark, now), sure)
        try:
            clear = [row for row in rows.values() if row is not mark]
            found = suppress.decide(event, clear, self._settings, now) if suppress.matters(event) else []
        except Malformed:  # dead-lettered
            return
        if consent.matters(event):
            self._agree(event, clear, now, sure)
        for row in found:
            self._put(rows, row, sure)

    def _agree(self, event: MailEvent, against: list[Suppression], now: float, sure: bool) -> None:
        rows = self._agreed.setdefault(event.to, {})
        rule = self._rules.of(event.tenant, consent.stream_of(event))
        row = consent.decide(event, list(rows.values()), against, rule, now).row
        if row is not None:
            old = rows.get(row.key)
            anew = old is None or 0 < old.goes < now
            least = self._least[row.key] = 1 if anew else self._least[row.key] + 1
            rows[row.key] = row
            self.consents.put(row.key, encode(row), sure)
            for version in range(least, row.version):
                self.consents.put(row.key, encode(replace(row, version=version)), False)
            if row.goes:  # its time may be over, and it gone
                self.consents.put(row.key, None, False)

    def _put(self, rows: dict[bytes, Suppression], row: Suppression | None, sure: bool) -> None:
        if row is not None:
            rows[row.key] = row
            self.put(row.key, encode(row), sure)


class Contacts(Told):
    """``mail-contacts`` from ``mail-events``. ``names`` gives the keyed hashes of an address."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names
        self._rows: dict[bytes, Contact] = {}
        self._marks: dict[str, Contact] = {}
        self._settings = score.Settings()

    def add(self, record: Record, sure: bool) -> None:
        """The next event."""
        event = _event(record)
        if event is None:
            return
        now, mark = written(record, event), self._marks.get(event.to)
        if event.kind in ("erased", "released") and event.to:
            return self._erase(event, mark, sure, now)
        if not score.matters(event) or score_erased.silent(event, mark, now):
            return
        key = Contact(tenant=event.tenant, to=event.to).key
        contact = score.decide(event, self._rows.get(key), self._settings, now)
        if contact is not None:
            self._rows[key] = contact
            self.put(key, encode(contact), sure)

    def _erase(self, event: MailEvent, mark: Contact | None, sure: bool, now: float) -> None:
        if event.kind == "released":
            new = score_erased.take_back(event, mark, now)
        else:
            rows = [row for row in self._rows.values() if row.to == event.to]
            new, gone = score_erased.erase(event, rows, mark, self._names(event.to)[0], now)
            for row in gone:
                del self._rows[row.key]
                self.put(row.key, None, sure)
        if new is not None:
            self._marks[event.to] = new
            self.put(new.key, encode(new), sure)


def _event(record: Record) -> MailEvent | None:
    try:
        found = decode(record, "event")
    except Malformed:  # dead-lettered
        return None
    return found if isinstance(found, MailEvent) else None


class Gate:
    """Gate one's rows from its changelog, and who should hold them from ``mail-enqueued``.

    What screen decided about a send hangs on the suppressions and the time of then; that it decided once,
    about the first send under each key, with that send's own lane and expiry, does not.
    """

    def __init__(self, horizon: float) -> None:
        """``horizon`` in seconds, as in the settings of screen."""
        self._horizon = horizon
        self.rows: dict[str, GateRow] = {}
        self.passed: set[str] = set()
        """Origins that a row once said pass of. Rows of two owners at once may differ, and the log decides."""
        self._first: dict[str, tuple[str, float, bool]] = {}
        self._topics: dict[str, str] = {}
        self._erased: set[str] = set()
        """Whose rows were deleted, and whose are written under their ids alone since."""
        self._copies: dict[str, set[tuple[str, str, float, float, str]]] = {}

    def row(self, record: Record) -> None:
        """The next record of the changelog."""
        if record.key is None:
            return
        key = record.key.decode("utf-8", "replace")
        if not record.value:
            self.rows.pop(key, None)
            return
        row = self.rows[key] = parse(record.value, GateRow)
        if row.decision == "pass":
            self.passed.add(row.origin)

    def enqueued(self, record: Record, sure: bool) -> None:
        """The next record of ``mail-enqueued`` or its twin, after all rows. ``sure``: it is committed."""
        if record.headers.get("type") == b"erasure":
            self._erased.add(parse(record.value, Erasure).to)
            return
        try:
            mail = candidate(record)
        except (Reject, Malformed):  # dead-lettered
            return
        facts = (mail.outcome, mail.lane, mail.expires, mail.not_before, mail.digest)
        self._copies.setdefault(mail.origin, set()).add(facts)
        at = record.timestamp / 1000
        keys = keys_of(mail)
        for key in keys:
            if self._topics.setdefault(key, record.topic) != record.topic:
                self._topics[key] = ""  # in both twins: which was read first, no one can say
        other = False
        for key in looked_up(mail):
            origin, until, _ = self._first.get(key, ("", 0.0, False))
            if not origin or until < at:
                continue
            if origin == mail.origin:
                row = self.rows.get(key)
                if row is not None and missing(row, key):
                    for lacking in keys:
                        self._first.setdefault(lacking, (origin, until, False))
                return
            other = other or mail.stream == "marketing" or key in keys
        if not other:
            until = max(at + self._horizon, mail.expires + DAY)
            for key in keys:
                self._first[key] = (mail.origin, until, sure)

    def wrong(self, now: float, whole: bool) -> Iterator[tuple[str, str, str]]:
        """(key, expected, found) of every row that is not as it should be. ``now`` is in Unix seconds;
        ``whole``: no send was deleted by retention."""
        for key, row in self.rows.items():
            origin = self._first.get(key, ("", 0.0, False))[0]
            copies = self._copies.get(row.origin)
            if row.until < now or (copies is None and not whole) or row.reason == "erased":
                continue
            if copies is None or (row.origin != origin and self._topics.get(key) != ""):
                yield key, f"the row of {origin or 'no send'}", f"that of {row.origin}"
            elif not any(_follows(row, facts) for facts in copies):
                yield key, f"what a copy of {row.origin} says", _told(row)
        for key, (origin, until, sure) in self._first.items():
            if key[:2] == "c|" and key.split("|")[1] in self._erased:
                continue
            if sure and key not in self.rows and until > now:
                yield key, f"a row of {origin}", "none"

    def erased(self, to: str) -> bool:
        """Whether the rows of this recipient were deleted."""
        return to in self._erased

    def knows(self, record: Record, gaps: bool) -> bool:
        """Whether gate one let this record of ``mail-screened`` pass. ``gaps``: compaction has taken rows."""
        mail: Candidate = candidate(record)
        if mail.origin in self.passed:
            return True
        rows = (self.rows.get(key) for key in looked_up(mail))
        return gaps and any(row is not None and row.origin == mail.origin for row in rows)


def _follows(row: GateRow, facts: tuple[str, str, float, float, str]) -> bool:
    outcome, *told = facts
    same = told == [row.lane, row.expires, row.not_before, row.digest]
    return same and (not outcome or outcome == row.decision)


def _told(row: GateRow) -> str:
    return f"{row.decision} on lane {row.lane!r} until {row.expires:.0f}, not before {row.not_before:.0f}"
