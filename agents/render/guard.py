"""Renders what has no bound in a process of its own, with a limit on its time and its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from typing import Any

import orjson

from agents.render.attachments import Unwell
from agents.render.cell import NO_MEMORY
from agents.render.policy import Refused, Settings
from agents.render.template import Rendered, Source, Template

STRIKES = 20
"""Recipients in a row for whom a template was ended, after which no other is tried: each costs its seconds."""
PATIENCE = 30.0
"""Seconds of the clock for which an answer may be missing: the processor may be busy, the process stopped."""
TRIES = 3
"""Deaths of the process, for reasons that are no limit of ours, after which the mail is refused."""


class Filled(Template):
    """A template that was rendered already."""

    __slots__ = ("_rendered",)

    def __init__(self, template: Template, rendered: Rendered) -> None:
        self.unsubscribes = template.unsubscribes
        self._rendered = rendered

    def render(self, context: Mapping[str, Any]) -> Rendered:
        """The parts."""
        return self._rendered


class Guard:
    """One process, started when it is needed first. Renderings wait for each other; the event loop does not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._strikes: dict[Source, int] = {}

    async def render(self, source: Source, context: Mapping[str, Any]) -> Rendered:
        """The parts. Raises Refused (template_error, size) and, where no process can be had, Unwell."""
        safe = [name for name, value in context.items() if hasattr(value, "__html__")]
        request = orjson.dumps({"source": tuple(source), "context": context, "safe": safe})
        async with self._turn:
            if self._strikes.get(source, 0) >= STRIKES:
                raise _ended(f"was ended for {STRIKES} recipients in a row: it is not tried any more")
            for _ in range(TRIES):
                found = await self._ask(request)
                if not isinstance(found, int):
                    self._strikes.pop(source, None)
                    break
                why = self._why(found)
                if why:
                    self._strikes[source] = self._strikes.get(source, 0) + 1
                    if len(self._strikes) > 1000:
                        del self._strikes[next(iter(self._strikes))]
                    raise _ended(why)
            else:
                raise _ended(f"could not be rendered: its process ended {TRIES} times, last with {found}")
        if "refused" in found:
            raise Refused(*found["refused"])
        return Rendered(*found["parts"])

    def _why(self, code: int) -> str:
        settings = self._settings
        if code == -signal.SIGPROF:
            return f"renders longer than {settings.seconds:g} s for this recipient"
        if code in (NO_MEMORY, -signal.SIGABRT):
            return f"needs more than {settings.memory // 1_000_000} MB of memory for this recipient"
        return ""

    async def _ask(self, request: bytes) -> Any:
        """The answer, or the exit code of the process that ended over it."""
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                process.stdin.write(len(request).to_bytes(4) + request)
                await process.stdin.drain()
                size = int.from_bytes(await process.stdout.readexactly(4))
                return orjson.loads(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._process = None
            return await process.wait()
        except TimeoutError:
            self._end(process)
            return await process.wait()
        except BaseException:  # who asked has gone away, and would leave an answer to the next one
            self._end(process)
            raise

    async def _running(self) -> Process:
        if self._process is None:
            settings = self._settings
            limits = (settings.seconds, settings.memory, settings.fuel, settings.rendered)
            arguments = ("-m", "agents.render.cell", *map(str, limits))
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
                )
            except OSError as error:
                raise Unwell(f"no process can be started: {error}") from None
        return self._process

    def _end(self, process: Process) -> None:
        self._process = None
        if process.returncode is None:
            # Popen.kill asks for the exit code itself, and the loop, which waits for it, would never hear it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process = self._process
            self._end(process)
            await process.wait()


def _ended(why: str) -> Refused:
    return Refused("rejected", "template_error", f"the template {why}")
