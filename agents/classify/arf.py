"""Complaints: the machine-readable part of an abuse report (RFC 5965, RFC 6591)."""

from __future__ import annotations

import re

import msgspec

from agents.classify.mime import Fields, fields

_MAILBOX = re.compile(r"([^\s<>,;:\"()\[\]]{1,64}@[^\s<>,;:\"()\[\]]{1,255})")
_DOMAIN = re.compile(r"\bd\s*=\s*([A-Za-z0-9._-]{1,253})")


class Complaint(msgspec.Struct, frozen=True):
    """What a reader, or their provider, says about a mail. ``feedback``: abuse, not-spam, fraud ...

    ``recipient`` is often left out by the provider. ``mail_from`` is the envelope sender: ours holds a
    token. ``dkim`` is the signing domain that the report or the mail's signature names.
    """

    feedback: str
    recipient: str = ""
    message_id: str = ""
    mail_from: str = ""
    source: str = ""
    dkim: str = ""

    @property
    def counts(self) -> bool:
        """Whether somebody complains: ``not-spam`` takes a mail out of the spam folder, the rest is our own
        authentication (auth-failure, dmarc) or nobody's verdict (virus, other)."""
        return self.feedback in ("abuse", "fraud", "miscategorized")

    @property
    def leaves(self) -> bool:
        """Whether somebody only wants no more of it (RFC 6430's neighbours ``opt-out``, ``opt-out-list``)."""
        return self.feedback in ("opt-out", "opt-out-list")


def parse(text: str, original: Fields) -> Complaint:
    """The feedback report ``text``; ``original`` is the header of the mail that it is about."""
    given = fields(text)
    signature = _DOMAIN.search(original["dkim-signature"])
    return Complaint(
        feedback=given["feedback-type"].split(";")[0].strip().lower()[:40] or "abuse",
        recipient=mailbox(given["original-rcpt-to"])
        or mailbox(given["removal-recipient"])
        or mailbox(original["x-hmxmroriginalrecipient"])
        or mailbox(original["to"]),
        message_id=(original["message-id"] or given["original-message-id"])[:300],
        mail_from=mailbox(given["original-mail-from"]) or mailbox(original["return-path"]),
        source=given["source-ip"].split(" ")[0][:64],
        dkim=(given["dkim-domain"] or (signature.group(1) if signature else given["reported-domain"]))[
            :253
        ].lower(),
    )


def mailboxes(value: str) -> list[str]:
    """The addresses in a header value (To, Cc), at most twenty."""
    return list(dict.fromkeys(_MAILBOX.findall(value[:4000])))[:20]


def mailbox(value: str) -> str:
    """The address in a header value, or empty."""
    found = _MAILBOX.search(value[value.find("<") + 1 :][:1000]) or _MAILBOX.search(value[:1000])
    return found.group(1) if found else ""
