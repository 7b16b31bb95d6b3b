"""mail-screened -> mail-rendered: the MIME of a send, or a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from agents import Out, Retry, Stage, Steps, Ticket
from agents.render.attachments import Store, Unwell
from agents.render.compose import Composer, Facts
from agents.render.guard import Filled, Guard
from agents.render.headers import HeaderInjection
from agents.render.plan import Plans
from agents.render.policy import Refused, Settings, check_attachments, must_not_go
from agents.render.room import Room
from agents.render.template import Heavy, Rendered
from schemas.campaign import Campaign
from schemas.codec import Headers, Malformed, Record, parse
from schemas.mail import is_verdict, twin, verdict
from schemas.send import Send
from schemas.token import Tokens

STAGE = Stage(
    name="render",
    question="what exactly do they get?",
    consumes=("mail-screened",),
    emits=("mail-rendered",),
)


LARGE = 1_000_000
"""Bytes of attachments above which a mail waits until there is room for it."""


class Absent(Retry):
    """An attachment has to be fetched before the mail can be made, or the mail is large."""

    def __init__(self, send: Send) -> None:
        super().__init__(1.0, "an attachment is not fetched yet")
        self.send = send


class Render(Steps):
    """``campaigns``: "tenant/id" -> campaign, live. ``clock`` gives Unix seconds.

    A mail whose attachments must be fetched, or whose template must be watched, is kept and done later;
    others do not wait for it. While the store is unwell it is tried again every ``pause`` seconds until the
    mail expires.
    """

    def __init__(
        self,
        campaigns: Mapping[str, Campaign],
        tokens: Tokens,
        base_url: str,
        return_domain: str,
        clock: Callable[[], float],
        settings: Settings | None = None,
        store: Store | None = None,
        pause: float = 5.0,
    ) -> None:
        self._campaigns = campaigns
        self._clock = clock
        self._settings = settings or Settings()
        self._store = store or Store(cache=self._settings.attachments)
        self._composer = Composer(tokens, base_url, return_domain, self._settings)
        self._plans = Plans(self._settings)
        self._guard = Guard(self._settings)
        self._pause = pause
        self._waiting: dict[asyncio.Task[None], int] = {}
        self._fetching = asyncio.Semaphore(16)
        self._room = Room(self._settings.on_the_way)

    def step(self, record: Record) -> Iterable[Out]:
        """One mail rendered, or its verdict. Raises Retry where it takes more than a moment: see ``batch``."""
        try:
            return (self._out(record),)
        except Heavy as heavy:
            raise Retry(1.0, str(heavy)) from None

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Every ticket through ``step``; those that take more than a moment are done by tasks of their own."""
        for ticket in tickets:
            try:
                out = self._out(ticket.record)
            except (Absent, Heavy) as missing:
                ticket.keep()
                task = asyncio.create_task(self._later(ticket, missing))
                self._waiting[task] = partition
                task.add_done_callback(lambda done: self._waiting.pop(done, None))
                continue
            ticket.emit(out)
            ticket.done()

    async def revoked(self, partition: int) -> None:
        """What still waits here is left undone: the next owner gets it again."""
        waiting = [task for task, owner in self._waiting.items() if owner == partition]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        """After the last partition: end the process of the guard."""
        await self._guard.close()

    async def _later(self, ticket: Ticket, missing: Absent | Heavy) -> None:
        record = ticket.record
        size = _attached(missing.send) * 4 // 3 if isinstance(missing, Absent) else 0
        await self._room.take(size)
        try:
            out = await self._in_time(record, missing)
        except Refused as refused:
            out = self._end(record, refused)
        except BaseException as error:
            self._room.give(size)
            if not isinstance(error, Exception):
                raise
            ticket.reject("bug", f"render: {type(error).__name__}: {error}")
            return
        ticket.emit(out, partial(self._room.give, size))
        ticket.done()

    async def _in_time(self, record: Record, missing: Absent | Heavy) -> Out:
        """The output once what is missing is there. Raises Refused."""
        files: Sequence[bytes] | None = None
        filled: Rendered | None = None
        while True:
            try:
                if isinstance(missing, Heavy):
                    filled = await self._guard.render(missing.source, missing.context)
                    return self._out(record, files, filled)
                async with self._fetching:
                    tenant = record.text("tenant", "default")
                    files = [await self._store.fetch(tenant, part) for part in missing.send.attachments]
                    return self._out(record, files, filled)
            except Heavy as heavy:
                missing = heavy
            except Unwell as unwell:
                await asyncio.sleep(self._pause)
                if record.number("expires", self._clock() + 1) <= self._clock():
                    why = "its attachment could not be had" if isinstance(missing, Absent) else str(unwell)
                    raise Refused("expired", "expired", why) from None

    def _out(
        self, record: Record, files: Sequence[bytes] | None = None, filled: Rendered | None = None
    ) -> Out:
        """The record's output. Raises Absent and Heavy."""
        if is_verdict(record):
            return _to(record, None, record.headers)
        try:
            return self._mail(record, files, filled)
        except Refused as refused:
            return self._end(record, refused)
        except HeaderInjection as error:
            return self._end(record, Refused("rejected", "header_injection", str(error)))
        except Malformed as error:
            return self._end(record, Refused("rejected", "bad_send", error.detail))

    def _mail(self, record: Record, files: Sequence[bytes] | None, filled: Rendered | None) -> Out:
        now = self._clock()
        tenant = record.text("tenant", "default")
        key = f"{tenant}/{record.text('campaign')}"
        campaign = self._campaigns.get(key)
        size = len(record.value or b"")
        must_not_go(campaign, size, record.number("expires", now + 1), now, self._settings)
        assert campaign is not None  # must_not_go refused it
        send = parse(record.value, Send)
        plan, template = self._plans.of(key, campaign, send)
        template.size = size
        if send.attachments and files is None:
            files = self._at_hand(tenant, send)
        if filled is not None:
            template = Filled(template, filled)
        facts = _facts(record, campaign)
        mail = self._composer.compose(facts, plan, template, send, files or (), now)
        headers = {**record.headers, "type": b"mail", "return_path": self._composer.return_path(facts)}
        if campaign.guarantee == "at_most_once":
            headers["guarantee"] = b"at_most_once"
        if mail.clipped:
            headers["note"] = b"gmail_clips"
        return _to(record, mail.message, headers)

    def _at_hand(self, tenant: str, send: Send) -> list[bytes]:
        check_attachments(send.attachments, tenant, self._settings)
        if _attached(send) > LARGE:
            raise Absent(send)
        found = [self._store.kept(tenant, part) for part in send.attachments]
        files = [lines for lines in found if lines is not None]
        if len(files) < len(found):
            raise Absent(send)
        return files

    def _end(self, record: Record, refused: Refused) -> Out:
        return _to(record, None, verdict(record.headers, refused.outcome, refused.reason, refused.detail))


def _attached(send: Send) -> int:
    return sum(len(part.data) if part.data is not None else part.size for part in send.attachments)


def _facts(record: Record, campaign: Campaign) -> Facts:
    return Facts(
        id=record.text("id"),
        tenant=campaign.tenant,
        campaign=campaign.id,
        stream=campaign.stream,
        to=record.text("to"),
        partition=record.partition,
        provider=record.text("provider"),
        consent=record.text("consent"),
        tracking=campaign.tracking,
    )


def _to(record: Record, value: bytes | None, headers: Headers) -> Out:
    topic = twin("mail-rendered", record.text("stream"))
    return Out(topic, value, headers, record.key, record.partition)
