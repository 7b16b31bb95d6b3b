"""An authoritative name server (knot) that signs its zones, and a validating resolver (unbound) before it."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ports import free_port
from tests.support.programs import program

KNOT = """
server:
  rundir: "{home}"
  listen: 127.0.0.1@{port}
database:
  storage: "{home}/db"
log:
  - target: stderr
    any: error
policy:
  - id: signed
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: "{home}"
zone:
"""
UNBOUND = """
server:
  interface: 127.0.0.1
  port: {port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{home}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 0
  num-threads: 1
  do-ip6: no
  do-not-query-localhost: no
  module-config: "validator iterator"
  local-zone: "test." nodefault
  cache-max-negative-ttl: 60
remote-control:
  control-enable: no
"""


@dataclass(frozen=True)
class Servers:
    """HOST:PORT of the resolver, and of the name server behind it."""

    resolver: str
    authority: str


@contextlib.contextmanager
def dnssec(
    home: Path,
    zones: Mapping[str, str],
    *,
    unsigned: Sequence[str] = (),
    bogus: Sequence[str] = (),
    expired: Sequence[str] = (),
) -> Iterator[Servers]:
    """Both servers while the block runs. ``zones``: records by zone, one a line; SOA and NS are added.

    All are signed but ``unsigned``. ``bogus``: the resolver knows another key than the one that signs.
    ``expired``: the signatures ended days ago (a day or less is within the tolerance for clocks).
    """
    knotd, unbound = program("knotd", "knot"), program("unbound")
    port, front = free_port(), free_port()
    config = KNOT.format(home=home, port=port)
    anchors = []
    for zone, records in zones.items():
        text = (
            f"$TTL 300\n@ SOA ns.{zone}. root.{zone}. 1 3600 600 86400 60\n@ NS ns.{zone}.\nns A 127.0.0.1\n"
        )
        path = home / f"{zone}.zone"
        path.write_text(text + records + "\n")
        signs = zone not in unsigned and zone not in expired
        config += f'  - domain: {zone}\n    file: "{path}"\n'
        config += "    dnssec-signing: on\n    dnssec-policy: signed\n" if signs else ""
        if zone in expired:
            anchors.append(_sign_in_the_past(zone, path))
    (home / "db").mkdir(exist_ok=True)
    (home / "knot.conf").write_text(config)
    with _running([knotd, "-c", str(home / "knot.conf")], home / "knot.log"):
        for zone in zones:
            if zone not in unsigned and zone not in expired:
                anchors.append(_anchor(zone, port, wrong=zone in bogus))
            else:
                _ask(zone, "SOA", port)
        server = UNBOUND.format(home=home, port=front)
        server = server.replace(
            "remote-control:",
            "".join(f'  trust-anchor: "{anchor}"\n' for anchor in anchors) + "remote-control:",
        )
        for zone in zones:
            server += f'stub-zone:\n  name: "{zone}"\n  stub-addr: 127.0.0.1@{port}\n'
        (home / "unbound.conf").write_text(server)
        with _running([unbound, "-c", str(home / "unbound.conf")], home / "unbound.log"):
            for zone in zones:
                if zone not in bogus and zone not in expired:
                    _ask(zone, "SOA", front)
            yield Servers(f"127.0.0.1:{front}", f"127.0.0.1:{port}")


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            yield
        except BaseException as error:
            error.add_note(f"{command[0]} said:\n{log.read_text(errors='replace')[-2000:]}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ask(zone: str, kind: str, port: int, seconds: float = 20.0) -> dns.message.Message:
    """An answer with records, as soon as there is one."""
    question = dns.message.make_query(zone + ".", kind, want_dnssec=True)
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, dns.exception.DNSException):
            found = dns.query.udp(question, "127.0.0.1", timeout=1, port=port)
            if found.rcode() == dns.rcode.NOERROR and found.answer:
                return found
        if time.monotonic() > end:
            raise TimeoutError(f"no {kind} of {zone} from port {port} within {seconds:g} s")
        time.sleep(0.05)


def _anchor(zone: str, port: int, wrong: bool) -> str:
    """The zone's key as unbound takes it."""
    found = _ask(zone, "DNSKEY", port)
    keys = found.get_rrset(found.answer, dns.name.from_text(zone), 1, dns.rdatatype.DNSKEY)
    assert keys is not None
    if wrong:
        stranger = ec.generate_private_key(ec.SECP256R1())
        key = dns.dnssec.make_dnskey(stranger.public_key(), "ECDSAP256SHA256", 257)
    else:
        key = keys[0]
    return f"{zone}. DNSKEY {key.to_text()}"


def _sign_in_the_past(zone: str, path: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(key.public_key(), "ECDSAP256SHA256", 257)
    loaded = dns.zone.from_text(path.read_text(), origin=zone + ".", relativize=False)
    now = datetime.datetime.now(datetime.UTC)
    with loaded.writer() as transaction:
        dns.dnssec.sign_zone(
            loaded,
            transaction,
            keys=[(key, public)],
            add_dnskey=True,
            inception=now - datetime.timedelta(days=30),
            expiration=now - datetime.timedelta(days=5),
        )
    path.write_text(loaded.to_text(relativize=False))
    return f"{zone}. DNSKEY {public.to_text()}"
