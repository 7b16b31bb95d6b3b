"""The control plane: faust-streaming in a process of its own. Today's only agent here is shape.

faust commits over an event when its agent raises, when a ``take()`` body raises, with ``concurrency`` above
1 and with ``noack()``, and its Tables drift over rebalances. So: one event at a time, no Tables, no
``take()``, every send awaited to its acknowledgement, and any exception ends the process at once, before
faust can commit past the event; the supervisor starts it again. State is replayed from our own compacted
output before the first report is looked at. faust hangs on missing topics: they are applied before.

The report topic has one partition: whoever the group gives it to leads. The others follow the policy topic
and are ready to take over.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import faust
import faust.transport.drivers.aiokafka as aiokafka_driver
from msgspec.structs import replace

from agents.shape.agent import Fact, Shaper
from agents.shape.campaigns import Campaigns as Gates
from agents.shape.check import refused
from agents.shape.limit import Key
from agents.shape.rules import BadPolicy
from agents.shape.rules import Settings as Policy
from agents.watch.policy import block_lists
from agents.watch.policy import report as told
from schemas.campaign_gate import CampaignGate
from schemas.codec import Malformed, Record, decode, encode, headers_from, name_of
from schemas.hold import Command, Hold
from schemas.lane_policy import ALL, Decision, LaneOrder, LanePolicy, Leader, Lease
from schemas.lane_report import MOST_LISTS, LaneReport
from schemas.replay import Replayed
from streams import metrics, probes, seldom
from streams.broker import EXIT_SEND_FAILED, die, fetch_wait_ms
from streams.clock import SteadyClock
from streams.counting import begin_campaigns, forget_limits, limit_gauges, listed_gauges
from streams.follow import Follower
from streams.operators import Stamp, policy_of, stamp_of
from streams.resolver import Resolver
from streams.settings import BadSettings, Settings, load
from streams.tables import Campaigns
from streams.watching import Watch

log = logging.getLogger("mailsluice.control")
APP = "mailsluice-control"
"""faust's app id and consumer group; MAILSLUICE_PREFIX goes before it."""
REPORTS = "mail-lane-reports"
POLICY = "mail-lane-policy"
CAMPAIGNS = "mail-campaigns"
EXIT_BUG = 70
EXIT_CONFIG = 78
SOON = 10.0
"""Seconds until the block lists are thought of again where no limit is in use yet."""


class _Thread(aiokafka_driver.AIOKafkaConsumerThread):
    """faust fixes fetch_max_wait_ms at 1,500; the embedded broker then answers a report a second late."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = transport.wait_ms
        return consumer


class _Consumer(aiokafka_driver.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(aiokafka_driver.Transport):
    Consumer = _Consumer
    wait_ms = 50


def make_app(settings: Settings) -> faust.App:
    """The faust app with every default that has bitten turned off."""
    app = faust.App(
        settings.prefix + APP,
        broker="kafka://" + ";".join(settings.broker.split(",")),
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        reply_create_topic=False,
        autodiscover=False,
        broker_session_timeout=settings.session,
        broker_heartbeat_interval=settings.session / 6,
        broker_rebalance_timeout=60.0,
        broker_request_timeout=max(30.0, settings.session + 5.0),
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        worker_redirect_stdouts=False,
        # faust makes this directory whether it needs it or not: not in the working directory.
        datadir=str(settings.state / "faust"),
        # A new process stands aside for nothing: its state is our own replay.
        stream_recovery_delay=0.0,
        stream_wait_empty=False,
    )
    app.transport = _Transport(app.conf.broker_consumer, app, loop=app.loop)
    app.transport.wait_ms = fetch_wait_ms(settings)
    return app


class Control:
    """Shape at work on one faust app."""

    def __init__(self, settings: Settings, policy: Policy, app: faust.App) -> None:
        self.settings = settings
        self.shaper = Shaper(policy)
        self.gates = Gates(policy.campaign, policy.tenants)
        self.campaigns: Campaigns | None = None
        self._stamps = self._stamped()
        self._clock = SteadyClock()
        self.app = app
        self.reports = app.topic(settings.topic(REPORTS), key_type=bytes, value_type=bytes)
        self.policy = app.topic(settings.topic(POLICY), key_type=bytes, value_type=bytes)
        self.campaign_topic = app.topic(settings.topic(CAMPAIGNS), key_type=bytes, value_type=bytes)
        self.worker = f"{os.uname().nodename}-{os.getpid()}-{time.time_ns():x}"
        self.leading = asyncio.Event()
        self._follower: Follower | None = None
        self._following = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # Literally: a module that fails to import would be skipped with a warning.
        app.agent(self.reports, name="shape", concurrency=1)(self.shape)
        app.timer(1.0, name="shape-tick")(self.tick)
        app.on_partitions_assigned.connect(self.assigned)
        app.on_partitions_revoked.connect(self.revoked)
        app.task(self.follow)
        if settings.watch_lists:
            app.task(self.look_at_lists)
        begin_campaigns()
        if settings.metrics:
            app.task(self.serve)

    async def serve(self) -> None:
        """/metrics and the probes; ready = able to take over, leading or not."""
        try:
            await probes.serve(self.settings.metrics, self._following.is_set)
        except OSError as error:
            die(EXIT_CONFIG, f"MAILSLUICE_METRICS={self.settings.metrics}: {error}")

    async def follow(self) -> None:
        """Read the policy topic to its end, and go on reading it."""
        try:
            self._follower = Follower(self.settings, die)
            await self._follower.start()
            self.campaigns = Campaigns(self._follower)
            await self.campaigns.open()
            first = await self._follower.first(POLICY, 0)
            await self._follower.follow(POLICY, 0, self.sink, first)
            self._following.set()
        except Exception as error:
            die(EXIT_BUG, f"could not follow {POLICY}: {error!r}")

    def sink(self, messages: Sequence[Any]) -> None:
        """Records of the policy topic: the state while another leads, intruders while we do."""
        for message in messages:
            if message.value is None:
                continue
            try:
                fact = decode(_record(message), "lane_policy")
            except Malformed as error:
                log.warning("%s offset %d cannot be read: %s", POLICY, message.offset, error)
                continue
            if isinstance(fact, Hold | Command | Replayed):  # operators write here too: deliver reads those
                continue
            if isinstance(fact, LaneOrder):
                self.order(fact)
            elif isinstance(fact, CampaignGate):
                if not self.leading.is_set():
                    self.gates.remember(fact)
            elif not isinstance(fact, LanePolicy | Lease | Decision | Leader):
                log.warning("%s offset %d is no record of shape", POLICY, message.offset)
            elif self.leading.is_set():
                self.watch(fact, message.offset)
            else:
                self.shaper.remember(fact, message.offset, time.monotonic())

    def order(self, order: LaneOrder) -> None:
        """An operator's order: followed at once by the leader, else by the next one."""
        self.shaper.orders[(order.kind, order.name, order.provider)] = order
        if self.leading.is_set():
            self._spawn(self.publish(self.shaper.on_order(order, self._clock())))

    def watch(self, fact: Fact | Leader, offset: int) -> None:
        """While leading: step down before a newer leader, write again over what an older one wrote."""
        if isinstance(fact, Leader) and fact.worker == self.worker:
            return
        epoch = offset if isinstance(fact, Leader) else fact.epoch
        if epoch > self.shaper.epoch:
            die(EXIT_SEND_FAILED, f"another leader of shape has taken over at offset {epoch}")
        if epoch < self.shaper.epoch and isinstance(fact, LanePolicy):
            mine = self.shaper.published.get((fact.kind, fact.name, fact.provider))
            if mine is not None:
                self._spawn(self.publish([mine]))

    async def assigned(self, *args: Any, **_: Any) -> None:
        """The report partition may have come to us: take over, beside faust's rebalance."""
        if any(tp.topic == self.settings.topic(REPORTS) for tp in args[-1]):
            self._spawn(self.take_over())

    async def revoked(self, *_: Any, **__: Any) -> None:
        """Another may lead from here on."""
        self.leading.clear()
        forget_limits()

    async def take_over(self) -> None:
        """Read what the last leader wrote to its end, announce ourselves, and lead with that offset as epoch."""
        self.leading.clear()
        await self._following.wait()
        assert self._follower is not None
        await self._follower.to_end(POLICY, 0)
        leader = Leader(worker=self.worker, time=self._clock())
        offset = (await (await self._send(leader.key, leader))).offset
        # And to the end again: what the last leader counted before our record must be known to us.
        await self._follower.to_end(POLICY, 0)
        # The clock after the acknowledgement: what the last leader lent, it lent before our record.
        now = self._clock()
        self.shaper.lead(offset, time.monotonic(), now)
        # Under the new epoch: what a displaced leader still writes behind it must not be all there is.
        await self.publish(
            [self.shaper.renewed(policy, now) for policy in list(self.shaper.published.values())]
        )
        for order in list(self.shaper.orders.values()):
            await self.publish(self.shaper.on_order(order, self._clock()))
        self.leading.set()
        log.info("leading shape, epoch %d, %d limits", self.shaper.epoch, len(self.shaper.state))

    async def shape(self, stream: Any) -> None:
        """The agent: one report at a time, its answers acknowledged before the next."""
        async for event in stream.events():
            try:
                await self.leading.wait()
                await self.one(event.message)
            except Exception as error:
                log.exception("shape failed")
                die(EXIT_BUG, f"shape failed on a report: {error!r}")

    async def one(self, message: Any) -> None:
        """One record of the report topic."""
        try:
            report = decode(_record(message), "lane_report")
            if not isinstance(report, LaneReport):
                raise Malformed("unknown_type", f"not a lane report: {type(report).__name__}")
        except Malformed as error:
            self.shaper.refusals += 1
            log.warning("%s offset %d is refused: %s", REPORTS, message.offset, error)
            return
        if not refused(report):
            self.gates.add(report, self._clock())
        await self.publish(self.shaper.on_report(report, self._clock(), time.monotonic()))

    async def tick(self) -> None:
        """Every second: a policy file that changed, caps that run out, keys to delete, gauges."""
        try:
            changed = self.reload()
            if not self.leading.is_set():
                return
            await self.publish(changed)
            facts, drops = self.shaper.tick(self._clock(), time.monotonic())
            await self.publish(facts)
            await self.drop(drops)
            await self.judge(self._clock())
            limit_gauges(self.shaper.published.values())
        except Exception as error:
            log.exception("tick failed")
            die(EXIT_BUG, f"the timer of shape failed: {error!r}")

    async def look_at_lists(self) -> None:
        """For ever: whether a block list has an address or a DKIM domain that has limits here. The leader asks."""
        resolver = Resolver(self.settings.dns)
        watch = Watch(block_lists(self.settings.watch_lists), resolver.codes)
        try:
            while True:
                await self.leading.wait()
                keys = [key for key in self.shaper.state if key[2] != ALL]
                found = await watch.look(name for _, name, _ in keys)
                now = self._clock()
                for key in keys:
                    if key[1] in found and self.leading.is_set():
                        await self._tell_listed(key, found[key[1]], now)
                listed_gauges(found, len(watch.dead))
                # Before the first mail there is nothing to ask about; then nobody should wait long.
                await asyncio.sleep(
                    self.settings.watch_every if keys else min(SOON, self.settings.watch_every)
                )
        except Exception as error:
            log.exception("asking the block lists failed")
            die(EXIT_BUG, f"asking the block lists failed: {error!r}")

    async def _tell_listed(self, key: Key, lists: tuple[str, ...], now: float) -> None:
        kind, name, provider = key
        report = replace(
            told(kind, name, provider, "watch", now), listed=len(lists), lists=lists[:MOST_LISTS]
        )
        headers = {"type": b"lane_report", "version": b"1"}
        await (await self.reports.send(value=encode(report), partition=0, headers=headers))

    async def judge(self, now: float) -> None:
        """Pause campaigns by what came back, let the rest of those go whose canary proved good."""
        assert self.campaigns is not None  # opened before anybody can lead
        changes = self.gates.due(self.campaigns, now)
        records, drops = self.gates.records(now)
        for written in [await self._send(gate.key, gate) for gate in records]:
            await written  # before the campaigns: the next leader must know why they stopped
        await self.drop(drops)
        for campaign, gate, reason in changes:
            await (await self.campaign_topic.send(key=campaign.key, value=encode(campaign), partition=0))
            if not gate:  # published once more, decided before
                continue
            what = "campaign release" if gate == "passed" else "campaign pause"
            on = {"campaign": campaign.id, "tenant": campaign.tenant}
            command = Command(what=what, on=on, who="shape", why=reason, time=now, done=True)
            await (await self._send(command.key, command))
            metrics.CAMPAIGN_GATES.labels(gate).inc()
            log.warning("%s %s: %s", what, campaign.key.decode(), reason)
        metrics.CANARY_LATE.set(self.gates.waiting(self.campaigns, now))

    def _stamped(self) -> tuple[Stamp, Stamp]:
        return stamp_of(self.settings.policy), stamp_of(self.settings.policy_override)

    def reload(self) -> list[Fact]:
        """Read the policy files again where they changed; a faulty one is told, and the old one stays."""
        stamps = self._stamped()
        if stamps == self._stamps:
            return []
        self._stamps = stamps
        try:
            policy = policy_of(self.settings)
        except (BadPolicy, OSError, UnicodeDecodeError) as error:
            log.error("the changed shaping policy is not taken, the old one stays: %s", error)
            return []
        log.warning("the shaping policy has changed and is in force")
        self.gates.settings, self.gates.tenants = policy.campaign, policy.tenants
        return self.shaper.adopt(policy, self._clock())

    async def drop(self, keys: Sequence[bytes]) -> None:
        """Delete records from the policy topic; returns when the broker has it."""
        for key in keys:
            await (await self.policy.send(key=key, value=None, partition=0))

    async def publish(self, facts: Sequence[Fact]) -> None:
        """Write records in order; returns when all are acknowledged."""
        for written in [await self._send(fact.key, fact) for fact in facts]:
            await written

    async def _send(self, key: bytes, fact: Fact | Leader | CampaignGate | Command) -> Awaitable[Any]:
        kind, version = name_of(type(fact))
        headers = {"type": kind.encode(), "version": str(version).encode()}
        sent: Awaitable[Any] = await self.policy.send(
            key=key, value=encode(fact), partition=0, headers=headers
        )
        return sent

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            die(EXIT_BUG, f"control failed: {task.exception()!r}")


def _record(message: Any) -> Record:
    """An aiokafka or faust message as a Record."""
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, dict) else headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=int(message.timestamp if isinstance(message.timestamp, int) else message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=headers_from(pairs),
    )


def run_control(settings: Settings) -> None:
    """Run the control plane until SIGTERM, then exit; the process is its own. Raises BadPolicy and OSError."""
    policy = policy_of(settings)
    logging.basicConfig(level=settings.log, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    seldom.install()
    for noisy in ("faust", "mode", "aiokafka", __name__):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = make_app(settings)
    app.conf.datadir.mkdir(parents=True, exist_ok=True)  # faust makes only the last part of it
    Control(settings, policy, app)
    # Our own logging stays, and standard output is nobody's log record at WARNING.
    worker = faust.Worker(
        app, loop=loop, loglevel=settings.log, redirect_stdouts=False, override_logging=False
    )
    worker.spinner = None
    worker.execute_from_commandline()


def main() -> None:
    """``python -m streams.control [--die-with-parent]``: settings from the environment."""
    if "--die-with-parent" in sys.argv[1:]:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    try:
        run_control(load(os.environ))
    except (BadSettings, BadPolicy, OSError, UnicodeDecodeError) as error:
        print(f"mailsluice control: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


if __name__ == "__main__":
    main()
