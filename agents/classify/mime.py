"""A MIME message as a flat list of parts, read from bytes that a stranger wrote.

Not the standard library's parser: that recurses with the message's nesting and raises on some headers.
This one is bounded in depth, parts, headers and bytes, takes what it can and never raises.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator
from html import unescape
from typing import NamedTuple

DEEPEST = 8
"""Levels of nesting that are opened."""
MOST_PARTS = 60
"""Parts of a message that are looked at."""
LONGEST_HEADER = 100_000
"""Bytes of a header section that are looked at."""
MOST_FIELDS = 500

_END = re.compile(rb"\r?\n[ \t]*\r?\n|\A\r?\n")
_BOUNDARY = re.compile(r"boundary\s{0,9}=\s{0,9}(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}\"?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_WORD = re.compile(r"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([BbQq])\?([^?\s]{0,500})\?=")
_BETWEEN = re.compile(r"(\?=)\s{1,10}(=\?[A-Za-z0-9_.:-]{1,40}(?:\*[A-Za-z-]{0,20})?\?[BbQq]\?)")
_DASHES = re.compile(rb"(?:\A|\n)--([^\s-][^\r\n]{0,199}|-[^\r\n]{1,199})\r?\n(?=[A-Za-z-]{3,40}:|\r?\n)")
_TAG = re.compile(r"<[^<>]{0,2000}>")
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/li|/h\d|/table|/title|p|div)\b[^<>]{0,500}>", re.IGNORECASE)
_HIDDEN = re.compile(r"<(style|script|head)\b", re.IGNORECASE)
LONGEST_HTML = 100_000
"""Characters of a page that are turned into text."""

# What systems call a charset -> what it is. Chinese mail says gb2312 and holds more than that.
_CHARSETS = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030", "euc-cn": "gb18030", "eucgb2312_cn": "gb18030", "gb_2312": "gb18030",
    "unicode-1-1-utf-7": "utf-7", "utf7": "utf-7", "ks_c_5601-1987": "cp949", "ks_c_5601": "cp949", "euc-kr": "cp949",
    "iso-2022-jp": "iso2022_jp_ext", "x-sjis": "cp932", "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932",
    "us-ascii": "utf-8", "ascii": "utf-8", "utf8": "utf-8", "unknown-8bit": "utf-8", "x-unknown": "utf-8",
    "iso-8859-8-i": "iso-8859-8", "big5-hkscs": "big5hkscs", "iso-8859-1": "cp1252", "latin1": "cp1252",
}  # fmt: skip
# Only these are decoded: some of Python's codecs (punycode, idna) take quadratic time on hostile text.
_KNOWN = re.compile(
    r"utf-?(?:7|8|16|16le|16be|16-le|16-be|32)|iso-?8859-?\d{1,2}|(?:windows-?|cp)\d{3,4}|koi8-[rtu]|gb18030|big5(?:hkscs)?|"
    r"euc[-_](?:jp|kr)|iso2022_jp_ext|iso-2022-(?:jp|kr)[-\w]{0,4}|cp949|cp932|mac-?roman|tis-620|latin-?\d|johab|hz-gb-2312|viscii",
    re.IGNORECASE,
)


class Fields(dict[str, str]):
    """Header fields by lower-case name; of a repeated one the first."""

    def __missing__(self, name: str) -> str:
        return ""


class Part(NamedTuple):
    """A leaf, or an embedded message (whose own headers are in ``body``). ``kind``: ``text/plain`` ..."""

    kind: str
    headers: Fields
    body: bytes

    @property
    def text(self) -> str:
        """The body as text with line feeds, decoded as well as it can be."""
        raw = decoded(self.body, self.headers["content-transfer-encoding"])
        charset = _CHARSET.search(self.headers["content-type"])
        text = _text(raw, charset.group(1) if charset else "")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def split(raw: bytes) -> tuple[Fields, bytes]:
    """(header fields, body) of a message or part."""
    end = _END.search(raw, 0, 2 * LONGEST_HEADER)  # a longer header is no mail system's: nothing follows it
    head, body = (raw[: end.start()], raw[end.end() :]) if end else (raw, b"")
    return fields(_text(head[:LONGEST_HEADER], "utf-8")), body


def fields(text: str) -> Fields:
    """The header fields in a text, unfolded; lines that are none are passed over."""
    found = Fields()
    for line in _FOLD.sub("", text).splitlines()[:MOST_FIELDS]:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name and " " not in name and name not in found:
            found[name] = value.strip()
    return found


def unworded(value: str) -> str:
    """A header value with its encoded words (RFC 2047) undone; what cannot be is left as it is."""
    if "=?" not in value:
        return value
    return _WORD.sub(_word, _BETWEEN.sub(r"\1\2", value[:4000]))


def _word(found: re.Match[str]) -> str:
    charset, kind, text = found.groups()
    raw = text.encode("utf-8", "replace")
    try:
        if kind in "Bb":
            return _text(a2b_base64(raw + b"=" * (-len(raw) % 4)), charset)
        return _text(a2b_qp(raw, header=True), charset)
    except ValueError:
        return found.group()


def _shown(page: str) -> str:
    """The page without its styles, scripts and head. Each kind's end is looked for once where there is none."""
    lower, kept, at, endless = page.lower(), [], 0, set[str]()
    for found in _HIDDEN.finditer(lower):
        kind = found.group(1)
        if found.start() < at or kind in endless:
            continue
        end = lower.find(f"</{kind}", found.end())
        if end < 0:
            endless.add(kind)
            continue
        kept.append(page[at : found.start()])
        at = end
    return " ".join([*kept, page[at:]])


def page_text(page: str) -> str:
    """The words of an HTML page, a line for each of its blocks."""
    page = _shown(page[:LONGEST_HTML])
    text = unescape(_TAG.sub("", _BREAK.sub("\n", " ".join(page.split()))))
    return "\n".join(line.strip() for line in text.replace("\xa0", " ").splitlines())


def parts(raw: bytes) -> tuple[Fields, list[Part]]:
    """The message's header fields and its leaves, in order."""
    headers, body = split(raw)
    found: list[Part] = []
    for part in _walk(headers, body, DEEPEST):
        found.append(part)
        if len(found) == MOST_PARTS:
            break
    return headers, found


def _walk(headers: Fields, body: bytes, depth: int) -> Iterator[Part]:
    kind = headers["content-type"].partition(";")[0].strip().lower() or "text/plain"
    mark = _mark(headers["content-type"], body) if depth and kind.startswith("multipart/") else b""
    if not mark:
        yield Part(kind, headers, body)
        return
    for piece in _pieces(body, mark):
        yield from _walk(*split(piece), depth - 1)


def _mark(content_type: str, body: bytes) -> bytes:
    """The line between parts; where none is given, or another stands in the body, the one that stands there."""
    given = _BOUNDARY.search(content_type)
    mark = b"--" + (given.group(1) or given.group(2)).rstrip().encode("utf-8", "replace") if given else b""
    if mark and mark in body:
        return mark
    found = _DASHES.search(body[:20_000])
    return b"--" + found.group(1).rstrip() if found else b""


def _pieces(body: bytes, mark: bytes) -> Iterator[bytes]:
    """What stands between the boundary lines (RFC 2046 section 5.1.1); the last may lack its end."""
    start = -1
    for line in re.finditer(rb"^" + re.escape(mark) + rb"(--)?[ \t]*\r?(?:\n|\Z)", body, re.MULTILINE):
        if start >= 0:
            yield body[start : line.start()]
        start = line.end()
        if line.group(1):
            return
    if start >= 0:
        yield body[start:]


def decoded(body: bytes, encoding: str) -> bytes:
    """The body without its transfer encoding; as it is where that cannot be undone."""
    encoding = encoding.strip().lower()
    try:
        if encoding == "base64":
            return a2b_base64(body)
        if encoding == "quoted-printable":
            return a2b_qp(body)
    except ValueError:
        pass
    return body


def _text(raw: bytes, charset: str) -> str:
    charset = charset.lower()
    charset = _CHARSETS.get(charset, charset)
    if charset and charset != "utf-8" and _KNOWN.fullmatch(charset):
        try:
            return raw.decode(charset, "replace")
        except (LookupError, UnicodeError, ValueError):
            pass
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Most text of an unknown charset is ASCII with some words in it: the addresses and codes stay.
        return raw.decode("utf-8" if charset == "utf-8" else "latin-1", "replace")
