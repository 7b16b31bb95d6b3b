"""mail-sends -> mail-enqueued: gather what a send needs, let the policy decide, write what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agents import Out, Reject, Stage, Ticket
from agents.enqueue.policy import (
    UNKNOWN_CAMPAIGN,
    Refusal,
    Request,
    Settings,
    accepted,
    printable,
    recipient_of,
    refuse,
    refuse_alone,
    refused,
)
from agents.enqueue.waiting import Hold, Lookups
from schemas.address import Address, domain_of, normalise
from schemas.campaign import Campaign
from schemas.codec import Headers, Malformed, Record, decode, encode
from schemas.event import MailEvent, headers_of
from schemas.hosts import Hosts, MailHosts
from schemas.identity import event_id, origin_of, partition_of
from schemas.mail import NOW, twin
from schemas.replay import Replays, claims, received_at
from schemas.send import Send

STAGE = Stage(
    name="enqueue",
    question="is this a well-formed request, for whom, and on which lane?",
    consumes=("mail-sends",),
    emits=("mail-enqueued", "mail-events"),
)


class Enqueue:
    """``partitions`` is P. ``campaigns`` maps tenant/id to the campaign and is kept up to date by somebody.

    ``campaigns_read_to_end`` returns once ``campaigns`` shows all that was on ``mail-campaigns`` when it
    was called. ``clock`` gives Unix seconds, ``monotonic`` measures the hold.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        campaigns: Mapping[str, Campaign],
        campaigns_read_to_end: Callable[[], Awaitable[None]],
        hosts: Hosts,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        replays: Replays | None = None,
    ) -> None:
        """``replays`` knows the dead letters that come again; None: no secret is set."""
        self._replays = replays
        self._settings = settings
        self._partitions = partitions
        self._campaigns = campaigns
        self._hosts = hosts
        self._clock = clock
        self._lookups = Lookups(hosts)
        self._hold = Hold(campaigns.__contains__, campaigns_read_to_end, settings.hold, monotonic)

    async def assigned(self, partition: int) -> None:
        """Nothing to restore."""

    async def revoked(self, partition: int) -> None:
        """What waits is not committed: the next owner does it again."""
        self._hold.drop(partition)
        self._lookups.drop(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Every send becomes a mail, a verdict or a dead letter; or waits as a kept ticket."""
        now = self._clock()  # once: asking for each costs 2 µs a send
        for ticket in tickets:
            try:
                self._take(ticket, now)
            except Reject as error:
                ticket.reject(error.reason, error.detail)
            except Malformed as error:
                ticket.reject(error.code, error.detail)

    def _take(self, ticket: Ticket, now: float) -> None:
        request = gather(ticket.record, self._settings, now, self._replays)
        key = f"{request.send.tenant}/{request.send.campaign}"
        campaign = self._campaigns.get(key)
        refusal = refuse_alone(request, self._settings)
        if refusal:
            self._end(ticket, request, campaign, refusal)
        elif campaign:
            self._find_hosts(ticket, request, campaign, now)
        else:
            ticket.keep()
            self._hold.add(key, ticket, lambda known: self._held(ticket, request, key, known))

    def _held(self, ticket: Ticket, request: Request, key: str, known: bool) -> None:
        if known:
            self._find_hosts(ticket, request, self._campaigns[key], self._clock())
        else:
            self._end(ticket, request, None, UNKNOWN_CAMPAIGN)

    def _find_hosts(self, ticket: Ticket, request: Request, campaign: Campaign, now: float) -> None:
        quiet = campaign.schedule.quiet
        if quiet:
            request = request._replace(zone=zone_of(request.send.time_zone) or zone_of(quiet.zone))
        refusal = refuse(request, campaign, self._settings, now)
        domain = domain_of(request.address.key)
        if refusal:
            self._end(ticket, request, campaign, refusal)
        elif hosts := self._hosts.cached(domain):
            self._accept(ticket, request, campaign, hosts, now)
        else:
            ticket.keep()
            self._lookups.add(
                domain,
                ticket,
                lambda found: self._accept(ticket, request, campaign, found, self._clock()),
            )

    def _accept(
        self, ticket: Ticket, request: Request, campaign: Campaign, hosts: MailHosts, now: float
    ) -> None:
        headers = accepted(request, campaign, hosts, self._settings, now)
        partition = partition_of(recipient_of(request), self._partitions)
        topic = twin("mail-enqueued", campaign.stream)
        ticket.emit(Out(topic, ticket.record.value, headers, None, partition))
        ticket.emit(_queued(request, headers, partition, now))
        ticket.done()

    def _end(self, ticket: Ticket, request: Request, campaign: Campaign | None, refusal: Refusal) -> None:
        headers = refused(request, campaign, refusal, self._settings)
        partition = partition_of(recipient_of(request), self._partitions)
        topic = twin("mail-enqueued", headers["stream"].decode())
        ticket.emit(Out(topic, None, headers, None, partition))
        ticket.done()


@lru_cache(maxsize=1000)
def zone_of(name: str) -> tzinfo | None:
    """The zone of an IANA name; None for none that is known: a producer's word must not stop a mail."""
    try:
        return ZoneInfo(name) if name else None
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return None


def gather(record: Record, settings: Settings, now: float, replays: Replays | None = None) -> Request:
    """The send in a record of an outsider. Raises Malformed or Reject for what is no send at all.

    Of the outsider's headers only ``type``, ``version``, the CloudEvents ones and ``traceparent`` are
    looked at, none is passed on: an envelope is ours alone. So is a ``replay``, which keeps the origin of a
    dead letter: one whose proof fails is rejected. Taken for a new send, what comes again (under a secret that
    is not set here) would be sent once more when it is replayed with the right one.
    """
    raw = record.value or b""
    size = len(raw)
    if size > settings.largest_parsed:
        raise Reject("too_large", f"{size} bytes are not parsed; a send has at most {settings.largest}")
    send = decode(record, "send")
    if not isinstance(send, Send):
        raise Malformed("unknown_type", f"a {type(send).__name__} does not belong on {record.topic}")
    fault = None
    try:
        address = normalise(send.to)
    except Malformed as error:
        fault = (error.code, error.detail)
        address = Address(printable(send.to), printable(send.to))
    origin = origin_of(record.topic, record.partition, record.offset, record.timestamp)
    # The producer sets the timestamp: a missing one (-1) or one from the future counts as now.
    stamp = record.timestamp / 1000
    if claims(record):
        origin = _replayed(record, replays)
        stamp = received_at(origin)
    return Request(
        send=send,
        address=address,
        fault=fault,
        origin=origin,
        received=stamp if 0 < stamp < now else now,
        size=size,
        urgent=record.topic.endswith(NOW),
        nested=raw.count(b"{") + raw.count(b"["),
        traceparent=record.headers.get("traceparent") or record.headers.get("ce_traceparent", b""),
    )


def _replayed(record: Record, replays: Replays | None) -> str:
    if replays is None:
        raise Reject(
            "replay_unverified", "MAILSLUICE_SECRET is not set for enqueue: set it, then replay this"
        )
    found = replays.origin(record)
    if found is None:
        raise Reject(
            "replay_unverified",
            "its header replay was not made with a secret that enqueue has: give it and `dlq replay` the same "
            "MAILSLUICE_SECRET, then replay this; if nobody here replayed it, a producer forged it",
        )
    return found


def _queued(request: Request, headers: Headers, partition: int, now: float) -> Out:
    mail = headers["id"].decode()
    event = MailEvent(
        id=event_id(mail, "queued", request.origin),
        kind="queued",
        mail=mail,
        time=round(now, 3),
        tenant=request.send.tenant,
        campaign=request.send.campaign,
        stream=headers["stream"].decode(),
        to=request.address.key,
        origin=request.origin,
        provider=headers.get("provider", b"").decode(),
    )
    return Out("mail-events", encode(event), headers_of(event.kind), request.address.key.encode(), partition)
