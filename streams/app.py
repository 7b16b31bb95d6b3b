"""The composition root: settings in, a running process out. Every agent's arguments are named here."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from msgspec.structs import replace

from agents import Agent, Out, Stage
from agents.classify.agent import Classify
from agents.classify.book import SqliteBook
from agents.classify.forward import Forwards
from agents.deliver import policy as deliver_policy
from agents.deliver.agent import Deliver
from agents.deliver.allowance import Allowance, Rate
from agents.deliver.connect import Networks, connect
from agents.deliver.connect import Settings as ConnectSettings
from agents.deliver.holds import Holds
from agents.deliver.pool import Pool
from agents.deliver.pool import Settings as PoolSettings
from agents.deliver.row import newer, reduce_outcome
from agents.enqueue import policy as enqueue_policy
from agents.enqueue.agent import Enqueue
from agents.enqueue.campaigns import CheckCampaigns
from agents.render import policy as render_policy
from agents.render.agent import Render
from agents.render.attachments import Store, http_opener
from agents.score import policy as score_policy
from agents.score.agent import Score
from agents.screen import policy as screen_policy
from agents.screen.agent import Screen
from agents.screen.consents import Consents
from agents.screen.rules import Screening
from agents.screen.rules_file import BadRules, warnings_of
from agents.screen.rules_file import read_rules as read_screening
from agents.sign.agent import Sign
from agents.sign.keys import load_keys
from agents.suppress.agent import Suppress
from agents.suppress.asking import Asking
from agents.wait import policy as wait_policy
from agents.wait.agent import Wait
from schemas.campaign import Campaign
from schemas.campaign_gate import CampaignGate
from schemas.codec import Malformed, decode, encode, headers_from, parse
from schemas.codec import Record as CodecRecord
from schemas.consent import StreamConsent, goes
from schemas.contact import Contact
from schemas.erasure import Pseudonyms
from schemas.gate import until_of
from schemas.hold import Command, Hold
from schemas.ladder import Rung
from schemas.mail import NOW
from schemas.outcome import Outcome
from schemas.replay import Replayed, Replays
from schemas.reply import Meaning, Rules, classify, known_to_a_rule, load_rules
from schemas.suppression import Suppression
from schemas.token import Tokens
from schemas.topology import Topology
from streams import delivery_file, metrics
from streams.broker import Outbox, die, make_producer
from streams.clock import SteadyClock
from streams.counting import lane_gauges, provider_label, source_gauges
from streams.follow import Follower
from streams.notes import Notes
from streams.operators import consent_rules_of, suppress_settings_of, text_of
from streams.ownership import Ownership
from streams.pipeline import BY_NAME, CHAINS
from streams.resolver import Resolver
from streams.runner import Runner
from streams.settings import Settings
from streams.state import UNATTENDED, StateFiles
from streams.store import delete, first_word, left_alone
from streams.sts import Sts
from streams.tables import Campaigns, WithViews
from streams.tls_policies import TlsPolicies
from streams.topics import BY_NAME as KNOWN
from streams.topics import RUNGS
from streams.work import Turns

log = logging.getLogger("mailsluice.app")
_CAMPAIGN = {"type": b"campaign", "version": b"1"}
ATTEND = 1800.0
"""Seconds between looks at state files that nobody writes any more."""
LOST = 60.0
"""Seconds between looks at whether who was erased is still known."""
BOOK_KEPT = 7 * 86400.0
"""Seconds for which the book of a partition that went to another worker is kept: it is filled from no topic, and
who was erased meanwhile is still in it."""
ENVELOPE = 65_536
"""Bytes of a record that signatures and headers may take."""
Fatal = Callable[[int, str], Any]


def rungs_of(settings: Settings) -> tuple[Rung, ...]:
    """The wait ladder with the lengths of the settings."""
    return tuple(Rung(name, seconds) for name, seconds in zip(RUNGS, settings.rungs, strict=True))


def read_rules() -> Rules:
    """The shipped reply rules."""
    return load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))


class App:
    """The stages of one process: clients, tables and agents, started and stopped together."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        stages: Sequence[str],
        chain: bool = True,
        fatal: Fatal = die,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``stages``: names in ``streams.pipeline``. ``clock``: Unix seconds; None = the machine's. Raises KeyError
        for another name."""
        self.settings = settings
        self.partitions = topology.partitions
        self.stages: list[Stage] = [BY_NAME[name] for name in stages]
        self.clock = clock or SteadyClock()
        self.outbox = Outbox(make_producer(settings), settings, fatal, self.clock, make_producer(settings))
        self.runners: dict[str, Runner] = {}
        self._chain = chain
        self._fatal = fatal
        self._resolver = Resolver(settings.dns, validates=settings.dns_validates)
        self._campaigns: Campaigns | None = None
        self._common: Follower | None = None
        self._followers: list[Follower] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._last: list[Callable[[], Any]] = []

    async def start(self) -> None:
        """Connect, read the tables, join the groups."""
        await self.outbox.start()
        emits = {topic for stage in self.stages for topic in stage.emits}
        await self.outbox.know(name for topic in emits for name in (topic, topic + NOW) if name in KNOWN)
        turns = Turns()
        for stage in self.stages:
            ownership = Ownership(self.settings.session)
            agent = await self._build(stage, ownership)
            fetch = 262_144 if stage.name == "deliver" else 1_048_576
            self.runners[stage.name] = Runner(
                stage,
                agent,
                self.settings,
                self.outbox,
                self.partitions,
                self._fatal,
                ownership=ownership,
                fetch=fetch,
                clock=self.clock,
                turns=turns,
                # The embedded broker drops the metadata of commits.
                notes=None
                if self.settings.broker_idempotent
                else Notes(self.settings.state / stage.name / "starts"),
            )
        if self._chain:
            for (first, second), topic in CHAINS.items():
                if first in self.runners and second in self.runners:
                    self.runners[second].chain_behind(self.runners[first], topic)
        for runner in self.runners.values():
            await runner.start()

    async def stop(self) -> None:
        """In the order of the flow: settle, commit, leave; then write what is still to be written."""
        for runner in self.runners.values():
            await runner.stop()
        for last in self._last:
            await last()
        for task in self._tasks:
            task.cancel()
        await self.outbox.stop()
        for follower in self._followers:
            await follower.stop()

    @property
    def ready(self) -> bool:
        """Whether every stage has had an assignment."""
        return all(runner.ready.is_set() for runner in self.runners.values())

    def publish(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Write a record that hangs on no ticket."""
        self.outbox.put(out, None if acked is None else lambda _offset: acked())

    # -- what agents need ---------------------------------------------------------------------

    async def _follower(self, large: bool = True) -> Follower:
        follower = Follower(self.settings, self._fatal, large=large)
        await follower.start()
        self._followers.append(follower)
        return follower

    async def _common_follower(self) -> Follower:
        """For campaigns and policy: few records, wanted at once. Each follower fetches for itself."""
        if self._common is None:
            self._common = await self._follower(large=False)
        return self._common

    async def _table_of_campaigns(self) -> Campaigns:
        if self._campaigns is None:
            self._campaigns = Campaigns(await self._common_follower())
            await self._campaigns.open()
        return self._campaigns

    def _states(self, stage: Stage, topic: str, follower: Follower, **options: Any) -> StateFiles:
        if topic == "mail-suppressions" and self.settings.secret:
            options["hash_keys"] = Pseudonyms(self.settings.hash_secrets()).known
        if KNOWN[topic].kept == "compact":
            options["unattended"] = UNATTENDED
        files = StateFiles(topic, self.settings.state / stage.name, follower, self.partitions, **options)
        self._every(ATTEND, files.attend)
        if "hash_keys" in options:
            self._every(LOST, lambda: metrics.ERASED_UNKNOWN.labels(stage.name).set(files.lost_people()))
        return files

    async def _build(self, stage: Stage, ownership: Ownership) -> Agent:
        build = self._check_campaigns if stage.name == "campaigns" else getattr(self, f"_{stage.name}")
        agent: Agent = await build(stage, ownership)
        return agent

    def _every(self, seconds: float, body: Callable[[], None]) -> None:
        async def loop() -> None:
            while True:
                await asyncio.sleep(seconds)
                body()

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self._fatal(70, f"a timer raised: {task.exception()!r}")

        task = asyncio.get_running_loop().create_task(loop())
        task.add_done_callback(ended)
        self._tasks.append(task)

    def _tokens(self) -> Tokens:
        if not self.settings.secret:
            raise ValueError("MAILSLUICE_SECRET is not set: tokens need a secret of at least 32 characters")
        return Tokens(self.settings.secrets())

    def _names(self) -> Callable[[str], tuple[str, ...]]:
        """The keyed hashes of an address; asked for only where somebody was erased."""
        if self.settings.secret:
            return Pseudonyms(self.settings.hash_secrets()).of

        def unknown(address: str) -> tuple[str, ...]:
            why = "people were erased, and are known again only by MAILSLUICE_SECRET, which is not set here"
            self._fatal(78, why)
            raise ValueError(why)

        return unknown

    # -- the agents ---------------------------------------------------------------------------

    async def _check_campaigns(self, stage: Stage, ownership: Ownership) -> Agent:
        return CheckCampaigns()

    async def _enqueue(self, stage: Stage, ownership: Ownership) -> Agent:
        campaigns = await self._table_of_campaigns()
        return Enqueue(
            enqueue_policy.Settings(lifetime=self.settings.lifetime, hold=self.settings.enqueue_hold),
            self.partitions,
            campaigns,
            campaigns.read_to_end,
            self._resolver,
            self.clock,
            time.monotonic,
            Replays.of(self.settings.secret),
        )

    async def _screen(self, stage: Stage, ownership: Ownership) -> Agent:
        follower = await self._follower()
        rows = self._states(
            stage,
            "mail-screen-log",
            follower,
            headers={"type": b"gate", "version": b"1"},
            until=until_of,
        )
        suppressions = self._states(
            stage, "mail-suppressions", follower, newer=_newer_suppression, head=first_word
        )
        contacts = self._states(stage, "mail-contacts", follower, head=first_word)
        views = [suppressions, contacts]
        rules, consents = consent_rules_of(self.settings), None
        if rules.ask:
            files = self._states(stage, "mail-consents", follower, newer=_newer_consent)
            consents = Consents(rules, files)
            views.append(files)
        screening = screening_of(self.settings)
        for warning in warnings_of(screening):
            log.warning("%s", warning)
        agent = Screen(
            screen_policy.Settings(horizon=self.settings.screen_horizon),
            rows,
            suppressions,
            contacts,
            rungs_of(self.settings),
            self.clock,
            screening,
            lambda reason, action: metrics.SCREEN_RULES.labels(reason, action).inc(),
            consents,
            self._names(),
        )
        self._expiring(rows)
        return WithViews(agent, views)

    def _expiring(self, files: StateFiles) -> None:
        def sweep() -> None:
            for state in files.opened():
                state.expire(self.clock())

        self._every(10.0, sweep)

    async def _render(self, stage: Stage, ownership: Ownership) -> Agent:
        settings = self.settings
        opener = None
        if settings.render_hosts:
            import aiohttp  # 100 ms of every worker's start

            session = aiohttp.ClientSession()
            opener = http_opener(session)
            self._last.append(session.close)
        agent = Render(
            await self._table_of_campaigns(),
            self._tokens(),
            settings.base_url,
            settings.return_domain,
            self.clock,
            render_settings(settings),
            Store(settings.render_files, settings.render_hosts, opener),
        )
        self._last.append(agent.close)
        return agent

    async def _sign(self, stage: Stage, ownership: Ownership) -> Agent:
        return Sign(load_keys(self.settings.keys), self.clock)

    async def _deliver(self, stage: Stage, ownership: Ownership) -> Agent:
        settings = self.settings
        follower = await self._follower()
        rows = self._states(
            stage,
            "mail-outcomes",
            follower,
            headers={"type": b"outcome", "version": b"1"},
            reduce=reduce_outcome,
            newer=newer,
        )
        suppressions = self._states(
            stage, "mail-suppressions", follower, newer=_newer_suppression, head=first_word
        )
        worker = worker_name()
        allowance = Allowance(
            worker, self.partitions, Rate(settings.deliver_rate, 2, 20, 0.0, "no policy yet")
        )
        networks = Networks.parse(settings.deliver_networks)
        delivery = delivery_file.DeliveryFile(settings)
        sources = delivery.sources
        sts = Sts(self._resolver, networks.allow, self.clock, path=settings.state / stage.name / "sts.sqlite")
        self._last.append(sts.close)
        holds = Holds()
        await self._follow_policy(allowance, holds)
        where = ConnectSettings(
            hostname=settings.deliver_hostname or socket.getfqdn(),
            port=settings.deliver_port,
            networks=networks,
            clock=self.clock,
        )
        rules = read_rules()
        policies = TlsPolicies(
            self._resolver, sts if settings.deliver_sts else None, delivery.asks, settings.deliver_port
        )

        def again() -> None:
            if delivery.changed():
                policies.ask_for(delivery.asks)

        def free(group: object) -> None:
            agent.feeds.group_free(group)

        pool = Pool(
            lambda target, source: connect(target, where, sources.of(source)),
            PoolSettings(cooldown=settings.deliver_cooldown),
            time.monotonic,
            random.random,
            free,
            sources.family,
        )
        agent = Deliver(
            deliver_policy.Settings(
                unacked=settings.deliver_unacked,
                first_retry=settings.rungs[0],
                last_retry=settings.rungs[-1],
                greylist=5 * settings.rungs[0],
            ),
            rows=rows,
            suppressions=suppressions,
            names=self._names(),
            campaigns=await self._table_of_campaigns(),
            hosts=self._resolver,
            policies=policies,
            pool=pool,
            allowance=allowance,
            sources=sources,
            rungs=rungs_of(settings),
            meaning=Meanings(rules),
            fresh=ownership.fresh,
            epoch=lambda: ownership.epoch,
            publish=self.publish,
            clock=self.clock,
            monotonic=time.monotonic,
            random=random.random,
            observe=observe_outcome,
            stepped=lambda why: metrics.ASIDE.labels(why).inc(),
            holds=holds,
        )
        self._every(1.0, agent.tick)
        self._every(delivery_file.EVERY, again)
        self._every(1.0, lambda: source_gauges(agent.feeds.unwell, sources.names, time.monotonic()))
        self._every(1.0, lambda: lane_gauges(agent.feeds, pool.count, sources.names))
        self._expiring(rows)
        self._last.append(lambda: agent.stop(settings.deliver_drain))
        return WithViews(agent, [suppressions])

    async def _follow_policy(self, allowance: Allowance, holds: Holds) -> None:
        follower = await self._common_follower()

        def feed(messages: Sequence[Any]) -> None:
            for message in messages:
                if not message.value:
                    allowance.drop(message.key or b"")
                    continue
                record = CodecRecord(
                    "mail-lane-policy",
                    0,
                    message.offset,
                    message.timestamp,
                    message.key,
                    message.value,
                    headers_from(message.headers),
                )
                try:
                    fact = decode(record, "lane_policy")
                    if isinstance(fact, Hold):
                        holds.feed(fact)
                    elif not isinstance(fact, Command | CampaignGate | Replayed):
                        allowance.feed(message.offset, fact)
                except Malformed as error:
                    log.error("mail-lane-policy@%d cannot be read: %s", message.offset, error)

        await follower.follow("mail-lane-policy", 0, feed, await follower.first("mail-lane-policy", 0))

    async def _wait(self, stage: Stage, ownership: Ownership) -> Agent:
        return Wait(
            wait_policy.Settings(rungs=rungs_of(self.settings)), await self._table_of_campaigns(), self.clock
        )

    async def _classify(self, stage: Stage, ownership: Ownership) -> Agent:
        directory = self.settings.state / stage.name
        directory.mkdir(parents=True, exist_ok=True)
        forwards = None
        if self.settings.classify_forward:
            forwards = Forwards(self.settings.routes(), await self._table_of_campaigns())
        agent = Classify(
            read_rules(),
            lambda partition: SqliteBook(directory / f"book-{partition}.sqlite"),
            self.clock,
            self._tokens(),
            self.partitions,
            worker_name(),
            alarm=lambda whose: metrics.BOUNCE_FLOODS.labels(whose).inc(),
            forwards=forwards,
        )

        def flush() -> None:
            for out in agent.flush(self.clock()):
                self.publish(out)

        def tidy() -> None:
            mine = {f"book-{partition}.sqlite" for partition in agent.owned}
            for path in directory.glob("book-*.sqlite"):
                if path.name not in mine and left_alone(path, self.clock()) > BOOK_KEPT:
                    delete(path)

        self._every(1.0, flush)
        self._every(ATTEND, tidy)
        return agent

    async def _suppress(self, stage: Stage, ownership: Ownership) -> Agent:
        follower = await self._follower()
        states = self._states(
            stage,
            "mail-suppressions",
            follower,
            headers={"type": b"suppression", "version": b"1"},
            newer=_newer_suppression,
            head=first_word,
            rewrite=self.publish,
        )
        consents = self._states(
            stage,
            "mail-consents",
            follower,
            headers={"type": b"consent", "version": b"1"},
            newer=_newer_consent,
            until=goes,
            head=first_word,
            rewrite=self.publish,
        )
        rules = consent_rules_of(self.settings)
        confirmations = rules.campaigns()
        if confirmations:
            tokens, base = self._tokens(), self.settings.base_url
            await self._publish_campaigns(confirmations)
            asking = Asking(
                consents, rules, lambda link: tokens.confirm_url(base, link), self.clock, observe_subscription
            )
        else:
            asking = Asking(consents, rules, lambda link: "", self.clock, observe_subscription)

        def sweep() -> None:
            for out in asking.sweep(self.clock()):
                self.publish(out)

        self._every(60.0, sweep)
        return Suppress(states, suppress_settings_of(self.settings), asking, self._names())

    async def _publish_campaigns(self, wanted: Sequence[Campaign]) -> None:
        """The campaigns of the confirmation mails, where another one or none is there; who paused one has paused it."""
        known = await self._table_of_campaigns()
        for campaign in wanted:
            old = known.get(campaign.key.decode())
            new = replace(campaign, state=old.state) if old else campaign
            if new != old:
                self.publish(Out("mail-campaigns", encode(new), _CAMPAIGN, new.key, 0))

    async def _score(self, stage: Stage, ownership: Ownership) -> Agent:
        follower = await self._follower()
        states = self._states(
            stage,
            "mail-contacts",
            follower,
            headers={"type": b"contact", "version": b"1"},
            newer=_newer_contact,
            head=first_word,
            rewrite=self.publish,
        )
        return Score(states, score_policy.Settings(), self._names())


def render_settings(settings: Settings) -> render_policy.Settings:
    """Render's limits. A mail that fits into no record must be refused there: it would be dead-lettered."""
    most = settings.largest - ENVELOPE
    return render_policy.Settings(
        rendered=min(render_policy.Settings().rendered, most),
        rendered_with_attachments=most,
        limits=render_policy.Limits(size=settings.render_attached),
    )


def worker_name() -> str:
    """Names this incarnation of the process, in reports and leases."""
    return f"{socket.gethostname()}-{os.getpid()}-{int(time.time() * 1000):x}"


def screening_of(settings: Settings) -> Screening:
    """The shipped screen rules under the operator's file. Raises BadRules."""
    from disposable_email_domains import blocklist  # 10,000 names that only screen needs

    text = (resources.files("agents.screen") / "rules.toml").read_text("utf-8")
    where = settings.screen_rules
    mine = text_of(where, "MAILSLUICE_SCREEN_RULES", BadRules) if where is not None else ""
    return read_screening(text, "rules.toml", mine, str(where), blocklist)


def observe_subscription(told: str) -> None:
    """Counts what became of a subscription that was asked for."""
    metrics.SUBSCRIPTIONS.labels(told).inc()


class Meanings:
    """Reply rules with a small memory: providers say the same few things."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[tuple[str, str, str, str], Meaning] = {}

    def __call__(self, reply: str, mx: str, phase: str, provider: str) -> Meaning:
        """What the reply means."""
        key = (reply, mx, phase, provider)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > 2000:
                self._known.clear()
            found = self._known[key] = classify(self._rules, reply, mx=mx, phase=phase, provider=provider)
        return found


# ``labels`` takes a lock and checks its arguments each time.
_counter: Callable[..., Any] = functools.cache(metrics.OUTCOMES.labels)
_security: Callable[..., Any] = functools.cache(metrics.SECURITY.labels)
_unclassified: Callable[..., Any] = functools.cache(metrics.UNCLASSIFIED.labels)
_attempt: Callable[..., Any] = functools.cache(metrics.ATTEMPT_SECONDS.labels)
_age: Callable[..., Any] = functools.cache(metrics.DELIVERY_AGE.labels)


def observe_outcome(outcome: Outcome, age: float, repeat: int) -> None:
    """Counts an attempt's outcome."""
    if repeat:
        metrics.REPEATS.labels("two").inc()
        return
    provider = provider_label(outcome.provider)
    if outcome.state == "delivered":
        _security(provider, outcome.security).inc()
    _counter(provider, outcome.source, outcome.state, outcome.klass).inc()
    if outcome.klass == "unclassified" or (
        outcome.rule and outcome.klass != "accepted" and not known_to_a_rule(outcome.rule)
    ):
        _unclassified(provider).inc()
    if outcome.seconds:
        _attempt(provider).observe(outcome.seconds)
    if outcome.state == "delivered" and age:
        _age(provider, outcome.stream).observe(age)


def _by_version(row: type[Suppression | StreamConsent | Contact]) -> Callable[[bytes, bytes], bool]:
    """Whether a row of a state is not older than the one that it would take the place of."""

    def newer(old: bytes, new: bytes) -> bool:
        return parse(new, row).version >= parse(old, row).version

    return newer


_newer_suppression = _by_version(Suppression)
_newer_consent = _by_version(StreamConsent)
_newer_contact = _by_version(Contact)
