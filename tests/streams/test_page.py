"""The live page: over HTTP, and in a real browser where there is one."""

import json
import shutil
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from streams.ops.page import LivePage

EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def table(now: float = 1000.0, rate: float = 12.5) -> dict[str, Any]:
    cut = {
        "time": now - 3,
        "what": "cut",
        "reason": EVIL,
        "rate": 7.5,
        "sample": f"421 {EVIL} " + "long" * 60,
    }
    lanes = [
        {
            "provider": provider, "source": "127.0.0.1", "delivered": 1200, "deferred": 7, "bounced": 3, "unknown": 0,
            "rate": rate, "limit": 20.0, "connections": 4, "suspended_seconds": away, "reason": EVIL, "decisions": [cut],
        }
        for provider, away in (("google", 0), ("yahoo", 12), (EVIL, 0))
    ]  # fmt: skip
    return {
        "time": now,
        "done": 1234,
        "ended": {"delivered": 1200, "bounced": 34},
        "events": {"opened": 55},
        "lanes": lanes,
    }


class Watched:
    """In the place of the watcher: a table that grows older at each look."""

    looks = 0

    def table(self) -> dict[str, Any]:
        self.looks += 1
        return table(1000.0 + self.looks)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def page() -> AsyncIterator[tuple[LivePage, str]]:
    found = LivePage(Watched(), 5000)
    address = await found.start(0)
    yield found, address
    await found.stop()
    await found.stop()


async def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


async def test_every_answer_has_a_strict_policy(page: tuple[LivePage, str]) -> None:
    for path, status in (("", 200), ("data.json", 200), ("../secret", 404)):
        found, text, headers = await get(f"http://{page[1]}/{path}")
        assert found == status
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        if not path:
            assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), "nothing from elsewhere"


@pytest.mark.parametrize(
    "host", ["evil.example.test", "evil.example.test:8024", "127.0.0.1.example.test:80", "[::1]:80", ""]
)
async def test_another_name_for_this_machine_is_refused(page: tuple[LivePage, str], host: str) -> None:
    status, text, _ = await get(f"http://{page[1]}/data.json", Host=host)
    assert status in (400, 421)
    assert "google" not in text


async def test_localhost_is_this_machine(page: tuple[LivePage, str]) -> None:
    status, _, _ = await get(f"http://{page[1]}/", Host="localhost:8024")
    assert status == 200


async def test_a_taken_port_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = LivePage(Watched(), 1)
        address = await found.start(taken.getsockname()[1])
        try:
            assert address.startswith("127.0.0.1:")
            assert (await get(f"http://{address}/"))[0] == 200
        finally:
            await found.stop()


async def test_figures_are_what_was_shown_with_curves_and_grow_no_staler_than_a_second() -> None:
    clock, watched = Clock(), Watched()
    found = LivePage(watched, 5000, clock)
    address = await found.start(0)
    try:
        for step in range(0, 480):  # four times a second for two minutes
            clock.now = step / 4
            found.show(table(1000 + step / 4, rate=float(step)))
        data = json.loads((await get(f"http://{address}/data.json"))[1])
        assert (data["total"], data["done"], watched.looks) == (5000, 1234, 0)
        google, yahoo, _ = data["lanes"]
        assert len(google["history"]) == 95
        assert google["history"][-1] == [1119.0, 476.0, 20.0]
        assert yahoo["history"][-1][2] == 0, "no limit is drawn for a lane that is suspended"
        clock.now += 5
        await get(f"http://{address}/data.json")
        assert watched.looks == 1
    finally:
        await found.stop()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
async def test_a_browser_draws_it_and_runs_nothing_of_a_reply(page: tuple[LivePage, str]) -> None:
    from playwright.async_api import async_playwright

    for second in range(20):
        page[0].show(table(1000.0 + second))
        page[0]._sampled_at = float("-inf")
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            for width in (400, 1400):
                tab = await browser.new_page(viewport={"width": width, "height": 900})
                complaints: list[str] = []
                tab.on("console", lambda message, said=complaints: said.append(message.text))
                tab.on("pageerror", lambda error, said=complaints: said.append(str(error)))
                await tab.goto(f"http://{page[1]}/")
                await tab.wait_for_selector("#log li")
                assert await tab.title() == "Mailsluice"
                assert await tab.locator("#done").inner_text() == "1,234"
                assert await tab.locator("#state").inner_text() == "live"
                assert await tab.locator(".lane h3").all_inner_texts() == ["google", "yahoo", EVIL]
                assert await tab.locator(".lane .chip").all_inner_texts() == [
                    "sending",
                    "suspended 12 s",
                    "sending",
                ]
                assert await tab.locator(".lane img, .log img, .lane script").count() == 0
                assert "cut to 7.5/s" in await tab.locator("#log li").first.inner_text()
                drawn = await tab.locator(".lane .edge").first.get_attribute("d")
                assert drawn is not None
                assert drawn.startswith("M")
                assert await tab.evaluate("document.documentElement.scrollWidth") <= width
                assert complaints == []
                await tab.close()
        finally:
            await browser.close()
