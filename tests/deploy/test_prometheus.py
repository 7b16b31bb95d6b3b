"""Prometheus's own checker accepts our configuration, and its own test runner our alerts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy/prometheus"


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration(prometheus: str):
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml"))


def test_rules(prometheus: str):
    promtool("check", "rules", str(DEPLOY / "rules.yml"))
    promtool("test", "rules", "tests/deploy/rules_test.yml")


def test_every_alert_is_tested_and_says_what_to_do():
    rules = yaml.safe_load((DEPLOY / "rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    tests = yaml.safe_load((ROOT / "tests/deploy/rules_test.yml").read_text())["tests"]
    fires = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]
    }
    assert {alert["alert"] for alert in alerts} == fires
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["todo"]


def test_the_lanes_in_the_rules_are_the_lanes():
    from schemas.lanes import LANES

    assert (DEPLOY / "rules.yml").read_text().count(f'"({"|".join(LANES)})"') == 2
