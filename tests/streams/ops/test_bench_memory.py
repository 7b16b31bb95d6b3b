"""The arithmetic of the memory bench, on numbers known beforehand and on a real connection."""

import os
import shutil
import socket

import pytest

from streams.ops.bench_memory import received, slope


def test_slope_is_in_mb_an_hour() -> None:
    assert slope([(second, 100 + second / 60) for second in range(600)]) == pytest.approx(60.0, abs=0.1)
    assert slope([(second, 80.0) for second in range(600)]) == 0
    assert slope([(1.0, 80.0)]) == 0
    assert slope([(1.0, 80.0), (1.0, 90.0)]) == 0


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss (iproute2) is not installed")
def test_received_counts_the_bytes_of_our_connections_to_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        port = server.getsockname()[1]
        client.connect(("127.0.0.1", port))
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"x" * 12_345)
            got = 0
            while got < 12_345:
                got += len(client.recv(65_536))
            assert received(os.getpid(), port) == 12_345
            assert received(1, port) == 0


def test_without_ss_nothing_is_claimed(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert received(os.getpid(), 1) is None
