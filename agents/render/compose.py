"""One mail: from a plan, a template and a send to bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from typing import NamedTuple

from minijinja import safe

from agents.render.headers import mailbox_field, parse_mailbox, text_field
from agents.render.links import add_pixel, rewrite
from agents.render.mime import Entity, file_entity, multipart, text_entity
from agents.render.plan import Plan
from agents.render.policy import Refused, Settings
from agents.render.template import Template
from schemas.address import normalise
from schemas.codec import Malformed
from schemas.send import Attachment, Send
from schemas.token import Tokens

_UNESCAPED = re.compile(r"[\w:/.~-]*", re.ASCII)


class Facts(NamedTuple):
    """What the envelope says about one mail. ``to`` is the key (schemas.address), ``consent`` of: o, c."""

    id: str
    tenant: str
    campaign: str
    stream: str
    to: str
    partition: int
    provider: str
    consent: str
    tracking: bool


class Composed(NamedTuple):
    """``message`` is whole and unsigned; ``clipped`` says that Gmail will not show all of it."""

    message: bytes
    clipped: bool


class Composer:
    """``base_url`` is the HTTP edge's, ``return_domain`` the SMTP edge's."""

    def __init__(self, tokens: Tokens, base_url: str, return_domain: str, settings: Settings) -> None:
        self._tokens = tokens
        self._base = base_url.rstrip("/")
        self._return_domain = return_domain
        self._settings = settings
        self._date = (-1, b"")

    def compose(
        self, facts: Facts, plan: Plan, template: Template, send: Send, files: Sequence[bytes], now: float
    ) -> Composed:
        """The mail. ``files`` are the base64 lines of the send's attachments, in order.

        Raises Refused (template_error, size), HeaderInjection, and Malformed where ``reply_to`` is no mailbox.
        """
        token = unsubscribe = ""
        if plan.marketing or "o" in facts.consent or "c" in facts.consent or template.unsubscribes:
            f = facts
            token = self._tokens.mail_token(
                f.id, f.tenant, f.campaign, f.stream, f.to, f.partition, f.provider
            )
            unsubscribe = self._tokens.unsubscribe_url(self._base, token)
        context = dict(send.variables)
        if send.name or "name" not in context:
            context["name"] = send.name
        context["to"] = facts.to
        # Nothing in it needs escaping; escaped slashes would only be ugly.
        context["unsubscribe_url"] = safe(unsubscribe) if _UNESCAPED.fullmatch(unsubscribe) else unsubscribe
        subject, html, text = template.render(context)
        if html and facts.tracking:
            html = self._tracked(html, facts.consent, token)
        id = facts.id.encode()
        body = _body(id, text, html, send.attachments, files)
        pieces = [
            _answered(plan, send.reply_to) if send.reply_to else plan.head,
            mailbox_field("To", send.name, _as_written(send.to, facts.to)),
            text_field("Subject", subject),
            self._date_field(now),
            b"Message-ID: <",
            id,
            plan.message_id_tail,
        ]
        if plan.marketing:
            mailto = self._tokens.unsubscribe_address(facts.id, facts.partition, self._return_domain)
            pieces.append(f"List-Unsubscribe: <{unsubscribe}>,\r\n <mailto:{mailto}>\r\n".encode())
        message = b"".join([*pieces, body.head, b"\r\n", body.body])
        limit = self._settings.rendered_with_attachments if files else self._settings.rendered
        if len(message) > limit:
            raise Refused(
                "rejected", "size", f"the mail has {len(message)} bytes, at most {limit} are allowed"
            )
        return Composed(message, len(html) > self._settings.clipped)

    def return_path(self, facts: Facts) -> bytes:
        """The VERP envelope sender."""
        return self._tokens.verp(facts.id, facts.partition, self._return_domain).encode()

    def _tracked(self, html: str, consent: str, token: str) -> str:
        if "c" in consent:
            html = rewrite(html, self._base, lambda url: self._tokens.click_url(self._base, token, url))
        if "o" in consent:
            html = add_pixel(html, self._tokens.open_url(self._base, token))
        return html

    def _date_field(self, now: float) -> bytes:
        second = int(now)
        if self._date[0] != second:
            # formatdate says -0000, which means "the zone is unknown" (RFC 5322 section 3.3).
            self._date = (second, f"Date: {formatdate(second)[:-5]}+0000\r\n".encode())
        return self._date[1]


def _answered(plan: Plan, reply_to: str) -> bytes:
    return plan.unanswered + mailbox_field("Reply-To", *parse_mailbox(reply_to))


def _as_written(address: str, key: str) -> str:
    """The recipient's address as the producer wrote it, where that is who the mail is for."""
    try:
        found = normalise(address)
    except Malformed:
        return key
    return found.rcpt if found.key == key else key


def _body(id: bytes, text: str, html: str, parts: Sequence[Attachment], files: Sequence[bytes]) -> Entity:
    """mixed(alternative(text, related(html, images), calendar), attachments), without what is not there."""
    alternatives: list[Entity] = []
    images: list[Entity] = []
    rest: list[Entity] = []
    for part, lines in zip(parts, files, strict=True):
        kind = part.content_type.lower()
        if part.disposition == "inline" and kind.startswith("text/calendar"):
            # Mail programs show an invitation only where it is an alternative (RFC 6047 section 2.4).
            alternatives.append(file_entity(part.content_type, "", "", "", lines))
            continue
        entity = file_entity(part.content_type, part.filename, part.disposition, part.content_id, lines)
        (images if html and part.disposition == "inline" and part.content_id else rest).append(entity)
    shown = [text_entity(b"plain", text)] if text else []
    if html:
        shown.append(multipart(b"related", id, 2, [text_entity(b"html", html), *images]))
    return multipart(b"mixed", id, 0, [multipart(b"alternative", id, 1, [*shown, *alternatives]), *rest])
