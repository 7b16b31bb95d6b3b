"""docker-compose.yml: accepted by docker compose itself, and true to the pipeline and the settings."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.pipeline import STAGES
from streams.settings import Settings, load, variable

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
KNOWN = {variable(item.name) for item in dataclasses.fields(Settings)}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as docker compose understands them, anchors and defaults resolved."""
    command = [str(Path(sys.executable).with_name("docker-compose")), "-f", str(COMPOSE), "config"]
    subprocess.run([*command, "-q"], check=True, capture_output=True, timeout=60)
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def example() -> dict[str, str]:
    """What deploy/mailsluice.env.example sets."""
    lines = (ROOT / "deploy/mailsluice.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_stage_runs_in_exactly_one_service(services: dict[str, Any]):
    stages: list[str] = []
    for service in services.values():
        if service.get("entrypoint") == ["python", "-m", "streams.worker"]:
            assert service["command"][0] == "--stages"
            stages += service["command"][1].split(",")
    assert sorted(stages) == sorted(stage.name for stage in STAGES)
    assert services["control"]["entrypoint"] == ["python", "-m", "streams.control"]
    assert services["edge"]["entrypoint"] == ["python", "-m", "streams.edge.process"]
    assert services["topics"]["command"] == ["topics", "apply"]


def test_settings_exist_and_are_accepted(services: dict[str, Any]):
    own = {**example(), "MAILSLUICE_SECRET": "s" * 32}
    text = (ROOT / "deploy/mailsluice.env.example").read_text()
    assert set(re.findall(r"MAILSLUICE_\w+", text + COMPOSE.read_text())) <= KNOWN
    for service in services.values():
        environment = service.get("environment") or {}
        if "MAILSLUICE_BROKER" in environment:
            load({**own, **environment})


def test_workers_are_confined_and_wait_for_the_topics(services: dict[str, Any]):
    for name in ("intake", "compose", "deliver", "hygiene", "control", "edge"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
        home = [mount["target"] for mount in service.get("volumes", ())]
        home += [mount.partition(":")[0] for mount in service["tmpfs"]]
        assert home.count("/var/lib/mailsluice") == 1
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"


def test_no_two_workers_share_state(services: dict[str, Any]):
    volumes = [
        mount["source"]
        for service in services.values()
        for mount in service.get("volumes", ())
        if mount["type"] == "volume"
    ]
    assert len(volumes) == len(set(volumes))


def test_ports_match(services: dict[str, Any]):
    edge = services["edge"]
    published = {port["published"]: str(port["target"]) for port in edge["ports"]}
    assert published["8025"] == edge["environment"]["MAILSLUICE_EDGE_HTTP"].rpartition(":")[2]
    assert published["25"] == edge["environment"]["MAILSLUICE_EDGE_SMTP"].rpartition(":")[2]
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert name == "edge" or port["host_ip"] == "127.0.0.1", name
    [job] = [
        job
        for job in yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
        if job["job_name"] == "mailsluice"
    ]
    [found] = job["dns_sd_configs"]
    watched = [
        name for name, service in services.items() if "MAILSLUICE_METRICS" in service.get("environment", {})
    ]
    assert sorted(found["names"]) == sorted(set(watched) - {"topics"})
    for name in found["names"]:
        assert services[name]["environment"]["MAILSLUICE_METRICS"] == f"0.0.0.0:{found['port']}"
        assert f":{found['port']}/readyz" in services[name]["healthcheck"]["test"][-1]


def test_a_stop_waits_longer_than_the_drain(services: dict[str, Any]):
    deliver = services["deliver"]
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", deliver["stop_grace_period"]).groups(default="0")
    drain = float(deliver["environment"]["MAILSLUICE_DELIVER_DRAIN"])
    assert int(minutes) * 60 + int(seconds) > drain + Settings().drain + 30  # and the outbox's last flush


def test_secrets_are_not_in_git_and_have_no_default():
    assert {"mailsluice.env", "grafana.env", "keys/"} <= set((ROOT / "deploy/.gitignore").read_text().split())
    assert example()["MAILSLUICE_SECRET"] == ""
    tracked = subprocess.run(
        ["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert not [name for name in tracked if name.endswith((".env", ".pem", "secrets.yaml"))]
