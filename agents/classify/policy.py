"""What an outcome or a reader's act means, as an event; for what comes back by mail see ``returns``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from agents.classify.floods import Caps
from agents.classify.machines import is_machine
from schemas.engagement import Engagement
from schemas.event import MailEvent
from schemas.identity import event_id
from schemas.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of classify. Times in seconds."""

    remembered: float = 35 * 86400.0
    """How long a delivered mail is remembered: an unsubscribe by mail must still find its recipient."""
    at_once: float = 1.0
    """An open or click this soon after the delivery is a machine's."""
    bounce_age: float = 14 * 86400.0
    """A bounce this long after the delivery is not believed: mail systems give up within a week."""
    caps: Caps = field(default_factory=Caps)
    """Bounces by mail an hour that still count."""


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Whose mail an id is, as remembered when it was delivered (``delivered``: Unix seconds, 0 = unknown)."""

    to: str
    tenant: str = "default"
    campaign: str = ""
    stream: str = "marketing"
    origin: str = ""
    provider: str = ""
    source: str = ""
    dkim: str = ""
    delivered: float = 0.0
    site: str = ""
    """The MX site, where the provider has no name."""


def owner_of(outcome: Outcome) -> Owner:
    """What is remembered of a delivered mail."""
    return Owner(
        outcome.to, outcome.tenant, outcome.campaign, outcome.stream, outcome.origin,
        outcome.provider, outcome.source, outcome.dkim, outcome.time, outcome.site,
    )  # fmt: skip


def of_outcome(outcome: Outcome) -> MailEvent | None:
    """The event of an attempt's outcome. An intent says nothing yet."""
    if outcome.state == "intent":
        return None
    return MailEvent(
        id=event_id(outcome.id, outcome.state, str(outcome.attempt)),
        kind=outcome.state,
        mail=outcome.id,
        time=outcome.time,
        tenant=outcome.tenant,
        campaign=outcome.campaign,
        stream=outcome.stream,
        to=outcome.to,
        origin=outcome.origin,
        attempt=outcome.attempt,
        reason=outcome.reason,
        reply=outcome.reply,
        klass=outcome.klass,
        scope=outcome.scope,
        action=outcome.action,
        rule=outcome.rule,
        provider=outcome.provider,
        source=outcome.source,
        dkim=outcome.dkim,
        terminal=outcome.terminal,
        security=outcome.security,
    )


def _from(act: Engagement) -> str:
    """Part of the proof of a consent: whose connection asked, or confirmed."""
    if not act.address or not (act.asked or act.kind == "subscription_requested"):
        return ""
    return f"{'confirmed' if act.asked else 'asked for'} from {act.address}"


def of_engagement(act: Engagement, owner: Owner | None, settings: Settings) -> MailEvent:
    """The event of what a reader, or their machine, did."""
    delivered = owner.delivered if owner else 0.0
    soon = bool(delivered) and act.time - delivered < settings.at_once
    causes: tuple[str, ...] = (f"{act.time:.3f}", act.url)
    if act.kind == "subscription_requested":  # there is no mail yet that would tell one from another
        causes = (act.tenant, act.stream, act.to, *causes)
    elif act.asked:  # the same confirmation, however often the link is pressed
        causes = ("confirmed",)
    return MailEvent(
        id=event_id(act.mail, act.kind, *causes),
        kind=act.kind,
        mail=act.mail,
        time=act.time,
        tenant=act.tenant,
        campaign=act.campaign,
        stream=act.stream,
        to=act.to or (owner.to if owner else ""),
        origin=act.origin or (owner.origin if owner else ""),
        reason="one_click" if act.one_click else "",
        action="unsubscribe" if act.kind == "unsubscribed" else "none",
        provider=act.provider or (owner.provider if owner else ""),
        source=owner.source if owner else "",
        dkim=act.dkim or (owner.dkim if owner else ""),
        url=act.url,
        machine=act.kind in ("opened", "clicked") and (soon or is_machine(act.agent, act.address)),
        wording=act.wording,
        asked=act.asked,
        tracking=act.tracking,
        detail=_from(act),
    )
