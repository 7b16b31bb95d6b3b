"""What came back by mail: a delivery report (RFC 3464, 6522, 6533), a complaint, an answer.

``parse_mail`` never raises and is bounded. It believes nothing: whose mail a report is about is decided by
the caller, from a token.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from agents.classify import arf, bounces
from agents.classify.mime import Fields, Part, fields, parts, split

Kind = Literal["dsn", "arf", "auto_reply", "unsubscribe", "reply", "other"]
LARGEST = 1_000_000
"""Bytes of a message that are looked at."""
MOST_RECIPIENTS = 50
LONGEST_REPLY = 2000


class Recipient(msgspec.Struct, frozen=True):
    """What a report says of one recipient. ``action``: failed, delayed, delivered, relayed or expanded.

    ``status`` is the enhanced code, ``reply`` the remote host's words with a code in front of them where
    one is known, ``mta`` the host that said it.
    """

    address: str
    action: str
    status: str = ""
    reply: str = ""
    mta: str = ""


class Report(msgspec.Struct, frozen=True):
    """A mail that came back. ``message_id``, ``feedback_id``: of the mail that it is about."""

    kind: Kind
    recipients: tuple[Recipient, ...] = ()
    subject: str = ""
    sender: str = ""
    message_id: str = ""
    feedback_id: str = ""
    complaint: arf.Complaint | None = None


def parse_mail(raw: bytes) -> Report:
    """What the message is."""
    headers, found = parts(raw[:LARGEST])
    returned = _returned(found)
    kind, recipients, complaint = _kind(headers, found)
    message_id, feedback_id = returned["message-id"], returned["feedback-id"]
    if complaint and complaint.message_id:
        message_id = message_id or complaint.message_id
    return Report(
        kind=kind,
        recipients=tuple(recipients[:MOST_RECIPIENTS]),
        subject=headers["subject"][:200],
        sender=arf.mailbox(headers["from"]),
        message_id=(message_id or headers["in-reply-to"])[:300],
        feedback_id=feedback_id[:300],
        complaint=complaint,
    )


def _kind(headers: Fields, found: list[Part]) -> tuple[Kind, list[Recipient], arf.Complaint | None]:
    for part in found:
        if part.kind == "message/feedback-report":
            return "arf", [], arf.parse(part.text, _returned(found))
    recipients = [r for part in found if _is_status(part) for r in recipients_of(part.text)]
    if recipients:
        return "dsn", recipients, None
    if any(part.kind == "message/disposition-notification" for part in found):
        return "auto_reply", [], None  # RFC 8098: read or deleted, by whatever; says nothing of the address
    guess = bounces.guess(headers, "\n".join(part.text for part in found if part.kind == "text/plain"))
    if guess:
        delayed, seen = guess
        action = "delayed" if delayed else "failed"
        return "dsn", [Recipient(who, action, status, reply) for who, status, reply in seen], None
    return _answer(headers), [], None


_STATUS_FIELDS = re.compile(r"^(?:final|original)-recipient\s*:", re.IGNORECASE | re.MULTILINE)


def _is_status(part: Part) -> bool:
    # Some gateways label the report text/plain or application/octet-stream.
    return part.kind in ("message/delivery-status", "message/global-delivery-status") or (
        not part.kind.startswith("message/")
        and bool(_STATUS_FIELDS.search(part.text))
        and re.search(r"^action\s*:", part.text, re.IGNORECASE | re.MULTILINE) is not None
    )


_ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
_CODE = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")


def recipients_of(text: str) -> list[Recipient]:
    """The per-recipient groups of a delivery-status (RFC 3464 section 2.3)."""
    found = []
    for group in re.split(r"\n[ \t]*\n", text)[: MOST_RECIPIENTS * 2]:
        given = fields(group)
        address = _typed(given["original-recipient"]) or _typed(given["final-recipient"])
        status = match.group(1) if (match := _CODE.search(given["status"])) else ""
        action = given["action"].split(" ")[0].strip(";,.").lower()
        if not (address or action in _ACTIONS) or not (action or status):
            continue
        if action not in _ACTIONS:
            action = {"5": "failed", "4": "delayed"}.get(status[:1], "delivered")
        reply = _reply(given["diagnostic-code"], status)
        mta = given["remote-mta"].rpartition(";")[2].strip()[:255]
        found.append(Recipient(address, action, status, reply, mta))
    return found


def _typed(value: str) -> str:
    """The address in ``rfc822; someone@example.org``, xtext (RFC 3461) and UTF-8 forms (RFC 6533) undone."""
    address = value.partition(";")[2] if ";" in value else value
    address = address.strip().strip("<>")[:500]
    address = re.sub(r"\\x\{([0-9A-Fa-f]{2,6})\}", _character, address)
    return re.sub(r"\+([0-9A-F]{2})(?=[^@]*@)", _xtext, address)


def _character(found: re.Match[str]) -> str:
    point = int(found.group(1), 16)
    return chr(point) if point < 0xD800 or 0xE000 <= point < 0x110000 else "?"


def _xtext(found: re.Match[str]) -> str:
    # Many reporters do not encode: "+20" of anna+2024@ must stay. Only what RFC 3461 encodes is undone.
    character = chr(int(found.group(1), 16))
    return character if character in "+=" else found.group(0)


_HAS_CODE = re.compile(r"^\W{0,3}[245]\d\d\b")


def _reply(diagnostic: str, status: str) -> str:
    """The remote host's words; the status goes in front where they hold no code of their own."""
    kind, semicolon, text = diagnostic.partition(";")
    text = (text if semicolon and len(kind) < 20 else diagnostic).strip()[:LONGEST_REPLY]
    if not status or _HAS_CODE.match(text) or _CODE.search(text[:200]):
        return text or status
    return f"{status} {text}".strip()


def _returned(found: list[Part]) -> Fields:
    """The header of the mail that the report is about."""
    for part in found:
        if part.kind in ("message/rfc822", "message/global"):
            return split(part.body.lstrip())[0]
        if part.kind in ("text/rfc822-headers", "message/rfc822-headers", "message/global-headers"):
            return fields(part.text)
    for part in found:
        if part.kind == "text/plain" and (at := part.text.lower().rfind("\nmessage-id:")) >= 0:
            # A paragraph of headers below "this is a copy of the message".
            start = part.text.rfind("\n\n", 0, at) + 1
            return fields(part.text[start : at + 5000].lstrip("\n").partition("\n\n")[0])
    return Fields()


# --- answers -----------------------------------------------------------------------------------------

_AUTO_SUBJECT = re.compile(
    r"^\W{0,4}(?:(?:re|aw|sv|antw)\s*:\s*)?(?:auto(?:matic|mated|matische)?[ -]?(?:reply|response|antwort|:)|out of (?:the )?office|"
    r"abwesenheit|r[ée]ponse automatique|respuesta autom|risposta automatica|automaattinen|autosvar|ooo\b|"
    r"on vacation|urlaub|absence du bureau|fuera de (?:la )?oficina|away from)",
    re.IGNORECASE,
)
_UNSUBSCRIBE = re.compile(
    r"^\W{0,4}(?:unsubscribe|abmelden|d[ée]sabonner|d[ée]sinscri\w*|remove me)\b", re.IGNORECASE
)


def _answer(headers: Fields) -> Kind:
    submitted = headers["auto-submitted"].lower()
    precedence = headers["precedence"].lower()
    if (
        (submitted and not submitted.startswith("no"))
        or "x-autoreply" in headers
        or "x-autorespond" in headers
        or "x-auto-reply-from" in headers
        or precedence in ("auto_reply", "auto-reply")
        or _AUTO_SUBJECT.match(headers["subject"])
    ):
        return "auto_reply"
    if _UNSUBSCRIBE.match(headers["subject"]):
        return "unsubscribe"
    if precedence in ("bulk", "list", "junk") or "list-id" in headers or not arf.mailbox(headers["from"]):
        return "other"
    return "reply"
