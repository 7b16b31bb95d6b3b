"""Every query of the dashboard and of the autoscaler returns data: real workers, a real Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.campaign import Campaign
from streams import metrics
from streams.broker import make_producer, started
from streams.lab.audience import recipients
from streams.lab.providers import load
from streams.ops.recipients import read_rows
from streams.ops.scene import SENDER, Scene
from streams.ops.send import publish
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/mailsluice.json").read_text())
RULES = ROOT / "deploy/prometheus/rules.yml"
MESSAGES = 150
PROVIDERS = """
[providers.gmail]
domains = ["gmail.test"]
mx = ["mx1.gmail.test-lab.google.com"]
address = "127.0.0.31"
share = 0.6
dialect = "google"
rate = 20
unknown = 0.1
full = 0.1
complaint = 0.2
complaint_after = 0.2
verify = 0
readers = { open = 0.9, click = 0.9, unsubscribe = 0.3, delay = 0.2 }

[providers.small]
domains = ["small.test"]
mx = ["mail.small.test"]
address = "127.0.0.32"
share = 0.4
rate = 200
verify = 0
"""

COUNTED = (
    "mailsluice_lane_limit",
    "mailsluice_lane_rate",
    'mailsluice_dead_letters_total{stage="enqueue"}',
    'mailsluice_edge_requests_total{edge="http", kind="click", status="302"}',
    'mailsluice_edge_requests_total{edge="http", kind="open", status="200"}',
    'mailsluice_edge_requests_total{edge="http", kind="unsubscribe", status="200"}',
    'mailsluice_edge_requests_total{edge="smtp", kind="mail", status="250"}',
    'mailsluice_events_total{kind="clicked"}',
    'mailsluice_events_total{kind="complained"}',
    'mailsluice_events_total{kind="delivered"}',
    'mailsluice_outcomes_total{state="bounced"}',
    'mailsluice_outcomes_total{state="deferred"}',
    'mailsluice_outcomes_total{state="delivered", provider="google"}',
    'mailsluice_outcomes_total{state="delivered", provider="other"}',
    'mailsluice_records_in_total{stage="sign"}',
    'mailsluice_records_out_total{stage="sign"}',
    'mailsluice_suppressions_total{reason="complaint"}',
    'mailsluice_suppressions_total{reason="hard_bounce"}',
    'mailsluice_suppressions_total{reason="unsubscribe"}',
)
"""That a query returns data says little where 0 is data: these must have counted something."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Where -> PromQL, with Grafana's variables filled in as it would for "All"."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            found[f"${variable['name']}"] = f'{metric}{{{label}!=""}}'
    for scaled in yaml.safe_load_all((ROOT / "deploy/k8s/keda/scaled-objects.yaml").read_text()):
        for trigger in scaled["spec"]["triggers"]:
            found[f"KEDA {scaled['metadata']['name']}"] = trigger["metadata"]["query"]
    values = {"$__rate_interval": "15s", "$provider": ".*", "$source": ".*"}
    for where, text in found.items():
        for name, value in values.items():
            text = text.replace(name, value)
        assert "$" not in text, where
        found[where] = text
    return found


def test_every_metric_in_a_query_is_in_the_catalogue():
    known = {
        name
        for metric in metrics.REGISTRY._collector_to_names.values()
        for name in metric
        if not name.endswith("_created")
    }
    rules = yaml.safe_load(RULES.read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    texts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for text in (*expressions().values(), *texts):
        used = set(re.findall(r"\b(?:mailsluice|process)[_:][\w:]+", text))
        assert used <= known | recorded, text


def test_every_metric_is_shown_somewhere():
    queries = " ".join(expressions().values()) + RULES.read_text()
    for names in metrics.REGISTRY._collector_to_names.values():
        if any(name.startswith("mailsluice_") for name in names):
            assert any(name in queries for name in names), names


def test_panels_do_not_overlap_and_have_an_id_of_their_own():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_dashboard_and_provisioning_agree():
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards/mailsluice.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_query_returns_data(prometheus: str, tmp_path: Path):
    providers = tmp_path / "providers.toml"
    providers.write_text(PROVIDERS)
    scene = Scene(tmp_path / "scene", providers=providers, port=0)
    try:
        await scene.start()
        targets = {
            name: worker.environment["MAILSLUICE_METRICS"]
            for name, worker in scene.supervisor.workers.items()
        }
        async with server(prometheus, targets, tmp_path) as address:
            await mail(scene, providers)
            missing = expressions() | {text: f"sum({text}) > 0" for text in COUNTED}
            end = asyncio.get_running_loop().time() + 90
            while missing and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(2.0)
                for where, text in list(missing.items()):
                    if await asyncio.to_thread(ask, address, text):
                        del missing[where]
            assert not missing, missing
            up = await asyncio.to_thread(ask, address, "up")
            assert {sample["metric"]["group"]: sample["value"][1] for sample in up} == dict.fromkeys(
                targets, "1"
            )
    finally:
        await scene.stop()


@contextlib.asynccontextmanager
async def server(prometheus: str, targets: dict[str, str], home: Path) -> AsyncIterator[str]:
    """A Prometheus that scrapes ``targets`` each second, with our rules; its address."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "mailsluice",
                "static_configs": [
                    {"targets": [where], "labels": {"group": name}} for name, where in targets.items()
                ],
            }
        ],
    }
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (home / "prometheus.log").open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            prometheus,
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'tsdb'}",
            f"--web.listen-address={address}",
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield address
    finally:
        process.terminate()
        await process.wait()


def ask(address: str, text: str) -> list[dict[str, Any]]:
    """The instant vector of a query. An empty one as long as the server is not up."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": text})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 400:
            return []
        raise AssertionError(f"{text}: {error.read().decode()}") from None
    except OSError:
        return []
    return [sample for sample in found["data"]["result"] if sample["value"][1] != "NaN"]


async def mail(scene: Scene, providers: Path) -> None:
    """A campaign, and one send that nobody can read."""
    producer = make_producer(scene.settings)
    await started(producer)
    campaign = Campaign(
        id="spring",
        tenant="test",
        sender=SENDER,
        subject="Hello {{ name }}",
        html='<p>Hello {{ name }}, <a href="https://example.test/">read on</a>',
        list_id="<news.mailsluice.test>",
    )
    people = recipients(load(providers), MESSAGES)
    lines = ["to,name,consent_opens,consent_clicks", *(f"{p.to},{p.name},yes,yes" for p in people)]
    try:
        await publish(producer, campaign, read_rows(lines, campaign))
        await producer.send_and_wait("mail-sends", b"{not json", partition=0)
    finally:
        await producer.stop()
