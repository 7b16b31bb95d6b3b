"""Reading an SMTP reply: its codes, and its wording freed of what differs from mail to mail. Pure.

A reply is a stranger's text: every pattern here takes time linear in a text that is cut to ``LONGEST``.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from contextlib import suppress
from functools import lru_cache

LONGEST = 4096
"""Characters of a reply that are looked at (RFC 5321 allows 512 octets a line, any number of lines)."""
_BEGINNING, _END = 700, 300  # characters of wording that rules see: the rest says nothing new

# --- codes -----------------------------------------------------------------------------------------

_ENHANCED = r"[245]\.\d{1,3}\.\d{1,4}(?!\d|\.\d)"
_HEAD = re.compile(rf"([2-5]\d\d)(?!\d)[ \-.:#(\[<]{{0,4}}({_ENHANCED})?")
_QUOTED = re.compile(
    rf"(?:said:?|smtp;|[ :;(<\['\"])\s?([45]\d\d)(?:[ \-]#?({_ENHANCED})?|(?=[ \-:]|$))", re.IGNORECASE
)
_ANYWHERE = re.compile(rf"(?<![\w.])({_ENHANCED})")
_SCHEME = re.compile(r"(?:[a-z][a-z0-9-]{1,20};)?[\s\"'<#]{0,4}", re.IGNORECASE)


def read_codes(reply: str) -> tuple[str, str, int]:
    """(basic code, enhanced code, where the text begins); empty where there is none.

    Reads the raw reply and what DSNs make of it: ``smtp; 550-5.1.1 ...``, ``host x said: 550 ...``,
    ``#5.1.1``, an enhanced code in brackets anywhere in the text, or an enhanced code alone.
    """
    head, begin = _HEAD.match(reply), 0
    if head is None:
        start = _SCHEME.match(reply)
        begin = start.end() if start else 0
        head = _HEAD.match(reply, begin)
    if head is None:
        alone = _ANYWHERE.match(reply, begin)
        quoted = _QUOTED.search(reply, begin)
        if quoted is None:
            found = alone or _ANYWHERE.search(reply, begin)
            return "", found.group(1) if found else "", alone.end() if alone else begin
        head = quoted
    code, enhanced = head.group(1), head.group(2) or ""
    if not enhanced:
        for other in _ANYWHERE.finditer(reply, head.end()):
            if other.group(1)[0] == code[0]:
                enhanced = other.group(1)
                break
    return code, enhanced, head.end()


# --- wording ---------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[^<>()\[\],;:\"'=@]*+@[^<>()\[\],;:\"'=]*+")
_CONTINUED = re.compile(rf"[\r\n]+\s*[2-5]\d\d[ \-]#?(?:{_ENHANCED})?")
_ENCODED = re.compile(r"=\?([\w-]{1,30})\?([bq])\?([^?\s]{0,300})\?=(?:\s+(?==\?))?", re.IGNORECASE)
# An IPv4 or IPv6 address, a time, a long number (not Microsoft's AS(201806281)), or a run of letters and
# digits that is long enough to be somebody's queue id.
_VARIES = re.compile(
    r"(?<!\d)(?:\d{1,3}\.){3}\d{1,3}(?!\d)|(?<![0-9a-z:])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![0-9a-z:])"
    r"|\d{4}-\d\d-\d\dt[\d:.]{5,20}z?|(?<!as\()(?<![0-9a-z_-])\d{6,20}(?![0-9a-z_-])"
    r"|(?<![0-9a-z_-])(?!ofr|lpn|sfr)(?=[a-z_-]{0,40}\d[a-z_-]{0,40}\d)[0-9a-z_-]{10,}+"
)
_MAY_VARY = re.compile(r"[\d:]")
_TYPED = str.maketrans({"’": "'", "‘": "'", "`": "'", "“": '"', "”": '"', "\u00a0": " ", "\u3000": " "})


def folded(text: str) -> str:
    """Text in lower case without accents, quotation marks typed plainly: ``Empfänger`` is ``empfanger``."""
    if text.isascii():
        return text.lower()
    if "Ã" in text or "Â" in text:  # UTF-8 that somebody read as Latin-1
        with suppress(UnicodeError):
            text = text.encode("latin-1").decode("utf-8")
    parts = unicodedata.normalize("NFKD", text.translate(_TYPED).lower())
    bare = "".join(c for c in parts if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def decoded(text: str) -> str:
    """Text with its RFC 2047 words decoded, where they can be; some servers put them into replies."""
    return _ENCODED.sub(_decode_word, text) if "=?" in text else text


def _decode_word(word: re.Match[str]) -> str:
    charset, kind, body = word.groups()
    try:
        raw = body.encode("ascii")
        octets = binascii.a2b_base64(raw) if kind in "bB" else binascii.a2b_qp(raw, header=True)
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):  # ValueError: UnicodeError and binascii.Error too
        return word.group(0)


def _bare(word: str) -> str:
    """A word of lower case without addresses, IP addresses and queue ids."""
    if "@" in word:
        word = "@" if len(word) > 320 else _ADDRESS.sub("@", word)
    return _unvaried(word) if 6 < len(word) <= 320 else word


@lru_cache(maxsize=20_000)
def _unvaried(word: str) -> str:
    # Most words are met again and again; without a digit or a colon there is nothing in them that varies.
    return word if _MAY_VARY.search(word) is None else _VARIES.sub("#", word)


def plain(text: str) -> str:
    """The wording alone: in lower case without accents, one space between words and around.

    Addresses stand as ``@``, IP addresses and long ids as ``#``: what is left is the same for every mail.
    Each sentence is a line, so that ``.`` in a pattern stays within it.
    """
    if "\n" in text or "\r" in text:
        text = _CONTINUED.sub(" ", text)
    words = [word if word.isalpha() else _bare(word) for word in folded(decoded(text)).split()]
    found = " ".join(words)
    if len(found) > _BEGINNING + _END:
        found = f"{found[:_BEGINNING]} {found[-_END:]}"
    return f" {found} ".replace(". ", ".\n")
