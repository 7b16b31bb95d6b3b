"""Tracking: links that go through us, and the pixel that says "opened". Only for who agreed to it.

The scan is over rendered HTML, in one linear pass (no quantifier can cross a ``<`` or ``>``, so hostile
markup costs no more than plain text). What it does not recognise it leaves as it is: an untracked link
works, a broken one does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape, unescape

_HREF = re.compile(
    r"(<[aA](?:[rR][eE][aA])?\s[^<>]*?(?<![\w-])[hH][rR][eE][fF]\s*=\s*)"
    r"(?:\"([^\"<>]*)\"|'([^'<>]*)'|([^\s\"'<>]+))"
)


def rewrite(html: str, base: str, click_url: Callable[[str], str]) -> str:
    """The HTML with every http(s) link of ``a`` and ``area`` replaced by ``click_url(link)``.

    Left alone: other schemes (mailto:, tel:), anchors, relative links, and what points at ``base`` (our
    own unsubscribe page).
    """

    def replaced(found: re.Match[str]) -> str:
        raw = found[2] or found[3] or found[4] or ""
        url = unescape(raw).strip()
        if not url[:8].lower().startswith(("http://", "https://")) or url.startswith(base + "/"):
            return found[0]
        tracked = click_url(url)
        return found[0] if tracked == url else f'{found[1]}"{escape(tracked)}"'

    return _HREF.sub(replaced, html)


def add_pixel(html: str, url: str) -> str:
    """The HTML with an invisible image before its end."""
    pixel = f'<img src="{escape(url)}" width="1" height="1" alt="" style="display:block;border:0">'
    at = max(html.rfind("</body>"), html.rfind("</BODY>"))
    return html + pixel if at < 0 else html[:at] + pixel + html[at:]
