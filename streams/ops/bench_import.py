"""What an import of many suppressions costs: the command, the stage that takes them, and a rebuild from nothing.

A CSV file of ``rows`` people goes through ``mailsluice suppress import`` while one worker of ``suppress`` runs;
afterwards its state is deleted, and it is started again.
"""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streams.admin import apply
from streams.ops.bench_machine import BenchFailed, Clock, conditions
from streams.ops.bench_state import Crew, a_broker, person
from streams.ops.suppressions import COLUMNS
from streams.settings import Settings

SECRET = "bench-secret-bench-secret-bench-secret"
PATIENCE_A_ROW = 0.002
"""Seconds a row for the worker to be at rest: ten times what it takes."""


@dataclass
class Import:
    """One run. Times in seconds, memory in MB of resident size; ``command_first``: the command's peak when a
    tenth was read, so that ``command_peak`` shows whether it grows with the file."""

    rows: int
    seconds: float
    rows_per_second: float
    command_cpu: float
    command_first: float
    command_peak: float
    in_state: float
    """From the command's start until the worker had taken all."""
    worker_cpu: float
    worker_first: float
    worker_peak: float
    rebuild: float
    rebuild_cpu: float
    rebuild_peak: float
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run(rows: int, broker: str = "apache", partitions: int = 4) -> Import:
    """Raises BenchFailed."""
    async with a_broker(broker) as (bootstrap, home):
        settings = Settings(
            broker=bootstrap,
            broker_idempotent=broker != "embedded",
            partitions=partitions,
            state=home / "state",
            prefix=f"import-{os.getpid()}-",
            secret=SECRET,
        )
        await apply(settings)
        file = home / "people.csv"
        await asyncio.to_thread(write_file, file, rows)
        return await _Run(settings, home, file, rows).run()


def write_file(path: Path, rows: int) -> None:
    """A CSV file as ``suppress import`` takes it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("to", "reason", "why"))
        assert {"to", "reason", "why"} <= set(COLUMNS)
        writer.writerows((person(n), "hard_bounce", "old system") for n in range(rows))


class _Run:
    def __init__(self, settings: Settings, home: Path, file: Path, rows: int) -> None:
        self.settings, self.home, self.file, self.rows = settings, home, file, rows

    async def run(self) -> Import:
        crew = Crew(self.settings, self.home)
        try:
            crew.start("suppress", ["suppress"])
            await crew.ready(["suppress"])
            around = conditions()
            clock, begun = Clock({"suppress": [crew.pid("suppress")]}), time.monotonic()
            command = await self._command(crew)
            seconds = time.monotonic() - begun
            await crew.at_rest("suppress", self.rows, patience=60 + self.rows * PATIENCE_A_ROW)
            in_state, worker = time.monotonic() - begun, clock.used()["suppress"]
            peak = crew.peak_mb("suppress")
            await crew.team.remove("suppress")
            shutil.rmtree(self.settings.state)
            begun = time.monotonic()
            crew.start("again", ["suppress"])
            await crew.ready(["again"], patience=60 + self.rows * PATIENCE_A_ROW)
            rebuild = time.monotonic() - begun
            return Import(
                rows=self.rows,
                seconds=round(seconds, 1),
                rows_per_second=round(self.rows / seconds),
                command_cpu=round(command["cpu"], 1),
                command_first=command["first"],
                command_peak=command["peak"],
                in_state=round(in_state, 1),
                worker_cpu=round(worker, 1),
                worker_first=command["worker"],
                worker_peak=peak,
                rebuild=round(rebuild, 1),
                rebuild_cpu=round(cpu_of(crew.pid("again")), 1),
                rebuild_peak=crew.peak_mb("again"),
                conditions=around,
            )
        finally:
            await crew.team.stop()

    async def _command(self, crew: Crew) -> Mapping[str, float]:
        arguments = ["suppress", "import", str(self.file), "--why", "bench", "--by", "bench"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streams.cli", *arguments,
            env={**os.environ, **self.settings.environment()},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        ended = asyncio.create_task(process.communicate())
        found = {"first": 0.0, "peak": 0.0, "cpu": 0.0, "worker": 0.0}
        while not ended.done():
            await asyncio.wait({ended}, timeout=0.5)
            status = Path(f"/proc/{process.pid}/io")
            try:
                read, peak = _read_bytes(status), peak_of(process.pid)
                found["peak"], found["cpu"] = max(found["peak"], peak), cpu_of(process.pid)
            except (OSError, IndexError):  # it has just ended
                continue
            if not found["first"] and read > self.file.stat().st_size / 10:
                found["first"], found["worker"] = peak, crew.peak_mb("suppress")
        if process.returncode:
            raise BenchFailed(f"the import ended with {process.returncode}: {ended.result()[0].decode()}")
        return found


def _read_bytes(io: Path) -> int:
    return int(io.read_text().split()[1])  # rchar


def peak_of(pid: int) -> float:
    """Largest resident memory of a process so far, in MB. Raises OSError, IndexError when it is gone."""
    text = Path(f"/proc/{pid}/status").read_text()
    return round(int(text.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used. Raises OSError, IndexError when it is gone."""
    after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")
