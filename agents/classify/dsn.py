"""What came back by mail: a delivery report (RFC 3464, 6522, 6533), a complaint, an answer.

``parse_mail`` never raises and is bounded. It believes nothing: whose mail a report is about is decided by
the caller, from a token.
"""

from __future__ import annotations

import re

import msgspec

from agents.classify import arf, bounces
from agents.classify.answers import Kind
from agents.classify.answers import kind_of_answer as _answer
from agents.classify.mime import Fields, Part, decoded, fields, page_text, parts, split, unworded

LARGEST = 1_000_000
"""Bytes of a message that are looked at."""
MOST_RECIPIENTS = 50
LONGEST_REPLY = 2000


class Recipient(msgspec.Struct, frozen=True):
    """What a report says of one recipient. ``action``: failed, delayed, delivered, relayed or expanded.

    ``status`` is the enhanced code, ``reply`` the remote host's words with a code in front of them where
    one is known, ``mta`` the host that said it. ``final`` is the address where it failed, where that is
    another: a forward's.
    """

    address: str
    action: str
    status: str = ""
    reply: str = ""
    mta: str = ""
    final: str = ""


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
        subject=unworded(headers["subject"])[:200],
        sender=arf.mailbox(headers["from"]),
        message_id=(message_id or headers["in-reply-to"])[:300],
        feedback_id=feedback_id[:300],
        complaint=complaint,
    )


def _kind(headers: Fields, found: list[Part]) -> tuple[Kind, list[Recipient], arf.Complaint | None]:
    for part in found:
        if part.kind == "message/feedback-report":
            return "arf", [], arf.parse(part.text, _returned(found))
    if any(part.kind in _MESSAGES and b"X-HmXmrOriginalRecipient" in part.body[:20_000] for part in found):
        return "arf", [], arf.parse("", _returned(found))  # Microsoft's JMRP: only the mail that it is about
    report = headers["content-type"].lower().startswith("multipart/report")
    said = _of_status(headers, found, report)
    if said and all(who.address and len(who.reply) > 12 for who in said):
        return "dsn", said, None
    text = text_of(found)
    if not said and not bounces.is_bounce(headers, text, report and _returns_something(found)):
        return _answer(headers, found, text), [], None
    spelt = bounces.recipients(headers, text, _meant(found))
    if said:
        return "dsn", [_completed(who, spelt, len(said)) for who in said], None
    if not spelt:
        return _answer(headers, found, text), [], None
    delayed = bounces.is_delayed(unworded(headers["subject"]), bounces.before_original(text))
    action = "delayed" if delayed else "failed"
    return "dsn", [Recipient(who.address, action, who.status, who.reply) for who in spelt], None


def _completed(who: Recipient, spelt: list[bounces.Found], many: int) -> Recipient:
    """What the report's own words add where its fields say little."""
    same = [one for one in spelt if one.address.lower() in (who.address.lower(), who.final.lower())]
    near = same or (spelt if many == 1 else [])
    if not near:
        return who
    one = near[0]
    words = one.reply if len(who.reply) <= 12 and one.reply else who.reply
    if who.status and words is one.reply and not _CODE.search(words) and not _HAS_CODE.match(words):
        words = f"{who.status} {words}"
    return msgspec.structs.replace(
        who, address=who.address or one.address, status=who.status or one.status, reply=words[:LONGEST_REPLY]
    )


def _of_status(headers: Fields, found: list[Part], report: bool) -> list[Recipient]:
    """The recipients of the machine-readable parts, each once."""
    status = [part for part in found if part.kind in _STATUS_KINDS]
    if status and not report and not _sent_by_machine(headers):
        status = []  # somebody attached a report to a mail of their own
    if not status and (report or _sent_by_machine(headers)):
        status = [part for part in found if _is_status(part)]
        if not status:  # an appliance put the report into a mail of its own
            inner = [one for part in found if part.kind in _MESSAGES for one in parts(part.body.lstrip())[1]]
            status = [part for part in inner if part.kind in _STATUS_KINDS]
    seen: dict[tuple[str, str], Recipient] = {}
    for part in status:
        for who in recipients_of(part.text):
            key = (who.address.lower(), who.action)
            if key not in seen or len(seen[key].reply) < len(who.reply):
                seen[key] = who
    return list(seen.values())


def _sent_by_machine(headers: Fields) -> bool:
    return bounces.is_bounce(headers, "", False)


_STATUS_KINDS = ("message/delivery-status", "message/global-delivery-status")
_MESSAGES = ("message/rfc822", "message/global")
_STATUS_FIELDS = re.compile(r"^(?:final|original)-recipient\s*:", re.IGNORECASE | re.MULTILINE)
_ACTION_FIELD = re.compile(r"^action\s*:", re.IGNORECASE | re.MULTILINE)


def _is_status(part: Part) -> bool:
    # Some gateways label the report text/plain or application/octet-stream.
    return (
        not part.kind.startswith("message/")
        and bool(_STATUS_FIELDS.search(part.text))
        and _ACTION_FIELD.search(part.text) is not None
    )


def _returns_something(found: list[Part]) -> bool:
    """A report is about a delivery unless it says that it is about a disposition."""
    return not any(part.kind == "message/disposition-notification" for part in found)


def text_of(found: list[Part]) -> str:
    """The text of a mail: its plain parts, else its pages."""
    text = "\n".join(part.text for part in found[:12] if part.kind in ("text/plain", "text", "text/x-plain"))
    if text.strip():
        return text
    pages = [page_text(part.text) for part in found[:12] if part.kind == "text/html"]
    return "\n".join(pages)


def _meant(found: list[Part]) -> list[str]:
    """Whom the returned mail was for, as its header says."""
    header = _returned(found)
    written = header["to"] or header["x-original-to"] or header["delivered-to"]
    return arf.mailboxes(written)


_ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
_CODE = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")


def recipients_of(text: str) -> list[Recipient]:
    """The per-recipient groups of a delivery-status (RFC 3464 section 2.3)."""
    found = []
    for group in re.split(r"\n[ \t]*\n", text.strip())[: MOST_RECIPIENTS * 2]:
        given = fields(group)
        final = _typed(given["final-recipient"]) or _typed(given["x-actual-recipient"])
        address = _typed(given["original-recipient"])
        if "@" not in address:
            address = final if "@" in final else (_typed(given["x-actual-recipient"]) or final or address)
        status = match.group(1) if (match := _CODE.search(given["status"])) else ""
        action = _action(given["action"])
        diagnostic = given["diagnostic-code"]
        if not diagnostic and not status:  # a basic code and words, where an enhanced one belongs
            diagnostic = given["status"]
        if not (address or action in _ACTIONS) or not (action or status or diagnostic):
            continue
        if action not in _ACTIONS:
            action = {"4": "delayed", "2": "delivered"}.get(
                status[:1], "failed" if status or diagnostic else "delivered"
            )
        reply = _reply(diagnostic, status)
        mta = given["remote-mta"].rpartition(";")[2].strip()[:255]
        other = final if final.lower() != address.lower() else ""
        found.append(Recipient(address, action, status, reply, mta, other))
    return found


def _action(value: str) -> str:
    """The action as RFC 3464 spells it: some say "failure" or "delay"."""
    said = value.split(" ")[0].strip(";,.").lower()
    if said.startswith(("fail", "undeliver")):
        return "failed"
    return "delayed" if said.startswith("delay") else said


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
    text = (text if semicolon and len(kind) < 20 else diagnostic).replace("\t", " ").strip()[:LONGEST_REPLY]
    if not status or _HAS_CODE.match(text) or _CODE.search(text[:200]):
        return text or status
    return f"{status} {text}".strip()


def _returned(found: list[Part]) -> Fields:
    """The header of the mail that the report is about."""
    for part in found:
        if part.kind in _MESSAGES:
            raw = part.body.lstrip()
            if part.headers["content-transfer-encoding"].strip().lower() in ("base64", "quoted-printable"):
                raw = decoded(raw, part.headers["content-transfer-encoding"]).lstrip()
            return split(raw)[0]
        if part.kind in (
            "text/rfc822-headers",
            "message/rfc822-headers",
            "message/global-headers",
            "text/rfc822",
        ):
            return fields(part.text)
    for part in found:
        if part.kind == "text/plain" and (at := part.text.lower().rfind("\nmessage-id:")) >= 0:
            # A paragraph of headers below "this is a copy of the message".
            start = part.text.rfind("\n\n", 0, at) + 1
            return fields(part.text[start : at + 5000].lstrip("\n").partition("\n\n")[0])
    return Fields()
