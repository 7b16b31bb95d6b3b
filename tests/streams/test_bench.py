import json
import os
import socket

import pytest
from click.testing import CliRunner

from streams.ops import bench_parts
from streams.ops.bench import bench
from streams.ops.bench_load import DOMAINS, campaign, record, renderer, sends
from streams.ops.bench_machine import Clock, cpu_seconds, rsa_limit, sign_for
from streams.ops.bench_pipeline import BenchFailed, Options, run


@pytest.mark.parametrize("size", [4_096, 10_240, 102_400])
def test_the_mails_have_the_size_asked_for(size: int) -> None:
    found = campaign(size)
    (out,) = renderer(found).step(record(found))
    assert out.value is not None
    assert abs(len(out.value) - size) < 0.05 * size


def test_every_send_has_an_address_of_its_own_and_the_domains_their_shares() -> None:
    found = [send.to for send in sends(2000, first=100)]
    assert len(set(found)) == 2000
    assert found[0].startswith("reader-100@")
    for domain, _, share in DOMAINS:
        assert sum(to.endswith("@" + domain) for to in found) == 2000 * share // 100


async def test_the_rsa_limit_is_that_of_all_cores_together() -> None:
    alone = sign_for(0.1)
    limit = await rsa_limit(0.2, cores=2)
    assert 50 < alone.cpu_us < 50_000
    assert limit.per_second > 20
    # Two processes on two cores sign more than one alone, two on one core about the same: never a tenth.
    assert limit.per_second > 0.1 * alone.per_second


def test_cpu_is_counted_by_group_from_the_start_on() -> None:
    clock = Clock({"me": [os.getpid()], "nobody": [2**22 + 1]})
    before = cpu_seconds([os.getpid()])
    sign_for(0.2)
    used = clock.used()
    assert used["nobody"] == 0
    assert 0.02 <= used["me"] <= cpu_seconds([os.getpid()]) - before + 0.05


def test_single_steps_are_measured_and_written_as_json(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench_parts, "ROUNDS", 2)
    monkeypatch.setattr(bench_parts, "ROUND", 0.005)
    out = tmp_path / "bench.json"
    for part in bench_parts.PARTS:
        done = CliRunner().invoke(bench, [part, "--json", "--out", str(out)])
        assert done.exit_code == 0, done.output
        steps = json.loads(out.read_text())[part]
        assert json.loads(done.stdout) == {part: steps}
        assert all(0 < value < 1e6 for value in steps.values())
        if part == "dkim":
            assert steps["RSA-2048 signature"] > steps["Ed25519 signature"]


async def test_the_whole_pipeline_on_the_embedded_broker_loses_nothing() -> None:
    result = await run(Options(size=5_000, messages=200, broker="embedded", warm_up=20, partitions=2))
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.messages_per_second > 1
    assert result.ratio == pytest.approx(result.messages_per_second / result.rsa_limit_per_second, abs=0.002)
    # The signatures come on top of the rendered mail.
    assert 5_000 < result.bytes_per_message < 8_000
    cpu = result.cpu_us_per_message
    assert set(cpu) == {"intake", "compose", "deliver", "hygiene", "control", "broker", "sink", "load", "all"}
    assert cpu["compose"] > 50
    assert result.cpu_in_signatures == pytest.approx(cpu["all"] / result.rsa_cpu_us, abs=0.02)
    assert result.settled_seconds >= result.seconds


async def test_a_broker_that_is_not_there_is_said_so(capfd) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(BenchFailed, match=address):
        await run(Options(messages=1, broker=address, warm_up=1))
