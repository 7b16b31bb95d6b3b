"""The machine under a benchmark: its RSA limit, the CPU that processes used, and what else was going on.

``python -m streams.ops.bench_machine SECONDS`` signs on one core for so long and prints signatures/s and
the CPU microseconds of one.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from agents.sign.keys import new_keys

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class BenchFailed(Exception):
    """A run did not come to its end; the text says where to look."""


class Signed(NamedTuple):
    """RSA-2048 signatures per second, and CPU microseconds of one: dearer while neighbours share the core."""

    per_second: float
    cpu_us: float


def sign_for(seconds: float) -> Signed:
    """RSA-2048 signatures of this process, over data of a DKIM header's size."""
    key = new_keys("bench.test", "rsa", "ed")[1]
    data = b"x" * 900
    for _ in range(50):
        key.sign(data)
    begun, cpu = time.perf_counter(), time.process_time()
    count = 0
    while (spent := time.perf_counter() - begun) < seconds:
        for _ in range(20):
            key.sign(data)
        count += 20
    return Signed(count / spent, (time.process_time() - cpu) / count * 1e6)


async def rsa_limit(seconds: float = 2.0, cores: int = 0) -> Signed:
    """RSA-2048 signatures of the whole machine: one process a core, all at the same time."""
    command = [sys.executable, "-m", "streams.ops.bench_machine", str(seconds)]
    started = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        for _ in range(cores or available_cores())
    ]
    said = [[float(word) for word in (await process.communicate())[0].split()] for process in started]
    return Signed(sum(rate for rate, _ in said), sum(cpu for _, cpu in said) / len(said))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU that the processes have used so far, user and system, all threads; a process that is gone counts 0."""
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mb(pids: Iterable[int]) -> float:
    """Resident memory of the processes in MB."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


class Clock:
    """CPU of groups of processes from ``start`` to ``stop``."""

    def __init__(self, groups: dict[str, list[int]]) -> None:
        self.groups = groups
        self._begin = self._read()

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) for name, pids in self.groups.items()}

    def used(self) -> dict[str, float]:
        """CPU seconds of each group since the start."""
        now = self._read()
        return {name: round(now[name] - begin, 3) for name, begin in self._begin.items()}


def conditions() -> dict[str, Any]:
    """What a figure depends on besides us."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "cores": available_cores(),
        "load": [round(value, 2) for value in load],
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("aiokafka", "cryptography", "msgspec", "orjson", "uvloop")
        },
    }


if __name__ == "__main__":
    print(*sign_for(float(sys.argv[1])))
