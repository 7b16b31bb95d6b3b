"""Every metric of the project, in one catalogue. No other module makes one.

Labels never hold an address or a raw reply. Names are durable: dashboards and alerts hang on them
(pinned by tests/streams/test_metrics.py).
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# A second series for each counter, which no query uses: a sixth of what a scrape costs the worker.
disable_created_metrics()
REGISTRY = CollectorRegistry(auto_describe=True)
_AGES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)
_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)

RECORDS_IN = Counter(
    "mailsluice_records_in_total", "Records handed to a stage", ["stage", "topic"], registry=REGISTRY
)
RECORDS_OUT = Counter(
    "mailsluice_records_out_total",
    "Records that a stage wrote (one that is not acknowledged ends the process)",
    ["stage", "topic"],
    registry=REGISTRY,
)
DEAD_LETTERS = Counter(
    "mailsluice_dead_letters_total",
    "Records sent to the dead letters",
    ["stage", "reason"],
    registry=REGISTRY,
)
RETRIES = Counter(
    "mailsluice_retries_total",
    "Batches handed in again because a dependency was unwell",
    ["stage"],
    registry=REGISTRY,
)
BUGS = Counter("mailsluice_bugs_total", "Records on which an agent raised", ["stage"], registry=REGISTRY)
STAGE_SECONDS = Counter(
    "mailsluice_stage_busy_seconds_total", "Wall time a stage spent in batches", ["stage"], registry=REGISTRY
)
IN_WORK = Gauge(
    "mailsluice_records_in_work", "Records taken and not yet committed", ["stage"], registry=REGISTRY
)
OLDEST = Gauge(
    "mailsluice_oldest_message_seconds", "Age of the oldest record in work", ["stage"], registry=REGISTRY
)
LAG = Gauge(
    "mailsluice_lag_records",
    "Records in the stage's topics that it has not taken yet",
    ["stage", "topic"],
    registry=REGISTRY,
)
OWNED = Gauge(
    "mailsluice_partitions_owned", "Partitions that this process owns", ["stage"], registry=REGISTRY
)
REBALANCES = Counter("mailsluice_rebalances_total", "Assignments received", ["stage"], registry=REGISTRY)
COMMITS = Counter(
    "mailsluice_commits_total", "Offset commits by result", ["stage", "result"], registry=REGISTRY
)
STRAY_PARTITIONS = Gauge(
    "mailsluice_stray_partitions",
    "Partitions beyond P that the broker shows; ignored",
    ["stage"],
    registry=REGISTRY,
)
UNACKED = Gauge(
    "mailsluice_unacknowledged_records",
    "Records written and not yet acknowledged",
    ["stage"],
    registry=REGISTRY,
)
REPEATS = Counter(
    "mailsluice_repeats_total", "Copies of a mail that a gate dropped", ["gate"], registry=REGISTRY
)
OUTCOMES = Counter(
    "mailsluice_outcomes_total",
    "Attempts by outcome",
    ["provider", "source", "state", "klass"],
    registry=REGISTRY,
)
UNCLASSIFIED = Counter(
    "mailsluice_replies_unclassified_total",
    "Replies whose wording no rule knows: only their code decided (mailsluice classify --cluster groups them)",
    ["provider"],
    registry=REGISTRY,
)
SECURITY = Counter(
    "mailsluice_delivered_security_total",
    "Mails delivered by what their connection was worth: clear, broken, encrypted, verified, sts, dane",
    ["provider", "security"],
    registry=REGISTRY,
)
ATTEMPT_SECONDS = Histogram(
    "mailsluice_attempt_seconds", "From MAIL to the reply", ["provider"], buckets=_FAST, registry=REGISTRY
)
DELIVERY_AGE = Histogram(
    "mailsluice_delivery_age_seconds",
    "From received to the 250",
    ["provider", "stream"],
    buckets=_AGES,
    registry=REGISTRY,
)
CONNECTIONS = Gauge(
    "mailsluice_smtp_connections", "SMTP connections open", ["provider", "source"], registry=REGISTRY
)
SOURCE_UNWELL = Gauge(
    "mailsluice_source_unwell",
    "1 where mail cannot be sent from a source just now: its address is not here, its proxy is down",
    ["source"],
    registry=REGISTRY,
)
WAITING = Gauge(
    "mailsluice_lane_waiting",
    "Mails in the lane's buffers of this process",
    ["provider"],
    registry=REGISTRY,
)
LANE_RATE = Gauge(
    "mailsluice_lane_rate", "Messages/s that this process may send", ["provider", "source"], registry=REGISTRY
)
LANE_LIMIT = Gauge(
    "mailsluice_lane_limit",
    "Messages/s that the policy allows in all",
    ["provider", "source"],
    registry=REGISTRY,
)
LANE_SUSPENDED = Gauge(
    "mailsluice_lane_suspended_until",
    "Unix time until which the lane is suspended; 0 = it is not",
    ["provider", "source"],
    registry=REGISTRY,
)
STREAM_STOPPED = Gauge(
    "mailsluice_stream_stopped_until",
    "Unix time until which a source or DKIM domain is stopped everywhere for a fault of ours",
    ["kind", "name"],
    registry=REGISTRY,
)
EVENTS = Counter("mailsluice_events_total", "Public events by kind", ["kind"], registry=REGISTRY)
EDGE_REQUESTS = Counter(
    "mailsluice_edge_requests_total", "Requests at the edge", ["edge", "kind", "status"], registry=REGISTRY
)
BOUNCE_FLOODS = Counter(
    "mailsluice_bounce_floods_total",
    "Bounces by mail beyond what is believed about one address or campaign in an hour",
    ["whose"],
    registry=REGISTRY,
)
SCREEN_RULES = Counter(
    "mailsluice_screen_rules_total",
    "Marketing mails that a rule of screen stopped, or would have (warn)",
    ["reason", "action"],
    registry=REGISTRY,
)
SUBSCRIPTIONS = Counter(
    "mailsluice_subscriptions_total",
    "Subscriptions asked for, by what became of them: mailed (a confirmation), granted, limited, known, complained, closed",
    ["told"],
    registry=REGISTRY,
)
ERASED_UNKNOWN = Gauge(
    "mailsluice_erased_unknown_people",
    "People who were erased under a secret that this process is not told of: they would get mail again",
    ["stage"],
    registry=REGISTRY,
)
LISTED = Gauge(
    "mailsluice_block_listed",
    "1 for each block list of DNS that has a sending address or DKIM domain of ours, by our own check",
    ["list", "name"],
    registry=REGISTRY,
)
LISTS_DEAD = Gauge(
    "mailsluice_block_lists_dead",
    "Block lists that are not believed, because they answer their own test points wrongly",
    registry=REGISTRY,
)
ASIDE = Counter(
    "mailsluice_deliver_aside_total",
    "Mail that stepped aside onto the ladder without an attempt, by what it waits for",
    ["why"],
    registry=REGISTRY,
)
CAMPAIGN_GATES = Counter(
    "mailsluice_campaign_gates_total",
    "Campaigns paused by what came back (bounces, complaints, deferrals), or whose canary passed",
    ["gate"],
    registry=REGISTRY,
)
CANARY_LATE = Gauge(
    "mailsluice_canary_late_seconds",
    "For how long the oldest canary has been undecided beyond its minutes: too few of its mails ended",
    registry=REGISTRY,
)
SUPPRESSIONS = Counter("mailsluice_suppressions_total", "Suppressions written", ["reason"], registry=REGISTRY)
ProcessCollector(registry=REGISTRY)  # process_cpu_seconds_total, process_resident_memory_bytes, ...
