"""Gate two: takes mail off its lane, sends it when it may, and journals what the provider said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, cast

import msgspec

from agents import Out, Reject, Stage, State, States, Ticket, View
from agents.deliver.allowance import Allowance
from agents.deliver.attempt import Attempt
from agents.deliver.choose import Steps, share
from agents.deliver.connect import ConnectFailed
from agents.deliver.feed import IN_THE_WAY, OFTEN_ENOUGH, Feed, Feeds
from agents.deliver.holds import Holds
from agents.deliver.job import Mail
from agents.deliver.journal import Journal
from agents.deliver.policy import Settings, come_back, gate, retry_delay, says_never, state_of
from agents.deliver.pool import Pool
from agents.deliver.reports import Reports
from agents.deliver.requirement import Requirement
from agents.deliver.row import read_row
from agents.deliver.smtp import Session
from agents.deliver.sources import Sources
from schemas.campaign import Campaign
from schemas.codec import Malformed, parse
from schemas.erasure import rows_of
from schemas.hosts import Hosts, MailHosts
from schemas.ladder import Rung, onto_ladder
from schemas.lanes import lane_names, lane_topic, provider_of, site_of
from schemas.outcome import Outcome
from schemas.outcome import State as OutcomeState
from schemas.reply import Meaning
from schemas.suppression import Suppression

STAGE = Stage(
    name="deliver",
    question="What did the provider say?",
    consumes=tuple(lane_topic(lane) for lane in lane_names()),
    emits=(
        "mail-outcomes",
        "mail-lane-reports",
        "mail-wait-1m",
        "mail-wait-10m",
        "mail-wait-1h",
        "mail-wait-6h",
    ),
    state="mail-outcomes",
    prompt=True,
    slice=100,
    window=1000,
)


class Policies(Protocol):
    """What domains require of TLS: see ``agents.deliver.requirement``. Neither method raises."""

    def cached(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...] | None:
        """What is known at this moment, or None: then ask ``look_up``."""

    def look_up(self, domain: str, hosts: MailHosts) -> Awaitable[tuple[Requirement, ...]]:
        """For each of the hosts, or empty where all are opportunistic; within seconds."""


_INSECURE = Meaning("tls", "domain", "transient", "retry", "local-tls")
"""TLS that the domain or we require, and that its hosts do not give: waited for, never sent in clear."""


LAST = 500
"""Characters of the last reply that go with a mail through its waiting."""


class FreshView(View, Protocol):
    """A view that knows whether it is read to its end."""

    def fresh(self, seconds: float) -> bool:
        """Whether it was confirmed read to its end within the last ``seconds``."""


class Deliver:
    """All of deliver in one process. See the package for what it promises."""

    def __init__(
        self,
        settings: Settings,
        *,
        rows: States,
        suppressions: Callable[[int], FreshView],
        names: Callable[[str], tuple[str, ...]] = lambda address: (),
        campaigns: Mapping[str, Campaign],
        hosts: Hosts,
        policies: Policies,
        pool: Pool,
        allowance: Allowance,
        sources: Sources,
        rungs: Sequence[Rung],
        meaning: Callable[[str, str, str, str], Meaning],
        fresh: Callable[[int], bool],
        epoch: Callable[[], int],
        publish: Callable[..., None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        random: Callable[[], float],
        observe: Callable[[Outcome, float, int], None] = lambda _outcome, _age, _repeat: None,
        stepped: Callable[[str], None] = lambda _why: None,
        holds: Holds | None = None,
    ) -> None:
        """``meaning(reply, mx, phase, provider)``. ``fresh(epoch)``: the assignment is still ours.
        ``publish`` writes what hangs on no ticket. ``observe(outcome, age in seconds, 1 for a repeat)``.
        ``stepped(why)``: a mail stepped aside onto the ladder, see ``policy.ASIDE``.
        ``holds`` is kept up to date by somebody, like ``campaigns``."""
        self._holds = holds or Holds()
        self._settings = settings
        self._suppressions, self._campaigns, self._hosts = suppressions, campaigns, hosts
        self._names = names
        self._policies = policies
        self._pool, self._allowance, self._rungs = pool, allowance, rungs
        self._meaning, self._fresh, self._epoch = meaning, fresh, epoch
        self._clock, self._monotonic, self._random = clock, monotonic, random
        self._observe, self._stepped = observe, stepped
        self._rows = rows
        self._state: dict[int, State] = {}
        self.journal = Journal(publish, monotonic)
        self.reports = Reports(
            allowance, lambda: [name or "default" for name in sources.names], publish, clock, monotonic
        )
        self._mails: dict[str, Mail] = {}
        """Every mail that is reserved: by id, from its record until its outcome is acknowledged."""
        self._closing: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.feeds = Feeds(
            pool,
            allowance,
            hosts,
            sources,
            clear=self._clear,
            before=self._before,
            intend=self._intend,
            unreachable=self._unreachable,
            crowded=self._crowded,
            clock=clock,
            monotonic=monotonic,
            holds=self._holds,
            weight=self._weight,
            steps=Steps(*(rung.seconds for rung in rungs[:3])),
        )

    # -- ownership

    async def assigned(self, partition: int) -> None:
        """Read the journal's tail before the first mail."""
        self._closing.discard(partition)
        self._state[partition] = await self._rows.open(partition)
        self._allowance.own(len(self._state))

    async def revoked(self, partition: int) -> None:
        """Start nothing more of it; let what is under way end, then give it up; wait for its outcomes."""
        self._closing.add(partition)
        mine = [mail for mail in self._mails.values() if mail.partition == partition]
        for mail in mine:
            if mail.stage == "waiting":
                self._give_back(mail)
        self.feeds.forget_gone()
        end = self._monotonic() + self._settings.settle
        try:
            while self._under_way(partition) and self._monotonic() < end:
                await asyncio.sleep(0.02)
            for mail in self._under_way(partition):
                if mail.session is not None:
                    mail.session.give_up()
            while any(mail.partition == partition for mail in self._mails.values()):
                await asyncio.sleep(0.01)  # the runner bounds this
        finally:  # also when the runner's patience ends: the file must not stay open beside its next owner's
            state = self._state.pop(partition, None)
            self._allowance.own(len(self._state))
            if state is not None:
                await self._rows.close(partition)

    def _under_way(self, partition: int) -> list[Mail]:
        return [m for m in self._mails.values() if m.partition == partition and m.stage == "sending"]

    async def stop(self, grace: float) -> None:
        """After the last revoke: keep connections that wait for the reply to a dot, journal the replies."""
        self.feeds.stop()
        await self._pool.close(grace)

    # -- gather

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Each mail through gate two, then into its feed."""
        state, now = self._state[partition], self._monotonic()
        for ticket in tickets:
            try:
                mail = Mail(ticket, self._epoch(), now)
            except (Reject, Malformed) as error:
                ticket.reject(getattr(error, "reason", "") or getattr(error, "code", "bad"), error.detail)
                continue
            if partition in self._closing:
                ticket.keep()
                continue
            self._take(mail, state)

    def _take(self, mail: Mail, state: State) -> None:
        ticket = mail.ticket
        other = self._mails.get(mail.id)
        if other is not None:
            # What is kept while its lane is in warm-up has its copy come by again and again.
            kept = other.stage == "waiting" and other.ticket_done and not mail.verdict
            # Before the row: an outcome that nobody has acknowledged yet must not cost us this copy.
            if mail.verdict:
                self._overtaken(other, mail)
            self._aside(mail, self._rungs[1 if kept else 0].seconds, reserved=False)
            return
        raw = state.get(mail.id.encode())
        what = gate(mail.attempt, read_row(raw) if raw else None)
        if what == "repeat":
            self._observe(Outcome(id=mail.id, state="unknown", attempt=mail.attempt), 0.0, 1)
            ticket.done()
            return
        ticket.keep()
        self._mails[mail.id] = mail
        mail.on_done, mail.on_late = self._ended, self._late
        mail.on_may_start, mail.on_may_dot = self._may_start, self._may
        if what == "orphan":
            self._end(mail, self._outcome(mail, "unknown", "intent_without_outcome", final=True))
        elif mail.verdict:
            record = ticket.record
            self._end(
                mail,
                self._outcome(mail, mail.verdict, record.text("reason"), detail=record.text("detail")),
            )
        elif mail.expires and mail.expires <= self._clock():
            self._end(mail, self._outcome(mail, "expired", "before_attempt"))
        else:
            self._route(mail)

    def _overtaken(self, waiting: Mail, by: Mail) -> None:
        """A verdict (``queue expire``) finds its mail waiting in our queue: that ends now, not at its turn.

        The verdict itself waits on the shortest rung: should we die before the outcome is acknowledged, it
        is still there."""
        if waiting.stage == "waiting" and by.attempt >= waiting.attempt:
            record = by.ticket.record
            self._end(
                waiting,
                self._outcome(waiting, by.verdict, record.text("reason"), detail=record.text("detail")),
            )

    def _weight(self, mail: Mail) -> float:
        """Priorities 0 to 9 share as 1 to 10 do."""
        campaign = self._campaigns.get(f"{mail.tenant}/{mail.campaign}")
        return 1.0 + (campaign.priority if campaign is not None else 5)

    def _route(self, mail: Mail) -> None:
        hosts = self._hosts.cached(mail.domain)
        if hosts is not None:
            requires = self._policies.cached(mail.domain, hosts) if hosts.hosts else ()
            if requires is not None:
                self._queue(mail, hosts, requires)
                return
        task = asyncio.get_running_loop().create_task(self._look_up(mail))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, mail: Mail) -> None:
        hosts = await self._hosts.mail_hosts(mail.domain)
        requires = await self._policies.look_up(mail.domain, hosts) if hosts.hosts else ()
        if mail.stage == "waiting" and mail.feed is None:
            self._queue(mail, hosts, requires)

    def _queue(self, mail: Mail, hosts: MailHosts, requires: tuple[Requirement, ...]) -> None:
        if hosts.refused:
            reply = "556 5.1.10 null MX" if hosts.refused == "null_mx" else "550 5.1.2 no such domain"
            self._end(mail, self._outcome(mail, "bounced", hosts.refused, reply=reply, phase="dns"))
        elif not hosts.hosts:
            self._defer(mail, "dns", "nobody answered for the domain's mail hosts", "dns")
        else:
            # A TLS report, the only mail without a campaign, gets through to those whose TLS fails (RFC 8460 section 3).
            mail.goes_to(hosts, requires if mail.campaign else ())
            mail.provider = provider_of(hosts.names)
            key = mail.provider or site_of(hosts.names)
            aside = self.feeds.come(mail, key)
            if aside is not None:
                self._aside(mail, aside.due - self._clock(), held=aside.why)
            else:
                self.feeds.put(mail, key)

    # -- decide

    def _clear(self, mail: Mail) -> bool:
        """Whether the guarantee allows a start: ours for certain, few outcomes open, suppressions fresh."""
        settings = self._settings
        return (
            self.journal.open < settings.unacked
            and self.journal.age() <= settings.unacked_age
            and self._fresh(mail.epoch)
            and self._suppressions(mail.partition).fresh(settings.suppressions_age)
        )

    def _may_start(self, mail: Mail) -> bool:
        """Asked before MAIL, and again before a DATA of its own: minutes may lie between them."""
        return mail.partition not in self._closing and self._clear(mail)

    def _may(self, mail: Mail) -> bool:
        return mail.partition not in self._closing and self._fresh(mail.epoch)

    def _before(self, mail: Mail) -> bool:
        """The last look, just before MAIL: expiry, campaign, holds, suppressions. False: the mail has ended."""
        now = self._clock()
        campaign = self._campaigns.get(f"{mail.tenant}/{mail.campaign}")
        tenant = self._holds.tenant(mail.tenant)
        if mail.expires and mail.expires <= now:
            self._end(mail, self._outcome(mail, "expired", "in_lane"))
        elif campaign is not None and campaign.state == "cancelled":
            self._end(mail, self._outcome(mail, "cancelled", "campaign_cancelled"))
        elif tenant == "cancelled" or self._holds.lane(mail) == "cancelled":
            what = "tenant" if tenant == "cancelled" else "lane"
            self._end(mail, self._outcome(mail, "cancelled", f"{what}_cancelled"))
        elif campaign is not None and campaign.state == "paused":
            self._aside(mail, self._rungs[1].seconds, held="campaign")
        elif tenant == "paused":
            self._aside(mail, self._rungs[1].seconds, held="tenant")
        elif mail.rest and campaign is not None and campaign.rest_waits:
            self._aside(mail, self._rungs[1].seconds, held="canary")
        elif away := self._away(mail):
            self._aside(mail, away, why="domain")
        else:
            for _, value in rows_of(self._suppressions(mail.partition), mail.to, self._names):
                row = parse(value, Suppression)
                if row.applies(mail.tenant, mail.stream, now):
                    self._end(mail, self._outcome(mail, "suppressed", row.reason))
                    return False
            return True
        return False

    def _away(self, mail: Mail) -> float:
        """Seconds for which a mail steps aside because its domain takes nothing just now; not all come back at
        once."""
        if mail.feed is None or not mail.feed.domains.troubled:  # nearly always
            return 0.0
        wait = mail.feed.domains.wait(mail.domain, mail.id, self._monotonic())
        return max(self._rungs[0].seconds, wait * (1.0 + 0.5 * self._random())) if wait else 0.0

    def _intend(self, mail: Mail) -> bool:
        """At-most-once: journal that we are about to send; sending follows the acknowledgement.

        Only now that nothing else is missing: after a crash each intent without an outcome is an unknown.
        """
        if not mail.once or mail.intended:
            return False
        mail.stage, mail.intended = "intent", True
        state = self._state.get(mail.partition)
        self.journal.write(mail, state, self._outcome(mail, "intent", ""), lambda: self.feeds.launch(mail))
        return True

    def _ended(self, mail: Mail, attempt: Attempt) -> None:
        session, source = mail.session, mail.source
        self._settle(mail, attempt, session)
        if session is not None:
            self.feeds.freed(session, mail, source)

    def _settle(self, mail: Mail, attempt: Attempt, session: Session | None) -> None:
        closing = mail.partition in self._closing
        # carried 0: closed before its first mail.
        stale = attempt.state == "failed" and attempt.phase == "mail" and attempt.carried != 1
        if attempt.state == "held" or stale:
            # Nothing left us, or the server closed an idle connection: not an attempt.
            if closing or mail.epoch != self._epoch():
                self._give_back(mail)
            elif mail.feed is not None:
                mail.stage = "waiting"
                mail.feed.put_back(mail)
            return
        host = session.facts.host if session else ""
        meaning = self._meaning(attempt.reply, host, attempt.phase, mail.provider)
        if attempt.local or attempt.state in ("failed", "lost"):
            permanence = "permanent" if attempt.local else "transient"
            if attempt.local and meaning.action == "hold":
                # Nobody refused it: what this server cannot take says nothing about us or our rate.
                meaning = _changed_meaning(meaning)
        elif says_never(attempt.reply):
            permanence = "permanent"
        else:
            permanence = meaning.permanence
        state, final = state_of(attempt.state, permanence, mail.once)
        if mail.feed is not None:
            if state == "delivered" or (state == "bounced" and meaning.scope == "address"):
                mail.feed.domains.taken(mail.domain)  # it judges recipients again
            elif state == "deferred" and meaning.scope == "domain" and meaning.klass != "greylist":
                mail.feed.domains.deferred(mail.domain, self._monotonic())
        outcome = self._outcome(
            mail,
            state,
            "",
            reply=attempt.reply,
            phase=attempt.phase,
            meaning=meaning,
            mx=host,
            tls=session.facts.tls if session else "",
            security=session.facts.security if session else "",
            asked=session.facts.asked if session else "",
            opened=session is not None and attempt.carried == 1,
            seconds=attempt.seconds,
            final=final and state == "unknown",
        )
        again = state == "deferred" or (state == "unknown" and not final)
        # The server may answer yet, and its answer is journaled: only then a second one could do harm.
        self._end(mail, outcome, again, self._settings.dot if closing and state == "unknown" else 0.0)

    def _give_back(self, mail: Mail) -> None:
        """Nothing was sent, and nothing may be: its record is done again by the next owner."""
        if mail.intended:
            # Who would take the intent for a mail that was sent: say that it was not.
            self._unsent(mail, "restart", "not sent: the worker stopped")
        else:
            mail.stage = "gone"
            self._mails.pop(mail.id, None)

    def _late(self, mail: Mail, attempt: Attempt) -> None:
        """The real reply after we gave up waiting: the journal prefers it to unknown."""
        meaning = self._meaning(attempt.reply, "", attempt.phase, mail.provider)
        state, _ = state_of(attempt.state, meaning.permanence, mail.once)
        if state in ("delivered", "bounced"):
            self.journal.late(
                mail,
                self._outcome(
                    mail, state, "late_reply", reply=attempt.reply, phase=attempt.phase, meaning=meaning
                ),
            )

    def _unreachable(self, mail: Mail, failed: ConnectFailed) -> None:
        reply = f"{failed.code} {failed.text}" if failed.code else failed.text
        if failed.why == "network":  # where we may not send, now or later
            meaning = self._meaning(reply, failed.host, failed.phase, mail.provider)
            self._end(
                mail,
                self._outcome(
                    mail,
                    "bounced",
                    failed.why,
                    reply=reply,
                    phase=failed.phase,
                    meaning=meaning,
                    mx=failed.host,
                ),
            )
        else:
            # Who refuses us before MAIL has not heard of any recipient: also a 5xx there (a block of our
            # address, a host out of service) ends no mail before its time.
            self._defer(mail, failed.why, reply, failed.phase, failed.host, opened=not failed.cached)

    def _crowded(self, mail: Mail, failed: ConnectFailed, source: str) -> None:
        """One connection too many: no attempt of the mail, but shape must know."""
        reply = f"{failed.code} {failed.text}"
        meaning = self._meaning(reply, failed.host, failed.phase, mail.provider)
        beside = self._pool.count((source, mail.feed.key)) if mail.feed is not None else 0
        self.reports.note(mail, source or "default", meaning, reply, beside)

    def _unsent(self, mail: Mail, reason: str, why: str) -> None:
        """An intent was journaled, and nothing was sent: the next attempt, which no provider has seen fail."""
        mail.source = ""
        self._defer(mail, reason, why, "connect")

    def _defer(
        self, mail: Mail, reason: str, reply: str, phase: str, host: str = "", opened: bool = False
    ) -> None:
        meaning = _INSECURE if phase == "starttls" else self._meaning(reply, host, phase, mail.provider)
        self._end(
            mail,
            self._outcome(
                mail, "deferred", reason, reply=reply, phase=phase, meaning=meaning, mx=host, opened=opened
            ),
            again=True,
        )

    # -- apply

    def _outcome(
        self,
        mail: Mail,
        state: str,
        reason: str,
        *,
        reply: str = "",
        phase: str = "",
        meaning: Meaning | None = None,
        mx: str = "",
        tls: str = "",
        security: str = "",
        asked: str = "",
        opened: bool = False,
        seconds: float = 0.0,
        final: bool = False,
        detail: str = "",
    ) -> Outcome:
        return Outcome(
            id=mail.id,
            state=cast(OutcomeState, state),
            attempt=mail.attempt,
            final=final,
            tenant=mail.tenant,
            campaign=mail.campaign,
            stream=mail.stream,
            to=mail.to,
            origin=mail.origin,
            time=round(self._clock(), 3),
            expires=mail.expires,
            reason=reason,
            # What runs out of time while it waits says what its last attempt was told.
            reply=(reply or (mail.last if state == "expired" else "") or detail)[:2000],
            phase=phase,
            klass=meaning.klass if meaning else "",
            scope=meaning.scope if meaning else "",
            action=meaning.action if meaning else "none",
            rule=meaning.rule if meaning else "",
            provider=mail.provider,
            site="" if mail.provider or mail.feed is None else mail.feed.key,
            lane=mail.topic,
            source=mail.source,
            mx=mx,
            tls=tls,
            security=security,
            asked=asked,
            opened=opened,
            dkim=mail.dkim,
            seconds=round(seconds, 4),
        )

    def _end(self, mail: Mail, outcome: Outcome, again: bool = False, least: float = 0.0) -> None:
        """Journal an outcome; before it, where the mail is to be tried again, its next ladder record (due in
        ``least`` seconds or later)."""
        mail.stage = "ended"
        now = self._clock()
        state = self._state.get(mail.partition)
        if state is None:
            # A revoke ran out of time: the record is done again by its new owner, who should know this.
            mail.ticket_done = True
        self.reports.count(outcome, mail)  # as what the attempt was, also where its mail expires with it
        age = now - mail.received if mail.received else 0.0
        due = now + max(least, self._delay(mail, outcome))
        if again and mail.expires and due >= mail.expires:
            if outcome.state == "deferred":
                outcome = _changed(outcome, state="expired", reason=outcome.reason or "no_time_left")
                again = False
            else:
                due = mail.expires - 0.001  # unknown: it wakes once more, to end as expired
        self._observe(outcome, age, 0)
        if not again:
            self.journal.write(mail, state, outcome, lambda: self._release(mail))
            return
        outcome = _changed(outcome, next_at=round(due, 3))
        headers = dict(mail.ticket.record.headers)
        headers["attempt"] = b"%d" % (mail.attempt + 1)
        headers.pop("from", None)
        if outcome.klass == "greylist" and mail.source:
            headers["from"] = b"" if mail.source == "default" else mail.source.encode()
        headers["reply"] = outcome.reply[:LAST].encode("utf-8", "replace")
        if mail.source:
            headers["tried"] = mail.source.encode()
        ladder = self._ladder(mail, headers, due, now)
        self.journal.emit(
            mail, ladder, lambda: self.journal.write(mail, state, outcome, lambda: self._release(mail))
        )

    def _delay(self, mail: Mail, outcome: Outcome) -> float:
        """Seconds until the next attempt: as the server says where it greylists, else as the settings do."""
        delay = retry_delay(mail.attempt, self._settings, self._random())
        if outcome.klass != "greylist":
            return delay
        hint = come_back(outcome.reply)
        if hint is None:
            return max(delay, self._settings.greylist)
        # A little later than said, and not all at once: who comes early begins anew in many programs.
        return hint + 1.0 + min(30.0, hint * 0.1) * self._random()

    def _ladder(self, mail: Mail, headers: dict[str, bytes], due: float, now: float) -> Out:
        topic, found = onto_ladder(headers, mail.topic, due, now, self._rungs)
        record = mail.ticket.record
        return Out(topic, record.value, found, record.key, mail.partition)

    def _release(self, mail: Mail) -> None:
        if self._mails.get(mail.id) is mail:
            del self._mails[mail.id]
        if not mail.ticket_done:
            mail.ticket_done = True
            mail.ticket.done()

    def _aside(
        self, mail: Mail, delay: float, reserved: bool = True, held: str = "", why: str = "turn"
    ) -> None:
        """Onto the ladder with the same attempt: waiting for a turn is not an attempt. ``held``: for what, where
        that is more than its time; else ``why`` counts."""
        if mail.intended:
            # The same attempt would be taken for one that was sent.
            self._unsent(mail, "aside", "not sent: it waits for its turn")
            return
        mail.stage = "gone"
        if reserved:
            self._mails.pop(mail.id, None)
            self._stepped(held or why)
        if not mail.ticket_done:  # else its copy is on the ladder already
            self._copy(mail, delay, held)

    def _copy(self, mail: Mail, delay: float, held: str = "") -> None:
        """The record as it is onto the ladder; its own ticket is done."""
        now = self._clock()
        headers = dict(mail.ticket.record.headers)
        if held:
            headers["held"] = held.encode()
        mail.ticket.emit(self._ladder(mail, headers, now + delay, now))
        mail.ticket_done = True
        mail.ticket.done()

    # -- time

    def tick(self) -> None:
        """Once a second: expired heads leave, waiters in shared lanes step aside, slow starts stop blocking."""
        now, wall = self._monotonic(), self._clock()
        settings = self._settings
        most = share(feed.chooser for feed in self.feeds.feeds.values())
        for feed in list(self.feeds.feeds.values()):
            self._sweep(feed, now, wall)
            if self._allowance.scarce(feed.key) or feed.chooser.groups:
                self._choose(feed, now, wall, most)
            if len(feed) and feed.timer is None:
                self.feeds.pump(feed)  # whatever it waited for: a look a second costs nothing
            waits_at = self.feeds.urgent_waits(feed, now) if len(feed.urgent) else None
            if waits_at is not None:
                self._make_way(feed, waits_at, now)
        for mail in list(self._mails.values()):
            if mail.stage != "sending" or now - mail.began <= settings.blocked:
                continue
            if not mail.ticket_done:
                # The copy is a repeat once the outcome is journaled; until then it waits on the longest rung.
                self._copy(mail, self._rungs[-1].seconds)
            if now - mail.began > settings.longest and mail.session is not None:
                mail.session.close()
        self.feeds.forget(mail.feed for mail in self._mails.values())
        self.feeds.trim()
        self._allowance.forget(now)
        self.reports.send(self._mails.values(), len(self._state), self._pool)

    def _make_way(self, feed: Feed, source: str, now: float) -> None:
        """Break off the bulk mail that takes longest, if any is not past its dot: a transactional one waits."""
        slow = [
            mail
            for mail in self._mails.values()
            if mail.feed is feed
            and mail.stage == "sending"
            and mail.source == source
            and not (mail.urgent or mail.intended)
            and mail.gave_way < OFTEN_ENOUGH
            and now - mail.began >= IN_THE_WAY
            and mail.session is not None
            and not mail.session.past_dot
        ]
        if slow:
            mail = min(slow, key=lambda mail: mail.began)
            assert mail.session is not None
            mail.gave_way += 1
            mail.session.give_up()

    def _choose(self, feed: Feed, now: float, wall: float, most: int) -> None:
        """Keep what may go today, the most engaged first; the rest steps aside."""
        asides, copies, changed = feed.chooser.look(feed.bulk, wall, now, most)
        for aside in asides:
            self._aside(aside.mail, aside.due - wall, held=aside.why)
        for mail in copies:
            self._copy(mail, self._rungs[1].seconds)
        if asides or changed:
            feed.bulk.sort()

    def _sweep(self, feed: Feed, now: float, wall: float) -> None:
        # Sorted by arrival: the first mail that is neither expired nor impatient ends the look at a campaign.
        flows = [(queue, flow) for queue in (feed.urgent, feed.bulk) for flow in queue.flows()]
        for queue, flow in flows:
            while flow:
                mail = flow[0]
                if mail.stage != "waiting":
                    queue.drop(flow)
                elif mail.expires and mail.expires <= wall:
                    queue.drop(flow)
                    self._end(mail, self._outcome(mail, "expired", "in_lane"))
                elif mail.shared and now - mail.queued > self._settings.patience and len(queue) > 1:
                    queue.drop(flow)
                    turn = 1.0 / max(0.1, self.feeds.pace(feed, mail.dkim))
                    feed.next_turn = max(feed.next_turn, now) + turn
                    # Its turn by today's rate, but looked at again soon: the rate may have grown meanwhile.
                    turn = min(feed.next_turn - now, self._rungs[1].seconds)
                    held = "lane" if self._holds.lane(mail) == "paused" else ""
                    self._aside(mail, max(self._rungs[0].seconds, turn), held=held)
                else:
                    break


def _changed_meaning(meaning: Meaning) -> Meaning:
    return msgspec.structs.replace(meaning, action="none", scope="domain")


def _changed(outcome: Outcome, **values: object) -> Outcome:
    return msgspec.structs.replace(outcome, **values)
