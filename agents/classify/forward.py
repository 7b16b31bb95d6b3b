"""What people answer goes on to whoever reads it: a send of our own to the operator's address, once an answer. Pure.

Nothing of the answer is a template, a header of its own or more than plain text: its words are a variable, its
subject is cut and cleaned, and what it came as is attached in base64 where it is small enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from agents import Out
from schemas.address import normalise
from schemas.campaign import Campaign
from schemas.codec import Malformed, encode
from schemas.event import MailEvent
from schemas.send import Attachment, Send

CAMPAIGN = "forward.replies"
"""The id of the campaign by which answers are forwarded, one a tenant; it is published with the first of them."""
ANY = "*"
"""Stands for every tenant that is not named."""
_TENANT = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_CAMPAIGN = {"type": b"campaign", "version": b"1"}
_SEND = {"type": b"send", "version": b"1"}
_OURS = re.compile(r"(/[uoc]/|\b[bu]-)[0-9A-Za-z_-]{40,}")
_AGAIN = re.compile(r"(?:(?:re|aw|sv|antw|rv|res|ref|vs)\s{0,3}(?:\[\d{1,3}\])?\s{0,3}:\s{0,3}){1,10}", re.I)
HOUR = 3600.0
MOST = 50_000
"""Senders that are counted in an hour; beyond it the count begins anew."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of it is forwarded."""

    hourly: int = 10
    """Answers an hour of one recipient of ours: people write few, machines that we take for people many."""
    text: int = 50_000
    """Characters of what was written."""
    attached: int = 200_000
    """Bytes of an answer that is attached as it came: a send has at most 256 KB within it."""


class Answer(NamedTuple):
    """What somebody wrote: the From address, the subject, the words, and all of it as it came."""

    sender: str
    subject: str
    text: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Routes:
    """tenant (or ``*``) -> where its answers go, and from which address."""

    to: Mapping[str, str]
    sender: Mapping[str, str]

    def of(self, tenant: str) -> tuple[str, str] | None:
        """(to, from) for a tenant's answers, None where they go nowhere."""
        to = self.to.get(tenant) or self.to.get(ANY)
        sender = self.sender.get(tenant) or self.sender.get(ANY)
        return (to, sender) if to and sender else None


def routes_of(
    to: Sequence[str], sender: Sequence[str], return_domain: str, taken: Collection[str] = ()
) -> Routes:
    """The routes in ``TENANT=ADDRESS`` pairs. Raises ValueError with every fault: mail to ``return_domain``, or to an
    address in ``taken``, would come back here, and what is forwarded needs an address that it comes from."""
    faults: list[str] = []
    found = Routes(_pairs(to, faults), _pairs(sender, faults))
    for tenant, address in found.to.items():
        if address.rpartition("@")[2] == return_domain.lower() or address in (one.lower() for one in taken):
            faults.append(f"{tenant}={address} is an address of our own SMTP edge: it would come back")
        if found.of(tenant) is None:
            faults.append(f"{tenant} needs a From: {tenant}=ADDRESS in MAILSLUICE_CLASSIFY_FORWARD_FROM")
    if faults:
        raise ValueError(", ".join(faults))
    return found


def _pairs(pairs: Sequence[str], faults: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        tenant, _, address = pair.partition("=")
        tenant = tenant.strip()
        if tenant != ANY and not _TENANT.fullmatch(tenant):
            faults.append(f"{pair[:60]!r} is not TENANT=ADDRESS, with * for every other tenant")
        elif tenant in found:
            faults.append(f"{tenant} is named twice")
        else:
            try:
                found[tenant] = normalise(address.strip()).key
            except Malformed as error:
                faults.append(f"{pair[:60]!r}: {error.detail}")
    return found


class Forwards:
    """``campaigns``: "tenant/id" -> campaign, live; who paused or cancelled ours has done so.

    Counts are kept in memory, by the hour in which an answer came, and by event: the same answer again counts once
    and makes the same send, which gate one drops.
    """

    def __init__(
        self, routes: Routes, campaigns: Mapping[str, Campaign], limits: Limits | None = None
    ) -> None:
        self._routes = routes
        self._campaigns = campaigns
        self._limits = limits or Limits()
        self._hour = 0
        self._seen: dict[tuple[str, str], set[str]] = {}

    def take(self, event: MailEvent, answer: Callable[[], Answer]) -> tuple[MailEvent, list[Out]]:
        """The event of an answer by somebody whom a token named, and what forwards it.

        An answer to what we forwarded, or by whom we would forward it to, goes nowhere: that would be a loop.
        """
        route = self._routes.of(event.tenant)
        if route is None or not event.to or event.campaign == CAMPAIGN or event.to == route[0]:
            return event, []
        if not self._within(event):
            detail = f"not forwarded: more than {self._limits.hourly} answers in an hour by one recipient"
            return replace(event, detail=detail), []
        to, sender = route
        send = _send(event, answer(), to, self._limits)
        outs = [Out("mail-sends-now", encode(send), _SEND, to.encode())]
        old = self._campaigns.get(f"{event.tenant}/{CAMPAIGN}")
        new = replace(_campaign(event.tenant, sender), state=old.state if old else "active")
        if new != old:
            outs.insert(0, Out("mail-campaigns", encode(new), _CAMPAIGN, new.key, 0))
        return event, outs

    def _within(self, event: MailEvent) -> bool:
        hour = int(event.time // HOUR)
        if hour > self._hour or len(self._seen) > MOST:
            self._hour = max(hour, self._hour)
            self._seen.clear()
        seen = self._seen.setdefault((event.tenant, event.to), set())
        if len(seen) < self._limits.hourly:
            seen.add(event.id)
        return event.id in seen


def _campaign(tenant: str, sender: str) -> Campaign:
    return Campaign(
        id=CAMPAIGN,
        tenant=tenant,
        stream="transactional",
        sender=sender,
        subject="{{ subject }}",
        text="{{ about }}\n\n{{ said }}\n",
        tracking=False,
    )


def _send(event: MailEvent, answer: Answer, to: str, limits: Limits) -> Send:
    who = _mailbox(answer.sender) or event.to
    size, text = len(answer.raw), _clean(answer.text, "\n\t")
    about = [
        f"{who} answered the mail of campaign {event.campaign or '(unknown)'} to {event.to}.",
        f"Your reply to this goes to {who}.",
    ]
    if event.kind == "unsubscribed":
        about.append("They ask for no more mail, and have been unsubscribed.")
    attached: tuple[Attachment, ...] = ()
    if size <= limits.attached:
        about.append("Their mail is attached as it came.")
        attached = (Attachment(filename="reply.eml", content_type="text/plain", data=answer.raw),)
    else:
        about.append(f"Their mail has {size} bytes: too many to be attached; its attachments are left out.")
    if len(text) > limits.text:
        about.append(f"Of their words, these are the first {limits.text} characters.")
    # A token in what they quote would count what is done with this copy as done by them.
    said = _OURS.sub(r"\1...", text)[: limits.text].strip()
    return Send(
        campaign=CAMPAIGN,
        tenant=event.tenant,
        key=f"forward|{event.id}",
        to=to,
        reply_to=who,
        variables={
            "subject": subject_of(answer.subject),
            "about": "\n".join(about),
            "said": said or "(no text)",
        },
        attachments=attached,
    )


def subject_of(subject: str) -> str:
    """The subject of the copy: one ``Re:``, nothing that cannot be seen, at most 150 characters of theirs."""
    plain = " ".join(_clean(subject[:1000]).split())
    again = _AGAIN.match(plain)
    return f"Re: {plain[again.end() if again else 0 :][:150]}".strip()


def _mailbox(address: str) -> str:
    try:
        return normalise(address).rcpt
    except Malformed:
        return ""


def _clean(text: str, kept: str = "") -> str:
    """Without what cannot be seen: controls, marks that turn the direction of what follows, halves of characters."""
    return "".join([c if c.isprintable() or c in kept else " " for c in text])
