"""A scriptable, hostile SMTP server on loopback: one script a test says what it answers in each phase.

A *step* is what the server does when a command (or the connection, or the final dot) arrives:

    "250 ok"            a reply line; several lines in one string are a multi-line reply as they stand
    b"..."              these bytes
    Wait(0.2)           do nothing for a while
    CLOSE, RESET        end the connection: FIN, RST
    SILENCE             never answer (until the client goes)
    Endless(b"250-x")   write this for ever
    [a, b, ...]         one after the other
    Turns(a, b, ...)    the first time, the second time ...; the last one from then on
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Wait:
    """Pause for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Endless:
    """Write the block again and again until the client goes."""

    block: bytes


@dataclass(frozen=True)
class _Act:
    name: str


CLOSE = _Act("close")
RESET = _Act("reset")
SILENCE = _Act("silence")


class Turns:
    """Another step each time, counted over all connections."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)

    def next(self) -> Step:
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


Step = str | bytes | Wait | Endless | _Act | Turns | Sequence["Step"]
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 50000000", "ENHANCEDSTATUSCODES")


@dataclass
class Script:
    """What the server does. ``during``: after so many bytes of a body, once. ``split``: bytes a write.

    ``tls``: with a context, STARTTLS is advertised (and obeyed, unless ``starttls`` says otherwise).
    ``slow``: bytes read at once and seconds between reads, once the body has begun. ``strict``: RCPT and
    DATA without an accepted MAIL are 503. ``bdat`` answers each chunk but the last, which is a dot. DATA without a recipient is answered as the script says.
    """

    banner: Step = "220 mx.test ESMTP"
    ehlo: Step = ""
    helo: Step = "250 mx.test"
    mail: Step = "250 2.1.0 ok"
    rcpt: Step = "250 2.1.5 ok"
    data: Step = "354 go ahead"
    bdat: Step = "250 2.0.0 so far"
    dot: Step = "250 2.0.0 queued"
    rset: Step = "250 2.0.0 ok"
    quit: Step = ("221 2.0.0 bye", CLOSE)
    starttls: Step = "220 2.0.0 ready"
    during: tuple[int, Step] | None = None
    extensions: tuple[str, ...] = EXTENSIONS
    tls: ssl.SSLContext | None = None
    split: int = 0
    slow: tuple[int, float] | None = None
    strict: bool = True


@dataclass
class Mail:
    """A mail that the server said 2xx to, and every one whose final dot it saw."""

    sender: str
    rcpts: list[str]
    body: bytes
    reply: str


@dataclass
class Seen:
    """One connection as the server saw it. ``reads``: what each read gave. ``partial``: bodies cut off."""

    peer: str
    reads: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    partial: list[bytes] = field(default_factory=list)
    tls: bool = False


class _Gone(Exception):
    pass


class SmtpServer:
    """The server. ``mails`` has every mail whose final dot came, ``seen`` every connection."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.mails: list[Mail] = []
        self.seen: list[Seen] = []
        self.host, self.port = "127.0.0.1", 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._tasks)

    async def serve(self, host: str, port: int) -> asyncio.Server:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.script.slow:  # else the kernel takes megabytes for it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.bind((host, port))
        server = await asyncio.start_server(self._accept, sock=sock)
        self.host, self.port = server.sockets[0].getsockname()[:2]
        return server

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        seen = Seen(writer.get_extra_info("peername")[0])
        self.seen.append(seen)
        try:
            await _Talk(self, reader, writer, seen).run()
        except (_Gone, ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(Exception):
                writer.transport.abort() if writer.transport.is_closing() else writer.close()


class _Talk:
    def __init__(
        self, server: SmtpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen
    ) -> None:
        self.server, self.script = server, server.script
        self.reader, self.writer, self.seen = reader, writer, seen
        self.buffer = b""
        self.sender, self.rcpts = "", []
        self.last, self.begun = "", False
        self.chunks = b""

    async def run(self) -> None:
        await self.do(self.script.banner)
        while True:
            line = await self.line()
            self.seen.commands.append(line)
            verb = line.split(" ")[0].upper().partition(":")[0]
            await self.on(verb, line)

    async def on(self, verb: str, line: str) -> None:
        script = self.script
        if verb == "EHLO":
            await self.do(script.ehlo or self.greeting())
        elif verb == "HELO":
            await self.do(script.helo)
        elif verb == "STARTTLS":
            await self.do(script.starttls)
            if self.last.startswith("220"):
                assert script.tls is not None
                await self.writer.start_tls(script.tls)
                self.seen.tls, self.buffer = True, b""
        elif verb == "MAIL":
            await self.do(script.mail)
            self.sender, self.rcpts = _path(line), []
            self.begun = self.last.startswith("25")
        elif verb in ("RCPT", "DATA") and script.strict and not self.begun:
            await self.do("503 5.5.1 MAIL first")
        elif verb == "RCPT":
            await self.do(script.rcpt)
            if self.last.startswith("25"):
                self.rcpts.append(_path(line))
        elif verb == "DATA":
            await self.do(script.data)
            if self.last.startswith("354"):
                await self.body()
        elif verb == "BDAT":
            await self.chunk(line)
        elif verb == "RSET":
            await self.do(script.rset)
            self.chunks = b""
            self.begun = False
        elif verb == "QUIT":
            await self.do(script.quit)
        else:
            await self.do("500 5.5.1 unknown command")

    def greeting(self) -> str:
        offers = list(self.script.extensions)
        if self.script.tls and not self.seen.tls:
            offers.append("STARTTLS")
        lines = ["mx.test", *offers]
        return "\n".join(f"250{' ' if n == len(lines) - 1 else '-'}{line}" for n, line in enumerate(lines))

    async def chunk(self, line: str) -> None:
        """RFC 3030: so many bytes as they are; after a chunk that was refused all of them are."""
        size, *last = line.split(" ")[1:]
        while len(self.buffer) < int(size):
            try:
                await self.fill(body=True)
            except _Gone:
                self.seen.partial.append(self.chunks + self.buffer)
                raise
        data, self.buffer = self.buffer[: int(size)], self.buffer[int(size) :]
        if not self.begun or not self.rcpts:
            await self.do("503 5.5.1 MAIL and RCPT first")
        elif last == ["LAST"]:
            mail = Mail(self.sender, self.rcpts, self.chunks + data, "")
            self.server.mails.append(mail)
            self.begun, self.chunks = False, b""
            await self.do(self.script.dot)
            mail.reply = self.last
        else:
            self.chunks += data
            await self.do(self.script.bdat)
            if not self.last.startswith("25"):
                self.begun, self.chunks = False, b""

    async def body(self) -> None:
        """Read to CRLF.CRLF and take the dot-stuffing out: the strict reading of RFC 5321 4.5.2."""
        data = b"\r\n"
        during = self.script.during
        while b"\r\n.\r\n" not in data + self.buffer:
            data, self.buffer = data + self.buffer, b""
            if during and len(data) > during[0]:
                await self.do(during[1])
                during = None
            try:
                await self.fill(body=True)
            except _Gone:
                self.seen.partial.append(data[2:])
                raise
        data, _, self.buffer = (data + self.buffer).partition(b"\r\n.\r\n")
        body = (data + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
        mail = Mail(self.sender, self.rcpts, body, "")
        self.server.mails.append(mail)
        self.begun = False
        await self.do(self.script.dot)
        mail.reply = self.last

    async def do(self, step: Step) -> None:
        if isinstance(step, Turns):
            await self.do(step.next())
        elif isinstance(step, str):
            self.last = step
            await self.write(step.replace("\n", "\r\n").encode() + b"\r\n")
        elif isinstance(step, bytes):
            self.last = step.decode("latin-1")
            await self.write(step)
        elif isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Endless):
            while True:
                await self.write(step.block * 20)
                await asyncio.sleep(0)
        elif isinstance(step, _Act):
            await self.act(step)
        else:
            for each in step:
                await self.do(each)

    async def act(self, act: _Act) -> None:
        if act is SILENCE:
            while True:
                await self.fill()
        if act is RESET:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        raise _Gone

    async def write(self, data: bytes) -> None:
        step = self.script.split or len(data)
        for start in range(0, len(data), step):
            self.writer.write(data[start : start + step])
            await self.writer.drain()
            if self.script.split:
                await asyncio.sleep(0.001)

    async def line(self) -> str:
        while b"\n" not in self.buffer:
            await self.fill()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    async def fill(self, body: bool = False) -> None:
        most = 1 << 16
        if body and self.script.slow:
            most, pause = self.script.slow
            await asyncio.sleep(pause)
        data = await self.reader.read(most)
        if not data:
            raise _Gone
        self.seen.reads.append(data)
        self.buffer += data


def _path(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


@contextlib.asynccontextmanager
async def smtp_server(
    script: Script | None = None, host: str = "127.0.0.1", port: int = 0, **changes: object
) -> AsyncIterator[SmtpServer]:
    """A running server; ``changes`` are fields of its script."""
    found = SmtpServer(replace(script or Script(), **changes))  # type: ignore[arg-type]
    server = await found.serve(host, port)
    try:
        yield found
    finally:
        server.close()
        await found.stop()


def self_signed(directory: Path, name: str = "mx.test") -> tuple[ssl.SSLContext, Path]:
    """A server context with a certificate of its own making, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path
