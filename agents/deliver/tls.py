"""TLS of an SMTP client: the two contexts, and what a connection ended up with."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Literal

TlsMode = Literal["opportunistic", "require", "verify", "off"]
"""opportunistic: encrypt where offered, else send in clear. require: encrypted or not at all. verify: the
certificate must also name the MX host and chain to a known authority (MTA-STS). off: never."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The contexts, made once a process: loading the authorities takes tens of milliseconds."""

    opportunistic: ssl.SSLContext
    verify: ssl.SSLContext

    def context(self, mode: TlsMode) -> ssl.SSLContext:
        """The context for a mode other than off."""
        return self.verify if mode == "verify" else self.opportunistic


def contexts(cafile: str | None = None) -> Tls:
    """Contexts for both kinds; ``cafile`` (PEM) replaces the system's authorities. TLS >= 1.2 (RFC 8996)."""
    loose = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loose.check_hostname = False
    loose.verify_mode = ssl.CERT_NONE
    loose.minimum_version = ssl.TLSVersion.TLSv1_2
    # Unverified anyway: a small old key still beats the clear text that would follow (RFC 7435).
    loose.set_ciphers("DEFAULT:@SECLEVEL=1")
    strict = ssl.create_default_context(cafile=cafile)
    strict.minimum_version = ssl.TLSVersion.TLSv1_2
    return Tls(loose, strict)


def facts(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """(protocol version, cipher) of a transport, two empty strings in clear."""
    found = transport.get_extra_info("ssl_object")
    if found is None:
        return "", ""
    cipher = found.cipher()
    return found.version() or "", cipher[0] if cipher else ""
