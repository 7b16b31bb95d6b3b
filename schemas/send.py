"""A send: one recipient of a campaign, as a producer publishes it on ``mail-sends`` (or its ``-now`` twin)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.campaign import HeaderText, Identifier
from schemas.codec import event


class Consent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the recipient agreed to have tracked. Nothing unless said."""

    opens: bool = False
    clicks: bool = False


class Attachment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the mail: inline (``data``, base64 in JSON) or by reference (``url``, ``size``, ``sha256``)."""

    filename: HeaderText
    content_type: Annotated[str, Meta(max_length=200, pattern=r"^[\w.+-]+/[\w.+-]+(;[^\r\n]*)?$(?!\n)")]
    disposition: Literal["attachment", "inline"] = "attachment"
    content_id: Annotated[str, Meta(max_length=200, pattern=r"^[^\s<>]*$(?!\n)")] = ""
    data: bytes | None = None
    url: Annotated[str, Meta(max_length=2000)] = ""
    size: Annotated[int, Meta(ge=0)] = 0
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")] = ""


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A transactional send's own content; the same templates as a campaign's."""

    subject: HeaderText
    html: Annotated[str, Meta(max_length=2_000_000)] = ""
    text: Annotated[str, Meta(max_length=2_000_000)] = ""


@event("send", 1)
class Send(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One mail for one recipient. ``key`` is the idempotency key: the same key to the same address once.

    ``reply_to``: a mailbox for this mail's answers, in the place of the campaign's.
    """

    campaign: Identifier
    tenant: Identifier = "default"
    key: Annotated[str, Meta(max_length=200)] = ""
    to: Annotated[str, Meta(min_length=3, max_length=500)]
    name: HeaderText = ""
    variables: dict[str, Any] = {}
    reply_to: HeaderText = ""
    time_zone: Annotated[str, Meta(max_length=60)] = ""
    consent: Consent = Consent()
    content: Content | None = None
    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=20)] = ()
