"""Worker processes on this machine: started, watched, started again, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams.pipeline import GROUPS

log = logging.getLogger("mailsluice.supervise")

EXIT_CONFIG = 78
"""A worker that ends so would end so again: its settings or topics are wrong."""
ORDER = ("control", "edge", *GROUPS)


@dataclass(eq=False)
class Worker:
    """One process and its history."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log_path: Path
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    ends: list[tuple[float, int]] = field(default_factory=list)
    wanted: bool = True
    starting: bool = False

    @property
    def pid(self) -> int:
        """The process's id, 0 while there is none."""
        return self.process.pid if self.process and self.process.returncode is None else 0

    @property
    def faulty(self) -> bool:
        """Whether it ended because it cannot run, and is not started again."""
        return bool(self.ends) and self.ends[-1][1] == EXIT_CONFIG


class Supervisor:
    """Keeps workers running: one that ends is started again, at first at once, then with growing pauses."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        on_fault: Callable[[str], None] = lambda text: None,
        on_restart: Callable[[str, int], None] = lambda name, code: None,
        module: str = "streams.worker",
    ) -> None:
        """``environment``: MAILSLUICE_* of every worker. ``on_fault``: a worker cannot run (settings).
        ``module``: what is run as a worker of stages."""
        self._environment = dict(environment)
        self._logs = logs
        self._on_fault = on_fault
        self._on_restart = on_restart
        self._module = module
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.workers: dict[str, Worker] = {}
        self.faults: list[str] = []
        logs.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, arguments: Sequence[str], **extra: str) -> Worker:
        """Start a process of this Python; ``extra`` are more environment variables."""
        own = {**os.environ, **self._environment, **extra, "PYTHONUNBUFFERED": "1"}
        worker = Worker(name, tuple(arguments), own, self._logs / f"{name}.log")
        self.workers[name] = worker
        self._tasks[name] = asyncio.create_task(self._keep(worker), name=f"keep-{name}")
        return worker

    def add_group(self, group: str, number: int = 0, **extra: str) -> Worker:
        """Start one worker of a stage group (or ``control``, ``edge``), with a state directory of its own."""
        name = f"{group}-{number}" if number else group
        state = Path(self._environment.get("MAILSLUICE_STATE", "state")) / name
        state.mkdir(parents=True, exist_ok=True)
        extra.setdefault("MAILSLUICE_STATE", str(state))
        if group == "control":
            return self.add(name, ["-m", "streams.control", "--die-with-parent"], **extra)
        if group == "edge":
            return self.add(name, ["-m", "streams.edge.process", "--die-with-parent"], **extra)
        stages = ",".join(GROUPS.get(group, (group,)))
        return self.add(name, ["-m", self._module, "--stages", stages, "--die-with-parent"], **extra)

    async def remove(self, name: str, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        """End a worker and start it no more; its exit status. SIGKILL after ``seconds``. ``add`` brings it back."""
        worker = self.workers.pop(name)
        worker.wanted = False
        task = self._tasks.pop(name)
        end = time.monotonic() + seconds
        while worker.starting and not worker.pid:  # it is being started just now
            await asyncio.sleep(0.01)
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
            while worker.pid and time.monotonic() < end:
                await asyncio.sleep(0.02)
            if worker.pid:
                log.warning("%s did not end in %.0f s: killed", name, seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            await task
        else:
            task.cancel()  # between two starts
            await asyncio.gather(task, return_exceptions=True)
        return worker.ends[-1][1] if worker.ends else 0

    async def stop(self, seconds: float = 20.0, order: Sequence[str] = ()) -> None:
        """SIGTERM to all, SIGKILL to those that still run after ``seconds``."""
        for worker in self.workers.values():
            worker.wanted = False
        while any(worker.starting and not worker.pid for worker in self.workers.values()):
            await asyncio.sleep(0.01)
        running = [w for w in self.workers.values() if w.pid]
        for worker in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                for worker in running:
                    if worker.process:
                        await worker.process.wait()
        except TimeoutError:
            for worker in running:
                if worker.pid:
                    log.warning("%s did not end in %.0f s: killed", worker.name, seconds)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, worker: Worker) -> None:
        while worker.wanted:
            worker.starting = True
            with worker.log_path.open("ab") as sink:
                worker.process = await asyncio.create_subprocess_exec(
                    sys.executable, *worker.arguments, env=dict(worker.environment), stdout=sink, stderr=sink
                )
            worker.starting = False
            worker.starts += 1
            code = await worker.process.wait()
            worker.ends.append((time.monotonic(), code))
            if not worker.wanted:
                return
            if code == EXIT_CONFIG:
                fault = f"{worker.name} cannot run: {tail(worker.log_path)}"
                self.faults.append(fault)
                self._on_fault(fault)
                return
            self._on_restart(worker.name, code)
            recent = sum(1 for at, _ in worker.ends if at > time.monotonic() - 60)
            await asyncio.sleep(min(10.0, 0.1 * 2 ** (recent - 1)))


def tail(path: Path, lines: int = 3) -> str:
    """A worker's last word: the line it wrote for people, or else the last lines of its log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8000))
            found = file.read().decode("utf-8", "replace").strip().splitlines()
        said = [line for line in found if line.startswith("mailsluice: ")]
        return said[-1].removeprefix("mailsluice: ") if said else " / ".join(found[-lines:])
    except OSError as error:
        return str(error)
