"""The few pages that readers see. No scripts, no foreign assets; every value is escaped."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from aiohttp import web

_TITLES = {
    "ask": "Unsubscribe?",
    "ask_tracked": "Unsubscribe?",
    "untracked": "Changed",
    "left": "You are unsubscribed",
    "back": "You are subscribed again",
    "busy": "One moment, please",
    "subscribe": "Subscribe",
    "subscribe_tracked": "Subscribe",
    "confirm": "Subscribe?",
    "confirmed": "You are subscribed",
}


class Pages:
    """The templates beside this file, read once."""

    def __init__(self) -> None:
        self._page = self._read("page")
        self._parts = {name: self._read(name) for name in (*_TITLES, "notice")}
        style = self._page.template.partition("<style>")[2].partition("</style>")[0]
        digest = b64encode(sha256(style.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        """Content-Security-Policy: only our own style, named by its hash, and forms to ourselves."""

    def page(self, name: str, title: str = "", **values: str) -> str:
        """The page ``name``; the title is its usual one where none is given."""
        body = self._parts[name].substitute({key: escape(value) for key, value in values.items()})
        return self._page.substitute(title=escape(title or _TITLES[name]), body=body)

    @staticmethod
    def _read(name: str) -> Template:
        return Template(files("streams.edge").joinpath(f"{name}.html").read_text("utf-8"))


def html(page: str, status: int = 200) -> web.Response:
    """A page as an answer."""
    return web.Response(text=page, status=status, content_type="text/html")


def veiled(address: str) -> str:
    """An address that its owner recognises and others cannot use: a mail may have been forwarded."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}\u2022\u2022\u2022@{domain}"
