"""The peer really relays and signs, where it is installed; the sinks say what they are."""

import asyncio

import pytest

from streams.ops import bench_peers, bench_sink
from streams.ops.bench_pipeline import Options
from streams.ops.bench_sink import NoSink, make_sink

needs_peer = pytest.mark.skipif(bool(bench_peers.missing()), reason=bench_peers.missing() or "here")


@needs_peer
@pytest.mark.timeout(120)
async def test_postfix_relays_every_mail_with_a_signature() -> None:
    peer = await bench_peers.run(Options(size=4096, messages=40), ours=100.0)
    assert peer.messages_per_second > 0
    assert peer.cpu_us_per_message > 0
    assert peer.ours_to_theirs == pytest.approx(100.0 / peer.messages_per_second, rel=0.01)
    assert peer.conditions["sink"] == "own"


def test_what_is_missing_is_said(monkeypatch) -> None:
    monkeypatch.setattr(bench_peers, "TOOLS", ("postfix", "no-such-tool"))
    assert "no-such-tool not installed" in bench_peers.missing()


@pytest.mark.parametrize("wanted", ["nowhere", ":x", "127.0.0.1:", "127.0.0.1:smtp"])
async def test_a_sink_that_cannot_be_says_what_to_write(wanted) -> None:
    with pytest.raises(NoSink, match="write own, smtp-sink or HOST:PORT"):
        async with make_sink(wanted):
            pass


@needs_peer
async def test_smtp_sink_answers() -> None:
    async with make_sink("smtp-sink") as sink:
        reader, writer = await asyncio.open_connection(sink.host, sink.port)
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"220")
        writer.close()


async def test_without_smtp_sink_it_is_said_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(bench_sink.shutil, "which", lambda *_, **__: None)
    with pytest.raises(NoSink, match="apt install postfix"):
        async with make_sink("smtp-sink"):
            pass
