"""deploy/k8s: every manifest is valid, complete and true to the pipeline and the settings."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from streams.cli import main
from streams.pipeline import GROUPS, STAGES
from streams.settings import Settings, load, variable

K8S = Path(__file__).parents[2] / "deploy/k8s"
BASE, KEDA = K8S / "base", K8S / "keda"
KNOWN = {variable(item.name) for item in dataclasses.fields(Settings)}
FILES = sorted(path for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")
WORKLOADS = ("Deployment", "StatefulSet")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def everything(*kinds: str) -> list[dict[str, Any]]:
    return [doc for path in FILES for doc in documents(path) if not kinds or doc["kind"] in kinds]


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [found] = pod(workload)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(params=everything(*WORKLOADS), ids=lambda doc: doc["metadata"]["name"])
def workload(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_kubernetes_accepts_every_manifest():
    tool = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [str(tool), "--strict", *map(str, FILES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_validator_would_say_no(tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text((BASE / "edge.yaml").read_text().replace("replicas: 2", "replica: 2"))
    tool = Path(sys.executable).with_name("kubernetes-validate")
    assert subprocess.run(
        [str(tool), "--strict", str(bad)], capture_output=True, timeout=60, check=False
    ).returncode


def test_kustomizations_list_every_file():
    for folder in (BASE, KEDA):
        [kustomization] = documents(folder / "kustomization.yaml")
        files = {path.name for path in folder.iterdir()} - {"kustomization.yaml", "secrets.example.yaml"}
        assert set(kustomization["resources"]) == files
    [example] = documents(K8S / "example/kustomization.yaml")
    assert [image["name"] for image in example["images"]] == [container(everything("Job")[0])["image"]]
    patched = [yaml.safe_load(patch["patch"]) for patch in example["patches"]]
    present = {(doc["kind"], doc["metadata"]["name"]) for doc in everything()}
    assert {(doc["kind"], doc["metadata"]["name"]) for doc in patched} <= present


def test_every_stage_runs_in_exactly_one_workload():
    stages: list[str] = []
    for doc in everything(*WORKLOADS):
        if container(doc)["command"] == ["python", "-m", "streams.worker"]:
            flag, names = container(doc)["args"]
            assert flag == "--stages"
            assert tuple(names.split(",")) == GROUPS[doc["metadata"]["name"]]
            stages += names.split(",")
    assert sorted(stages) == sorted(stage.name for stage in STAGES)
    others = {doc["metadata"]["name"]: container(doc)["command"][-1] for doc in everything(*WORKLOADS)}
    assert others["control"] == "streams.control"
    assert others["edge"] == "streams.edge.process"
    [job] = everything("Job")
    assert container(job)["args"] == ["topics", "apply"]


def test_stages_with_state_have_a_volume_of_their_own(workload: dict[str, Any]):
    stateful = any(
        stage.state != "none"
        for stage in STAGES
        if stage.name in GROUPS.get(workload["metadata"]["name"], ())
    )
    assert (workload["kind"] == "StatefulSet") == stateful
    mounts = {mount["mountPath"]: mount["name"] for mount in container(workload)["volumeMounts"]}
    claimed = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())]
    given = [volume["name"] for volume in pod(workload)["volumes"]]
    assert sorted(mounts.values()) == sorted(claimed + given)
    assert (mounts["/var/lib/mailsluice"] in claimed) == stateful
    assert "/tmp" in mounts


def test_settings_exist_and_are_accepted():
    text = "".join(path.read_text() for path in K8S.rglob("*.yaml"))
    assert set(re.findall(r"MAILSLUICE_[A-Z_]+", text)) <= KNOWN
    [config] = everything("ConfigMap")
    for doc in everything(*WORKLOADS, "Job", "CronJob"):
        own = {item["name"]: item["value"] for item in container(doc).get("env", ())}
        assert all(isinstance(value, str) for value in {**config["data"], **own}.values())
        load({**config["data"], "MAILSLUICE_SECRET": "s" * 32, **own})


def test_every_name_that_a_pod_refers_to_is_there(workload: dict[str, Any]):
    names = {
        kind: {doc["metadata"]["name"] for doc in everything(kind)}
        for kind in ("ConfigMap", "Secret", "ServiceAccount", "Service")
    }
    for source in container(workload)["envFrom"]:
        if "configMapRef" in source:
            assert source["configMapRef"]["name"] in names["ConfigMap"]
        else:
            assert source["secretRef"]["name"] in names["Secret"]
    assert pod(workload)["serviceAccountName"] in names["ServiceAccount"]
    if workload["kind"] == "StatefulSet":
        assert workload["spec"]["serviceName"] in names["Service"]
    for volume in pod(workload)["volumes"]:
        if "secret" in volume:
            [secret] = [
                doc
                for doc in everything("Secret")
                if doc["metadata"]["name"] == volume["secret"]["secretName"]
            ]
            assert {item["key"] for item in volume["secret"]["items"]} == set(secret["stringData"])
            for item in volume["secret"]["items"]:
                assert item["path"].count("/") == 1


def test_ports_match(workload: dict[str, Any]):
    [config] = everything("ConfigMap")
    box = container(workload)
    ports = {port["name"]: port["containerPort"] for port in box["ports"]}
    assert config["data"]["MAILSLUICE_METRICS"] == f"0.0.0.0:{ports['metrics']}"
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    own = {item["name"]: item["value"] for item in box.get("env", ())}
    for name in ("http", "smtp"):
        if name in ports:
            assert own[f"MAILSLUICE_EDGE_{name.upper()}"] == f"0.0.0.0:{ports[name]}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert box[probe]["httpGet"]["port"] == "metrics"
    assert box["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert box["livenessProbe"]["httpGet"]["path"] == box["startupProbe"]["httpGet"]["path"] == "/healthz"


def test_selectors_find_their_pods():
    pods = {
        doc["metadata"]["name"]: doc["spec"]["template"]["metadata"]["labels"]
        for doc in everything(*WORKLOADS)
    }
    ports = {
        doc["metadata"]["name"]: {port["name"] for port in container(doc)["ports"]}
        for doc in everything(*WORKLOADS)
    }
    for doc in everything("Service"):
        [name] = [name for name, labels in pods.items() if doc["spec"]["selector"] == labels]
        assert {port["targetPort"] for port in doc["spec"]["ports"]} <= ports[name]
    guarded = [doc["spec"]["selector"]["matchLabels"] for doc in everything("PodDisruptionBudget")]
    assert sorted(map(str, guarded)) == sorted(map(str, pods.values()))
    for doc in everything(*WORKLOADS):
        labels = pods[doc["metadata"]["name"]]
        assert doc["spec"]["selector"]["matchLabels"] == labels
        for spread in pod(doc)["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == labels


def test_pods_run_without_privileges():
    for doc in everything(*WORKLOADS, "Job", "CronJob"):
        assert pod(doc)["automountServiceAccountToken"] is False
        outer, inner = pod(doc)["securityContext"], container(doc)["securityContext"]
        assert outer["runAsNonRoot"] is True
        assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inner == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        resources = container(doc)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]
    dockerfile = (K8S.parents[1] / "Dockerfile").read_text()
    assert f"USER {outer['runAsUser']}\n" in dockerfile
    assert "WORKDIR /var/lib/mailsluice\n" in dockerfile


def test_what_is_due_once_a_day_runs_as_the_command_takes_it():
    [cron] = everything("CronJob")
    spec, box = cron["spec"], container(cron)
    minute, hour, *rest = spec["schedule"].split()
    assert rest == ["*", "*", "*"]  # daily, in UTC, and not before the day's last attempts are in the journal
    assert spec["timeZone"] == "Etc/UTC"
    assert 10 <= 60 * int(hour) + int(minute) <= 6 * 60
    assert spec["startingDeadlineSeconds"] + 3600 * int(hour) + 60 * int(minute) < 86_400
    assert spec["concurrencyPolicy"] == "Forbid"
    report, tls, *options = box["args"]
    command = click.Context(main).command.get_command(click.Context(main), report)  # type: ignore[attr-defined]
    context = command.get_command(click.Context(command), tls).make_context(tls, options)
    assert (context.params["sending"], context.params["organization"]) == (True, "Example Shop")
    secrets = {doc["metadata"]["name"] for doc in everything("Secret")}
    assert {source["secretRef"]["name"] for source in box["envFrom"] if "secretRef" in source} <= secrets
    readme = (K8S.parent / "README.md").read_text()
    assert f"CronJob `{cron['metadata']['name']}`" in readme


def test_deliver_may_wait_for_the_last_reply():
    [deliver] = [doc for doc in everything("StatefulSet") if doc["metadata"]["name"] == "deliver"]
    [drain] = [
        float(e["value"]) for e in container(deliver)["env"] if e["name"] == "MAILSLUICE_DELIVER_DRAIN"
    ]
    assert drain >= 600 + 60  # RFC 5321 section 4.5.3.2.6: ten minutes for the reply to the final dot
    assert pod(deliver)["terminationGracePeriodSeconds"] >= drain + 30


def test_keda_scales_what_is_there_within_the_partitions():
    workloads = {(doc["kind"], doc["metadata"]["name"]) for doc in everything(*WORKLOADS)}
    [config] = everything("ConfigMap")
    [component] = documents(KEDA / "kustomization.yaml")
    assert component["kind"] == "Component"
    for scaled in documents(KEDA / "scaled-objects.yaml"):
        target = scaled["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in workloads
        assert scaled["spec"]["maxReplicaCount"] <= int(config["data"]["MAILSLUICE_PARTITIONS"])
        assert any(
            patch["target"]["kind"] == target["kind"]
            and re.fullmatch(patch["target"]["name"], target["name"])
            for patch in component["patches"]
        )
        for trigger in scaled["spec"]["triggers"]:
            # Lag only over a rate: a queue that its provider makes long is no reason for a worker.
            assert (
                "mailsluice_lag_records" not in trigger["metadata"]["query"]
                or "/ 60" in trigger["metadata"]["query"]
            )
            assert trigger["metricType"] == "AverageValue"
