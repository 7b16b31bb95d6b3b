"""SMTP in: bounces, complaints and unsubscribe mails that come back to us.

Takes mail only for our return domain's addresses that hold a token of ours (``b-`` return paths, ``u-``
unsubscribe addresses) and for the configured report addresses; all else is 550 5.1.1, so that nobody can
relay through it. 250 after the final dot means that the message is in Kafka, once for each recipient;
else the answer is 451 4.3.0 and the sender comes again.

aiosmtpd speaks the protocol, on our own event loop. What it leaves open is closed here: the number and
age of connections, and the memory of a line that never ends.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from aiosmtpd.smtp import SMTP

from agents import Out
from schemas.codec import Malformed
from schemas.identity import partition_of
from schemas.inbound import LARGEST, inbound_headers
from schemas.token import BOUNCES, UNSUBSCRIBES, Tokens
from streams import metrics
from streams.edge.acked import Acked, Publish

log = logging.getLogger("mailsluice.edge")


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """Addresses and limits of the SMTP edge; times in seconds."""

    domain: str
    """The return domain: its MX is this listener."""
    partitions: int
    """P, the partition count of the co-partitioned topics."""
    reports: tuple[str, ...] = ("abuse", "fbl", "postmaster")
    """Where reports may go: whole addresses, or local parts at ``domain``."""
    hostname: str = ""
    """Name in the greeting; empty = ``domain``."""
    ack: float = 10.0
    """Longest wait for the broker before a 451."""
    idle: float = 60.0
    """How long a client may say nothing, and a whole DATA may take."""
    life: float = 600.0
    """Age at which a connection is closed."""
    connections: int = 200
    """Open connections in all."""
    per_peer: int = 20
    """Open connections of one address."""
    rate: int = 1200
    """Messages of one address in a minute; above it 451, and it comes again."""
    recipients: int = 100
    """Recipients of one mail (RFC 5321 section 4.5.3.1.8 asks for 100)."""


class _Rcpt(NamedTuple):
    """A recipient that we take: whose mail it is about ("" = nobody's), and where it goes."""

    mail: str
    partition: int


class SmtpEdge:
    """The listener. ``tls`` offers STARTTLS; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        publish: Publish,
        tokens: Tokens,
        settings: SmtpSettings,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._acked = Acked(publish, settings.ack)
        self._tokens = tokens
        self._clock = clock
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.settings = settings
        self.busy = 0
        """Messages that wait for their acknowledgement."""
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.open: set[_Connection] = set()
        self.peers: Counter[str] = Counter()
        self._minute = 0
        self._taken: Counter[str] = Counter()
        domain = settings.domain.lower()
        self._domain = domain
        self._reports = {
            name.lower() if "@" in name else f"{name.lower()}@{domain}" for name in settings.reports
        }
        if f"postmaster@{domain}" in self._reports:
            self._reports.add("postmaster")  # without a domain, in any case: RFC 5321 section 4.5.1

    async def start(self, host: str, port: int) -> int:
        """Listen; the bound port (of use where ``port`` is 0). Raises OSError where that is not possible."""
        # aiosmtpd logs every command, addresses included, at INFO.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        self._server = await asyncio.get_running_loop().create_server(self._connect, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more connections, let messages get their answer (at most ``ack`` seconds), close."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), self.settings.ack)
        for connection in list(self.open):
            connection.end()

    def whose(self, address: str) -> _Rcpt | None:
        """What a recipient address is about; None = we do not take its mail."""
        lower = address.lower()
        if lower in self._reports:
            return _Rcpt("", partition_of(lower, self.settings.partitions))
        local, _, domain = lower.rpartition("@")
        if domain != self._domain:
            return None
        try:
            if local.startswith(BOUNCES):
                mail, partition = self._tokens.read_verp(lower)
            elif local.startswith(UNSUBSCRIBES):
                mail, partition = self._tokens.read_unsubscribe_address(lower)
            else:
                return None
        except Malformed:
            return None
        if partition >= self.settings.partitions:  # from before P became smaller
            partition = partition_of(lower, self.settings.partitions)
        return _Rcpt(mail, partition)

    async def handle_EHLO(
        self, _server: Any, session: Any, _envelope: Any, hostname: str, replies: list[str]
    ) -> list[str]:
        """What we can do, without the empty AUTH that aiosmtpd offers under TLS."""
        session.host_name = hostname
        return [reply for reply in replies if not reply.startswith("250-AUTH")]

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        """Take the recipient, or say why not."""
        if self.whose(address) is None:
            metrics.EDGE_REQUESTS.labels("smtp", "recipient", "550").inc()
            return "550 5.1.1 No such address here"
        if len(envelope.rcpt_tos) >= self.settings.recipients:
            return "452 4.5.3 Too many recipients, send the rest in another mail"
        if address.lower() not in (known.lower() for known in envelope.rcpt_tos):
            envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        """One event for each recipient; 250 once all are acknowledged."""
        # aiosmtpd hands the null sender over as "<>".
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        peer = session.peer[0] if session.peer else ""
        if not self._within_rate(peer):
            metrics.EDGE_REQUESTS.labels("smtp", "rate", "451").inc()
            return "451 4.7.0 Too many messages in this minute, try again later"
        outs = []
        for address in envelope.rcpt_tos:
            rcpt = self.whose(address)
            assert rcpt is not None, "RCPT took the address"
            headers = inbound_headers(self._clock(), sender, address, peer, rcpt.mail)
            outs.append(Out("mail-inbound", envelope.content, headers, None, rcpt.partition))
        self.busy += 1
        self._quiet.clear()
        try:
            done = await self._acked(*outs)
        finally:
            self.busy -= 1
            if not self.busy:
                self._quiet.set()
        metrics.EDGE_REQUESTS.labels("smtp", "mail", "250" if done else "451").inc()
        return "250 2.0.0 Received" if done else "451 4.3.0 Cannot store it just now, try again later"

    def _within_rate(self, peer: str) -> bool:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._taken.clear()
        self._taken[peer] += 1
        return self._taken[peer] <= self.settings.rate

    async def handle_VRFY(self, _server: Any, _session: Any, _envelope: Any, _address: str) -> str:
        """Tells nothing (RFC 5321 section 7.3)."""
        return "252 2.1.5 Cannot say, but will take mail for whom it is meant"

    async def handle_exception(self, error: Exception) -> str:
        """The address parser raises IndexError and worse on hostile input: no text of it goes out."""
        log.warning("an SMTP client was answered 451 after %s", type(error).__name__)
        return "451 4.3.0 Cannot make sense of that"

    def _connect(self) -> asyncio.BaseProtocol:
        return _Connection(
            self,
            data_size_limit=LARGEST,
            hostname=self.settings.hostname or self._domain,
            ident="mailsluice",
            tls_context=self._tls,
            timeout=self.settings.idle,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            command_call_limit={"*": 1000},
            loop=asyncio.get_running_loop(),
        )


class _Connection(SMTP):
    """aiosmtpd's protocol with limits of its own."""

    # Bounces quote mail with lines of any length; refusing them for it would lose the bounce.
    line_length_limit = 64 * 1024
    _flood = 4 * LARGEST
    """Bytes in one transaction after which we hang up: past SIZE it only reads on to say 552."""

    def __init__(self, edge: SmtpEdge, **options: Any) -> None:
        super().__init__(edge, **options)
        self._edge = edge
        self._taken = 0
        self._peer = ""
        self._end_of_life: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        edge, settings = self._edge, self._edge.settings
        if self not in edge.open:  # else it is the same connection after STARTTLS
            peer = (transport.get_extra_info("peername") or ("",))[0]
            if len(edge.open) >= settings.connections or edge.peers[peer] >= settings.per_peer:
                busy = cast(asyncio.Transport, transport)
                busy.set_protocol(asyncio.Protocol())
                busy.write(b"421 4.7.0 Too many connections, try again later\r\n")
                busy.close()
                return
            self._peer = peer
            edge.open.add(self)
            edge.peers[peer] += 1
            self._end_of_life = self.loop.call_later(settings.life, self.end)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._edge.open:
            self._edge.open.remove(self)
            self._edge.peers -= Counter([self._peer])  # forgets those at zero
        if self._end_of_life is not None:
            self._end_of_life.cancel()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._taken += len(data)
        if self._taken <= self._flood:
            super().data_received(data)
        elif self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()

    def end(self) -> None:
        """Hang up, whatever is going on: what was not answered comes again."""
        if self.transport is not None:
            self.transport.close()

    def _set_post_data_state(self) -> None:
        self._taken = 0
        super()._set_post_data_state()
