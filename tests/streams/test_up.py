"""``mailsluice up``: real workers beside an embedded broker, stopped by a signal."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from streams.ops.up import BadChoice, plan
from tests.support.ports import free_port


def test_all_groups_are_the_default() -> None:
    found = plan("", (), True)
    assert [group for _, group in found.processes()] == [
        "intake",
        "compose",
        "deliver",
        "hygiene",
        "control",
        "edge",
    ]
    assert found.arguments("compose") == [
        "-m",
        "streams.worker",
        "--stages",
        "render,sign",
        "--die-with-parent",
    ]
    assert found.arguments("control") == ["-m", "streams.control"]


def test_single_stages_share_the_process_of_their_group() -> None:
    found = plan("score, sign,render ,edge,deliver", ("deliver=2",), False)
    assert dict(found.groups) == {
        "hygiene": ("score",),
        "compose": ("render", "sign"),
        "edge": (),
        "deliver": ("deliver",),
    }
    assert [name for name, _ in found.processes()] == ["hygiene", "compose", "edge", "deliver-1", "deliver-2"]
    assert found.arguments("compose")[-1] == "--no-chain"


@pytest.mark.parametrize(
    ("stages", "workers", "words"),
    [
        ("paint", (), "no stage or group 'paint'"),
        ("", ("deliver",), "GROUP=1..64"),
        ("", ("deliver=-1",), "GROUP=1..64"),
        ("", ("deliver=65",), "GROUP=1..64"),
        ("edge", ("deliver=2",), "that runs: edge"),
        ("", ("edge=2",), "one edge a machine"),
    ],
)
def test_what_cannot_run_is_refused(stages: str, workers: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadChoice, match=words):
        plan(stages, workers, True)


async def start(home: Path, *arguments: str) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-m",
        "streams.cli",
        "up",
        "--broker",
        "embedded",
        "--home",
        str(home),
        *arguments,
    ]
    ports = {
        "MAILSLUICE_EDGE_HTTP": f"127.0.0.1:{free_port()}",
        "MAILSLUICE_EDGE_SMTP": f"127.0.0.1:{free_port()}",
    }
    environment = {"PATH": "/usr/bin:/bin", "MAILSLUICE_KEYS": str(home / "no-keys"), **ports}
    return await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


async def line_with(process: asyncio.subprocess.Process, words: str, seen: list[str]) -> str:
    """The next line of output that has ``words``."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"ended without {words!r}: {''.join(seen)}")


async def test_workers_get_ready_and_end_on_sigterm(tmp_path: Path) -> None:
    process = await start(tmp_path, "--stages", "suppress,score,edge")
    seen: list[str] = []
    try:
        async with asyncio.timeout(60):
            assert "starting hygiene, edge; logs:" in await line_with(process, "starting", seen)
            await line_with(process, "ready. Metrics: hygiene 127.0.0.1:", seen)
            process.send_signal(signal.SIGTERM)
            await line_with(process, "stopped", seen)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert (tmp_path / "logs" / "hygiene.log").read_text()
    assert (tmp_path / "state" / "hygiene").is_dir()


async def test_a_worker_that_cannot_run_is_a_fault_in_its_own_words(tmp_path: Path) -> None:
    process = await start(tmp_path, "--stages", "compose")
    seen: list[str] = []
    try:
        async with asyncio.timeout(60):
            fault = await line_with(process, "fault:", seen)
            assert "compose cannot run: " in fault
            assert "no-keys" in fault
            await line_with(process, "no worker can run", seen)
            assert await process.wait() == 78
    finally:
        if process.returncode is None:
            process.kill()
