"""The people behind the mailboxes, and the machines before them: they open, click and unsubscribe by HTTP.

They contact the pipeline's edge and nobody else, whatever a message says: a URL is only followed where
its host is the edge, a loopback address or a name of the lab's zone, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from html.parser import HTMLParser
from ipaddress import ip_address
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp

from streams.lab.ledger import Take
from streams.lab.message import headers_of, unsubscribe_url
from streams.lab.providers import ProviderSettings, chance

AT_ONCE = 32
TRIES = 4
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) LabReader/1.0"
PRIVACY_PROXY = "Mozilla/5.0"
GOOGLE_PROXY = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
GATEWAY = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) LabGateway/1.0"


@dataclass(frozen=True, slots=True)
class Content:
    """What a message offers to its reader. ``links`` are without those that unsubscribe."""

    images: tuple[str, ...]
    links: tuple[str, ...]
    unsubscribe: str
    unsubscribe_links: tuple[str, ...]


def content_of(raw: bytes) -> Content:
    """The images, links and one-click address of a message; empty where it has none or is broken."""
    message = message_from_bytes(raw, policy=default)
    found = _Html()
    try:
        body = message.get_body(("html",))
        if body is not None:
            found.feed(body.get_content())
    except (LookupError, ValueError, AttributeError):
        pass  # a charset or structure that no reader could show either
    one_click = unsubscribe_url(headers_of(raw))
    one_click = one_click if _is_url(one_click) else ""
    leaving = [url for url in found.links if url == one_click or _leaves(url)]
    links = tuple(url for url in found.links if url not in leaving)
    return Content(tuple(found.images), links, one_click, tuple(leaving))


def _is_url(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _leaves(url: str) -> bool:
    path = urlsplit(url).path.lower()
    return path.startswith("/u/") or "unsubscribe" in path


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        for wanted, name, into in (("img", "src", self.images), ("a", "href", self.links)):
            url = found.get(name)
            if tag == wanted and url and _is_url(url):
                into.append(url)


class Readers:
    """All readers of the world. ``async with Readers(...)``, then ``read`` for each message taken.

    ``edge`` is the base URL of the pipeline's HTTP edge: whatever host of the lab a message names, the
    request goes there (with that Host). ``known(host)`` says whether a host is the lab's. ``acted(what,
    take)`` hears of every act that the edge answered. ``failed`` counts those that it did not.
    """

    def __init__(
        self, seed: int, edge: str, known: Callable[[str], bool], acted: Callable[[str, Take], None]
    ) -> None:
        self.edge = edge
        self.failed = self.foreign = 0
        self._seed, self._known, self._acted = seed, known, acted
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Readers:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_ONCE),
            timeout=aiohttp.ClientTimeout(total=15),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    @property
    def waiting(self) -> int:
        """Messages whose readers are not done with them."""
        return len(self._tasks)

    def read(self, take: Take, raw: bytes, provider: ProviderSettings) -> None:
        """Let the reader of a message do what they do, beginning now."""
        acts = self._plan(take, provider)
        if acts and self._http is not None:
            task = asyncio.ensure_future(self._live(take, raw, provider, acts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _plan(self, take: Take, provider: ProviderSettings) -> list[str]:
        them = provider.readers
        shares = (
            ("scan", them.scanner),
            ("prefetch", them.prefetch),
            ("open", them.open),
            ("click", them.open * them.click),
            ("unsubscribe", them.unsubscribe if take.marketing else 0.0),
        )
        # Who clicks is among those who open: both are decided by the same draw.
        draws = {"click": "open"}
        return [
            what
            for what, share in shares
            if chance(self._seed, draws.get(what, what), take.rcpt, take.message) < share
        ]

    async def _live(self, take: Take, raw: bytes, provider: ProviderSettings, acts: list[str]) -> None:
        found = content_of(raw)
        pictures = GOOGLE_PROXY if provider.dialect == "google" else BROWSER
        for what in acts:
            if what in ("open", "click", "unsubscribe"):
                spread = 0.25 + 1.75 * chance(self._seed, "delay", what, take.message)
                await asyncio.sleep(provider.readers.delay * spread * 8 / 9)  # its mean is 1.125
            if what == "scan":
                urls = (*found.links, *found.unsubscribe_links, found.unsubscribe)
                await self._get(what, take, urls, GATEWAY)
            elif what == "prefetch":
                await self._get(what, take, found.images, PRIVACY_PROXY)
            elif what == "open":
                await self._get(what, take, found.images, pictures)
            elif what == "click" and found.links:
                which = int(chance(self._seed, "link", take.message) * len(found.links))
                await self._get(what, take, (found.links[which],), BROWSER)
            elif what == "unsubscribe":
                await self._get(what, take, (found.unsubscribe,), BROWSER, post=True)

    async def _get(
        self, what: str, take: Take, urls: tuple[str, ...], agent: str, post: bool = False
    ) -> None:
        answered = [await self._request(url, agent, post) for url in dict.fromkeys(urls) if url]
        if any(answered):
            self._acted(what, take)

    async def _request(self, url: str, agent: str, post: bool) -> bool:
        """Whether the edge answered with success or a redirect; tried again while it is down."""
        target = self.target(url)
        if target is None or self._http is None:
            self.foreign += 1
            return False
        headers = {"User-Agent": agent, "Host": urlsplit(url).netloc}
        body = {"List-Unsubscribe": "One-Click"} if post else None
        for attempt in range(TRIES):
            try:
                async with self._http.request(
                    "POST" if post else "GET", target, data=body, headers=headers, allow_redirects=False
                ) as response:
                    await response.read()
                    if response.status < 500:
                        self.failed += response.status >= 400
                        return response.status < 400
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(0.5 * 2**attempt)
        self.failed += 1
        return False

    def target(self, url: str) -> str | None:
        """Where a request for ``url`` really goes, None where it must not go anywhere."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if self.edge and (_loopback(host) or self._known(host)):
            return self.edge.rstrip("/") + rest
        return url if not self.edge and _loopback(host) else None


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
