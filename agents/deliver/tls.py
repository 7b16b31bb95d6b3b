"""TLS of an SMTP client: its contexts, what they remember, and what a connection ended up with."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.x509.verification import Store

from agents.deliver.dane import leads, read

REMEMBERED = 10_000
"""Servers whose session, broken STARTTLS or verified certificate is kept."""
BROKEN_FOR = 3 * 86400.0
"""Seconds for which STARTTLS is not tried again at an address where it broke."""


class Resuming(ssl.SSLContext):
    """A client's context that offers a server its last session again (RFC 8446 section 2.2).

    asyncio has no argument for it, but makes every TLS object through ``wrap_bio``. A session is taken up
    only under the context that made it, so what a context verifies was verified for its sessions too.
    """

    sessions: OrderedDict[str, tuple[ssl.SSLSession, list[bytes]]]
    """By the server's name: its last session and the certificates that it showed then."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As ssl.SSLContext does it, with the session of ``server_hostname``."""
        kept = self.sessions.get(str(server_hostname or ""))
        session = session or (kept[0] if kept else None)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, found: ssl.SSLObject) -> None:
        """Keep the connection's session for the next one. TLS 1.3 sends it after the handshake."""
        session, name = found.session, found.server_hostname or ""
        if session is not None and session.has_ticket:
            self.sessions[name] = (session, self.chain(found))
            self.sessions.move_to_end(name)
            if len(self.sessions) > REMEMBERED:
                self.sessions.popitem(last=False)

    def chain(self, found: ssl.SSLObject) -> list[bytes]:
        """The certificates that the server showed, its own first, in DER; unverified.

        A session that is taken up again shows none: its server showed them when it began.
        """
        leaf = found.getpeercert(binary_form=True)
        kept = self.sessions.get(found.server_hostname or "")
        if found.session_reused and leaf is not None and kept is not None and kept[1][:1] == [leaf]:
            return kept[1]
        return _shown(found) or ([leaf] if leaf else [])


@dataclass(slots=True)
class Tls:
    """The contexts, made once a process: loading the authorities takes tens of milliseconds."""

    opportunistic: Resuming
    verify: Resuming
    authorities: Store | None = None
    """The same as those of ``verify``, to tell whether an unverified connection would have been verified."""
    broken: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """Until when (monotonic seconds) an address gets no STARTTLS, because it broke there."""
    _verified: OrderedDict[tuple[bytes, str], bool] = field(default_factory=OrderedDict)

    def context(self, mode: str) -> Resuming:
        """The context for a mode other than off. DANE is checked by ourselves, after the handshake."""
        return self.verify if mode == "verify" else self.opportunistic

    def broke(self, ip: str, now: float) -> None:
        """STARTTLS failed at this address: only clear text went through."""
        self.broken[ip] = now + BROKEN_FOR
        self.broken.move_to_end(ip)
        if len(self.broken) > REMEMBERED:
            self.broken.popitem(last=False)

    def is_broken(self, ip: str, now: float) -> bool:
        """Whether STARTTLS failed at the address within the last three days."""
        until = self.broken.get(ip)
        return until is not None and now < until

    def would_verify(self, chain: list[bytes], host: str, now: datetime) -> bool:
        """Whether the chain is in date, for ``host`` and of a known authority. Looked at once a day."""
        if not chain or self.authorities is None:
            return False
        key = (hashlib.sha256(chain[0] + b"%d" % now.toordinal()).digest(), host)
        found = self._verified.get(key)
        if found is None:
            certificates = [certificate for der in chain[:20] if (certificate := read(der)) is not None]
            found = len(certificates) > 0 and not leads(
                certificates[0], certificates[1:], self.authorities, host, now
            )
            self._verified[key] = found
            if len(self._verified) > REMEMBERED:
                self._verified.popitem(last=False)
        return found


def contexts(cafile: str | None = None) -> Tls:
    """Contexts for both kinds; ``cafile`` (PEM) replaces the system's authorities. TLS >= 1.2 (RFC 8996)."""
    loose = _context()
    loose.check_hostname = False
    loose.verify_mode = ssl.CERT_NONE
    # Unverified anyway: a small old key still beats the clear text that would follow (RFC 7435).
    loose.set_ciphers("DEFAULT:@SECLEVEL=1")
    strict = _context()
    strict.load_verify_locations(cafile) if cafile else strict.load_default_certs()
    return Tls(loose, strict, _store(strict))


def _context() -> Resuming:
    made = Resuming(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.sessions = OrderedDict()
    return made


def _store(context: ssl.SSLContext) -> Store | None:
    with warnings.catch_warnings():  # the system's own authorities are what they are
        warnings.simplefilter("ignore")
        found = [certificate for der in context.get_ca_certs(True) if (certificate := read(der)) is not None]
    return Store(found) if found else None


def facts(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """(protocol version, cipher) of a transport, two empty strings in clear."""
    found = transport.get_extra_info("ssl_object")
    if found is None:
        return "", ""
    cipher = found.cipher()
    return found.version() or "", cipher[0] if cipher else ""


def _shown(found: ssl.SSLObject) -> list[bytes]:
    """``get_unverified_chain`` is public from Python 3.13 on; before, the object underneath has it already.

    Where neither is there, only the server's own certificate is known: then DANE-TA finds no authority in
    the chain, and mail under it waits.
    """
    public = getattr(found, "get_unverified_chain", None)
    if public is not None:
        return [bytes(der) for der in public()]
    private = getattr(getattr(found, "_sslobj", None), "get_unverified_chain", None)
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in private() or ()] if private else []
