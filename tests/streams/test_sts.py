"""MTA-STS policies: fetched over real HTTPS on loopback, kept for as long as they say, whoever takes them away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from streams.resolver import Texts
from streams.sts import Limits, Sts
from tests.support.pki import issue
from tests.support.policy_host import PolicyHost, policy_host, policy_text

DAY = 86_400.0


class Names:
    """DNS: a record for each domain, all policy hosts on loopback."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.host: tuple[str, ...] = ("127.0.0.1",)

    async def texts(self, name: str) -> Texts:
        found = self.ids.get(name.removeprefix("_mta-sts."))
        return Texts((f"v=STSv1; id={found}",) if found else (), True)

    async def addresses(self, host: str) -> tuple[str, ...]:
        return self.host


class World:
    """A domain a.test with a policy; the clock is ours."""

    def __init__(self, host: PolicyHost, directory: Path) -> None:
        self.host, self.directory, self.names, self.now = host, directory, Names(), 1_000_000.0
        self.names.ids["a.test"] = "one"
        self.host.files["a.test"] = policy_text("mx.a.test")

    def sts(self, **changes: object) -> Sts:
        given: dict[str, object] = {
            "path": self.directory / "sts.sqlite",
            "port": self.host.port,
            "cafile": str(self.directory / "root.pem"),
            **changes,
        }
        allow = given.pop("allow", lambda address: True)
        return Sts(self.names, allow, lambda: self.now, **given)  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    root = issue("Root", authority=True)
    # The verifier of ssl, with all that the Web's certificates must carry, is asked here: OpenSSL's.
    (tmp_path / "root.pem").write_bytes(root.pem)
    certificate = root.issue("mta-sts.a.test", hosts=["mta-sts.a.test", "mta-sts.b.test"])
    async with policy_host(certificate, tmp_path) as host:
        yield World(host, tmp_path)


@pytest.fixture
async def sts(world: World) -> AsyncIterator[Sts]:
    made = world.sts()
    yield made
    await made.close()


async def test_a_policy_is_fetched_once_and_kept(world: World, sts: Sts) -> None:
    for _ in range(3):
        found = await sts.policy("a.test")
        assert found is not None
        assert (found.mode, found.mx, found.max_age) == ("enforce", ("mx.a.test",), 86_400)
    assert world.host.asked == ["a.test"]
    assert await sts.policy("b.test") is None
    assert world.host.asked == ["a.test"], "without a record nobody is asked"


async def test_a_new_id_is_fetched_and_an_old_policy_refreshed(world: World, sts: Sts) -> None:
    await sts.policy("a.test")
    world.host.files["a.test"] = policy_text("mx2.a.test")
    assert (await sts.policy("a.test")).mx == ("mx.a.test",)
    world.names.ids["a.test"] = "two"
    assert (await sts.policy("a.test")).mx == ("mx2.a.test",)
    world.now += DAY / 2 + 1
    await sts.policy("a.test")
    assert len(world.host.asked) == 3


@pytest.mark.parametrize("taken", ["the record", "the file", "the host"])
async def test_a_policy_holds_whatever_is_taken_away(world: World, sts: Sts, taken: str) -> None:
    """RFC 8461 section 5.1: else who takes it away takes the encryption away."""
    await sts.policy("a.test")
    if taken == "the record":
        del world.names.ids["a.test"]
    elif taken == "the file":
        world.names.ids["a.test"] = "two"
        del world.host.files["a.test"]
    else:
        world.names.ids["a.test"] = "two"
        world.names.host = ()
    world.now += DAY - 1
    assert (await sts.policy("a.test")).mode == "enforce"
    world.now += 2
    assert await sts.policy("a.test") is None


async def test_it_holds_over_a_restart_and_in_another_process(world: World, sts: Sts) -> None:
    await sts.policy("a.test")
    world.names.ids.clear()
    other = world.sts()
    assert (await other.policy("a.test")).mx == ("mx.a.test",)
    await other.close()
    world.now += DAY + 1
    other = world.sts()
    assert await other.policy("a.test") is None
    await other.close()


async def test_none_ends_a_policy(world: World, sts: Sts) -> None:
    await sts.policy("a.test")
    world.names.ids["a.test"], world.host.files["a.test"] = "two", policy_text(mode="none")
    assert await sts.policy("a.test") is None


async def test_after_a_failure_the_next_try_is_five_minutes_later(world: World, sts: Sts) -> None:
    """Section 3.3."""
    good = world.host.files.pop("a.test")
    assert await sts.policy("a.test") is None
    world.host.files["a.test"] = good
    world.now += 299
    assert await sts.policy("a.test") is None
    world.now += 2
    assert (await sts.policy("a.test")).mode == "enforce"
    assert len(world.host.asked) == 2


def answer(**fields: object) -> Callable[[web.Request], object]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(**fields)  # type: ignore[arg-type]

    return handle


async def moved(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("https://mta-sts.b.test/.well-known/mta-sts.txt")


async def tarpit(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "handler",
    [
        answer(text="version: STSv1\nmode: enforce\n"),
        answer(text=policy_text("mx.a.test"), content_type="text/html"),
        answer(text=policy_text("mx.a.test"), status=500),
        answer(text=policy_text("mx.a.test") + "x: " + "y" * 70_000),
        answer(body=policy_text("mx.a.test").encode() + b"\xff\xfe", content_type="text/plain"),
        moved,
        tarpit,
    ],
    ids=["no policy", "type", "status", "long", "no text", "redirect", "tarpit"],
)
async def test_what_is_no_answer(world: World, handler: object) -> None:
    world.host.files["a.test"] = handler  # type: ignore[assignment]
    world.host.files["b.test"] = policy_text("mx.a.test")
    sts = world.sts(limits=Limits(fetch=1.0))
    assert await sts.policy("a.test") is None
    assert world.host.asked == ["a.test"], "a redirect is not followed"
    await sts.close()


async def test_a_policy_host_must_prove_its_name(world: World, sts: Sts) -> None:
    world.names.ids["c.test"], world.host.files["c.test"] = "one", policy_text("mx.c.test")
    assert await sts.policy("c.test") is None
    assert world.host.asked == []
    strangers = world.sts(cafile=None, path=None)  # the system's authorities do not know ours
    assert await strangers.policy("a.test") is None
    await strangers.close()
    assert world.host.asked == []


@pytest.mark.parametrize("why", ["certificate", "nobody there", "network"])
async def test_the_log_does_not_name_the_domain(
    world: World, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    caplog.set_level("INFO", "mailsluice.sts")
    changes = {
        "certificate": {"cafile": None},
        "nobody there": {"port": 1},
        "network": {"allow": lambda _: False},
    }
    sts = world.sts(path=None, **changes[why])
    assert await sts.policy("a.test") is None
    await sts.close()
    assert "cannot be had" in caplog.text
    assert "a.test" not in caplog.text


async def test_no_connection_into_networks_that_mail_may_not_go_to(world: World) -> None:
    sts = world.sts(allow=lambda address: not address.startswith("127."))
    assert await sts.policy("a.test") is None
    assert world.host.asked == []
    await sts.close()


async def test_a_broken_file_costs_a_fetch_and_nothing_else(world: World) -> None:
    (world.directory / "sts.sqlite").write_bytes(b"no database" * 100)
    sts = world.sts()
    assert (await sts.policy("a.test")).mode == "enforce"
    await sts.close()
