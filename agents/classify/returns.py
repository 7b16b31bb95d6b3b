"""What a mail that came back means, as an event. Pure.

Only what is verified counts against an address: ``owner`` is the row of the mail that a token named, or
None, and then nothing that follows from the report can suppress anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec.structs import replace

from agents.classify.dsn import Recipient, Report
from agents.classify.policy import Owner
from schemas.event import MailEvent
from schemas.identity import event_id
from schemas.reply import Action, Meaning

Classifier = Callable[[str, str, str], Meaning]
"""(reply, mx, provider) -> what it means."""


def of_report(
    report: Report, mail: str, owner: Owner | None, time: float, meaning: Classifier, oldest: float = 0.0
) -> MailEvent | None:
    """The event of a mail that came back about ``mail``; None where it says nothing.

    ``owner`` None: no token names the mail, so it is told but counts against nobody; so is a bounce more than
    ``oldest`` seconds after the delivery (0: of any age), or an hour and more before it.
    """
    base = _about(mail, owner, time)
    match report.kind:
        case "dsn":
            event = _of_dsn(report, base, owner, meaning)
            return event and _of_its_time(event, owner, oldest)
        case "arf" if report.complaint and report.complaint.counts:
            return _checked(
                replace(base, kind="complained", id=event_id(mail, "complained", "" if owner else f"{time:.3f}"), action="complaint",
                        reason=report.complaint.feedback, klass="complaint"), owner
            )  # fmt: skip
        case "arf" if report.complaint and report.complaint.leaves:
            return _checked(
                replace(base, kind="unsubscribed", id=event_id(mail, "unsubscribed", "arf" if owner else f"{time:.3f}"),
                        action="unsubscribe", reason=report.complaint.feedback), owner
            )  # fmt: skip
        case "unsubscribe" if owner:
            return replace(base, kind="unsubscribed", reason="mailto", action="unsubscribe",
                           id=event_id(mail, "unsubscribed", f"{time:.3f}"))  # fmt: skip
        case "reply" if owner:
            return replace(base, kind="replied", id=event_id(mail, "replied", f"{time:.3f}"), action="none")
    return None


def _about(mail: str, owner: Owner | None, time: float) -> MailEvent:
    known = owner or Owner(to="")
    return MailEvent(
        id="", kind="replied", mail=mail, time=time, tenant=known.tenant, campaign=known.campaign,
        stream=known.stream, to=known.to, origin=known.origin, provider=known.provider,
        source=known.source, dkim=known.dkim,
    )  # fmt: skip


def _of_dsn(report: Report, base: MailEvent, owner: Owner | None, meaning: Classifier) -> MailEvent | None:
    found = _concerned(report.recipients, base.to)
    if found is None:
        return None
    said = meaning_of(found, meaning, base.provider)
    failed = found.action == "failed"
    event = replace(
        base,
        kind="bounced" if failed else "deferred",
        # One bounce per mail, however often it is reported; strangers' reports each stand for themselves.
        id=event_id(
            base.mail, "bounced" if failed else "deferred", "dsn", "" if owner else f"{base.time:.3f}"
        ),
        reason="late_dsn" if failed else "late_delay",
        reply=found.reply[:2000],
        klass=said.klass,
        scope=said.scope,
        rule=said.rule,
        action=said.action,
        terminal=failed,
    )
    return _checked(event, owner)


def _of_its_time(event: MailEvent, owner: Owner | None, oldest: float) -> MailEvent:
    if owner is None or not owner.delivered or not oldest:
        return event
    age = event.time - owner.delivered
    if -3600.0 <= age <= oldest:
        return event
    return replace(
        event,
        to="",
        action="none",
        detail=f"{event.reason}: {age / 86400.0:.1f} days after the delivery: no mail system bounces then, so it counts against nobody",
        reason="implausible",
        terminal=False,
    )


def _concerned(recipients: tuple[Recipient, ...], to: str) -> Recipient | None:
    """The failed, else the delayed recipient, our own first: a mail of ours has one, the rest are forwards."""
    for action in ("failed", "delayed"):
        those = [r for r in recipients if r.action == action]
        mine = [r for r in those if r.address.lower() == to]
        if those:
            return (mine or those)[0]
    return None


_TELLING = ("4.4.1", "4.4.2", "4.4.7", "5.4.7", "4.2.2", "5.2.2")
"""Their patience ended, or the mailbox is full: the reporter's own finding, which suppresses nobody at once."""
_IN_REPLY = re.compile(
    r"\s{0,3}\(in reply to [^()]{1,60}\)", re.IGNORECASE
)  # Postfix's words, not the host's
_CODE = re.compile(r"(?<![\d.])5\d\d[ -]")


def meaning_of(who: Recipient, meaning: Classifier, provider: str = "") -> Meaning:
    """What a report says of a recipient, the action included.

    Where no host's code is given, the words decide, and as those of a final refusal: no report of a failure
    says "try again". Where they mean nothing either, the status decides that goes with them.
    """
    failed = who.action == "failed"
    who = replace(who, reply=_IN_REPLY.sub("", who.reply))
    if failed and who.status in _TELLING and not _CODE.search(who.reply):
        said = meaning(who.status, who.mta, provider)  # no host refused it: the words only explain the status
        return replace(said, action=action_of(said, failed))
    said = meaning(who.reply or who.status, who.mta, provider)
    if failed and not said.code and said.permanence == "unknown" and who.reply:
        final = meaning(f"554 {who.reply}", who.mta, provider)
        if final.klass == said.klass and final.action == "suppress":
            said = final
    if said.klass == "unclassified" and who.status:
        said = meaning(f"{who.status} {who.reply}", who.mta, provider)
    return replace(said, action=action_of(said, failed))


def action_of(said: Meaning, failed: bool) -> Action:
    """What to do about a recipient of a report whose reply means ``said``; not ``failed``: delayed."""
    if not failed:
        return "retry"
    if said.action == "retry":  # they tried for days: it counts, but no single one of these suppresses
        return "soft" if said.scope in ("address", "domain") else "hold"
    if said.action == "hold" and said.klass == "network" and said.scope == "domain":
        return "soft"  # "550 message expired": nothing was refused
    return "hold" if said.action in ("slow", "none") else said.action


def _checked(event: MailEvent, owner: Owner | None) -> MailEvent:
    """Without a verified token: an event for information, about nobody."""
    if owner is not None:
        return event
    return replace(
        event,
        to="",
        action="none",
        detail=f"{event.reason}: no token of ours names the mail, so it counts against nobody",
        reason="unverified",
        terminal=False,
    )
