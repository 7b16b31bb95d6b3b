"""Tokens that go out in a mail and come back from strangers: links, return paths, unsubscribe addresses.

A link token carries what the edge must know about the mail, encrypted and authenticated (AES-SIV,
RFC 5297): a recipient's address is never readable in a URL, in a log of a proxy or in a referrer. It is
deterministic, so that a mail rendered twice is byte-equal. Addresses (VERP) must survive a change of
case and fit 64 octets (RFC 5321 section 4.5.3.1.1), so they carry only id and partition, with a MAC.

Every purpose has a key of its own, derived from each secret: a token for one is refused for another.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import get_args
from urllib.parse import quote

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from schemas.campaign import Stream
from schemas.codec import Malformed

SHORTEST_SECRET = 16
"""Bytes of a secret below which none is accepted."""
LONGEST_TOKEN = 1500
"""Characters of a link token; longer ones are refused unread."""
LONGEST_URL = 3000
"""Characters of a link's target that are still tracked: the whole request line must stay below 8 KB."""
BOUNCES, UNSUBSCRIBES = "b-", "u-"
"""How the local parts of our own addresses begin."""

_FORMAT = b"\x01"  # the first byte of a link token, authenticated: another format gets another byte
_STREAMS: tuple[str, ...] = get_args(Stream)
_ADDRESS_MAC = 8
_CLICK_MAC = 12


class MailToken(msgspec.Struct, frozen=True):
    """What a link says about its mail. ``partition`` is the recipient's; ``id`` is 32 hex digits."""

    id: str
    tenant: str
    campaign: str
    stream: str
    to: str
    partition: int
    provider: str = ""


class ConfirmToken(msgspec.Struct, frozen=True, array_like=True):
    """What the link of a confirmation mail says. ``id`` is that of the ``subscription_requested`` (32 hex digits);
    ``asked`` when that was and ``until`` how long the link is good, Unix seconds; ``tracking`` letters."""

    id: str
    tenant: str
    stream: str
    to: str
    asked: float
    until: float
    tracking: str = ""


class _Body(msgspec.Struct, frozen=True, array_like=True):
    id: bytes
    tenant: str
    campaign: str
    stream: int
    to: str
    partition: int
    provider: str


class _Keys:
    """The keys of one secret."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(
                f"a token secret has {len(secret)} bytes; use at least {SHORTEST_SECRET} random ones"
            )
        self.link = AESSIV(_subkey(secret, b"ms-link"))
        self.click = _subkey(secret, b"ms-click")
        self.confirm = AESSIV(_subkey(secret, b"ms-confirm"))
        self.address = {BOUNCES: _subkey(secret, b"ms-bounce"), UNSUBSCRIBES: _subkey(secret, b"ms-unsub")}


class Tokens:
    """Mints with the first secret, accepts all. To rotate, put a new one first; drop the old with its mails.

    Secrets are random bytes, at least SHORTEST_SECRET of them (ValueError).
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("no token secret is set; links and return paths need at least one")
        self._keys = tuple(_Keys(secret) for secret in secrets)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Body)
        self._confirm_decoder = msgspec.msgpack.Decoder(ConfirmToken)

    def mail_token(
        self, id: str, tenant: str, campaign: str, stream: str, to: str, partition: int, provider: str = ""
    ) -> str:
        """The link token of a mail: URL-safe, the same for the same mail. One serves all its links."""
        body = _Body(bytes.fromhex(id), tenant, campaign, _STREAMS.index(stream), to, partition, provider)
        return _sealed(self._keys[0].link, self._encoder.encode(body))

    def read_mail_token(self, token: str) -> MailToken:
        """What a link token says. Raises Malformed ``bad_token`` unless one of our secrets made it."""
        return self._opened(_unsealed([keys.link for keys in self._keys], token))

    def confirm_url(self, base: str, about: ConfirmToken) -> str:
        """The link of a confirmation mail: GET shows a page, POST confirms. The same for the same asking."""
        return f"{base}/confirm/{_sealed(self._keys[0].confirm, self._encoder.encode(about))}"

    def read_confirm_token(self, token: str) -> ConfirmToken:
        """What a confirmation link says; whether it is still good, the caller sees. Raises Malformed ``bad_token``."""
        plain = _unsealed([keys.confirm for keys in self._keys], token)
        try:
            return self._confirm_decoder.decode(plain)
        except msgspec.MsgspecError:
            raise _bad("it is ours, but of a newer version; upgrade this process") from None

    def _opened(self, plain: bytes) -> MailToken:
        try:
            body = self._decoder.decode(plain)
            stream = _STREAMS[body.stream]
        except (msgspec.MsgspecError, IndexError):
            raise _bad("it is ours, but of a newer version; upgrade this process") from None
        return MailToken(
            body.id.hex(), body.tenant, body.campaign, stream, body.to, body.partition, body.provider
        )

    def open_url(self, base: str, token: str) -> str:
        """The address of the open pixel. ``base`` has no slash at its end."""
        return f"{base}/o/{token}.gif"

    def click_url(self, base: str, token: str, url: str) -> str:
        """The tracked form of ``url``, or ``url`` itself where it cannot be tracked (see ``trackable``)."""
        quoted = _quoted(url)
        if not quoted:
            return url
        return f"{base}/c/{token}?u={quoted}&s={_click_mac(self._keys[0].click, token, url)}"

    def check_click(self, token: str, url: str, mac: str) -> MailToken:
        """Whose click it is. Raises Malformed ``bad_token`` unless we put just this URL into just this mail.

        Nobody can make us redirect to where they like (an open redirect is what phishers look for).
        """
        given = mac.encode("utf-8", "replace")
        if not trackable(url) or not any(
            hmac.compare_digest(_click_mac(keys.click, token, url).encode(), given) for keys in self._keys
        ):
            raise _bad("the link's target was changed")
        return self.read_mail_token(token)

    def unsubscribe_url(self, base: str, token: str) -> str:
        """The address for List-Unsubscribe (RFC 8058): GET shows a page, POST unsubscribes."""
        return f"{base}/u/{token}"

    def verp(self, id: str, partition: int, domain: str) -> str:
        """The envelope sender of a mail: its bounces name it."""
        return self._address(BOUNCES, id, partition, domain)

    def unsubscribe_address(self, id: str, partition: int, domain: str) -> str:
        """The mailto address for List-Unsubscribe (RFC 2369): a mail to it unsubscribes."""
        return self._address(UNSUBSCRIBES, id, partition, domain)

    def read_verp(self, address: str) -> tuple[str, int]:
        """(id, partition) of a return path, in whatever case it came. Raises Malformed ``bad_token``."""
        return self._read_address(BOUNCES, address)

    def read_unsubscribe_address(self, address: str) -> tuple[str, int]:
        """(id, partition) of an unsubscribe address. Raises Malformed ``bad_token``."""
        return self._read_address(UNSUBSCRIBES, address)

    def _address(self, purpose: str, id: str, partition: int, domain: str) -> str:
        body = bytes.fromhex(id) + partition.to_bytes(2, "big")
        if len(body) != 18:
            raise ValueError(f"a mail id has 32 hex digits, not {len(id)}")
        mac = _mac(self._keys[0].address[purpose], body, _ADDRESS_MAC)
        return f"{purpose}{(body + mac).hex()}@{domain}"

    def _read_address(self, purpose: str, address: str) -> tuple[str, int]:
        local = address.partition("@")[0].lower()
        text = local.removeprefix(purpose)
        if len(text) != 52 or len(local) != 54:
            raise _bad("the address holds none of our tokens")
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raise _bad("the address holds none of our tokens") from None
        body, given = raw[:18], raw[18:]
        canonical = raw.hex() == text  # fromhex forgives spaces
        if not canonical or not any(
            hmac.compare_digest(_mac(keys.address[purpose], body, _ADDRESS_MAC), given) for keys in self._keys
        ):
            raise _bad("the address was changed, or made with a secret that is no longer set")
        return body[:16].hex(), int.from_bytes(body[16:], "big")


def trackable(url: str) -> bool:
    """Whether a link to ``url`` can go through us: http(s), printable, not longer than LONGEST_URL."""
    return (
        len(url) <= LONGEST_URL
        and url[:8].lower().startswith(("http://", "https://"))
        and url.isprintable()
        and " " not in url
    )


@lru_cache(1024)
def _quoted(url: str) -> str:
    """The URL as a query's value, empty where it cannot be tracked. Most links of a campaign are the same for
    all: quoting the three of a mail anew cost a fifth of composing it."""
    return quote(url, safe="") if trackable(url) else ""


def _subkey(secret: bytes, purpose: bytes) -> bytes:
    # BLAKE2b as key derivation: the secret is random, so extracting (as HKDF does) adds nothing.
    return blake2b(secret, digest_size=64, person=purpose).digest()


def _sealed(key: AESSIV, plain: bytes) -> str:
    return urlsafe_b64encode(_FORMAT + key.encrypt(plain, [_FORMAT])).rstrip(b"=").decode()


def _unsealed(keys: Sequence[AESSIV], token: str) -> bytes:
    raw = _unbase64(token)
    if raw[:1] != _FORMAT:
        raise _bad("it has another format")
    for key in keys:
        try:
            return key.decrypt(raw[1:], [_FORMAT])
        except (InvalidTag, ValueError):
            continue
    raise _bad("it was changed, or made with a secret that is no longer set")


def _mac(key: bytes, body: bytes, size: int) -> bytes:
    return blake2b(body, key=key, digest_size=size).digest()


def _click_mac(key: bytes, token: str, url: str) -> str:
    # A token holds no line feed, so the two parts cannot be shifted into each other.
    return urlsafe_b64encode(_mac(key, f"{token}\n{url}".encode("utf-8", "replace"), _CLICK_MAC)).decode()


def _unbase64(token: str) -> bytes:
    if len(token) > LONGEST_TOKEN:
        raise _bad(f"it has more than {LONGEST_TOKEN} characters")
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (NotBase64, ValueError):
        raise _bad("it is not base64") from None
    # The decoder forgives foreign characters and spare bits; one token must have one spelling.
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
        raise _bad("it is not base64")
    return raw


def _bad(why: str) -> Malformed:
    return Malformed("bad_token", f"this link or address is not one of ours: {why}")
