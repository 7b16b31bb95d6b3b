"""A benchmark or a demo that is ended by SIGTERM takes along what it started and wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = {
    "bench": ("bench", "pipeline", "--broker", "embedded", "--messages", "50000"),
    "demo": ("demo", "--port", "0", "--page", "0"),
}


def of_run(directory: Path) -> list[str]:
    """The command lines of processes that were started with this directory for temporary files."""
    wanted, found = f"TMPDIR={directory}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("command", "stage"), [("bench", "logs/deliver.log"), ("demo", "broker")])
def test_nothing_of_it_is_left(tmp_path: Path, command: str, stage: str) -> None:
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", *COMMANDS[command]],
            env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=tmp_path, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while not list(tmp_path.glob(f"mailsluice-*/{stage}")):
            assert run.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        assert of_run(tmp_path)
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 130
    finally:
        run.kill()
        run.wait()
    assert list(tmp_path.glob("mailsluice-*")) == []
    assert of_run(tmp_path) == []
    assert "Traceback" not in (tmp_path / "said").read_text()
