"""Connections by recipient domain and policy, and the report that RFC 8460 makes of them. Pure.

Counted are connections (``Outcome.opened``), each for the domain of the mail that it was made for: several domains
may share it afterwards. What was never in reach (no answer, no banner) says nothing about TLS.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from schemas.outcome import Outcome

PolicyType = Literal["sts", "tlsa", "no-policy-found"]
MOST_DOMAINS = 200_000
MOST_FAILURES = 200
"""Kinds of failure that one policy of one domain tells of."""
_BY: dict[str, PolicyType] = {"sts": "sts", "testing": "sts", "dane": "tlsa"}
# OpenSSL's words, and our own (agents.deliver.connect, agents.deliver.dane): RFC 8460 section 4.3.
_RESULTS = (
    ("does not offer starttls", "starttls-not-supported"),
    ("hostname mismatch", "certificate-host-mismatch"),
    ("ip address mismatch", "certificate-host-mismatch"),
    ("has expired", "certificate-expired"),
    ("not yet valid", "certificate-expired"),
    ("self-signed", "certificate-not-trusted"),
    ("self signed", "certificate-not-trusted"),
    ("unable to get", "certificate-not-trusted"),
    ("unable to verify", "certificate-not-trusted"),
    ("vouch for the host's tlsa", "dnssec-invalid"),
)


class Failure(NamedTuple):
    """One kind of failed connection: as in RFC 8460 section 4.4; ``reason``: words of the failure, cut."""

    result: str
    source: str
    host: str
    reason: str


@dataclass
class Summary:
    """Connections under one policy of one domain."""

    good: int = 0
    failed: Counter[Failure] = field(default_factory=Counter)
    more: int = 0
    """Failed ones of kinds beyond MOST_FAILURES."""
    hosts: set[str] = field(default_factory=set)

    @property
    def bad(self) -> int:
        """Failed connections."""
        return sum(self.failed.values()) + self.more


@dataclass
class Day:
    """A UTC day. ``domains``: (domain, policy) -> connections."""

    date: str
    domains: dict[tuple[str, PolicyType], Summary] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One attempt, if it says anything."""
        told = told_by(outcome)
        domain = outcome.to.rpartition("@")[2]
        if told is None or not domain:
            return
        policy, result = told
        found = self.domains.get((domain, policy))
        if found is None:
            if len(self.domains) >= MOST_DOMAINS:
                return
            found = self.domains[domain, policy] = Summary()
        if outcome.mx and len(found.hosts) < 20:
            found.hosts.add(outcome.mx)
        if not result:
            found.good += 1
            return
        reason = outcome.reply[:120] if outcome.phase == "starttls" else ""
        failure = Failure(result, outcome.source, outcome.mx, reason)
        if failure in found.failed or len(found.failed) < MOST_FAILURES:
            found.failed[failure] += 1
        else:
            found.more += 1

    def of(self, domain: str) -> dict[PolicyType, Summary]:
        """By policy, what there is of one domain."""
        return {policy: found for (name, policy), found in self.domains.items() if name == domain}

    def names(self) -> list[str]:
        """Every domain."""
        return sorted({domain for domain, _ in self.domains})


def told_by(outcome: Outcome) -> tuple[PolicyType, str] | None:
    """(policy, result type or "" for a good one) of an attempt that a connection was made for; else None."""
    if not (
        outcome.opened and outcome.campaign
    ):  # without a campaign it is a report itself: it does not count
        return None
    if outcome.phase == "starttls" and outcome.state in ("deferred", "expired"):
        policy = _BY.get(outcome.reason, "no-policy-found")
        return policy, result_of(outcome.reply)
    if not outcome.security:
        return None
    policy = _BY.get(outcome.asked, "no-policy-found")
    if outcome.security == "clear":
        return policy, "starttls-not-supported"
    if outcome.security == "broken":
        return policy, "validation-failure"
    # A policy in testing mode wants to know what enforcing it would have stopped.
    if outcome.asked == "testing" and outcome.security == "encrypted":
        return policy, "validation-failure"
    return policy, ""


def result_of(reply: str) -> str:
    """The result type of RFC 8460 section 4.3 for why there was no TLS as required."""
    text = reply.lower()
    return next((result for words, result in _RESULTS if words in text), "validation-failure")


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: a name, an address for questions, and the domain that sends the reports."""

    organization: str
    contact: str
    domain: str


def report_id(day: str, domain: str, reporter: Reporter) -> str:
    """The same for the same day and domain, so that a second run is a repeat."""
    return f"{day}.{domain}@{reporter.domain}"


def report(
    day: Day, domain: str, reporter: Reporter, policies: dict[PolicyType, tuple[str, ...]] | None = None
) -> dict[str, Any]:
    """The report about ``domain`` (RFC 8460 section 4.4). ``policies``: the policies' own lines, where known."""
    return {
        "organization-name": reporter.organization,
        "date-range": {"start-datetime": f"{day.date}T00:00:00Z", "end-datetime": f"{day.date}T23:59:59Z"},
        "contact-info": reporter.contact,
        "report-id": report_id(day.date, domain, reporter),
        "policies": [
            _policy(domain, policy, found, (policies or {}).get(policy, ()))
            for policy, found in sorted(day.of(domain).items())
        ],
    }


def _policy(domain: str, policy: PolicyType, found: Summary, lines: tuple[str, ...]) -> dict[str, Any]:
    about: dict[str, Any] = {"policy-type": policy}
    if lines:
        about["policy-string"] = list(lines)
    about["policy-domain"] = domain
    patterns = [line.partition(":")[2].strip() for line in lines if line.startswith("mx:")]
    if patterns or policy == "tlsa":
        about["mx-host"] = patterns or sorted(found.hosts)
    told: dict[str, Any] = {
        "policy": about,
        "summary": {"total-successful-session-count": found.good, "total-failure-session-count": found.bad},
    }
    if found.failed:
        told["failure-details"] = [_failure(one, count) for one, count in found.failed.most_common()]
    return told


def _failure(one: Failure, count: int) -> dict[str, Any]:
    told: dict[str, Any] = {"result-type": one.result}
    if one.source and one.source != "default":
        told["sending-mta-ip"] = one.source
    if one.host:
        told["receiving-mx-hostname"] = one.host
    told["failed-session-count"] = count
    if one.reason:
        told["failure-reason-code"] = one.reason
    return told


def bounds(day: str) -> tuple[float, float]:
    """(begin, end) of a UTC day, YYYY-MM-DD, in Unix seconds. Raises ValueError."""
    begin = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    return begin.timestamp(), (begin + timedelta(days=1)).timestamp()
