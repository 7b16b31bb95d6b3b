"""HTTP in: open pixel, click redirect, unsubscribe page and one-click POST (RFC 8058), subscriptions.

====================================  ===========================================================
``GET /o/<token>.gif``                an open; answers a transparent pixel
``GET /c/<token>?u=<url>&s=<mac>``    a click; answers 302 to the URL, which the MAC must vouch for
``GET /u/<token>``                    a page that changes nothing: scanners follow every link
``POST /u/<token>``                   unsubscribes, whatever the body (``action=subscribe`` takes it back; where
                                      tracking needs a consent, ``untrack_opens`` or ``untrack_clicks`` ends it)
``POST /subscribe``, ``/confirm/...``  see ``streams.edge.subscribe``
``GET /healthz``, ``/readyz``         200; readyz 503 while the process is not ready
====================================  ===========================================================

HEAD is answered like GET and counts as nothing. The answer comes after the broker's acknowledgement, for
all three kinds of event: else it is 503 with Retry-After. A pixel nobody misses; a click's 503 page shows
the link, so that no reader is stuck; whoever wants to unsubscribe is asked to try again, never told a lie.
A token or link that was changed is a 400.

X-Forwarded-For is believed of the proxies in ``proxies`` alone; else ``address`` is the peer's. There is no TLS
here; put a proxy in front.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from string import punctuation
from typing import Any, Literal
from urllib.parse import parse_qs, quote

from aiohttp import web

from agents import Out
from schemas.codec import Malformed, encode
from schemas.consent_rules import ConsentRules
from schemas.engagement import Engagement
from schemas.hosts import Hosts
from schemas.identity import partition_of
from schemas.token import MailToken, Tokens
from streams import metrics
from streams.edge.acked import Acked, Publish
from streams.edge.limits import Limit, Repeats, source_of
from streams.edge.pages import Pages, html, veiled
from streams.edge.subscribe import SubscribeSettings, Subscriptions

PIXEL = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_KINDS = {
    **{"o": "open", "c": "click", "u": "unsubscribe"},
    **{"subscribe": "subscribe", "confirm": "confirm"},
}
_TYPE = {"type": b"engagement", "version": b"1"}
_UNTRACK = {"untrack_opens": ("o", "when you open"), "untrack_clicks": ("c", "which links you follow")}
"""Form's action -> what may no longer be tracked, as a letter and in words."""
Kind = Literal["opened", "clicked", "unsubscribed", "subscribed", "consent_revoked"]
Handler = Callable[[web.Request], Any]


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of the HTTP edge; times in seconds."""

    partitions: int
    """P, the partition count of the co-partitioned topics."""
    ack: float = 2.0
    """Longest wait for the broker before a 503."""
    retry_after: int = 30
    """When the asker of a 503 may come again."""
    body: int = 4096
    """Bytes of a POST; RFC 8058 needs 26."""
    idle: float = 15.0
    """How long a kept connection may say nothing, and a body may take."""
    life: float = 120.0
    """Age at which a connection is closed, between two requests or amid a header that never ends."""
    connections: int = 1000
    """Open connections; further ones are closed at once."""
    repeats: float = 60.0
    """For so long the same word of the same person, such as unsubscribe, is answered as before and not written again."""
    proxies: tuple[str, ...] = ()
    """Addresses and networks (CIDR) whose X-Forwarded-For is believed."""
    subscribe: SubscribeSettings = field(default_factory=SubscribeSettings)


class HttpEdge:
    """The service. ``ready`` decides about /readyz; ``clock`` gives Unix seconds; ``hosts`` tells whose mail host a
    subscriber's domain has."""

    def __init__(
        self,
        publish: Publish,
        tokens: Tokens,
        settings: HttpSettings,
        clock: Callable[[], float] = time.time,
        ready: Callable[[], bool] = lambda: True,
        consents: ConsentRules | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._acked = Acked(publish, settings.ack)
        self._tokens = tokens
        self._settings = settings
        self._clock = clock
        self._ready = ready
        self._pages = Pages()
        self._consents = consents or ConsentRules()
        self._subscriptions = Subscriptions(
            self._consents,
            tokens,
            self._pages,
            settings.subscribe,
            clock,
            self._source,
            self._write,
            self._unavailable,
            hosts,
        )
        self._repeats = Repeats(settings.repeats, clock)
        self._back = Limit(5, 3600, clock)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the bound port (of use where ``port`` is 0). Raises OSError where that is not possible."""
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            keepalive_timeout=self._settings.idle,
            shutdown_timeout=self._settings.ack,
        )
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._connect, host, port)
        self._sweeper = asyncio.create_task(self._sweep())
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more connections, finish the requests in work, close."""
        if self._server is None or self._runner is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        await self._runner.cleanup()
        self._server = None

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self._settings.body, middlewares=[self._answer])
        app.on_response_prepare.append(self._headers)
        app.router.add_get("/o/{token}.gif", self._open)
        app.router.add_get("/c/{token}", self._click)
        app.router.add_get("/u/{token}", self._ask)
        app.router.add_post("/u/{token}", self._leave)
        self._subscriptions.routes(app)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        return app

    async def _open(self, request: web.Request) -> web.Response:
        mail = self._tokens.read_mail_token(request.match_info["token"])
        if not await self._tell("opened", mail, request):
            return self._unavailable()
        return web.Response(body=PIXEL, content_type="image/gif")

    async def _click(self, request: web.Request) -> web.Response:
        url = request.query.get("u", "")
        mail = self._tokens.check_click(request.match_info["token"], url, request.query.get("s", ""))
        if not await self._tell("clicked", mail, request, url=url):
            return self._unavailable(self._pages.page("busy", url=url))
        # As it was given, but for what is not ASCII, which a header cannot hold.
        return web.Response(status=302, headers={"Location": quote(url, safe=punctuation)})

    async def _ask(self, request: web.Request) -> web.Response:
        mail = self._tokens.read_mail_token(request.match_info["token"])
        rule = self._consents.of(mail.tenant, "marketing")
        page = "ask_tracked" if rule.tracking == "consent" else "ask"
        return html(self._pages.page(page, who=veiled(mail.to)))

    async def _leave(self, request: web.Request) -> web.Response:
        mail = self._tokens.read_mail_token(request.match_info["token"])
        async with asyncio.timeout(self._settings.idle):
            body = await request.read()
        action = _action(body)
        if action in _UNTRACK:
            letter, what = _UNTRACK[action]
            if not await self._once("consent_revoked", mail, request, tracking=letter):
                return self._unavailable()
            return html(self._pages.page("untracked", who=veiled(mail.to), what=what))
        kind: Kind = "subscribed" if action == "subscribe" else "unsubscribed"
        # The body is read for what it tells, not for permission: whoever posts here wants out.
        if not await self._once(kind, mail, request, one_click=b"One-Click" in body):
            return self._unavailable()
        return html(self._pages.page("back" if kind == "subscribed" else "left", who=veiled(mail.to)))

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    async def _once(self, kind: Kind, mail: MailToken, request: web.Request, **more: Any) -> bool:
        """``_tell``, but for who said the same just now; and nobody comes and goes without end."""
        who = _who(mail.tenant, mail.to, more.get("tracking", ""))
        if self._repeats.again(who, kind):
            return True
        if kind == "subscribed" and not self._back.take(who):
            return False
        if not await self._tell(kind, mail, request, **more):
            return False
        self._repeats.said(who, kind)
        return True

    async def _tell(
        self,
        kind: Kind,
        mail: MailToken,
        request: web.Request,
        url: str = "",
        one_click: bool = False,
        tracking: str = "",
    ) -> bool:
        """Whether the event is in Kafka (HEAD is none)."""
        if request.method == "HEAD":
            return True
        event = Engagement(
            kind=kind,
            mail=mail.id,
            tenant=mail.tenant,
            campaign=mail.campaign,
            stream=mail.stream,
            to=mail.to,
            time=self._clock(),
            url=url,
            # Headers are decoded with surrogates, which JSON cannot hold.
            agent=request.headers.get("User-Agent", "").encode("utf-8", "replace").decode()[:200],
            address=self._source(request),
            one_click=one_click,
            provider=mail.provider,
            tracking=tracking,
        )
        return await self._write(event)

    async def _write(self, event: Engagement) -> bool:
        # Not the token's partition: a token outlives a change of P, and an unsubscribe must reach its owner.
        partition = partition_of(event.to, self._settings.partitions)
        if not await self._acked(Out("mail-engagement", encode(event), _TYPE, None, partition)):
            return False
        if event.kind == "subscribed":  # by whatever link: who leaves again from now on says something new
            for letter in ("", "o", "c"):
                self._repeats.said(_who(event.tenant, event.to, letter), event.kind)
        return True

    def _source(self, request: web.Request) -> str:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return source_of(request.remote or "", forwarded, self._settings.proxies)

    def _unavailable(self, page: str = "") -> web.Response:
        page = page or self._pages.page(
            "notice",
            "One moment, please",
            text="We could not record this just now. Please try again in a minute.",
        )
        answer = html(page, 503)
        answer.headers["Retry-After"] = str(self._settings.retry_after)
        return answer

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal is a page that a reader understands."""
        try:
            return await handler(request)
        except Malformed:
            text = "This link is incomplete or was changed on its way. Please use the one in the mail."
            return html(self._pages.page("notice", "This link does not work", text=text), 400)
        except TimeoutError:
            return html(self._pages.page("notice", "Too slow", text="The request took too long."), 408)
        except web.HTTPException as error:
            answer = html(
                self._pages.page("notice", error.reason, text="There is nothing here."), error.status
            )
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer

    async def _headers(self, request: web.Request, answer: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        kind = _KINDS.get(resource.canonical.split("/")[1], "") if resource else ""
        if kind:
            metrics.EDGE_REQUESTS.labels("http", kind, str(answer.status)).inc()
        answer.headers.update(
            {
                "Cache-Control": "no-store",
                "Content-Security-Policy": self._pages.policy,
                "Referrer-Policy": "no-referrer",  # the token stays between the reader and us
                "Server": "mailsluice",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "X-Robots-Tag": "noindex",
            }
        )

    def _connect(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._settings.connections:
            return _Full()
        return server()

    async def _sweep(self) -> None:
        """aiohttp gives a client any time for its header (and counts none of it as idle): we do not."""
        assert self._runner is not None
        assert self._runner.server is not None
        born: dict[web.RequestHandler, float] = {}
        closing: set[web.RequestHandler] = set()
        while True:
            await asyncio.sleep(self._settings.life / 8)
            now = asyncio.get_running_loop().time()
            closing.intersection_update(self._runner.server.connections)
            born = {handler: born.get(handler, now) for handler in self._runner.server.connections}
            for handler, since in born.items():
                if now - since >= self._settings.life:
                    # The first time it may finish the request in work, the next time not.
                    (handler.force_close if handler in closing else handler.close)()
                    closing.add(handler)


class _Full(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _who(tenant: str, to: str, letter: str) -> str:
    """Whose word it is: about all mail, or about being seen to open (o) or click (c)."""
    return f"{tenant}|{to}|{letter}"


def _action(body: bytes) -> str:
    """The ``action`` of a form, or ""; a body that is no form has none."""
    with suppress(ValueError):
        return parse_qs(body.decode("ascii", "replace"), max_num_fields=10).get("action", [""])[0]
    return ""
