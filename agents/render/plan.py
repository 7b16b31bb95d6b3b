"""What all mails of a campaign share, worked out once: its constant header block and compiled templates."""

from __future__ import annotations

from hashlib import blake2b

from agents.render.cache import Bounded
from agents.render.headers import HeaderInjection, mailbox_field, parse_mailbox, text_field
from agents.render.policy import Refused, Settings, fixed_headers
from agents.render.template import Source, Template
from schemas.campaign import Campaign
from schemas.codec import Malformed
from schemas.send import Send


class Plan:
    """The shared part of a campaign's mail. Raises Refused (bad_campaign) where its headers cannot be written.

    ``head`` has the campaign's Reply-To, ``unanswered`` none: for a mail that names one of its own.
    """

    __slots__ = ("head", "marketing", "message_id_tail", "unanswered")

    def __init__(self, campaign: Campaign) -> None:
        try:
            name, sender = parse_mailbox(campaign.sender)
            author, answers = mailbox_field("From", name, sender), b""
            if campaign.reply_to:
                answers = mailbox_field("Reply-To", *parse_mailbox(campaign.reply_to))
            rest = b"".join([text_field(*header) for header in fixed_headers(campaign)])
        except Malformed as error:
            raise Refused("rejected", "bad_campaign", f"from or reply_to: {error.detail}") from None
        except HeaderInjection as error:
            raise Refused("rejected", "bad_campaign", str(error)) from None
        self.marketing = campaign.stream == "marketing"
        self.unanswered = b"".join([author, rest, b"MIME-Version: 1.0\r\n"])
        self.head = b"".join([author, answers, rest, b"MIME-Version: 1.0\r\n"])
        mark = blake2b(campaign.key, digest_size=4).hexdigest()
        self.message_id_tail = f".{mark}@{sender.rpartition('@')[2]}>\r\n".encode()


class Plans:
    """Plans by campaign object and templates by content, bounded in bytes. A refusal is remembered too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plans: dict[str, tuple[Campaign, Plan | Refused]] = {}
        self._templates: Bounded[Template | Refused] = Bounded(settings.templates)

    def of(self, key: str, campaign: Campaign, send: Send) -> tuple[Plan, Template]:
        """The plan of ``campaign`` and the template of ``send``. Raises Refused.

        The campaigns change under us: another object under the same key is another plan.
        """
        row = self._plans.get(key)
        if row is None or row[0] is not campaign:
            row = self._plans[key] = (campaign, _plan(campaign))
            if len(self._plans) > 10_000:
                del self._plans[next(iter(self._plans))]
        plan = row[1]
        if isinstance(plan, Refused):
            raise Refused(plan.outcome, plan.reason, plan.detail)
        content = send.content or campaign
        source = Source(content.subject, content.html, content.text)
        found = self._templates.get((campaign.tenant, source))
        if found is None:
            found = _template(source, self._settings.fuel)
            weight = found.weight if isinstance(found, Template) else 1000 + sum(map(len, source))
            self._templates.put((campaign.tenant, source), found, weight)
        if isinstance(found, Refused):
            raise Refused(found.outcome, found.reason, found.detail)
        return plan, found


def _plan(campaign: Campaign) -> Plan | Refused:
    try:
        return Plan(campaign)
    except Refused as refused:
        return refused


def _template(source: Source, fuel: int) -> Template | Refused:
    if not source.html.strip() and not source.text.strip():
        return Refused("rejected", "bad_campaign", "there is neither html nor text: nothing to send")
    try:
        return Template(source, fuel)
    except Refused as refused:
        return refused
