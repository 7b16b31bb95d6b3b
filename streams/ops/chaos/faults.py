"""What each kind of fault does. A fault returns when it is over; the load goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from streams.ops.chaos.fleet import SETTLE, Fleet
from streams.ops.chaos.load import Load
from streams.ops.chaos.oracle import Moment
from streams.ops.chaos.plan import LARGE, Fault
from streams.ops.scene import Scene

GMAIL = "mx1.gmail.test-lab.google.com"
"""As in world.toml."""
BURST = 24
"""Requests that are under way at the edge when it is killed."""
RESETS = 10
"""Connections that one fault breaks."""
VICTIMS = 8
"""Mails in a lane, and as many on the ladder, when somebody leaves or a campaign is cancelled."""
AHEAD = 20.0
"""Seconds by which a clock goes ahead: mail on its way is old for who looks at it, and some has expired."""
PROMPT = 20.0
"""Seconds that the tarpit takes for a reply."""


class Faults:
    """Does the faults of a plan to a scene; ``strike`` one of them."""

    def __init__(self, scene: Scene, fleet: Fleet, load: Load) -> None:
        self._scene, self._fleet, self._load = scene, fleet, load
        self.cancelled: dict[str, float] = {}
        """Campaign -> when its cancellation was acknowledged."""
        self.broken: set[str] = set()
        """Campaigns whose template was broken for a while."""
        self._kinds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            **{f"kill-{group}": lambda f: fleet.kill(f.target) for group in fleet.groups.values()},
            "kill-edge": self._kill_edge,
            "wipe": lambda f: fleet.wipe(f.target),
            "kill-broker": self._outage,
            "outage": self._outage,
            "freeze": lambda f: fleet.freeze(f.target, f.seconds),
            "point-kill": self._point,
            "point-stop": self._point,
            "term": lambda f: fleet.terminate(f.target),
            "rolling": lambda f: fleet.roll(),
            "grow": lambda f: fleet.grow(f.target, f.seconds),
            "shrink": lambda f: fleet.shrink(f.target, f.seconds),
            "disk-full": lambda f: fleet.fill(f.target, f.seconds),
            "smtp-refuse": self._refuse,
            "smtp-reset-before-354": lambda f: self._reset(f, "data"),
            "smtp-reset-inside-data": lambda f: self._reset(f, "content"),
            "smtp-reset-after-dot": lambda f: self._reset(f, "dot"),
            "tarpit": self._tarpit,
            "unsubscribe": self._unsubscribe,
            "cancel": self._cancel,
        }

    async def strike(self, fault: Fault) -> None:
        """Do it; returns when it is over."""
        await self._kinds[fault.kind](fault)

    async def heal(self) -> None:
        """The providers are well again."""
        for provider in (*LARGE, "tar"):
            await self._tell("clear", provider=provider)

    async def _tell(self, do: str, **more: Any) -> None:
        await asyncio.to_thread(self._scene.tell, do, **more)

    async def _kill_edge(self, fault: Fault) -> None:
        """Killed between receiving and answering: what it had answered must be there afterwards."""
        mails = list(self._load.delivered)[-BURST:]
        requests = [asyncio.create_task(self._load.open_mail(*mail)) for mail in mails]
        # Somewhere between the first connection and the last answer, another moment each time.
        await asyncio.sleep(0.001 + 0.004 * (fault.number % 8))
        await self._fleet.kill(fault.target)
        await asyncio.gather(*requests)

    async def _outage(self, fault: Fault) -> None:
        """SIGKILL to the broker, and nothing in its place for a while; SMTP stays up."""
        broker = self._scene.broker
        assert broker is not None
        start = time.time()
        broker.kill()
        await asyncio.sleep(fault.seconds)
        await broker.start()
        self._fleet.moments.append(Moment(start, time.time() + SETTLE, "the broker was away"))

    # -- fault points

    async def _point(self, fault: Fault) -> None:
        """A worker falls just there, with mail in the lanes and on the ladder, and what it decided by is
        another thing when the work is done again."""
        campaign = f"point-{fault.number}"
        mails = await self._victims(campaign, fault.number)

        async def flip() -> float:
            await self._flip(fault, campaign, mails)
            return AHEAD if fault.flip == "clock" else 0.0

        if fault.kind == "point-stop":
            fell = await self._fleet.stop_at(fault.target, fault.point, fault.after, fault.seconds, flip)
        else:
            fell = await self._fleet.stumble(fault.target, fault.point, fault.after, flip)
        if fell:
            await asyncio.sleep(1.0)  # for the work to be done again by what is now the case
        await self._free(fault.number)
        if fault.flip == "dns":
            await self._tell("records", records={"gmail.test": {"MX": f"10 {GMAIL}."}})
        elif fault.flip == "template":
            await self._load.campaign(campaign)

    async def _flip(self, fault: Fault, campaign: str, mails: list[tuple[str, str, str]]) -> None:
        if fault.flip == "dns":  # the same host under a name that is nobody's: another lane
            records = {"mx.moved.test": {"A": "127.0.0.11"}, "gmail.test": {"MX": "10 mx.moved.test."}}
            await self._tell("records", records=records)
        elif fault.flip == "template":
            self.broken.add(campaign)
            await self._load.campaign(campaign, html="<p>{{ what.nobody.gave }}</p>")
        elif fault.flip == "suppress":
            await asyncio.gather(*(self._load.leave(*mail, 5.0) for mail in mails))
        elif fault.flip == "cancel":
            await self._load.campaign(campaign, state="cancelled")
            self.cancelled[campaign] = time.time()

    # -- the SMTP side

    async def _script(self, fault: Fault, phase: str, act: str, **more: Any) -> None:
        await self._tell("fault", provider=fault.target, phase=phase, act=act, **more)

    async def _refuse(self, fault: Fault) -> None:
        """No new connections, and the open ones are closed; a reply or a TCP reset."""
        if fault.number % 2:
            await self._script(fault, "connect", "reply", text="421 4.3.2 Not now", count=-1)
        else:
            await self._script(fault, "connect", "reset", count=-1)
        await self._script(fault, "mail", "reply", text="421 4.3.2 Closing", count=RESETS)
        await asyncio.sleep(fault.seconds)
        await self._tell("clear", provider=fault.target, phase="connect")
        await self._tell("clear", provider=fault.target, phase="mail")

    async def _reset(self, fault: Fault, phase: str) -> None:
        await self._script(fault, phase, "reset", count=RESETS)
        domain = {"many": "d0.test"}.get(fault.target, f"{fault.target}.test")
        for n in range(2 * RESETS):  # so that they are met, also where the load has ended
            self._load.send(
                f"reset-{fault.number}-{n}@{domain}", "receipts", f"reset-{fault.number}-{n}", "transactional"
            )

    async def _tarpit(self, fault: Fault) -> None:
        """One of the 100 domains answers RCPT and the dot late."""
        domain = "@tar.test"
        await self._script(fault, "rcpt", "slow", seconds=PROMPT / 4, rcpt=domain, count=-1)
        await self._script(fault, "dot", "slow", seconds=PROMPT, rcpt=domain, count=-1)
        await asyncio.sleep(fault.seconds)
        for phase in ("rcpt", "dot"):
            await self._tell("clear", provider=fault.target, phase=phase, rcpt=domain)

    # -- while their mail is in a lane and on the ladder

    async def _victims(self, campaign: str, number: int) -> list[tuple[str, str, str]]:
        """Mails of a new campaign, half of them deferred until ``_free``: id, recipient, campaign."""
        hold = {"phase": "rcpt", "act": "reply", "text": "451 4.3.0 Later, please", "count": -1}
        await self._tell("fault", provider="gmail", rcpt=f"hold-{number}-", **hold)
        await self._load.campaign(campaign)
        found = []
        for n in range(VICTIMS):
            for where in ("hold", "lane"):
                to = f"{where}-{number}-{n}@gmail.test"
                found.append((self._load.send(to, campaign, f"{campaign}-{where}-{n}"), to, campaign))
        return found

    async def _free(self, number: int) -> None:
        await self._tell("clear", provider="gmail", phase="rcpt", rcpt=f"hold-{number}-")

    async def _unsubscribe(self, fault: Fault) -> None:
        mails = await self._victims(f"leave-{fault.number}", fault.number)
        await asyncio.sleep(fault.seconds / 2)
        await asyncio.gather(*(self._load.leave(*mail) for mail in mails))
        await asyncio.sleep(fault.seconds / 2)
        await self._free(fault.number)

    async def _cancel(self, fault: Fault) -> None:
        campaign = f"cancel-{fault.number}"
        await self._victims(campaign, fault.number)
        await asyncio.sleep(fault.seconds / 2)
        await self._load.campaign(campaign, state="cancelled")
        self.cancelled[campaign] = time.time()
        await asyncio.sleep(fault.seconds / 2)
        await self._free(fault.number)
