"""What may be rendered, and with which headers. Pure.

A refusal is a value for gate two (``Refused``): the mail ends there, once, with this reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from schemas.campaign import Campaign
from schemas.send import Attachment


class Refused(Exception):
    """This mail ends without being sent. ``reason`` is bounded (a metric label), ``detail`` is for people."""

    def __init__(self, outcome: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


TYPES = (
    *(
        "application/pdf",
        "application/zip",
        "application/json",
        "application/rtf",
        "application/pkcs7-signature",
    ),
    *("application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"),
    *("application/vnd.openxmlformats-officedocument.*", "application/vnd.oasis.opendocument.*"),
    *(
        "application/ics",
        "text/calendar",
        "text/csv",
        "text/plain",
        "text/vcard",
        "text/xml",
        "application/xml",
    ),
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/tiff"),
)
"""Types that mailbox providers take; a trailing * stands for anything. Programs and scripts are not here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may attach."""

    types: tuple[str, ...] = TYPES
    size: int = 10_000_000
    """Bytes of all attachments of a mail together, before base64."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes are in bytes."""

    send: int = 5_000_000
    """The send's JSON: variables, own content and inline attachments."""
    rendered: int = 2_000_000
    """A mail without attachments."""
    rendered_with_attachments: int = 30_000_000
    """A mail with attachments; the largest record that the broker takes must be above it."""
    inline_attachments: int = 256 * 1024
    """Attachments within the event, together; larger ones go by reference."""
    clipped: int = 95_000
    """HTML above this gets a note: Gmail clips at about 102,400 bytes."""
    fuel: int = 200_000
    """Instructions of one template rendering."""
    seconds: float = 1.0
    """Processor time of one template rendering; what takes longer is cut off for that recipient."""
    memory: int = 200_000_000
    """Of the process in which such a template is rendered."""
    templates: int = 64_000_000
    """Compiled templates that are kept."""
    attachments: int = 64_000_000
    """Fetched attachments that are kept."""
    on_the_way: int = 40_000_000
    """Of mail with large attachments that is not acknowledged yet; each byte is held some five times."""
    limits: Limits = Limits()
    """For tenants that are not named in ``tenants``."""
    tenants: Mapping[str, Limits] = field(default_factory=dict)


RESERVED = re.compile(
    "from|to|cc|bcc|sender|subject|date|message-id|reply-to|mime-version|list-id|list-unsubscribe"
    "|list-unsubscribe-post|feedback-id|auto-submitted|return-path|received|dkim-signature"
    "|authentication-results|content-.*|arc-.*|resent-.*",
    re.IGNORECASE,
)
"""Headers that we write ourselves, or that only a receiver may write."""

_NAME = re.compile(r"[A-Za-z0-9-]{1,76}")
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)
_PLAIN = re.compile(r"[\x20-\x7e]*")


def must_not_go(campaign: Campaign | None, size: int, expires: float, now: float, settings: Settings) -> None:
    """Raises Refused for a mail that ends here; ``size`` is that of the send's JSON."""
    if expires <= now:
        raise Refused("expired", "expired")
    if campaign is None:
        raise Refused(
            "rejected", "unknown_campaign", "publish the campaign on mail-campaigns before its sends"
        )
    if campaign.state == "cancelled":
        raise Refused("cancelled", "campaign_cancelled")
    if size > settings.send:
        raise Refused("rejected", "size", f"the send has {size} bytes, at most {settings.send} are allowed")


def fixed_headers(campaign: Campaign) -> list[tuple[str, str]]:
    """The unstructured headers that are the same for all of a campaign's mail. Raises Refused."""
    found = []
    if campaign.list_id:
        name = campaign.list_id.strip()
        found.append(("List-Id", name if name.endswith(">") else f"<{name}>"))
    if campaign.stream == "marketing":
        found.append(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))
    else:
        found.append(("Auto-Submitted", "auto-generated"))
    # Google: up to three fields of one's own, then the sender, which is the same in all one's mail.
    parts = (campaign.id, campaign.tenant, campaign.stream, "mailsluice")
    found.append(("Feedback-ID", ":".join(part.replace(":", ".") for part in parts)))
    for name, value in campaign.headers.items():
        if not _NAME.fullmatch(name):
            raise Refused(
                "rejected", "bad_campaign", f"header {name!r} is no header name: letters, digits, -"
            )
        if RESERVED.fullmatch(name):
            raise Refused(
                "rejected", "bad_campaign", f"header {name} is ours to write; take it out of headers"
            )
        found.append((name, value))
    return found


def check_attachments(found: Sequence[Attachment], tenant: str, settings: Settings) -> None:
    """Raises Refused for what this tenant may not attach, before anything is fetched."""
    limits = settings.tenants.get(tenant, settings.limits)
    inline = total = 0
    for place, part in enumerate(found, 1):
        kind = part.content_type.partition(";")[0].strip().lower()
        if not all(map(_PLAIN.fullmatch, (part.content_type, part.content_id))) or not _TYPE.fullmatch(kind):
            raise _bad(place, "content_type and content_id are printable ASCII")
        if not any(kind == one or (one[-1] == "*" and kind.startswith(one[:-1])) for one in limits.types):
            raise _bad(place, f"type {kind} is not allowed for tenant {tenant}")
        if (part.data is None) == (not part.url):
            raise _bad(place, "give either data or url")
        if part.data is not None:
            inline += len(part.data)
            total += len(part.data)
        elif not part.sha256 or not part.size:
            raise _bad(place, "a url needs size and sha256")
        else:
            total += part.size
    if inline > settings.inline_attachments:
        raise _bad(0, f"{inline} bytes within the event, at most {settings.inline_attachments}: use url")
    if total > limits.size:
        raise _bad(0, f"{total} bytes in all, tenant {tenant} may attach {limits.size}")


def check_reference(url: str, hosts: frozenset[str]) -> str:
    """The kind of a reference, file or https. Raises Refused where it points outside what is allowed."""
    try:
        parts = urlsplit(url)
        host, port, secret = parts.hostname or "", parts.port, parts.username or parts.password
    except ValueError:
        raise Refused("rejected", "attachment", "an attachment's url cannot be read") from None
    if parts.scheme == "file" and not host and "%" not in url and "\0" not in url:
        return "file"
    if parts.scheme == "https" and not secret and url.isascii() and url.isprintable():
        if (f"{host}:{port}" if port else host) in hosts:
            return "https"
        raise Refused("rejected", "attachment", f"host {host[:100]} is not among the allowed object stores")
    raise Refused("rejected", "attachment", "an attachment's url is file:///path or https://host/path")


def _bad(place: int, why: str) -> Refused:
    return Refused("rejected", "attachment", f"attachment {place}: {why}" if place else f"attachments: {why}")
