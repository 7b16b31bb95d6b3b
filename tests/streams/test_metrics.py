"""The catalogue of metrics: names and labels are durable, dashboards and alerts hang on them."""

from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from schemas.outcome import Outcome
from streams import metrics
from streams.app import observe_outcome

CATALOGUE = """
mailsluice_attempt_seconds histogram provider
mailsluice_block_listed gauge list,name
mailsluice_block_lists_dead gauge
mailsluice_bounce_floods counter whose
mailsluice_bugs counter stage
mailsluice_campaign_gates counter gate
mailsluice_canary_late_seconds gauge
mailsluice_commits counter stage,result
mailsluice_dead_letters counter stage,reason
mailsluice_deliver_aside counter why
mailsluice_delivered_security counter provider,security
mailsluice_delivery_age_seconds histogram provider,stream
mailsluice_edge_requests counter edge,kind,status
mailsluice_erased_unknown_people gauge stage
mailsluice_events counter kind
mailsluice_lag_records gauge stage,topic
mailsluice_lane_limit gauge provider,source
mailsluice_lane_rate gauge provider,source
mailsluice_lane_suspended_until gauge provider,source
mailsluice_lane_waiting gauge provider
mailsluice_oldest_message_seconds gauge stage
mailsluice_outcomes counter provider,source,state,klass
mailsluice_partitions_owned gauge stage
mailsluice_rebalances counter stage
mailsluice_records_in counter stage,topic
mailsluice_records_in_work gauge stage
mailsluice_records_out counter stage,topic
mailsluice_repeats counter gate
mailsluice_replies_unclassified counter provider
mailsluice_retries counter stage
mailsluice_screen_rules counter reason,action
mailsluice_smtp_connections gauge provider,source
mailsluice_source_unwell gauge source
mailsluice_stage_busy_seconds counter stage
mailsluice_stray_partitions gauge stage
mailsluice_stream_stopped_until gauge kind,name
mailsluice_subscriptions counter told
mailsluice_suppressions counter reason
mailsluice_unacknowledged_records gauge stage
"""


def found() -> dict[str, tuple[str, tuple[str, ...]]]:
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    metrics_ = [m for m in vars(metrics).values() if isinstance(m, tuple(kinds))]
    return {m._name: (kinds[type(m)], m._labelnames) for m in metrics_}


def test_names_and_labels_are_pinned():
    text = "\n".join(
        f"{name} {kind} {','.join(labels)}".rstrip() for name, (kind, labels) in sorted(found().items())
    )
    assert text == CATALOGUE.strip(), text


def test_names_say_what_they_count():
    for name, (kind, labels) in found().items():
        assert name.startswith("mailsluice_")
        assert kind != "gauge" or not name.endswith("_total")
        assert not set(labels) & {"address", "recipient", "reply", "email", "id"}


def test_no_other_module_makes_a_metric():
    root = Path(__file__).parents[2]
    for package in ("streams", "agents", "schemas"):
        for source in (root / package).rglob("*.py"):
            if source != Path(metrics.__file__):
                text = source.read_text()
                for kind in ("Counter", "Gauge", "Histogram", "Summary"):
                    assert not ("prometheus_client" in text and f" {kind}(" in text), source


@pytest.mark.parametrize(
    ("klass", "rule", "counted"),
    [
        ("refused", "basic-550", 1),
        ("unclassified", "", 1),
        ("unknown_user", "no-such-user", 0),
        ("accepted", "basic-250", 0),
        ("", "", 0),
    ],
)
def test_replies_that_no_rule_knows_are_counted(klass, rule, counted):
    before = metrics.UNCLASSIFIED.labels("google")._value.get()
    observe_outcome(
        Outcome(id="1", attempt=1, state="bounced", provider="google", klass=klass, rule=rule), 0, 0
    )
    assert metrics.UNCLASSIFIED.labels("google")._value.get() - before == counted
