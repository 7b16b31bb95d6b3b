"""The workers of a chaos run, and what can be done to them. Every blow is noted as a moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from streams.ops.chaos.oracle import SETTLE, Moment
from streams.ops.chaos.plan import workers
from streams.ops.scene import Scene
from streams.ops.supervise import tail

READY = 120.0
"""Seconds within which a worker has to be ready again, on a machine that is busy with all the others."""
STATEFUL = ("intake", "deliver", "hygiene")
DISK = 64 << 20
"""Bytes of a worker's small disk."""
PASSED = 10.0
"""Seconds within which an armed worker should pass its fault point."""
NOTICED = 0.25
"""Seconds within which the supervisor notices an end."""


def source(name: str) -> str:
    """The address that a deliver worker sends from: one each, so that the ledgers tell who sent."""
    return f"127.0.0.{21 + int(name.partition('-')[2] or 0)}"


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that ended. ``code`` as the supervisor saw it, ``word`` the last line of its log."""

    at: float
    name: str
    code: int
    word: str


class Fleet:
    """All workers of ``groups`` on a scene. ``say`` tells people what is done."""

    def __init__(self, scene: Scene, groups: Mapping[str, int], say: Callable[[str], None]) -> None:
        self.scene, self.groups, self._say = scene, workers(groups), say
        self._counts = dict(groups)
        self.moments: list[Moment] = []
        self.deaths: list[Death] = []
        self.fallen: Counter[str] = Counter()
        """Fault point -> how often a worker fell there."""
        self._frozen: set[int] = set()
        self._mounted: list[str] = []

    async def start(self, seconds: float = READY) -> None:
        """All of them; returns when they are ready."""
        for name in self.groups:
            self.add(name)
        await self.ready(*self.groups, seconds=seconds)

    def add(self, name: str, ahead: float = 0.0) -> None:
        """Start a worker of that name, whose time of day goes ``ahead`` by so many seconds."""
        group, _, number = name.partition("-")
        extra = {"CHAOS_POINT": str(self._trap(name)), "CHAOS_CLOCK": f"{ahead:g}"}
        if group == "deliver":
            extra["MAILSLUICE_DELIVER_SOURCES"] = source(name)
        self.scene.add(group, int(number or 0), **extra)

    def ended(self, name: str, code: int) -> None:
        """The supervisor saw a worker end: a crash that nobody ordered is a moment too."""
        now = time.time()
        if code in (0, -signal.SIGTERM):  # the latter: before it had set its handlers
            return
        worker = self.scene.supervisor.workers.get(name)
        self._crash(name, now - NOTICED, now, f"ended with {code}")
        if code == -signal.SIGKILL:
            return
        word = tail(worker.log_path, 1) if worker else ""
        self.deaths.append(Death(now, name, code, word[:300]))
        self._say(f"  {name} ended by itself with {code}: {word[:160]}")

    def _crash(self, name: str, start: float, end: float, how: str) -> None:
        """Only deliver has mails in flight."""
        if name.startswith("deliver"):
            self.moments.append(Moment(start, end + SETTLE, f"{name} {how}", source(name)))

    def pid(self, name: str) -> int:
        """Its process id now, 0 for none."""
        worker = self.scene.supervisor.workers.get(name)
        return worker.pid if worker else 0

    async def up(self, name: str, seconds: float = 30.0) -> int:
        """Wait until its process runs; its pid."""
        end = time.monotonic() + seconds
        while not (pid := self.pid(name)):
            if time.monotonic() > end:
                raise TimeoutError(f"{name} did not come up within {seconds:.0f} s")
            await asyncio.sleep(0.02)
        return pid

    async def ready(self, *names: str, seconds: float = READY) -> None:
        """Wait until these workers say that they are ready. Raises TimeoutError."""
        end, waiting = time.monotonic() + seconds, set(names or self.scene.supervisor.workers)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            while waiting:
                for name in sorted(waiting):
                    worker = self.scene.supervisor.workers.get(name)
                    address = worker.environment["MAILSLUICE_METRICS"] if worker else ""
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                        async with client.get(f"http://{address}/readyz") as answer:
                            if answer.status == 200:
                                waiting.discard(name)
                if waiting and time.monotonic() > end:
                    raise TimeoutError(f"not ready within {seconds:.0f} s: {', '.join(sorted(waiting))}")
                await asyncio.sleep(0.2)

    # -- blows

    async def kill(self, name: str) -> None:
        """SIGKILL; the supervisor starts it again."""
        pid = await self.up(name)
        start = time.time()
        os.kill(pid, signal.SIGKILL)
        while self.pid(name) == pid:
            await asyncio.sleep(0.005)
        self._crash(name, start, time.time(), "SIGKILL")

    async def terminate(self, name: str, seconds: float = 60.0) -> None:
        """SIGTERM; returns when it has ended. The supervisor starts it again."""
        pid = await self.up(name)
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while self.pid(name) == pid:
            if time.monotonic() > end:
                raise TimeoutError(f"{name} did not end within {seconds:.0f} s of SIGTERM")
            await asyncio.sleep(0.02)

    async def roll(self, *groups: str) -> None:
        """SIGTERM to all, or to those of ``groups``: one of each group after the other, on when those are ready
        again."""
        running = self.scene.supervisor.workers
        names = [n for n, group in self.groups.items() if n in running and (not groups or group in groups)]
        for number in range(max(self._counts.values())):
            wave = [n for n in names if int(n.partition("-")[2] or 0) == number]
            await asyncio.gather(*(self.terminate(name) for name in wave))
            await self.ready(*wave)

    async def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        pid = await self.up(name)
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)
        start = time.time()
        self._crash(name, start, start, "SIGSTOP")
        try:
            await asyncio.sleep(seconds)
        finally:
            self._thaw(pid)

    def _trap(self, name: str) -> Path:
        return self.scene.home / "points" / name

    async def stumble(self, name: str, point: str, after: int, flip: Callable[[], Awaitable[float]]) -> bool:
        """SIGKILL at a fault point (``points.py``). ``flip`` is called while the worker is down and returns
        the seconds by which its clock goes ahead afterwards. False: the point was not passed in time."""
        pid = await self.up(name)
        worker = self.scene.supervisor.workers[name]
        worker.wanted = False  # the flip comes before its next start
        self._arm(name, point, after, "kill")
        fell = await self._falls(name, pid, point)
        start = time.time() - 0.05
        while fell and self.pid(name) == pid:
            await asyncio.sleep(0.005)
        if self.pid(name) == pid:
            worker.wanted = True
            return False
        self._crash(name, start, time.time(), f"SIGKILL at {point}")
        self.add(name, await flip())
        return fell

    async def stop_at(
        self, name: str, point: str, after: int, seconds: float, flip: Callable[[], Awaitable[float]]
    ) -> bool:
        """SIGSTOP at a fault point, ``flip`` meanwhile, and SIGCONT after ``seconds``. False as in ``stumble``."""
        pid = await self.up(name)
        self._arm(name, point, after, "stop")
        fell = await self._falls(name, pid, point)
        start = time.time()
        if not fell or self.pid(name) != pid:
            return False
        self._frozen.add(pid)
        self._crash(name, start - 0.05, start, f"SIGSTOP at {point}")
        try:
            await flip()
            await asyncio.sleep(max(0.0, start + seconds - time.time()))
        finally:
            self._thaw(pid)
        return True

    def _arm(self, name: str, point: str, after: int, act: str) -> None:
        self._trap(name).parent.mkdir(exist_ok=True)
        fresh = self._trap(name).with_suffix(".new")
        fresh.write_bytes(orjson.dumps({"point": point, "after": after, "act": act}))
        fresh.rename(self._trap(name))

    async def _falls(self, name: str, pid: int, point: str) -> bool:
        """Whether the worker takes the trap away, as it does just before it falls, within PASSED seconds."""
        end = time.monotonic() + PASSED
        while self.pid(name) == pid and self._trap(name).exists() and time.monotonic() < end:
            await asyncio.sleep(0.005)
        try:
            self._trap(name).unlink()
        except FileNotFoundError:
            self.fallen[point] += 1
            return True
        self.fallen[point] += 0
        self._say(f"  {name} did not pass {point!r} within {PASSED:.0f} s")
        return False

    def _thaw(self, pid: int) -> None:
        self._frozen.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def home(self, name: str) -> Path:
        """Its state directory."""
        return self.scene.settings.state / name

    async def wipe(self, name: str) -> None:
        """SIGKILL, and its state directory goes while it is down."""
        await self.up(name)
        start = time.time()
        await self.scene.supervisor.remove(name, signal.SIGKILL)
        self._crash(name, start, time.time(), "SIGKILL, state lost")
        for path in self.home(name).iterdir():  # the directory itself may be a mount
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.add(name)

    async def grow(self, name: str, seconds: float) -> None:
        """One worker more, for ``seconds``; it leaves in order."""
        self.add(name)
        await asyncio.sleep(seconds)
        await self._leave(name)

    async def shrink(self, name: str, seconds: float) -> None:
        """One worker less, in order, for ``seconds``."""
        await self._leave(name)
        await asyncio.sleep(seconds)
        self.add(name)

    async def _leave(self, name: str) -> None:
        code = await self.scene.supervisor.remove(name, signal.SIGTERM, 60.0)
        self.ended(name, code)

    async def fill(self, name: str, seconds: float) -> None:
        """No room is left under its state files, for ``seconds``."""
        if name in self._mounted:
            ballast = self.home(name) / "ballast"
            await asyncio.to_thread(_fill, ballast)
            await asyncio.sleep(seconds)
            ballast.unlink(missing_ok=True)
            return
        pid = await self.up(name)
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    def heal(self) -> None:
        """Wake whoever is frozen, make room."""
        for pid in list(self._frozen):
            self._thaw(pid)
        for name in self._mounted:
            (self.home(name) / "ballast").unlink(missing_ok=True)

    # -- small disks

    def mount(self) -> bool:
        """A small disk of its own for each worker that keeps state; False where that is not allowed."""
        for name, group in self.groups.items():
            if group in STATEFUL:
                self.home(name).mkdir(parents=True, exist_ok=True)
                command = [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={DISK}",
                    "mailsluice-chaos",
                    str(self.home(name)),
                ]
                if subprocess.run(command, capture_output=True).returncode:
                    return False
                self._mounted.append(name)
        return True

    def unmount(self) -> None:
        """Copy what is on the small disks beside them, and take them away."""
        while self._mounted:
            home = self.home(self._mounted.pop())
            kept = home.with_name(home.name + ".kept")
            shutil.copytree(home, kept)
            subprocess.run(["umount", "-l", str(home)], capture_output=True)
            home.rmdir()
            kept.rename(home)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
