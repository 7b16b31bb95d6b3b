"""Subscriptions by HTTP: a form or a program asks, the owner of the address confirms.

``GET /subscribe?tenant=...`` is a form of our own, with the wording that goes on record; a tenant's own page may post
the same fields.

``POST /subscribe``, form or JSON: ``email``, ``tenant`` (default ``default``), ``stream`` (``marketing``), and if
wanted ``opens`` and ``clicks`` (they may be tracked: one of YES, all else is no consent) and ``page`` (where the form
is; else the Referer). The answer is 202, the same whether or not the address is known, and whatever will come of it. 404: this tenant takes no
subscriptions (see ``schemas.consent_rules``); 400: no address; 429: too many from this source or to this domain.

``GET /confirm/<token>`` shows a page, ``POST`` confirms: scanners follow every link.

Limits are those of this process, against bombing mailboxes with forms. The one that counts is the pipeline's: 3
confirmation mails to one address in 24 hours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from schemas.address import domain_of, normalise
from schemas.codec import Malformed
from schemas.consent_rules import ConsentRules
from schemas.engagement import Engagement
from schemas.hosts import UNKNOWN, Hosts
from schemas.lanes import provider_of, site_of
from schemas.token import ConfirmToken, Tokens
from streams import metrics
from streams.edge.limits import Limit, network_of
from streams.edge.pages import Pages, html, veiled

YES = frozenset(("1", "true", "yes", "on"))
"""What a box that was ticked says; a browser says "on" where the form gives it no value."""
CLOSED = "no subscriptions are taken for this tenant and stream"
LARGE = frozenset(
    [
        "gmail.com",
        "googlemail.com",
        "yahoo.com",
        "yahoo.co.uk",
        "yahoo.fr",
        "yahoo.de",
        "outlook.com",
        "hotmail.com",
        "hotmail.co.uk",
        "hotmail.fr",
        "live.com",
        "msn.com",
        "icloud.com",
        "me.com",
        "mac.com",
        "aol.com",
        "gmx.de",
        "gmx.net",
        "gmx.at",
        "gmx.ch",
        "web.de",
        "t-online.de",
        "freenet.de",
        "orange.fr",
        "wanadoo.fr",
        "free.fr",
        "laposte.net",
        "libero.it",
        "virgilio.it",
        "bluewin.ch",
        "comcast.net",
        "att.net",
        "verizon.net",
        "mail.ru",
        "yandex.ru",
        "qq.com",
        "163.com",
        "126.com",
        "naver.com",
        "daum.net",
        "proton.me",
        "protonmail.com",
        "uol.com.br",
        "bol.com.br",
    ]
)
"""Domains with millions of mailboxes: many people who subscribe there in an hour are no attack."""
LIGHT = 0.02
"""What one of them weighs."""


@dataclass(frozen=True, slots=True)
class SubscribeSettings:
    """Subscriptions that may be asked for, in this process."""

    source: float = 20.0
    """An hour from one address (a /64 of IPv6); from a whole /48 five times as many."""
    domain: float = 200.0
    """An hour to one domain; 50 times as many to those in LARGE. To all domains of one mail host (MX site) together
    twice as many, and 50 times that to those of a provider that we know by name."""
    address: float = 5.0
    """A day to one address: what is more is answered as usual, and dropped."""
    wait: float = 15.0
    """Seconds that a body may take."""


class Subscriptions:
    """The two routes. ``write`` says whether an event is in Kafka; ``source`` whose request it is; ``clock`` is in
    Unix seconds. Without ``hosts`` a domain's mail host is told by its own name."""

    def __init__(
        self,
        rules: ConsentRules,
        tokens: Tokens,
        pages: Pages,
        settings: SubscribeSettings,
        clock: Callable[[], float],
        source: Callable[[web.Request], str],
        write: Callable[[Engagement], Awaitable[bool]],
        unavailable: Callable[[], web.Response],
        hosts: Hosts | None = None,
    ) -> None:
        self._rules, self._tokens, self._pages, self._settings = rules, tokens, pages, settings
        self._clock, self._source, self._write, self._unavailable = clock, source, write, unavailable
        self._hosts = hosts
        self._sources = Limit(settings.source, 3600, clock)
        self._blocks = Limit(5 * settings.source, 3600, clock)
        self._domains = Limit(settings.domain, 3600, clock)
        self._sites = Limit(2 * settings.domain, 3600, clock)
        self._addresses = Limit(settings.address, 86400, clock)

    def routes(self, app: web.Application) -> None:
        """Add them to the application."""
        app.router.add_get("/subscribe", self._form)
        app.router.add_post("/subscribe", self._subscribe)
        app.router.add_get("/confirm/{token}", self._ask)
        app.router.add_post("/confirm/{token}", self._confirm)

    async def _form(self, request: web.Request) -> web.Response:
        tenant, stream = request.query.get("tenant", "default"), request.query.get("stream", "marketing")
        rule = self._rules.of(tenant, stream)
        if not rule.sender:
            return _Answer(self._pages, False)(404, "No such list", CLOSED)
        page = "subscribe_tracked" if rule.tracking == "consent" else "subscribe"
        return html(self._pages.page(page, tenant=tenant, stream=stream, wording=rule.wording))

    async def _subscribe(self, request: web.Request) -> web.Response:
        answer = _Answer(self._pages, request.content_type == "application/json")
        async with asyncio.timeout(self._settings.wait):
            body = await request.read()
        fields = _fields(request.content_type, body)
        if fields is None:
            return answer(415, "Not understood", "send a form (application/x-www-form-urlencoded) or JSON")
        tenant, stream = fields.get("tenant", "default"), fields.get("stream", "marketing")
        rule = self._rules.of(tenant, stream)
        if not rule.sender:
            return answer(404, "No such list", CLOSED)
        try:
            to = normalise(fields.get("email", "").strip()).key
        except Malformed as error:
            return answer(400, "This is no address", error.detail)
        source = self._source(request)
        if not await self._may_come(source, domain_of(to)):
            metrics.SUBSCRIPTIONS.labels("limited").inc()
            return answer(429, "Too many", "too many subscriptions at once: please try again in an hour")
        if not self._addresses.take(_mailbox(to)):
            metrics.SUBSCRIPTIONS.labels("limited").inc()
        elif not await self._write(
            Engagement(
                kind="subscription_requested",
                mail="",
                tenant=tenant,
                campaign="",
                stream=stream,
                to=to,
                time=self._clock(),
                url=(fields.get("page") or _clean(request.headers.get("Referer", "")))[:500],
                agent=_clean(request.headers.get("User-Agent", ""))[:200],
                address=source,
                wording=rule.wording,
                tracking="".join(
                    letter
                    for letter, name in (("o", "opens"), ("c", "clicks"))
                    if fields.get(name, "").strip().lower() in YES
                ),
            )
        ):
            if answer.json:
                refused = answer(503, "", "could not be recorded just now: please try again in a minute")
                refused.headers["Retry-After"] = "30"
                return refused
            return self._unavailable()
        return answer(
            202,
            "Please look into your mailbox",
            "If this address is not on the list yet, a mail with a link to confirm is on its way to it.",
        )

    async def _may_come(self, source: str, domain: str) -> bool:
        """Whether neither who asks nor whose mailbox it is has had too many."""
        if not self._sources.take(network_of(source)) or not self._blocks.take(network_of(source, 48)):
            return False
        if not self._domains.take(domain, LIGHT if domain in LARGE else 1.0):
            return False
        # One mail host may have any number of domains: a wildcard MX costs nothing.
        found = await self._hosts.mail_hosts(domain) if self._hosts else UNKNOWN
        names = found.names or (domain,)
        provider = provider_of(names)
        return self._sites.take(provider or site_of(names), LIGHT if provider or domain in LARGE else 1.0)

    async def _ask(self, request: web.Request) -> web.Response:
        link = self._link(request)
        if link is None:
            return self._too_late()
        return html(self._pages.page("confirm", who=veiled(link.to)))

    async def _confirm(self, request: web.Request) -> web.Response:
        link = self._link(request)
        if link is None:
            return self._too_late()
        told = await self._write(
            Engagement(
                kind="subscribed",
                mail=link.id,
                tenant=link.tenant,
                campaign="",
                stream=link.stream,
                to=link.to,
                time=self._clock(),
                agent=_clean(request.headers.get("User-Agent", ""))[:200],
                address=self._source(request),
                asked=link.asked,
                tracking=link.tracking,
            )
        )
        if not told:
            return self._unavailable()
        return html(self._pages.page("confirmed", who=veiled(link.to)))

    def _link(self, request: web.Request) -> ConfirmToken | None:
        """What the link says; None where its time is over. Raises Malformed."""
        link = self._tokens.read_confirm_token(request.match_info["token"])
        return link if self._clock() < link.until else None

    def _too_late(self) -> web.Response:
        text = "Nothing was changed. If you still want to subscribe, please do so once more."
        return html(self._pages.page("notice", "This link is too old", text=text), 410)


class _Answer:
    """The same words for people and programs."""

    def __init__(self, pages: Pages, json: bool) -> None:
        self._pages, self.json = pages, json

    def __call__(self, status: int, title: str, text: str) -> web.Response:
        if not self.json:
            return html(self._pages.page("notice", title, text=text), status)
        found = {"status": "accepted"} if status < 400 else {"status": "refused", "why": text}
        return web.Response(body=orjson.dumps(found), status=status, content_type="application/json")


def _fields(kind: str, body: bytes) -> Mapping[str, str] | None:
    """The fields of a form or a JSON object as texts, without empty ones; None where it is neither."""
    if kind == "application/json":
        try:
            found: Any = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(found, dict):
            return None
        given = {name: "1" if value is True else value for name, value in found.items()}
        return {name: value for name, value in given.items() if isinstance(value, str) and value}
    if kind not in ("application/x-www-form-urlencoded", "application/octet-stream"):
        return None
    try:
        form = parse_qs(body.decode("utf-8"), max_num_fields=20)
    except ValueError:  # not UTF-8, or too many fields
        return None
    return {name: values[0] for name, values in form.items()}


def _mailbox(to: str) -> str:
    """What reaches one person: a +tag, and dots at Gmail, do not make another mailbox."""
    local, _, domain = to.partition("@")
    local = local.partition("+")[0]
    if domain in ("gmail.com", "googlemail.com"):
        local, domain = local.replace(".", ""), "gmail.com"
    return f"{local}@{domain}"


def _clean(text: str) -> str:
    """Headers are decoded with surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()
