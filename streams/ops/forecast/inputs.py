"""What a forecast starts from: what waits where (read from the topics), who may send it, what is held.

A campaign that is not sent yet: its recipients from a file, by the domain's mail hosts. No body and no address is
kept: sums by provider, and the hash of each id, since a copy that was brought forward is the same mail.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parseaddr

import orjson

from agents.deliver.sources import Sources
from agents.enqueue.agent import zone_of
from agents.enqueue.due import due_of, in_canary
from agents.sign.agent import author_of
from schemas.address import domain_of, normalise
from schemas.campaign import Campaign
from schemas.campaign_gate import CampaignGate
from schemas.codec import Malformed, Record
from schemas.hold import Hold
from schemas.identity import mail_id, origin_of
from schemas.lane_policy import ALL, LanePolicy
from schemas.lanes import provider_of, site_of
from schemas.mail import NOW, is_verdict
from schemas.send import Send
from streams.admin import check
from streams.delivery_file import delivery_of
from streams.ops.campaign import campaigns, holds
from streams.ops.forecast.lane import Block, Flow, Lane
from streams.ops.lanes import Policies, read_policies
from streams.ops.queue import BEFORE
from streams.ops.queue_scan import facts, on_ladder, waiting_from
from streams.ops.read import read_to_end
from streams.resolver import Resolver
from streams.settings import Settings

WINDOW = 1000
"""Records of a partition that deliver has in work (``agents.deliver.agent.STAGE``)."""
BLOCK = 100
"""Records of a partition that count as one place in its order."""
MOST_DOMAINS = 5000
"""Domains whose mail hosts are asked for; the mail of others is taken to go to a site of its own."""
AT_ONCE = 50


@dataclass
class Waiting:
    """What waits, by provider or domain (``@example.org`` until its hosts are known)."""

    lying: dict[str, dict[int, dict[Flow, float]]] = field(default_factory=dict)
    """Place in the lane's order -> flow -> messages."""
    later: dict[str, dict[tuple[float, Flow], float]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    dkim: str = ""
    """By which our mail is signed, as mail in a lane says."""
    held: int = 0
    """Of ours: waits for somebody's pause, or for its canary."""
    expires: float = 0.0
    """When the last of ours expires."""

    def lie(self, where: str, place: int, flow: Flow) -> None:
        """A mail in a lane."""
        block = self.lying.setdefault(where, {}).setdefault(place, {})
        block[flow] = block.get(flow, 0.0) + 1

    def come(self, where: str, due: float, flow: Flow, now: float) -> None:
        """A mail that comes to its lane at ``due``."""
        step = 1.0 if due < now + 3600 else 60.0
        key = (math.ceil(max(due, now) / step) * step, flow)
        block = self.later.setdefault(where, {})
        block[key] = block.get(key, 0.0) + 1


@dataclass
class Situation:
    """Everything that the model needs, and what people should know besides."""

    campaign: Campaign
    lanes: list[Lane]
    policies: list[LanePolicy]
    dkim: str
    author: str
    expires: float
    notes: list[str]
    gate: CampaignGate | None = None
    held: str = ""


class Reader:
    """Sorts records by whose they are and where they go."""

    def __init__(
        self, ours: Campaign, known: Mapping[str, Campaign], now: float, gate: CampaignGate | None
    ) -> None:
        self.ours, self.known, self.now, self.gate = ours, known, now, gate
        self.found = Waiting()
        self._flows: dict[tuple[str, str, bool], Flow] = {}
        self._places: dict[tuple[str, int], int] = {}

    def take(self, record: Record) -> None:
        """A record of a flow topic: in a lane, on the ladder, or on its way there."""
        name = hash(record.text("id"))
        if name in self.found.seen or is_verdict(record):
            return
        self.found.seen.add(name)
        flow = self._flow(
            record.text("tenant", "default"), record.text("campaign"), record.topic.endswith(NOW)
        )
        where = record.text("provider") or "@" + domain_of(record.text("to"))
        if flow.ours:
            self.found.expires = max(self.found.expires, _time(record, "expires"))
        if record.topic.startswith("mail-lane-"):
            if flow.ours and record.text("dkim"):
                self.found.dkim = record.text("dkim")
            place = (record.topic, record.partition)
            self._places[place] = self._places.get(place, 0) + 1
            self.found.lie(where, self._places[place] // BLOCK, flow)
            return
        due = _time(record, "due") if on_ladder(record) else _time(record, "not_before")
        held = record.text("held")
        if held in ("warmup", "engaged"):
            due = self.now  # it is the lane's backlog: it waits for the budget, not for a time
        elif flow.ours and held:
            self.found.held += 1
        if flow.ours and record.text("canary") == "rest" and self.ours.rest_waits:
            due = max(due, self.canary_passes())
        self.found.come(where, due, flow, self.now)

    def send(self, record: Record) -> None:
        """A send that enqueue has not looked at."""
        try:
            found = orjson.loads(record.value or b"")
            send = Send(
                campaign=found["campaign"],
                to=found["to"],
                tenant=found.get("tenant", "default"),
                key=found.get("key", ""),
            )
            self.recipient(send, origin_of(record.topic, record.partition, record.offset, record.timestamp),
                           record.timestamp / 1000, found.get("time_zone", ""), record.topic.endswith(NOW))  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, Malformed):
            return  # enqueue will say what is wrong with it

    def recipient(self, send: Send, origin: str, received: float, zone: str, urgent: bool) -> None:
        """One recipient to whom a mail will go. Raises Malformed for what is no address."""
        key = normalise(send.to).key
        flow = self._flow(send.tenant, send.campaign, urgent)
        campaign = self.ours if flow.ours else self.known.get(f"{send.tenant}/{send.campaign}")
        due = received
        if campaign is not None:
            quiet = campaign.schedule.quiet
            of = (zone_of(zone) or zone_of(quiet.zone)) if quiet else None
            due = due_of(mail_id(send.tenant, send.key, key, origin), received, campaign.schedule, of)
            if campaign.rest_waits and campaign.canary is not None and not in_canary(
                campaign.tenant, campaign.id, key, campaign.canary.share
            ):  # fmt: skip
                due = max(due, self.now) + campaign.canary.minutes * 60
        self.found.come("@" + domain_of(key), due, flow, self.now)

    def canary_passes(self) -> float:
        """When the rest may go, if the canary proves good."""
        canary = self.ours.canary
        since = self.gate.since if self.gate is not None and self.gate.since else self.now
        return max(self.now, since + (canary.minutes * 60 if canary is not None else 0.0))

    def _flow(self, tenant: str, name: str, urgent: bool) -> Flow:
        found = self._flows.get((tenant, name, urgent))
        if found is None:
            ours = (tenant, name) == (self.ours.tenant, self.ours.id)
            campaign = self.ours if ours else self.known.get(f"{tenant}/{name}")
            weight = 1.0 + (campaign.priority if campaign else 5)
            signed = ours or (campaign is not None and sender_domain(campaign) == sender_domain(self.ours))
            found = self._flows[tenant, name, urgent] = Flow(tenant, name, weight, urgent, signed, ours)
        return found


def sender_domain(campaign: Campaign) -> str:
    """The domain of a campaign's From."""
    return campaign.sender.rpartition("@")[2].strip(" >").lower()


async def situation(settings: Settings, ours: Campaign, now: float, rows: Iterable[Send] = ()) -> Situation:
    """Everything from the topics. ``rows``: recipients of a campaign that is not sent yet."""
    partitions = (await check(settings)).partitions
    known = await campaigns(settings)
    gate = await _gate(settings, ours)
    reader = Reader(ours, known, now, gate)
    for stages in (("deliver",), ("wait",), BEFORE):
        starts = await waiting_from(settings, partitions, stages)
        async for record in read_to_end(settings, list(starts), starts):
            reader.take(record)
    starts = {
        place: at
        for place, at in (await waiting_from(settings, partitions, ("enqueue",))).items()
        if place[0].startswith("mail-sends")
    }
    async for record in read_to_end(settings, list(starts), starts):
        reader.send(record)
    for number, send in enumerate(rows):
        reader.recipient(send, f"forecast/{number}", now, send.time_zone, ours.stream == "transactional")
    where = await _providers(settings, reader.found)
    policies = await read_policies(settings)
    held = await holds(settings)
    sources, paused = _sources(settings, held)
    lanes = list(_lanes(reader, where, sources, paused, partitions))
    author = author_of(parseaddr(ours.sender)[1].lower())
    dkim = _signer(reader.found.dkim, sender_domain(ours), policies)
    return Situation(
        ours, lanes, _concerned(policies, lanes, dkim, author), dkim, author, reader.found.expires,
        _notes(ours, reader.found, held, paused), gate, _held(ours, reader),
    )  # fmt: skip


async def _gate(settings: Settings, ours: Campaign) -> CampaignGate | None:
    found = None
    async for gate in facts(settings, CampaignGate):
        if gate.name == f"{ours.tenant}/{ours.id}":
            found = gate
    return found


async def _providers(settings: Settings, found: Waiting) -> dict[str, str]:
    """Where the mail of each domain goes: the name by which shape knows it."""
    domains = {where[1:] for where in (*found.lying, *found.later) if where.startswith("@")}
    some = sorted(domains)[:MOST_DOMAINS]
    resolver = Resolver(settings.dns, validates=settings.dns_validates)
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(domain: str) -> tuple[str, str]:
        async with slots:
            hosts = await resolver.mail_hosts(domain)
        return domain, provider_of(hosts.names) or site_of(hosts.names or (domain,))

    return dict(await asyncio.gather(*map(ask, some)))


def _sources(settings: Settings, held: Mapping[tuple[str, str], Hold]) -> tuple[Sources, set[str]]:
    sources = delivery_of(settings).sources
    if settings.deliver_sources and not any(sources.names):
        sources = Sources.at(settings.deliver_sources)
    return sources, {name for kind, name in held if kind == "source"}


def _lanes(
    reader: Reader, where: Mapping[str, str], sources: Sources, paused: set[str], partitions: int
) -> Iterable[Lane]:
    """Sums by provider, only where there is mail of ours."""
    lying: dict[str, list[tuple[int, Block]]] = {}
    later: dict[str, list[tuple[float, Flow, float]]] = {}
    for place, blocks in reader.found.lying.items():
        name = where.get(place[1:], place[1:]) if place.startswith("@") else place
        lying.setdefault(name, []).extend(
            (number, (flow, count)) for number, flows in blocks.items() for flow, count in flows.items()
        )
    for place, coming in reader.found.later.items():
        name = where.get(place[1:], place[1:]) if place.startswith("@") else place
        later.setdefault(name, []).extend((due, flow, count) for (due, flow), count in coming.items())
    ours = reader.ours
    for name in sorted(lying.keys() | later.keys()):
        first, rest = sources.choices(ours.stream, ours.tenant, name)
        able = tuple(source or "default" for source in (*first, *rest) if (source or "default") not in paused)
        order = sorted(lying.get(name, []), key=lambda one: one[0])
        lane = Lane(name, [block for _, block in order], sorted(later.get(name, []), key=lambda one: one[0]),
                    able, float(WINDOW * partitions))  # fmt: skip
        if lane.ours():
            yield lane


def _signer(seen: str, sender: str, policies: Policies) -> str:
    """The DKIM domain: as mail in a lane says, else the one that shape knows of and that covers the From."""
    known = {name for kind, name, _ in policies.limits if kind == "dkim"}
    parts = sender.split(".")
    return seen or next((up for at in range(len(parts) - 1) if (up := ".".join(parts[at:])) in known), sender)


def _concerned(policies: Policies, lanes: Sequence[Lane], dkim: str, author: str) -> list[LanePolicy]:
    providers = {lane.provider for lane in lanes} | {ALL}
    names = {source for lane in lanes for source in lane.sources} | {dkim, author}
    return [
        policy
        for (_, name, provider), policy in policies.limits.items()
        if name in names and provider in providers
    ]


def _notes(
    ours: Campaign, found: Waiting, held: Mapping[tuple[str, str], Hold], paused: set[str]
) -> list[str]:
    notes = []
    if ours.state != "active":
        notes.append(f"the campaign is {ours.state}: as if it were resumed now")
    elif found.held:
        notes.append(
            f"{found.held:,} mails wait for a pause to end, or for the canary: as if they went on now"
        )
    if ("tenant", ours.tenant) in held:
        notes.append(
            f"tenant {ours.tenant} is {held['tenant', ours.tenant].state}: as if it were resumed now"
        )
    notes += [
        f"lane {name} is {hold.state}: as if it were resumed now"
        for (kind, name), hold in held.items()
        if kind == "lane"
    ]
    notes += [f"source {name} sends nothing: it is held" for name in sorted(paused)]
    return notes


def _held(ours: Campaign, reader: Reader) -> str:
    """Why mail comes later, for people."""
    found = []
    schedule = ours.schedule
    if ours.rest_waits:
        found.append("its canary comes first")
    if schedule.at and schedule.at.timestamp() > reader.now:
        found.append(f"it begins at {schedule.at.isoformat()}")
    if schedule.spread_hours:
        found.append(f"it is spread over {schedule.spread_hours:g} h")
    if schedule.quiet:
        found.append(f"quiet hours {schedule.quiet.begin}-{schedule.quiet.end}")
    return ", ".join(found) or "its mail is due later"


def _time(record: Record, name: str) -> float:
    try:
        return record.number(name)
    except Malformed:
        return 0.0
