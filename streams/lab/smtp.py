"""An SMTP server of the lab's own (RFC 5321; 2920, 3207, 1870, 6152, 2034): fast, and faulty on demand.

The protocol is here; what is taken, refused, slowed or broken is decided by a ``Site``. A simulated
provider is one (``providers``), the sink of the benchmarks is another. Nothing here waits: a session
that must answer late is held by a timer while the others go on.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import cast

from streams.lab.site import Fault, Reply, Site

LONGEST_LINE = 2048
LINGER = 0.2
"""Seconds that a closing connection still reads, so that its last reply is not lost to a TCP reset."""

_PATH = re.compile(rb"\s*<([^<>\x00-\x1f]*)>\s*(.*)", re.DOTALL)
_SIZE = re.compile(rb"(?i)\bSIZE=(\d{1,12})\b")
_OK = Reply(250, "2.0.0 Ok")
_SENDER_OK = Reply(250, "2.1.0 Ok")
_RCPT_OK = Reply(250, "2.1.5 Ok")
_GO_ON = Reply(354, "End with a dot on a line of its own")
_SEQUENCE = Reply(503, "5.5.1 Bad sequence of commands")
_NOBODY = Reply(503, "5.5.1 No valid recipients")
_BAD_SENDER = Reply(501, "5.1.7 That is no address")
_BAD_RCPT = Reply(501, "5.1.3 That is no address")
_TOO_LARGE = Reply(552, "5.3.4 Message is larger than I take")
_NONSENSE = b"\x00\xfe lorem: ipsum\xff\r\n"
_WIRE = {reply: reply.wire() for reply in (_OK, _SENDER_OK, _RCPT_OK, _GO_ON, _SEQUENCE)}


class Session(asyncio.Protocol):
    """One connection. ``sessions`` is the server's list of those that are open."""

    def __init__(
        self, site: Site, tls: ssl.SSLContext | None, clock: Callable[[], float], sessions: set[Session]
    ) -> None:
        self.site, self._context, self._clock, self._sessions = site, tls, clock, sessions
        self.source = ""
        self.helo = ""
        self.tls = ""
        self.sender: str | None = None
        self.rcpts: list[str] = []
        self.at = 0.0
        self.count = 0
        """Transactions so far on this connection, the present one included."""
        self._in = bytearray()
        self._out: list[bytes] = []
        self._scanned = -1  # at which byte of DATA to look on for the end; -1 outside of DATA
        self._begun = False  # the first bytes of this DATA have come
        self._held = self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or refuse."""
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.source = (transport.get_extra_info("peername") or ("",))[0]
        self._sessions.add(self)
        greeting = self.site.connected(self) or Reply(220, f"{self.site.hostname} ESMTP lab")
        self._step("connect", greeting)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        self._closing = True
        if self in self._sessions:
            self._sessions.discard(self)
            self.site.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Read on; a session that closes reads into the void."""
        if self._closing:
            return
        self._in += data
        if len(self._in) > 2 * self.site.max_size:
            self.reset()
        elif not self._held:
            self._work()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self._closing = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _work(self) -> None:
        while not (self._held or self._closing):
            if self._scanned >= 0:
                if not self._content():
                    break
                continue
            end = self._in.find(b"\n")
            if end < 0:
                if len(self._in) > LONGEST_LINE:
                    self._in.clear()
                    self._say(Reply(500, "5.5.2 Line too long", close=True))
                break
            line = bytes(self._in[:end]).rstrip(b"\r")
            del self._in[: end + 1]
            self._command(line)
        self._flush()

    def _flush(self) -> None:
        if self._out and not self.transport.is_closing():
            self.transport.write(b"".join(self._out))
        self._out.clear()

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._mail(line)
        elif verb == b"RCPT":
            self._rcpt(line)
        elif verb == b"DATA":
            self._data()
        elif verb in (b"EHLO", b"HELO"):
            self._hello(line, verb == b"EHLO")
        elif verb == b"STAR":
            self._starttls()
        elif verb in (b"RSET", b"NOOP"):
            if verb == b"RSET":
                self._forget()
            self._say(_OK)
        elif verb == b"QUIT":
            self._say(Reply(221, "2.0.0 Bye", close=True))
        else:
            self._say(Reply(500, "5.5.1 Unknown command"))

    def _hello(self, line: bytes, extended: bool) -> None:
        self.helo = line[4:].strip().decode("ascii", "replace")[:255]
        self._forget()
        lines = [f"{self.site.hostname} greets you"]
        if extended:
            lines += ["PIPELINING", f"SIZE {self.site.max_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
            if self.site.smtputf8:
                lines.append("SMTPUTF8")
            if self._context is not None and not self.tls:
                lines.append("STARTTLS")
        self._step("ehlo", Reply(250, "\n".join(lines)) if self.helo else Reply(501, "5.5.4 Say who you are"))

    def _starttls(self) -> None:
        if self._context is None or self.tls:
            self._say(_SEQUENCE)
        else:
            self._in.clear()  # what was pipelined in clear behind it must not count (RFC 3207 section 4.2)
            self._step("starttls", Reply(220, "2.0.0 Go ahead"), then=self._upgrade)

    def _upgrade(self) -> None:
        assert self._context is not None
        self._held = True
        self.transport.pause_reading()
        self._flush()
        self._upgrading = asyncio.ensure_future(self._encrypt(self._context))

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.start_tls(self.transport, self, context, server_side=True)
        except (OSError, TimeoutError):
            found = None
        if found is None:
            self.transport.abort()
            self.connection_lost(None)
            return
        self.transport = found
        self.tls = found.get_extra_info("ssl_object").version() or "TLS"
        self.helo = ""
        self._held = False
        self._work()

    def _mail(self, line: bytes) -> None:
        found = _PATH.fullmatch(line[10:]) if line[:10].upper() == b"MAIL FROM:" else None
        if not self.helo or self.sender is not None or found is None:
            self._say(_BAD_SENDER if found is None else _SEQUENCE)
            return
        self.sender = found[1].decode("utf-8", "replace")
        self.at = self._clock()
        self.count += 1
        size = _SIZE.search(found[2])
        refusal = self.site.mail(self)
        if refusal is None and size and int(size[1]) > self.site.max_size:
            refusal = _TOO_LARGE
        if refusal is not None:
            self.sender = None
        self._step("mail", refusal or _SENDER_OK)

    def _rcpt(self, line: bytes) -> None:
        found = _PATH.fullmatch(line[8:]) if line[:8].upper() == b"RCPT TO:" else None
        if self.sender is None or found is None or b"@" not in found[1]:
            self._say(_SEQUENCE if self.sender is None else _BAD_RCPT)
            return
        address = found[1].decode("utf-8", "replace")
        refusal = self.site.rcpt(self, address)
        if refusal is None:
            self.rcpts.append(address)
        self._step("rcpt", refusal or _RCPT_OK, address)

    def _data(self) -> None:
        if self.sender is None or not (self.rcpts or self.site.eager_data):
            self._say(_SEQUENCE if self.sender is None else _NOBODY)
        else:
            self._step("data", _GO_ON, self._first, then=self._begin)

    def _begin(self) -> None:
        self._scanned = 0
        self._begun = False

    @property
    def _first(self) -> str:
        return self.rcpts[0] if self.rcpts else ""

    def _content(self) -> bool:
        """Look for the end of DATA; whether to work on."""
        if self._in and not self._begun:
            self._begun = True
            fault = self.site.fault(self, "content", self._first)
            if fault is not None:
                self._strike(fault, lambda: None)
                return True
        # Only CRLF dot CRLF ends it: anything laxer lets messages be smuggled.
        empty = self._in.startswith(b".\r\n")
        at = -2 if empty else self._in.find(b"\r\n.\r\n", self._scanned)
        if at == -1:
            self._scanned = max(0, len(self._in) - 4)
            return False
        with memoryview(self._in) as view:
            content = bytes(view[: at + 2])
        del self._in[: at + 5]
        self._scanned = -1
        if content.startswith(b".") or b"\r\n." in content:
            content = content.removeprefix(b".").replace(b"\r\n.", b"\r\n")
        self._dot(content)
        return True

    def _dot(self, content: bytes) -> None:
        fault = self.site.fault(self, "dot", self._first)
        if not self.rcpts:
            reply = Reply(554, "5.5.1 No valid recipients")
        elif len(content) > self.site.max_size:
            reply = _TOO_LARGE
        elif fault is not None and (fault.act == "reply" or not fault.kept):
            reply = Reply(451, "4.3.0 Not taken")  # replaced by the fault's, or never sent
        else:
            reply = self.site.dot(self, content, replied=fault is None or fault.act == "slow")
        self._forget()
        if fault is None:
            self._answer("dot", reply)
        else:
            self._strike(fault, lambda: self._answer("dot", reply))

    def _forget(self) -> None:
        self.sender = None
        self.rcpts = []

    def _step(self, phase: str, reply: Reply, rcpt: str = "", then: Callable[[], None] | None = None) -> None:
        """Answer a phase and go on with ``then``, unless its scripted fault happens instead."""
        fault = self.site.fault(self, phase, rcpt)
        if fault is None:
            self._answer(phase, reply, then)
        else:
            self._strike(fault, lambda: self._answer(phase, reply, then))

    def _answer(self, phase: str, reply: Reply, then: Callable[[], None] | None = None) -> None:
        delay = self.site.latency(phase)
        if delay > 0:
            self._later(delay, lambda: self._say(reply, then))
        else:
            self._say(reply, then)

    def _say(self, reply: Reply, then: Callable[[], None] | None = None) -> None:
        self._out.append(_WIRE.get(reply) or reply.wire())
        if reply.close:
            self._flush()
            self._closing = True
            asyncio.get_running_loop().call_later(0 if reply.code == 221 else LINGER, self.transport.close)
        elif then is not None:
            then()

    def _strike(self, fault: Fault, otherwise: Callable[[], None]) -> None:
        self._flush()
        if fault.act == "reset":
            self.reset()
        elif fault.act == "close":
            self._closing = True
            self.transport.close()
        elif fault.act == "silent":
            self._held = True
        elif fault.act == "nonsense":
            self._out.append(_NONSENSE)
        elif fault.act == "slow":
            self._later(fault.seconds, otherwise)
        else:
            code, _, text = fault.text.partition(" ")
            self._scanned = -1
            self._forget()
            self._say(Reply(int(code), text, close=code == "421"))

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._held = True
        self._flush()
        asyncio.get_running_loop().call_later(seconds, self._release, then)

    def _release(self, then: Callable[[], None]) -> None:
        if not self._closing:
            self._held = False
            then()
            self._work()


class SmtpServer:
    """A listener with a site behind it: ``async with SmtpServer(site, host, port) as server``."""

    def __init__(
        self,
        site: Site,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.site = site
        self.address = (host, port)
        self._tls, self._clock = tls, clock
        self._server: asyncio.Server | None = None
        self._sessions: set[Session] = set()

    async def __aenter__(self) -> SmtpServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Session(self.site, self._tls, self._clock, self._sessions), *self.address, backlog=1024
        )
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.transport.abort()
        await asyncio.sleep(0)
