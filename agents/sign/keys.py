"""Private keys: from PEM files to something that signs, and to the DNS record that verifies it.

A directory holds ``<domain>/<selector>.pem``, one key a file (PKCS#8 or PKCS#1, not encrypted). The kind
of key decides the algorithm.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

SMALLEST_RSA = 2048
"""RFC 8301 section 3.2: signers SHOULD use 2048 bits; below 1024 nothing verifies."""

_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


class BadKey(Exception):
    """A key that cannot be used: which, why, what to do."""


class SigningKey:
    """One key with its names. ``sign`` takes the data to sign and returns the raw signature."""

    __slots__ = ("algorithm", "domain", "private", "selector", "sign", "tags")

    sign: Callable[[bytes], bytes]

    def __init__(self, domain: str, selector: str, private: object) -> None:
        for name in (domain, selector):
            if not _NAME.fullmatch(name):
                raise BadKey(f"{name!r} is no name in lower-case ASCII; use A-labels (xn--...) for IDN")
        self.domain = domain
        self.selector = selector
        self.private = private
        if isinstance(private, rsa.RSAPrivateKey):
            if private.key_size < SMALLEST_RSA:
                raise BadKey(
                    f"the RSA key {selector} of {domain} has {private.key_size} bits; make one of {SMALLEST_RSA}"
                )
            self.algorithm = "rsa-sha256"
            scheme, digest = padding.PKCS1v15(), hashes.SHA256()
            self.sign = lambda data: private.sign(data, scheme, digest)
        elif isinstance(private, ed25519.Ed25519PrivateKey):
            self.algorithm = "ed25519-sha256"
            # RFC 8463 section 3: PureEdDSA over the SHA-256 of the data.
            self.sign = lambda data: private.sign(sha256(data).digest())
        else:
            raise BadKey(f"the key {selector} of {domain} is neither RSA nor Ed25519: DKIM knows no other")
        self.tags = f"a={self.algorithm}; c=relaxed/relaxed; d={domain};\r\n s={selector}; ".encode()

    @property
    def dns_name(self) -> str:
        """Where the public half is published."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def dns_record(self) -> str:
        """The TXT record of the public half (RFC 6376 section 3.6.1, RFC 8463 section 4)."""
        public = self.private.public_key()  # type: ignore[attr-defined]
        if self.algorithm == "rsa-sha256":
            raw = public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return f"v=DKIM1; k=rsa; p={b64encode(raw).decode()}"
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return f"v=DKIM1; k=ed25519; p={b64encode(raw).decode()}"

    def pem(self) -> bytes:
        """The private key as unencrypted PKCS#8."""
        return self.private.private_bytes(  # type: ignore[attr-defined]
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def read_key(domain: str, selector: str, pem: bytes) -> SigningKey:
    """A key from the text of a PEM file. Raises BadKey."""
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise BadKey(
            f"the key {selector} of {domain} is encrypted; store it without a passphrase, readable by the"
            " worker alone"
        ) from None
    except Exception as error:  # cryptography raises many kinds for broken files
        raise BadKey(
            f"the key {selector} of {domain} is no PEM private key ({type(error).__name__})"
        ) from None
    return SigningKey(domain, selector, private)


def load_keys(directory: Path) -> dict[str, tuple[SigningKey, ...]]:
    """Every key under ``directory`` by domain, Ed25519 first. Raises BadKey; an empty directory is one."""
    found: dict[str, list[SigningKey]] = {}
    if not directory.is_dir():
        raise BadKey(f"{directory} is no directory; it holds <domain>/<selector>.pem")
    for path in sorted(directory.glob("*/*.pem")):
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise BadKey(f"{path} cannot be read: {error.strerror}") from None
        found.setdefault(path.parent.name, []).append(read_key(path.parent.name, path.stem, pem))
    if not found:
        raise BadKey(f"{directory} holds no key; put them into <domain>/<selector>.pem")
    return {domain: tuple(sorted(keys, key=lambda key: key.algorithm)) for domain, keys in found.items()}


def new_keys(domain: str, rsa_selector: str, ed25519_selector: str) -> tuple[SigningKey, SigningKey]:
    """A fresh Ed25519 key and a fresh RSA-2048 key for a domain. The RSA one takes about 0.1 s to make."""
    return (
        SigningKey(domain, ed25519_selector, ed25519.Ed25519PrivateKey.generate()),
        SigningKey(
            domain, rsa_selector, rsa.generate_private_key(public_exponent=65537, key_size=SMALLEST_RSA)
        ),
    )
