"""Reads a day from the journal, asks DNS who wants to know, and writes the reports' mails onto their way.

A report has no send: it is written behind screen, as a rendered mail, and sign and deliver treat it as any other,
but that deliver asks for no TLS where the report may say that there is none.
Its id is that of its day and domain, so that gate two drops it when the same day is reported once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents import Out
from agents.deliver.sts import StsPolicy
from schemas.address import domain_of
from schemas.codec import Malformed, decode
from schemas.identity import event_id, partition_of
from schemas.lanes import lane_of, provider_of, site_of
from schemas.mail import number
from schemas.outcome import Outcome
from streams.admin import check
from streams.broker import make_producer, started, stopped
from streams.ops.queue_scan import put
from streams.ops.read import read_to_end
from streams.ops.tls_report.message import Places, message, read_record
from streams.ops.tls_report.tally import Day, PolicyType, Reporter, bounds, report
from streams.resolver import Resolver
from streams.settings import Settings
from streams.sts import Sts

AT_ONCE = 20
LIFETIME = 2 * 86400.0
"""Seconds after which a report that does not get through is given up."""


@dataclass(frozen=True, slots=True)
class Made:
    """A report, and who gets it."""

    domain: str
    places: Places
    content: dict[str, Any]


async def read_day(settings: Settings, date: str) -> Day:
    """The connections of a UTC day. Raises WrongTopology, NoAnswer."""
    begin, end = bounds(date)
    found = Day(date)
    partitions = (await check(settings)).partitions
    async for record in read_to_end(settings, [("mail-outcomes", p) for p in range(partitions)]):
        # Most records are of no connection of their own: they are not read.
        if not record.value or b'"opened"' not in record.value:
            continue
        try:
            outcome = decode(record, "outcome")
        except Malformed:
            continue
        if isinstance(outcome, Outcome) and begin <= outcome.time < end:
            found.add(outcome)
    return found


async def make(
    settings: Settings,
    day: Day,
    reporter: Reporter,
    resolver: Resolver,
    sts: Sts | None,
    domains: Sequence[str],
) -> list[Made]:
    """The reports of all ``domains`` that want one."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(domain: str) -> Made | None:
        async with slots:
            places = read_record((await resolver.texts(f"_smtp._tls.{domain}")).texts)
            if places is None:
                return None
            lines = await _lines(settings, day, domain, resolver, sts)
            return Made(domain, places, report(day, domain, reporter, lines))

    found = await asyncio.gather(*map(one, domains))
    return [made for made in found if made is not None]


async def _lines(
    settings: Settings, day: Day, domain: str, resolver: Resolver, sts: Sts | None
) -> dict[PolicyType, tuple[str, ...]]:
    """The policies as they are published now."""
    lines: dict[PolicyType, tuple[str, ...]] = {}
    under = day.of(domain)
    if "sts" in under and sts is not None:
        policy = await sts.policy(domain)
        if policy is not None:
            lines["sts"] = policy_lines(policy)
    if "tlsa" in under:
        hosts = sorted(under["tlsa"].hosts)
        answers = await asyncio.gather(*(resolver.tlsa(host, settings.deliver_port) for host in hosts))
        lines["tlsa"] = tuple(
            f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"
            for answer in answers for record in answer.records
        )  # fmt: skip
    return lines


def policy_lines(policy: StsPolicy) -> tuple[str, ...]:
    """A policy's lines, as a report quotes them."""
    return (
        "version: STSv1",
        f"mode: {policy.mode}",
        *(f"mx: {host}" for host in policy.mx),
        f"max_age: {policy.max_age}",
    )


async def send(
    settings: Settings, made: Sequence[Made], sender: str, reporter: Reporter, resolver: Resolver, now: float
) -> int:
    """Write the mails; how many. Returns when all are acknowledged. Raises KafkaError."""
    partitions = (await check(settings)).partitions
    producer = make_producer(settings)
    await started(producer)
    count = 0
    try:
        for one in made:
            for to in one.places.addresses:
                hosts = await resolver.mail_hosts(domain_of(to))
                provider = provider_of(hosts.names)
                out = _out(
                    one,
                    to,
                    sender,
                    reporter,
                    provider,
                    site_of(hosts.names or (domain_of(to),)),
                    partitions,
                    now,
                )
                await (await put(settings, producer, out))
                count += 1
        return count
    finally:
        await stopped(producer)


def _out(
    one: Made, to: str, sender: str, reporter: Reporter, provider: str, site: str, partitions: int, now: float
) -> Out:
    headers = {
        "type": b"mail",
        "version": b"1",
        "id": event_id("tlsrpt", str(one.content["report-id"]), to).encode(),
        "origin": b"",
        "tenant": b"default",
        "campaign": b"",
        "stream": b"transactional",
        "to": to.encode(),
        "attempt": b"1",
        "expires": number(now + LIFETIME),
        "received": number(now),
        "priority": b"0",
        "lane": lane_of(provider, site).encode(),
        "return_path": sender.encode(),
    }
    if provider:
        headers["provider"] = provider.encode()
    body = message(one.content, one.domain, to, sender, reporter, now)
    return Out("mail-rendered-now", body, headers, to.encode(), partition_of(to, partitions))
