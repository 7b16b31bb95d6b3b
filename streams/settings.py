"""Environment -> frozen Settings, validated whole: all faults in one error."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from agents.classify.forward import Routes, routes_of
from agents.watch.policy import block_lists


class BadSettings(Exception):
    """One or more settings are wrong; the text lists every fault with its variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a worker. The variable of a field is ``MAILSLUICE_`` + its name in capitals."""

    broker: str = "127.0.0.1:9092"
    """Kafka bootstrap servers, HOST:PORT[,HOST:PORT]."""
    broker_idempotent: bool = True
    """Idempotent producer. Off for the embedded broker, which does not know it."""
    prefix: str = ""
    """Before every topic, group and application name; for tests and shared clusters."""
    state: Path = Path("state")
    """Directory of the local state files. A lost one is rebuilt from Kafka."""
    session: float = 10.0
    """Seconds without a heartbeat after which a worker loses its partitions (3 to 6 on the embedded broker)."""
    commit: float = 0.5
    """Seconds between offset commits."""
    largest: int = 12_000_000
    """Bytes of the largest record that a stage writes."""
    linger: float = 0.005
    """Seconds the producer waits to fill a batch."""
    window_bytes: int = 48_000_000
    """Bytes in work before a stage stops reading. A topic may have as many as it leaves free (the half, alone);
    each partition may have its equal part whatever the others hold, so that at most twice as much is held."""
    drain: float = 5.0
    """Seconds a stage may take to settle on a rebalance."""
    deliver_drain: float = 10.0
    """Seconds deliver keeps connections past their final dot on SIGTERM (660 on Kubernetes)."""
    partitions: int = 8
    """P for ``topics apply`` on a new cluster; afterwards the topology record decides."""
    replication: int = 1
    """Replication factor for ``topics apply`` (3 in production, with min.insync.replicas 2)."""
    compacted_within: float = 7 * 86400.0
    """Seconds after which a compacted topic must have been cleaned (max.compaction.lag.ms): what ``mailsluice
    erase`` deletes is gone from it twice this time and two days later. For ``topics apply``."""
    rungs: tuple[float, ...] = (60.0, 600.0, 3600.0, 21600.0)
    """Seconds of the wait ladder's rungs 1m, 10m, 1h, 6h (the demo: 1, 3, 10, 30)."""
    lifetime: float = 7 * 86400.0
    """Seconds after its due time at which a mail expires."""
    dns: str = ""
    """HOST:PORT of the resolver; empty = the system's."""
    dns_validates: bool = False
    """Whether MAILSLUICE_DNS checks DNSSEC and is reached by a way that nobody else can write to (loopback):
    then its word counts, and TLSA records are obeyed (DANE)."""
    delivery: Path | None = None
    """File in the place of the shipped delivery.toml: TLS by domain and provider, sources, pools, proxies; looked at
    again when it changes."""
    deliver_sts: bool = True
    """Whether domains' MTA-STS policies are fetched and obeyed."""
    deliver_port: int = 25
    """Port of the mail hosts (demo: 2525)."""
    deliver_sources: tuple[str, ...] = ()
    """Local addresses to send from; empty = the system chooses (named ``default``)."""
    deliver_networks: str = "public"
    """Networks that mail may be sent to: ``public``, or CIDRs separated by commas."""
    deliver_hostname: str = ""
    """Name for EHLO; empty = this machine's name."""
    deliver_rate: float = 1.0
    """Messages/s and source of all workers together while shape has published nothing about a lane."""
    deliver_cooldown: float = 30.0
    """Seconds for which an address that refused a connection is left alone."""
    deliver_unacked: int = 200
    """Unacknowledged outcomes above which no DATA starts."""
    enqueue_hold: float = 30.0
    """Seconds for which the sends of an unknown campaign wait for it, once per campaign."""
    screen_horizon: float = 14 * 86400.0
    """Seconds for which gate one remembers a send."""
    screen_rules: Path | None = None
    """File laid over the shipped rules.toml: who gets no marketing mail (role, disposable, mistyped addresses,
    frequency and sunset by engagement, relaunch). Read at a worker's start; see ``mailsluice list rules``."""
    suppress_shared: bool = False
    """Whether a bad address counts for every tenant, not only for the one whose mail bounced."""
    suppress_complaints_all: bool = False
    """Whether a complaint ends all mail of the tenant, transactional mail too, and not only the marketing."""
    suppress_soft_hits: int = 3
    """Different days with a soft bounce, such as a full mailbox, that suppress an address; a success begins anew."""
    suppress_soft_within: int = 14
    """Days within which those days have to lie."""
    suppress_soft_days: float = 30.0
    """Days for which soft bounces suppress; 0 = for ever."""
    suppress_hard_days: float = 0.0
    """Days for which a bad address is suppressed; 0 = for ever."""
    classify_forward: tuple[str, ...] = ()
    """Where people's answers to our mail go on to, by tenant: TENANT=ADDRESS, with * for every other tenant, such as
    shop=replies@shop.example,*=post@firm.example. Empty = nowhere."""
    classify_forward_from: tuple[str, ...] = ()
    """The From address of what is forwarded, in the same form; it needs a DKIM key of ours like every other. Who
    replies to it writes to the person."""
    consent: Path | None = None
    """File with what tenants ask of consents (require, tracking) and how subscriptions are confirmed, see
    schemas/consent_rules.py. Of all workers and the edge alike; read at their start. Empty = nothing is asked for."""
    render_files: tuple[Path, ...] = ()
    """Directories that attachments' file:/// urls may point into; empty = none."""
    render_hosts: tuple[str, ...] = ()
    """Object stores (HOST or HOST:PORT) that attachments' https:// urls may point to; empty = none."""
    render_attached: int = 8_000_000
    """Bytes that one mail may attach; they are a third more in the mail, which MAILSLUICE_LARGEST bounds."""
    keys: Path = Path("keys")
    """Directory of the DKIM keys (see ``mailsluice dkim``)."""
    secret: str = ""
    """Secret of the tokens, at least 32 characters; several separated by commas: the first mints."""
    retired_secrets: str = ""
    """Secrets that are no longer accepted, separated by commas: who was erased under one is known by its hash still,
    and would get mail again without it."""
    base_url: str = "http://127.0.0.1:8025"
    """Public base URL of the HTTP edge."""
    return_domain: str = "bounces.localhost.test"
    """Domain of the return paths; its MX is the SMTP edge."""
    edge_http: str = "127.0.0.1:8025"
    """HOST:PORT the HTTP edge listens on."""
    edge_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of the proxies before the HTTP edge, and of servers that subscribe for others: their
    X-Forwarded-For says whose request it is. Empty = nobody's does, and all behind a proxy share one limit."""
    edge_subscribe_source: float = 20.0
    """Subscriptions an hour that one address (IPv6: /64) may ask for, for each edge process; a /48 of IPv6 has five
    times as many."""
    edge_subscribe_domain: float = 200.0
    """Subscriptions an hour to one recipient domain, for each edge process; all domains of one mail host have twice
    as many together; large mailbox providers have 50 times as many."""
    edge_smtp: str = "127.0.0.1:8026"
    """HOST:PORT the SMTP edge listens on."""
    edge_smtp_certificate: Path | None = None
    """PEM file with the SMTP edge's certificate chain and its key: STARTTLS is offered. Empty = it is not."""
    edge_smtp_roles: tuple[str, ...] = ("abuse", "fbl", "postmaster")
    """Addresses that the SMTP edge takes without a token: whole ones, or local parts at the return domain."""
    metrics: str = ""
    """HOST:PORT for /metrics, /healthz and /readyz; empty = off."""
    policy: Path | None = None
    """Shaping policy in the place of the shipped one; looked at again when the file changes."""
    policy_override: Path | None = None
    """Shaping policy laid over the other one: only what differs; looked at again when the file changes."""
    watch_lists: tuple[str, ...] = ()
    """Block lists of DNS that control asks about the addresses and DKIM domains in use: ZONE, or domain:ZONE for a
    list of domains, such as zen.spamhaus.org,domain:dbl.spamhaus.org. While one has a name, that name's rates do not
    grow. Empty = none is asked; read the lists' terms, and ask through a resolver of your own (MAILSLUICE_DNS)."""
    watch_every: float = 900.0
    """Seconds between two rounds of questions to the block lists."""
    profile: str = "production"
    """production or demo: intervals of the control law."""
    log: str = "INFO"
    """Log level."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Nothing is read into it; tests hand agents' own settings over with it."""

    def topic(self, name: str) -> str:
        """The broker's name of a logical topic."""
        return self.prefix + name

    def routes(self) -> Routes:
        """Where people's answers go on to. Raises ValueError with every fault."""
        return routes_of(
            self.classify_forward, self.classify_forward_from, self.return_domain, self.edge_smtp_roles
        )

    def secrets(self) -> list[bytes]:
        """The secrets of tokens and replays: the first makes them, all are accepted."""
        return _parts(self.secret)

    def hash_secrets(self) -> list[bytes]:
        """Those of the hashes of erased people (``schemas.erasure``): retired ones too."""
        return [*self.secrets(), *_parts(self.retired_secrets)]

    def environment(self) -> dict[str, str]:
        """The variables that make these settings again (for child processes)."""
        found = {}
        default = Settings()
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name != "extra" and value != getattr(default, item.name):
                found[variable(item.name)] = as_text(value)
        return found


def _parts(secrets: str) -> list[bytes]:
    return [part.encode() for part in secrets.split(",") if part]


def variable(name: str) -> str:
    """The environment variable of a field."""
    return "MAILSLUICE_" + name.upper()


def load(environment: Mapping[str, str], **override: Any) -> Settings:
    """Settings from the environment. Raises BadSettings with every fault, unknown variables included."""
    faults: list[str] = []
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(Settings)
    known = {variable(item.name): item.name for item in dataclasses.fields(Settings) if item.name != "extra"}
    for key, raw in sorted(environment.items()):
        if not key.startswith("MAILSLUICE_") or key in _OTHERS:
            continue
        name = known.get(key)
        if name is None:
            faults.append(f"{key}: no such setting (see `mailsluice settings`)")
            continue
        try:
            values[name] = _value(hints[name], raw)
        except ValueError as error:
            faults.append(f"{key}={raw[:60]!r}: {error}")
    values.update(override)
    settings = Settings(**values)
    faults += _check(settings)
    if faults:
        raise BadSettings("; ".join(faults))
    return settings


_OTHERS = frozenset({"MAILSLUICE_TEST", "MAILSLUICE_CACHE"})


def _check(settings: Settings) -> list[str]:
    faults = []
    if not 1 <= settings.partitions <= 10_000:
        faults.append("MAILSLUICE_PARTITIONS must be 1 to 10000")
    rungs = settings.rungs
    grow = all(0 < shorter < longer < math.inf for shorter, longer in pairwise(rungs))
    if len(rungs) != 4 or not grow:
        faults.append("MAILSLUICE_RUNGS must be 4 growing lengths in seconds")
    for name in ("secret", "retired_secrets"):
        value = getattr(settings, name)
        if value and min(len(s) for s in value.split(",")) < 32:
            faults.append(f"{variable(name)}: each secret needs at least 32 characters")
    if settings.retired_secrets and not settings.secret:
        faults.append("MAILSLUICE_RETIRED_SECRETS needs MAILSLUICE_SECRET, the one that is in use")
    if settings.profile not in ("production", "demo"):
        faults.append("MAILSLUICE_PROFILE must be production or demo")
    for name in (
        "session",
        "commit",
        "lifetime",
        "screen_horizon",
        "drain",
        "compacted_within",
        "watch_every",
    ):
        if not 0 < getattr(settings, name) < math.inf:
            faults.append(f"{variable(name)} must be above 0 seconds")
    for name in ("linger", "deliver_drain", "deliver_rate", "suppress_soft_days", "suppress_hard_days"):
        if not 0 <= getattr(settings, name) < math.inf:
            faults.append(f"{variable(name)} must be 0 or more")
    for name in ("largest", "window_bytes", "replication", "deliver_unacked", "deliver_port"):
        if getattr(settings, name) < 1:
            faults.append(f"{variable(name)} must be 1 or more")
    grown = int(settings.render_attached * 1.37) + 262_144
    if settings.render_attached != Settings().render_attached and grown > settings.largest:
        faults.append(
            f"MAILSLUICE_RENDER_ATTACHED={settings.render_attached} needs a MAILSLUICE_LARGEST of at least "
            f"{grown}: base64 makes a third more of attachments"
        )
    if settings.dns_validates and not settings.dns:
        faults.append("MAILSLUICE_DNS_VALIDATES needs MAILSLUICE_DNS: which resolver's word counts")
    if settings.deliver_port > 65_535:
        faults.append("MAILSLUICE_DELIVER_PORT must be at most 65535")
    for name in ("edge_subscribe_source", "edge_subscribe_domain"):
        if not 1 <= getattr(settings, name) < math.inf:
            faults.append(f"{variable(name)} must be 1 or more")
    if not 1 <= settings.suppress_soft_hits <= settings.suppress_soft_within <= 366:
        faults.append(
            "MAILSLUICE_SUPPRESS_SOFT_HITS must be 1 or more, and at most MAILSLUICE_SUPPRESS_SOFT_WITHIN (at most 366): "
            f"{settings.suppress_soft_hits} different days do not fit into {settings.suppress_soft_within}"
        )
    for proxy in settings.edge_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError as error:
            faults.append(f"MAILSLUICE_EDGE_PROXIES: {error}")
    try:
        block_lists(settings.watch_lists)
    except ValueError as error:
        faults.append(f"MAILSLUICE_WATCH_LISTS: {error}")
    try:
        settings.routes()
    except ValueError as error:
        faults.append(f"MAILSLUICE_CLASSIFY_FORWARD: {error}")
    if settings.log not in logging.getLevelNamesMapping():
        faults.append("MAILSLUICE_LOG must be a level such as INFO or DEBUG")
    try:
        settings_networks(settings.deliver_networks)
    except ValueError as error:
        faults.append(f"MAILSLUICE_DELIVER_NETWORKS: {error}")
    return faults


def settings_networks(
    text: str,
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] | None:
    """The networks mail may go to; None = public addresses only. Raises ValueError."""
    if text == "public":
        return None
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))


def _value(kind: Any, raw: str) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        if raw == "":
            return None
    if kind is bool:
        if raw.lower() in ("1", "true", "yes", "on"):
            return True
        if raw.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError("expected 1 or 0")
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(item(part.strip()) for part in raw.split(",") if part.strip())
    return kind(raw)


def as_text(value: Any) -> str:
    """A value as its variable holds it."""
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return "" if value is None else str(value)
