"""Header fields as bytes: folding (RFC 5322 section 2.2.3), encoded words (RFC 2047), parameters (RFC 2231).

Nothing here repairs a line break in a value: whoever put it there meant to write a header of their own.
"""

from __future__ import annotations

import re
from base64 import b64encode

from schemas.address import normalise
from schemas.codec import Malformed

WIDTH = 76
"""Columns of a line: RFC 2047 section 2 allows 76 where there is an encoded word, RFC 5322 wants 78."""

_TOKEN = re.compile(r" *[^ ]+")
_BREAK = re.compile(r"[\r\n\0]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_NAMED = re.compile(r"\s*(.*?)\s*<([^<>]*)>\s*")
_Q = [f"={byte:02X}" for byte in range(256)]
for _char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/":
    _Q[ord(_char)] = _char
_Q[0x20] = "_"
_PARAMETER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~")


class HeaderInjection(Exception):
    """A value for a header holds CR, LF or NUL; ``args[0]`` names the header."""


def text_field(name: str, value: str) -> bytes:
    """An unstructured field with its CRLF. Raises HeaderInjection."""
    if value.isascii() and value.isprintable() and "=?" not in value:
        if len(name) + len(value) <= WIDTH:
            return f"{name}: {value}\r\n".encode()
        tokens = _TOKEN.findall(value.strip())
        if max(map(len, tokens), default=0) < WIDTH:
            return _packed(name, tokens)
    _refuse_breaks(name, value)
    return _packed(name, encoded_words(value.strip(), len(name) + 2))


def mailbox_field(name: str, display: str, address: str) -> bytes:
    """A field with one mailbox and its CRLF; ``address`` is checked already. Raises HeaderInjection."""
    if not display:
        return f"{name}: {address}\r\n".encode()
    _refuse_breaks(name, display)
    if display.isascii() and display.isprintable() and "=?" not in display and len(display) <= 60:
        if not _ATOMS.fullmatch(display):
            display = '"' + display.replace("\\", "\\\\").replace('"', '\\"') + '"'
        tokens = [display]
    else:
        tokens = encoded_words(display.strip(), len(name) + 2)
    return _packed(name, [*tokens, f" <{address}>"])


def parse_mailbox(text: str) -> tuple[str, str]:
    """(display name, address) of ``Name <address>`` or ``address``. Raises Malformed."""
    if _BREAK.search(text):
        raise Malformed("control_character", "a mailbox holds no line break")
    named = _NAMED.fullmatch(text)
    if named is None:
        return "", normalise(text.strip()).rcpt
    display, address = named.groups()
    if len(display) >= 2 and display[0] == display[-1] == '"':
        display = re.sub(r"\\(.)", r"\1", display[1:-1])
    return display, normalise(address).rcpt


def encoded_words(text: str, column: int) -> list[str]:
    """The text as encoded words that fit into lines; the first begins in ``column``. Never splits a character."""
    raw = len(text.encode())
    as_q = 3 * (raw - len(text)) < raw
    words: list[str] = []
    word, length = "", 0
    room = max(WIDTH - column, 30) - 12
    for char in text:
        bytes_ = char.encode()
        size = sum(len(_Q[byte]) for byte in bytes_) if as_q else len(bytes_)
        if word and (length + size > room if as_q else (length + size + 2) // 3 * 4 > room):
            words.append(_word(word, as_q))
            word, length, room = "", 0, WIDTH - 1 - 12
        word += char
        length += size
    words.append(_word(word, as_q))
    return [words[0], *(" " + word for word in words[1:])]


def parameter(name: str, value: str) -> str:
    """``; name=value`` for a structured field, folded; beyond ASCII or a line as RFC 2231. Raises HeaderInjection."""
    _refuse_breaks(name, value)
    plain = value.isascii() and value.isprintable() and len(value) <= 60 and value == value.strip()
    # "<name>" too: readers take the brackets for a kind of quotes.
    if (
        plain and '"' not in value and "\\" not in value and value[:1] != "<"
    ):  # readers disagree about what is quoted how often
        return f';\r\n {name}="{value}"'
    codes = [chr(byte) if byte in _PARAMETER else f"%{byte:02X}" for byte in value.encode()]
    rows = ["utf-8''"]
    for code in codes:
        if len(rows[-1]) + len(code) > 60:
            rows.append("")
        rows[-1] += code
    if len(rows) == 1:
        return f";\r\n {name}*={rows[0]}"
    return "".join(f";\r\n {name}*{number}*={row}" for number, row in enumerate(rows))


def _word(text: str, as_q: bool) -> str:
    if as_q:
        return "=?utf-8?q?" + "".join([_Q[byte] for byte in text.encode()]) + "?="
    return "=?utf-8?b?" + b64encode(text.encode()).decode() + "?="


def _packed(name: str, tokens: list[str]) -> bytes:
    """Tokens (each but the first begins with its space) in lines; a line begins with a token's space."""
    lines = [f"{name}: "]
    for token in tokens:
        if len(lines[-1]) + len(token) > WIDTH and token[:1] == " ":
            lines.append("")
        elif len(lines[-1]) + len(token) > WIDTH + 2 and len(lines) == 1 and lines[0].endswith(": "):
            lines = [f"{name}:", " "]  # even the first does not fit beside a long name
        lines[-1] += token
    return ("\r\n".join(lines) + "\r\n").encode()


def _refuse_breaks(name: str, value: str) -> None:
    if _BREAK.search(value):
        raise HeaderInjection(f"the value for {name} holds a line break or NUL")
