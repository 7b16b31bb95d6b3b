"""A stream of rows of a log, or of our own outcomes and lane reports, through both sides. Nothing is kept but sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace as with_fields

from schemas.lane_report import LaneReport, Reply
from schemas.outcome import Outcome
from schemas.reply import Meaning, Rules, classify
from streams.ops.backtest.law import Side
from streams.ops.backtest.people import Attempt, People
from streams.ops.backtest.replies import Changes, Verdict
from streams.ops.backtest.row import Row

STEP = 10.0
"""Seconds of a log that make a report to the law: in production it is one, here a million rows have to pass."""
NOTHING = Verdict("none", "")
_ATTEMPTS = ("delivered", "deferred", "bounced")


@dataclass(frozen=True, slots=True)
class Assumed:
    """Upon what another engine is taken to suppress an address. ``how``: ``5xx`` any permanent refusal,
    ``category`` one of ``categories`` (a bounce without any: 5xx), ``none`` nothing."""

    how: str
    categories: frozenset[str]

    def verdict(self, row: Row, said: Meaning) -> Verdict:
        """What it is taken to have made of a row."""
        why = row.category or (str(said.code) if said.code else said.enhanced)
        if row.kind not in ("bounced", "late"):
            return Verdict("retry", why)
        permanent = said.permanence == "permanent"
        named = self.how == "category" and bool(row.category)
        gone = row.category.lower() in self.categories if named else permanent and self.how != "none"
        return Verdict("suppress" if gone else "hold", why)


@dataclass
class Replay:
    """Before and after. ``begin`` and ``end`` in Unix seconds: what is outside is passed over."""

    rules: Rules
    before: Side
    after: Side
    people: People
    assumed: Assumed | None = None
    begin: float = 0.0
    end: float = float("inf")
    changes: Changes = field(default_factory=Changes)
    rows: int = 0
    first: float = 0.0
    last: float = 0.0
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(self._both)

    def _within(self, time: float) -> bool:
        if not self.begin <= time < self.end:
            return False
        self.rows += 1
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)
        return True

    # -- logs of other engines

    def logs(self, rows: Iterable[Row]) -> None:
        """All rows of a log."""
        for row in rows:
            if self._within(row.time):
                self.row(row)
        self._bucket.flush()

    def row(self, row: Row) -> None:
        """One row."""
        if row.kind == "complaint":
            self._bucket.add(row, None)
            return
        if row.kind == "delivered":
            self._bucket.add(row, None)
            if self.people.knows(row.to):
                self.people.add(Attempt(row.time, row.to, "delivered", row.provider, "", NOTHING, NOTHING))
            return
        said = classify(self.rules, row.reply, mx=row.mx, phase=row.phase)
        self._bucket.add(row, said)
        self.changes.read += 1
        assert self.assumed is not None
        before = self.assumed.verdict(row, said)
        after = Verdict(said.action, said.klass, said.rule)
        if _effect(before) != _effect(after):
            self.changes.add(before, after, row.provider, row.reply)
        if row.to:
            kind = "deferred" if row.kind == "deferred" else "bounced"
            self.people.add(Attempt(row.time, row.to, kind, row.provider, row.reply, before, after))  # type: ignore[arg-type]

    def _both(self, report: LaneReport) -> None:
        self.before.report(report)
        self.after.report(report)

    # -- our own topics

    def outcome(self, outcome: Outcome) -> None:
        """One attempt of ours: what was made of its reply then, and what the rules make of it now."""
        if outcome.state not in _ATTEMPTS or not self._within(outcome.time):
            return
        provider = outcome.provider or outcome.site
        before = after = NOTHING
        if outcome.state != "delivered":
            before = Verdict(outcome.action, outcome.klass, outcome.rule)
            after = before
            if (
                outcome.reply and outcome.rule
            ):  # without a reply, or one that no rule was asked about, nothing changes
                said = classify(
                    self.rules, outcome.reply, mx=outcome.mx, phase=outcome.phase, provider=outcome.provider
                )
                after = Verdict(said.action, said.klass, said.rule)
            self.changes.read += 1
            if before[:2] != after[:2]:
                self.changes.add(before, after, provider, outcome.reply)
        self.people.add(
            Attempt(
                outcome.time, outcome.to, outcome.state, provider, outcome.reply, before, after, outcome.tenant  # type: ignore[arg-type]
            )
        )  # fmt: skip

    def lane_report(self, report: LaneReport) -> None:
        """One of our own reports: as it was read then, and as its samples are read now."""
        if not self.begin <= report.time < self.end:
            return
        self.before.report(report)
        if report.replies:
            replies = tuple(self._again(report.provider, reply) for reply in report.replies)
            report = with_fields(report, replies=replies)
        self.after.report(report)

    def _again(self, provider: str, reply: Reply) -> Reply:
        if not reply.sample or not reply.rule:
            return reply
        phase = "connect" if reply.open >= 0 else ""
        said = classify(self.rules, reply.sample, provider=provider, phase=phase)
        if (said.klass, said.action, said.scope, said.rule) == (
            reply.klass,
            reply.action,
            reply.scope,
            reply.rule,
        ):
            return reply
        return with_fields(reply, klass=said.klass, action=said.action, scope=said.scope, rule=said.rule)


def _effect(verdict: Verdict) -> str:
    """What becomes of the address: the rest is not the same between engines."""
    return verdict.action if verdict.action in ("suppress", "soft") else "keep"


class _Sum:
    __slots__ = ("complaints", "counts", "domains", "late", "replies", "samples")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.replies: Counter[tuple[str, str, str, str]] = Counter()
        self.samples: dict[tuple[str, str, str, str], str] = {}
        self.domains: set[str] = set()
        self.complaints = self.late = 0


class Bucket:
    """Rows of STEP seconds as reports by provider and source. Rows that come late are of the present."""

    def __init__(self, emit: Callable[[LaneReport], None], step: float = STEP) -> None:
        self._emit, self._step = emit, step
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._end = 0.0
        self._number = 0

    def add(self, row: Row, said: Meaning | None) -> None:
        """One row, and what its reply means."""
        if row.time >= self._end:
            self.flush()
            self._end = (row.time // self._step + 1) * self._step
        found = self._sums.get((row.provider, row.source))
        if found is None:
            found = self._sums[row.provider, row.source] = _Sum()
        if row.kind == "complaint":
            found.complaints += 1
        elif row.kind == "late":
            found.late += 1
        else:
            found.counts[row.kind] += 1
            found.domains.add(row.to.rpartition("@")[2])
            if said is not None:
                kind = (said.klass, said.action, said.scope, said.rule)
                found.replies[kind] += 1
                found.samples.setdefault(kind, row.reply[:300])

    def flush(self) -> None:
        """What is summed, as reports at the end of its seconds."""
        for (provider, source), found in self._sums.items():
            common = {"worker": "log", "provider": provider, "source": source, "time": self._end}
            if found.complaints or found.late:
                self._number += 1
                self._emit(
                    LaneReport(
                        **common, number=self._number, kind="feedback", complaints=found.complaints,  # type: ignore[arg-type]
                        late_bounces=found.late,
                    )
                )  # fmt: skip
            if found.counts:
                self._number += 1
                self._emit(self._report(common, found))
        self._sums.clear()

    def _report(self, common: dict[str, object], found: _Sum) -> LaneReport:
        counts = found.counts
        return LaneReport(
            **common,  # type: ignore[arg-type]
            number=self._number,
            seconds=self._step,
            attempts=sum(counts.values()),
            delivered=counts["delivered"],
            deferred=counts["deferred"],
            bounced=counts["bounced"],
            partitions=1,
            domains=len(found.domains),
            replies=tuple(
                Reply(klass=kind[0], action=kind[1], scope=kind[2], rule=kind[3], count=count, sample=found.samples[kind])
                for kind, count in found.replies.most_common(1000)
            ),
        )  # fmt: skip
