"""The text part of a mail that has only HTML.

Best is to convert the *template* once (``from_template``): the result is a text template, which costs a few
microseconds a mail. Where markup and logic are too entangled for that, the rendered HTML is converted
(``from_html``). The scan is linear; it looks at tags, never at a tree.
"""

from __future__ import annotations

import re
from html import unescape

_TAG = re.compile(
    r"""<(/?)([a-zA-Z][\w:-]*)([^<>"']*+(?:(?:"[^"<]*"|'[^'<]*')[^<>"']*+)*+)>|<[^<>\s][^<>]*>"""
)
_ATTRIBUTE = re.compile(r"""(?<![\w-])(href|alt)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_FLOW = re.compile(r"\{%[-+]?\s*(?:(?:if|elif|else|endif|for|endfor|with|endwith)\b|set\s[^%=]*=)")
_HTML_FILTER = re.compile(r"\|\s*(?:safe|e|escape|forceescape|striptags|tojson|indent|pprint|urlize)\b")
_HOLE = re.compile("\ue000(\\d+)\ue001")
_HOLES = re.compile("(\ue000\\d+\ue001)")
_MANY_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")

_DROPPED = {
    name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("head", "style", "script", "title")
}
_words = str.split
_BREAKS = dict.fromkeys(
    _words(
        "address article aside blockquote center dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header main"
        " nav ol p pre section table ul"
    ),
    2,
) | dict.fromkeys(_words("body caption dd div dt html li tr thead tbody tfoot"), 1)
"""Line breaks before and after an element; two make an empty line."""


def from_html(html: str) -> str:
    """Rendered HTML as text. Never fails; what is no markup stays."""
    return squeeze(_Writer(()).convert(html))


def from_template(source: str) -> str | None:
    """An HTML template as a text template over the same variables, or None where that is not safe.

    Not safe: a block inside a tag, a filter that makes HTML, macros and other blocks that hold markup.
    Values then appear unescaped, as they should in text. Pass the result of rendering to ``squeeze``.
    """
    if "\ue000" in source or "\ue001" in source:
        return None
    holes: list[str] = []

    def punch(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith("{#"):
            return ""
        holes.append(token)
        return f"\ue000{len(holes) - 1}\ue001"

    punched = _JINJA.sub(punch, source)
    if any(_HTML_FILTER.search(hole) or (hole[1] == "%" and not _FLOW.match(hole)) for hole in holes):
        return None
    try:
        text = _Writer(tuple(map(_untrimmed, holes))).convert(punched)
    except _Entangled:
        return None
    if any(mark in text for mark in ("{{", "{%", "{#")):
        return None  # an entity spelled a brace: as a template it would mean something else
    return _HOLE.sub(lambda found: _untrimmed(holes[int(found[1])]), text)


def squeeze(text: str) -> str:
    """At most one empty line in a row, none at the ends."""
    if "\n\n\n" in text or "\n " in text:
        text = _MANY_LINES.sub("\n\n", text)
    return text.strip() + "\n"


class _Entangled(Exception):
    """Logic stands where only markup can."""


def _untrimmed(token: str) -> str:
    """The token without whitespace control: the white space around it is no longer the template's."""
    if token[2] in "-+":
        token = token[:2] + token[3:]
    return token[:-3] + token[-2:] if token[-3] in "-+" else token


class _Writer:
    """Turns markup into lines. ``holes``: the template tokens that stand for themselves."""

    def __init__(self, holes: tuple[str, ...]) -> None:
        self._holes = holes
        self._out: list[str] = []
        self._breaks = 0  # line breaks that must come before the next text
        self._tail = 2  # line breaks at the end of what is written; the start counts as an empty line
        self._space = False
        self._links: list[tuple[str, int]] = []
        self._endless: set[str] = (
            set()
        )  # elements whose end was looked for in vain: each look is a whole scan

    def convert(self, source: str) -> str:
        at = 0
        while at < len(source):
            less = source.find("<", at)
            if less < 0:
                self._text(source[at:])
                break
            self._text(source[at:less])
            if source.startswith("<!--", less):
                at = self._skip(source, less, source.find("-->", less), 3)
                continue
            tag = _TAG.match(source, less)
            if tag is None:
                self._text("<")
                at = less + 1
                continue
            at = tag.end()
            if tag[2]:
                self._forbid_logic(tag[0])
                name = tag[2].lower()
                dropped = name in _DROPPED and not tag[1] and name not in self._endless
                end = _DROPPED[name].search(source, at) if dropped else None
                if dropped and end is None:
                    self._endless.add(name)
                if end is not None:
                    at = self._skip(source, at, end.start(), end.end() - end.start())
                elif name in ("style", "script") and not tag[1]:
                    break
                elif tag[1]:
                    self._close(name)
                else:
                    self._open(name, tag[3])
        return "".join(self._out)

    def _skip(self, source: str, start: int, end: int, width: int) -> int:
        if end < 0:
            return len(source)
        self._forbid_logic(source[start:end])
        return end + width

    def _forbid_logic(self, markup: str) -> None:
        if "\ue000" in markup and any(
            self._holes[int(hole)].startswith("{%")
            for hole in _HOLE.findall(markup)
            if int(hole) < len(self._holes)
        ):
            raise _Entangled

    def _open(self, name: str, attributes: str) -> None:
        if name == "br":
            self._breaks += 1
        elif name in _BREAKS:
            self._breaks = max(self._breaks, _BREAKS[name])
            if name == "li":
                self._write("* ")
        elif name in ("td", "th"):
            self._space = True
        elif name == "hr":
            self._breaks = max(self._breaks, 1)
            self._write("-" * 40)
            self._breaks = 1
        elif name == "img":
            self._text(_attribute(attributes, "alt"))
        elif name == "a":
            self._links.append((_attribute(attributes, "href"), len(self._out)))

    def _close(self, name: str) -> None:
        if name in _BREAKS:
            self._breaks = max(self._breaks, _BREAKS[name])
        elif name == "a" and self._links:
            url, start = self._links.pop()
            label = "".join(self._out[start:]).strip()
            if not url or url.startswith("#") or label in (url, url.partition(":")[2]):
                return
            self._write(f" ({url})" if label else url)

    def _text(self, text: str) -> None:
        for piece in _HOLES.split(text) if "\ue000" in text else (text,):
            hole = _HOLE.fullmatch(piece)
            if hole and int(hole[1]) < len(self._holes):
                if self._holes[int(hole[1])].startswith("{%"):
                    self._logic(piece)
                else:
                    self._write(piece)
                continue
            words = unescape(piece).split()
            if not words:
                self._space = self._space or bool(piece)
                continue
            self._space = self._space or piece[0].isspace()
            self._write(" ".join(words))
            self._space = piece[-1].isspace()

    def _write(self, text: str) -> None:
        lines = max(0, self._breaks - self._tail) if self._breaks else 0
        if lines:
            self._out.append("\n" * lines)
        elif self._space and not self._tail:
            self._out.append(" ")
        self._out.append(text)
        self._breaks = self._tail = 0
        self._space = False

    def _logic(self, token: str) -> None:
        """A block takes no room itself: the breaks before it belong before it, so that loops repeat them."""
        lines = max(0, self._breaks - self._tail)
        if lines:
            self._out.append("\n" * lines)
            self._tail += lines
        elif self._space and not self._tail:
            self._out.append(" ")
        self._breaks = 0
        self._space = False
        self._out.append(token)


def _attribute(attributes: str, name: str) -> str:
    for found in _ATTRIBUTE.finditer(attributes):
        if found[1].lower() == name:
            return unescape(found[2] or found[3] or found[4] or "").strip()
    return ""
