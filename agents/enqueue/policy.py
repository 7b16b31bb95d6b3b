"""What becomes of a send: an envelope, or why not. Pure: everything it looks at is an argument."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import NamedTuple

from agents.enqueue.due import due_of, in_canary
from schemas.address import MAX_ADDRESS, Address, domain_of
from schemas.campaign import Campaign, Schedule
from schemas.codec import Headers
from schemas.hosts import MailHosts
from schemas.identity import mail_id
from schemas.lanes import lane_of, provider_of, site_of
from schemas.mail import number, verdict
from schemas.send import Send

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_AT_ONCE = Schedule()
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of enqueue. Times in seconds, sizes in bytes."""

    lifetime: float = 7 * 86400.0
    """A mail expires this long after its due time."""
    hold: float = 30.0
    """How long the sends of a campaign that nobody knows wait for it, once per campaign."""
    largest: int = 1024 * 1024
    """A larger send is rejected."""
    largest_parsed: int = 16 * 1024 * 1024
    """A larger one is not even parsed: it goes to the dead letters."""
    deepest: int = 32
    """Levels of lists and objects in the variables: templates and their engine recurse over them."""
    inline_attachments: int = 256 * 1024
    """Bytes of all inline attachments of a send together, before base64. Render knows the tenants' limits."""


class Request(NamedTuple):
    """One send as received. ``fault`` is (code, detail) where its address cannot be normalised.

    ``received`` Unix seconds; ``size`` bytes of its JSON; ``urgent`` it came by the transactional twin;
    ``nested`` opening brackets in its JSON: not less than its levels. ``zone``: the recipient's, where its
    campaign has quiet hours.
    """

    send: Send
    address: Address
    fault: tuple[str, str] | None
    origin: str
    received: float
    size: int
    urgent: bool
    nested: int
    traceparent: bytes = b""
    zone: tzinfo | None = None


class Refusal(NamedTuple):
    """Why a send ends here: ``outcome`` rejected, cancelled or expired; ``reason`` is a bounded code."""

    outcome: str
    reason: str
    detail: str


def refuse_alone(request: Request, settings: Settings) -> Refusal | None:
    """What is wrong with the send whatever its campaign says."""
    if request.size > settings.largest:
        return Refusal(
            "rejected", "too_large", f"a send has at most {settings.largest} bytes, not {request.size}"
        )
    if request.fault:
        code, detail = request.fault
        return Refusal("rejected", "bad_address", f"{code}: {detail}")
    if request.nested > settings.deepest and _deeper(request.send.variables, settings.deepest):
        return Refusal(
            "rejected", "too_deep", f"variables are nested more than {settings.deepest} levels deep"
        )
    attached = request.send.attachments
    inline = sum(len(part.data or b"") for part in attached) if attached else 0
    if inline > settings.inline_attachments:
        detail = f"{inline} bytes inline, at most {settings.inline_attachments}: attach by reference (url)"
        return Refusal("rejected", "attachments_too_large", detail)
    return None


def refuse(request: Request, campaign: Campaign, settings: Settings, now: float) -> Refusal | None:
    """What is wrong with the send, now that its campaign is known."""
    if campaign.state == "cancelled":
        return Refusal(
            "cancelled", "campaign_cancelled", "the campaign was cancelled before this send was taken"
        )
    if expiry(request, campaign, settings) <= now:
        return Refusal(
            "expired", "before_enqueue", "the time in which it may be sent was over when it was taken"
        )
    content = request.send.content
    if content and campaign.stream != "transactional":
        return Refusal("rejected", "content_not_allowed", "only transactional sends carry their own content")
    written = content or campaign
    if not (written.html or written.text):
        return Refusal("rejected", "no_content", "neither the campaign nor the send has html or text")
    return None


UNKNOWN_CAMPAIGN = Refusal(
    "rejected", "unknown_campaign", "no such campaign of this tenant on mail-campaigns"
)


def expiry(request: Request, campaign: Campaign | None, settings: Settings) -> float:
    """Unix seconds: ``lifetime`` after the due time, or when the campaign says, whichever is first."""
    schedule = campaign.schedule if campaign else None
    ends = _due(request, schedule) + settings.lifetime
    return min(ends, schedule.expires_at.timestamp()) if schedule and schedule.expires_at else ends


def accepted(
    request: Request, campaign: Campaign, hosts: MailHosts, settings: Settings, now: float
) -> Headers:
    """The envelope of a mail that may go on."""
    headers = _envelope(request, campaign, settings)
    due = _due(request, campaign.schedule)
    canary = campaign.canary
    if canary is not None and not in_canary(campaign.tenant, campaign.id, request.address.key, canary.share):
        # Also of a canary that has passed: it may be somebody's first look at an old record of the campaign.
        headers["canary"] = b"rest"
        if campaign.rest_waits:  # it waits before it is rendered; the ladder holds it until the canary passed
            due = min(max(due, now) + canary.minutes * 60, max(now, expiry(request, campaign, settings) - 1))
    if due > now:
        headers["not_before"] = number(due)
    consent = request.send.consent
    if campaign.tracking and (consent.opens or consent.clicks):
        headers["consent"] = (b"o" if consent.opens else b"") + (b"c" if consent.clicks else b"")
    if campaign.guarantee == "at_most_once":
        headers["guarantee"] = b"at_most_once"
    _locate(headers, domain_of(request.address.key), hosts)
    return headers


def refused(request: Request, campaign: Campaign | None, refusal: Refusal, settings: Settings) -> Headers:
    """The envelope of the verdict over a send that is refused."""
    headers = _envelope(request, campaign, settings)
    _locate(headers, domain_of(request.address.key), None)
    return verdict(headers, refusal.outcome, refusal.reason, refusal.detail)


def recipient_of(request: Request) -> str:
    """What the partition is chosen by: the normalised address, or the raw text where there is none."""
    return request.send.to if request.fault else request.address.key


def printable(text: str) -> str:
    """An address that could not be normalised, as it may stand in a header: cut, plain ASCII."""
    return _UNPRINTABLE.sub("?", text[:MAX_ADDRESS])


def _due(request: Request, schedule: Schedule | None) -> float:
    if schedule is None or schedule == _AT_ONCE:
        return request.received
    return due_of(_id(request), request.received, schedule, request.zone)


def _id(request: Request) -> str:
    return mail_id(request.send.tenant, request.send.key, recipient_of(request), request.origin)


def _envelope(request: Request, campaign: Campaign | None, settings: Settings) -> Headers:
    send, address = request.send, request.address
    stream = campaign.stream if campaign else "transactional" if request.urgent else "marketing"
    headers: Headers = {
        "type": b"accepted",
        "version": b"1",
        "id": _id(request).encode(),
        "origin": request.origin.encode(),
        "tenant": send.tenant.encode(),
        "campaign": send.campaign.encode(),
        "stream": stream.encode(),
        "to": address.key.encode(),
        "attempt": b"1",
        "expires": number(expiry(request, campaign, settings)),
        "received": number(request.received),
        "priority": b"%d" % (campaign.priority if campaign else 5),
    }
    if address.rcpt != address.key:
        headers["rcpt"] = address.rcpt.encode()
    if send.key:
        headers["keyed"] = b"1"
    if _TRACEPARENT.fullmatch(request.traceparent):
        headers["traceparent"] = request.traceparent
    return headers


def _locate(headers: Headers, domain: str, hosts: MailHosts | None) -> None:
    """Lane and provider by the MX hosts; by the domain where they are not known: a shared lane."""
    lane, provider = _placed(hosts.names if hosts else (), domain)
    headers["lane"] = lane
    if provider:
        headers["provider"] = provider
    if hosts and hosts.refused:
        headers["host"] = hosts.refused.encode()


@lru_cache(maxsize=10_000)
def _placed(names: tuple[str, ...], domain: str) -> tuple[bytes, bytes]:
    # Never the provider by the recipient's domain alone: web.de may be anywhere while DNS is silent.
    provider = provider_of(names)
    return lane_of(provider, site_of(names or (domain,))).encode(), provider.encode()


def _deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested more than ``levels`` deep."""
    if isinstance(value, dict):
        return levels == 0 or any(_deeper(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_deeper(item, levels - 1) for item in value)
    return False
