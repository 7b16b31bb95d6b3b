"""Another engine on the same machine, to the same sink: Postfix with OpenDKIM as smarthost, where installed.

It gets finished mails by SMTP, all of one content, and only signs (RSA alone) and relays them: no broker, no
template, no links, no record of what became of each. Its settings are Debian's, but for what lets it run
beside a real one: a queue, a log and ports of its own, loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agents.sign.keys import new_keys
from streams.lab.brokers import free_port
from streams.ops.bench_load import DOMAIN, DOMAINS
from streams.ops.bench_machine import TICKS, BenchFailed, conditions, rsa_limit
from streams.ops.bench_pipeline import Options
from streams.ops.bench_sink import NoSink, Sink, make_sink

TOOLS = ("postfix", "opendkim", "smtp-source")
SESSIONS = 20
"""Connections of the client that hands the mails over."""
PATIENCE = 60.0
"""Seconds without a mail sent on after which the run has failed."""
MASTER = """\
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""
MAIN = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = peer.bench.test
mydestination =
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{sink}
disable_dns_lookups = yes
alias_maps =
alias_database =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_milters = inet:127.0.0.1:{milter}
milter_default_action = tempfail
"""
OPENDKIM = """\
Socket inet:{milter}@127.0.0.1
Mode s
Domain {domain}
Selector {selector}
KeyFile {key}
RequireSafeKeys no
Canonicalization relaxed/relaxed
SignatureAlgorithm rsa-sha256
InternalHosts 127.0.0.1
Syslog no
"""


class Absent(Exception):
    """The peer cannot be measured here; the text says what is missing."""


@dataclass
class Peer:
    """One run. ``ratio``: messages per second to RSA signatures per second of all cores.

    ``ours_to_theirs``: messages per second of our pipeline to the peer's, in the same run; 0 where the
    pipeline was not measured.
    """

    name: str
    messages: int
    seconds: float
    messages_per_second: float
    rsa_limit_per_second: float
    ratio: float
    cpu_us_per_message: float
    cpu_in_signatures: float
    ours_to_theirs: float = 0.0
    conditions: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def missing() -> str:
    """Why the peer cannot run here, or nothing."""
    lacking = [tool for tool in TOOLS if _find(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (Debian: apt install postfix opendkim)"
    return "" if os.geteuid() == 0 else "Postfix starts only as root"


async def run(options: Options, ours: float = 0.0) -> Peer:
    """The peer, with mails as large as ours. Raises Absent, BenchFailed."""
    why = missing()
    if why:
        raise Absent(why)
    home = Path(tempfile.mkdtemp(prefix="mailsluice-peer-"))
    try:
        async with make_sink(options.sink) as sink:
            port = await asyncio.to_thread(_write, home, sink)
            async with _opendkim(home), _postfix(home) as master:
                return await _measured(options, ours, home, port, master, sink)
    except NoSink as error:
        raise BenchFailed(str(error)) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _write(home: Path, sink: Sink) -> int:
    """The configuration of both; the port for the client."""
    home.chmod(0o711)  # its processes run as another user
    port, milter = free_port("127.0.0.1"), free_port("127.0.0.1")
    key = new_keys(DOMAIN, "r2048", "e25519")[1]
    (home / "dkim.pem").touch(mode=0o600)
    (home / "dkim.pem").write_bytes(key.pem())
    values = {"home": home, "sink": sink.port, "port": port, "milter": milter, "domain": DOMAIN}
    values |= {"selector": key.selector, "key": home / "dkim.pem"}
    (home / "opendkim.conf").write_text(OPENDKIM.format_map(values))
    (home / "conf").mkdir()
    (home / "conf" / "main.cf").write_text(MAIN.format_map(values))
    (home / "conf" / "master.cf").write_text(MASTER.format_map(values))
    (home / "queue").mkdir(mode=0o755)
    (home / "data").mkdir(mode=0o700)
    shutil.chown(home / "data", "postfix")
    return port


@asynccontextmanager
async def _opendkim(home: Path) -> AsyncIterator[None]:
    tool = _find("opendkim") or "opendkim"
    with (home / "opendkim.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            tool, "-f", "-x", str(home / "opendkim.conf"), stdout=log, stderr=log
        )
    (home / "opendkim.pid").write_text(str(process.pid))
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _postfix(home: Path) -> AsyncIterator[int]:
    await _postfix_command(home, "start")
    master = int((home / "queue" / "pid" / "master.pid").read_text())
    try:
        yield master
    finally:
        with contextlib.suppress(BenchFailed):
            await _postfix_command(home, "stop")
        with contextlib.suppress(ProcessLookupError):
            os.kill(master, signal.SIGTERM)


async def _postfix_command(home: Path, verb: str) -> None:
    process = await asyncio.create_subprocess_exec(
        _find("postfix") or "postfix", "-c", str(home / "conf"), verb,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    if process.returncode:
        raise BenchFailed(f"postfix {verb}: {said.decode('utf-8', 'replace').strip()[-500:]}")


async def _measured(options: Options, ours: float, home: Path, port: int, master: int, sink: Sink) -> Peer:
    warm = min(500, options.messages)
    around = conditions()
    await _send(options, port, warm)
    await _sent(home, warm)
    limits = [await rsa_limit()]
    signer = int((home / "opendkim.pid").read_text())
    cpu = _cpu(master, signer)
    begun = time.monotonic()
    client = asyncio.create_task(_send(options, port, options.messages))
    try:
        await _sent(home, warm + options.messages)
    finally:
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
    seconds = time.monotonic() - begun
    used = (_cpu(master, signer) - cpu) / options.messages * 1e6
    limits.append(await rsa_limit())
    limit = sum(signed.per_second for signed in limits) / len(limits)
    rate = options.messages / seconds
    around.update(size=options.size, sink=sink.name, sessions=SESSIONS, settings="Debian's")
    return Peer(
        name="Postfix with OpenDKIM",
        messages=options.messages,
        seconds=round(seconds, 3),
        messages_per_second=round(rate, 1),
        rsa_limit_per_second=round(limit, 1),
        ratio=round(rate / limit, 3),
        cpu_us_per_message=round(used, 1),
        cpu_in_signatures=round(used / (sum(signed.cpu_us for signed in limits) / len(limits)), 2),
        ours_to_theirs=round(ours / rate, 2),
        conditions=around,
    )


async def _send(options: Options, port: int, messages: int) -> None:
    """The client that comes with Postfix: ``messages`` mails of one content over SESSIONS connections."""
    process = await asyncio.create_subprocess_exec(
        _find("smtp-source") or "smtp-source", "-s", str(SESSIONS), "-m", str(messages), "-l", str(options.size),
        "-f", f"hello@{DOMAIN}", "-t", f"reader@{DOMAINS[0][0]}", f"127.0.0.1:{port}",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchFailed(f"smtp-source: {said.decode('utf-8', 'replace').strip()[-300:]}")


async def _sent(home: Path, count: int) -> None:
    """Return when the log tells of ``count`` mails sent on. Raises BenchFailed."""
    log = home / "mail.log"
    found, moved, position, rest = 0, time.monotonic(), 0, b""
    while found < count:
        await asyncio.sleep(0.05)
        before = found
        if log.exists():
            with log.open("rb") as file:
                file.seek(position)
                text = rest + file.read()
                position = file.tell()
            lines = text.split(b"\n")
            rest = lines.pop()
            found += sum(b" status=sent " in line for line in lines)
        if found != before:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE:
            last = b" / ".join(lines[-3:]).decode("utf-8", "replace") if log.exists() else "nothing logged"
            raise BenchFailed(f"Postfix sent {found} of {count} mails on, then no more: {last}")


def _cpu(master: int, signer: int) -> float:
    """CPU seconds of Postfix (its daemons, those that have ended too) and of OpenDKIM."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        if pid in (master, signer) or int(fields[1]) == master:
            total += int(fields[11]) + int(fields[12])
            if pid == master:  # the children it has waited for
                total += int(fields[13]) + int(fields[14])
    return total / TICKS
