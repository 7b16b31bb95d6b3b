"""Attachments by reference: fetched beside the stream, checked, kept, tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agents import Out
from agents.render.agent import Render
from agents.render.attachments import Store, Unwell, http_opener
from agents.render.policy import Refused
from schemas.codec import Record
from schemas.send import Attachment
from schemas.token import Tokens

DATA = b"%PDF-1.7 " + b"page " * 1000
Maker = Callable[..., Any]


def reference(url: str, data: bytes = DATA, **changes: Any) -> dict[str, Any]:
    found = {
        "filename": "a.pdf",
        "content_type": "application/pdf",
        "url": url,
        "size": len(data),
        "sha256": sha256(data).hexdigest(),
    }
    return {**found, **changes}


class Given:
    """A ticket that remembers."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.outs: list[Out] = []
        self.kept = False
        self.rejected = ""
        self.finished = asyncio.Event()

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        self.outs.append(out)

    def done(self) -> None:
        self.finished.set()

    def keep(self) -> None:
        self.kept = True

    def reject(self, reason: str, detail: str) -> None:
        self.rejected = f"{reason}: {detail}"
        self.finished.set()


class Bucket:
    """An object store in memory; ``fails`` times it does not answer."""

    def __init__(self, data: bytes = DATA, fails: int = 0) -> None:
        self.data = data
        self.fails = fails
        self.asked: list[str] = []

    async def __call__(self, url: str, most: int) -> bytes:
        self.asked.append(url)
        await asyncio.sleep(0)
        if len(self.asked) <= self.fails:
            raise TimeoutError
        return self.data[: most + 1]


def agent(
    campaign: Maker, tokens: Tokens, store: Store, clock: Callable[[], float] = lambda: 1.7e9
) -> Render:
    held = {"acme/spring": campaign()}
    return Render(held, tokens, "https://t.example", "b.example", clock, store=store, pause=0.01)


async def finished(ticket: Given) -> Out:
    await asyncio.wait_for(ticket.finished.wait(), 5)
    assert not ticket.rejected
    (out,) = ticket.outs
    return out


async def test_a_fetched_attachment_arrives_whole_and_others_do_not_wait(
    campaign: Maker, tokens: Tokens, record: Maker
) -> None:
    bucket = Bucket()
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=bucket))
    slow, quick = Given(record({"attachments": [reference("https://s3.example/a")]})), Given(record())
    await stage.batch([slow, quick], 3)
    assert slow.kept
    assert quick.finished.is_set()
    assert not slow.finished.is_set()
    message = message_from_bytes((await finished(slow)).value or b"")
    assert message.get_payload(1).get_payload(decode=True) == DATA  # type: ignore[union-attr]
    again = Given(record({"attachments": [reference("https://s3.example/a")]}))
    await stage.batch([again], 3)
    assert not again.kept
    assert (await finished(again)).value == (await finished(slow)).value
    assert bucket.asked == ["https://s3.example/a"]


async def test_many_mails_fetch_one_object_once(campaign: Maker, tokens: Tokens, record: Maker) -> None:
    bucket = Bucket()
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=bucket))
    tickets = [Given(record({"attachments": [reference("https://s3.example/a")]})) for _ in range(10)]
    await stage.batch(tickets, 3)
    for ticket in tickets:
        assert (await finished(ticket)).value is not None
    assert len(bucket.asked) == 1


async def test_an_unwell_store_is_tried_again(campaign: Maker, tokens: Tokens, record: Maker) -> None:
    bucket = Bucket(fails=2)
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=bucket))
    ticket = Given(record({"attachments": [reference("https://s3.example/a")]}))
    await stage.batch([ticket], 3)
    assert (await finished(ticket)).value is not None
    assert len(bucket.asked) == 3


async def test_until_the_mail_expires(campaign: Maker, tokens: Tokens, record: Maker) -> None:
    times = iter([1.7e9, *[1.7e9 + 601] * 10])
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=Bucket(fails=99)), lambda: next(times))
    ticket = Given(record({"attachments": [reference("https://s3.example/a")]}))
    await stage.batch([ticket], 3)
    out = await finished(ticket)
    assert (out.value, out.headers["outcome"]) == (None, b"expired")


async def test_a_revoked_partition_leaves_its_mail_undone(
    campaign: Maker, tokens: Tokens, record: Maker
) -> None:
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=Bucket(fails=10**9)))
    ticket = Given(record({"attachments": [reference("https://s3.example/a")]}))
    await stage.batch([ticket], 3)
    await asyncio.sleep(0.03)
    await stage.revoked(4)
    await stage.revoked(3)
    await asyncio.sleep(0.03)
    assert not ticket.finished.is_set()
    assert not ticket.outs


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (reference("https://s3.example/a", sha256="0" * 64), "another size or sha256"),
        (reference("https://s3.example/a", size=3), "another size or sha256"),
        (reference("https://evil.example/a"), "not among the allowed"),
        (reference("https://s3.example:8443/a"), "not among the allowed"),
        (reference("https://s3.example@evil.example/a"), "file:///path or https"),
        (reference("http://s3.example/a"), "file:///path or https"),
        (reference("https://[::1/a"), "cannot be read"),
        (reference("file:///etc/passwd"), "outside the directories"),
    ],
)
async def test_a_bad_reference_ends_the_mail(
    campaign: Maker, tokens: Tokens, record: Maker, part: dict[str, Any], says: str
) -> None:
    stage = agent(campaign, tokens, Store(hosts={"s3.example"}, opener=Bucket()))
    ticket = Given(record({"attachments": [part]}))
    await stage.batch([ticket], 3)
    out = await finished(ticket)
    assert (out.value, out.headers["outcome"], out.headers["reason"]) == (None, b"rejected", b"attachment")
    assert says in out.headers["detail"].decode()


async def test_files_come_from_under_their_root_only(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    (root / "a.pdf").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(DATA)
    (root / "link").symlink_to(tmp_path / "secret")
    store = Store(roots=[root])

    def part(path: str) -> Attachment:
        return Attachment(**reference(f"file://{path}"))

    assert (await store.fetch("acme", part(f"{root}/a.pdf"))).startswith(b"JVBERi0")
    for path in (f"{root}/../secret", f"{root}/link", f"{tmp_path}/secret"):
        with pytest.raises(Refused, match="outside"):
            await store.fetch("acme", part(path))
    for path in (f"{root}/none", f"{root}"):
        with pytest.raises(Refused, match="no such file"):
            await store.fetch("acme", part(path))


async def test_the_http_opener_reads_objects_and_tells_faults_apart() -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        name = request.path[1:]
        if name == "object":
            return web.Response(body=DATA)
        if name == "moved":
            raise web.HTTPFound("/object")
        return web.Response(status=int(name))

    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        base = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            read = http_opener(session, seconds=5)
            assert await read(f"{base}/object", len(DATA)) == DATA
            assert len(await read(f"{base}/object", 10)) == 11
            for name in ("404", "403", "moved"):
                with pytest.raises(Refused, match="object store answers"):
                    await read(f"{base}/{name}", 10)
            for name in ("503", "429"):
                with pytest.raises(OSError, match="status"):
                    await read(f"{base}/{name}", 10)
    finally:
        await runner.cleanup()


async def test_a_store_that_is_down_is_unwell() -> None:
    async with aiohttp.ClientSession() as session:
        store = Store(hosts={"127.0.0.1:1"}, opener=http_opener(session, seconds=5))
        with pytest.raises(Unwell):
            await store.fetch("acme", Attachment(**reference("https://127.0.0.1:1/a")))
