"""A small authoritative DNS server over UDP and TCP (RFC 1035, 2308, 6891, 7766), for the lab's world.

It is authoritative for everything: a name that its zone does not hold does not exist. So nothing that
asks it ever learns a real host's address. Names can be told to fail, to be late or never to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.reversename
import dns.rrset

LONGEST_CHAIN = 8
"""CNAMEs followed for one question; a loop ends in SERVFAIL."""
LARGEST_UDP = 1232
"""Bytes of a UDP answer whatever the asker offers (the size that is never fragmented)."""
IDLE = 10.0
"""Seconds a TCP connection may say nothing (RFC 7766 section 6.2.3)."""


class ZoneError(ValueError):
    """The zone's data are wrong; the text lists every fault."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a name. ``rcode`` e.g. SERVFAIL; ``delay`` seconds; ``silent`` never answers."""

    rcode: str = ""
    delay: float = 0.0
    silent: bool = False


class Zone:
    """Names and their records: ``{"shop.test": {"MX": ["10 mx.shop.test"], "A": "127.0.0.9"}}``.

    Texts are in zone-file form, names in them are absolute with or without a final dot; a TXT is one
    plain text of any length. Raises ZoneError with all faults. ``apexes`` own the SOA of negative
    answers; a name outside of them gets the root's.
    """

    def __init__(
        self,
        records: Mapping[str, Mapping[str, str | Iterable[str]]] | None = None,
        apexes: Iterable[str] = (),
        ttl: int = 60,
    ) -> None:
        self.ttl = ttl
        self._nodes: dict[dns.name.Name, dict[dns.rdatatype.RdataType, dns.rdataset.Rdataset]] = {}
        self._above: set[dns.name.Name] = {dns.name.root}
        self._troubles: dict[dns.name.Name, Trouble] = {}
        for apex in (".", *apexes):
            self.add(apex, "SOA", f"ns.lab.test. hostmaster.lab.test. 1 3600 600 86400 {ttl}")
        faults: list[str] = []
        for name, kinds in (records or {}).items():
            for kind, texts in kinds.items():
                try:
                    self.add(name, kind, *([texts] if isinstance(texts, str) else texts))
                except ValueError as error:
                    faults.append(str(error))
        if faults:
            raise ZoneError("; ".join(faults))

    def add(self, name: str, kind: str, *texts: str) -> None:
        """Add records of one kind, at any time. Raises ZoneError for what is no such record."""
        try:
            owner = _name(name)
            rdatatype = dns.rdatatype.from_text(kind)
            found = [_rdata(rdatatype, text) for text in texts]
        except (dns.exception.DNSException, ValueError) as error:
            raise ZoneError(f"{name} {kind}: not a record: {error}") from None
        node = self._nodes.setdefault(owner, {})
        for rdata in found:
            kept = node.setdefault(
                rdatatype, dns.rdataset.Rdataset(dns.rdataclass.IN, rdatatype, ttl=self.ttl)
            )
            kept.add(rdata, self.ttl)
        parent = owner
        while parent != dns.name.root:
            parent = parent.parent()
            self._above.add(parent)

    def host(self, name: str, *addresses: str) -> None:
        """Add a host's A or AAAA records and the PTR of each address back to it (FCrDNS)."""
        for address in addresses:
            self.add(name, "AAAA" if ":" in address else "A", address)
            self.add(dns.reversename.from_address(address).to_text(), "PTR", name.rstrip(".") + ".")

    def remove(self, name: str, kind: str | None = None) -> None:
        """Drop a name's records of one kind, or the name."""
        node = self._nodes.get(_name(name), {})
        if kind is None:
            self._nodes.pop(_name(name), None)
        else:
            node.pop(dns.rdatatype.from_text(kind), None)

    def trouble(self, name: str, trouble: Trouble | None) -> None:
        """Script what is wrong with a name from now on; None heals it."""
        if trouble is None:
            self._troubles.pop(_name(name), None)
        else:
            self._troubles[_name(name)] = trouble

    def trouble_of(self, query: dns.message.Message) -> Trouble:
        """What is scripted for the name that a query asks for."""
        return self._troubles.get(query.question[0].name, Trouble()) if query.question else Trouble()

    def texts(self, name: str, kind: str) -> list[str]:
        """The records of one kind as text, without final dots; a TXT as its plain text."""
        found = self._nodes.get(_name(name), {}).get(dns.rdatatype.from_text(kind), ())
        return [_plain(rdata) for rdata in found]

    def txt(self, name: str | bytes, timeout: float = 5) -> bytes | None:
        """The first TXT of a name: dkimpy's synchronous ``dnsfunc``."""
        found = self.texts(name.decode("ascii", "replace") if isinstance(name, bytes) else name, "TXT")
        return found[0].encode() if found else None

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The answer to a query: records, NODATA or NXDOMAIN with the SOA, or a scripted failure."""
        response = dns.message.make_response(query, our_payload=LARGEST_UDP)
        response.flags |= dns.flags.AA
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP if query.opcode() != dns.opcode.QUERY else dns.rcode.FORMERR)
            return response
        trouble = self.trouble_of(query)
        if trouble.rcode:
            response.set_rcode(dns.rcode.from_text(trouble.rcode))
            return response
        self._resolve(query.question[0].name, query.question[0].rdtype, response)
        return response

    def _resolve(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, response: dns.message.Message
    ) -> None:
        for _ in range(LONGEST_CHAIN):
            node = self._nodes.get(name, {})
            if kind in node:
                response.answer.append(_rrset(name, node[kind]))
                return
            if dns.rdatatype.CNAME in node:
                response.answer.append(_rrset(name, node[dns.rdatatype.CNAME]))
                name = node[dns.rdatatype.CNAME][0].target
                continue
            if not node and name not in self._above:
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(self._soa(name))
            return
        response.answer.clear()
        response.set_rcode(dns.rcode.SERVFAIL)

    def _soa(self, name: dns.name.Name) -> dns.rrset.RRset:
        while dns.rdatatype.SOA not in self._nodes.get(name, {}):
            name = name.parent()
        return _rrset(name, self._nodes[name][dns.rdatatype.SOA])


class DnsServer:
    """Serves a zone on one port, UDP and TCP. ``async with DnsServer(zone) as server: server.address``.

    ``asked`` counts the questions by (name, kind, "udp" or "tcp").
    """

    def __init__(self, zone: Zone, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = zone
        self.address = (host, port)
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._late: set[asyncio.TimerHandle] = set()
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> DnsServer:
        loop = asyncio.get_running_loop()
        host, port = self.address
        for left in reversed(range(20)):
            udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(host, port))
            bound = udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await asyncio.start_server(self._client, host, bound)
            except OSError:
                udp.close()  # somebody has the TCP port of that number: only a free choice may move on
                if port or not left:
                    raise
                continue
            self._udp, self.address = udp, (host, bound)
            break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for handle in self._late:
            handle.cancel()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def read(self, wire: bytes, over: str) -> dns.message.Message | None:
        """The query in ``wire``, counted; None where it is none (it is dropped)."""
        try:
            query = dns.message.from_wire(wire, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return None
        if query.flags & dns.flags.QR:
            return None
        for question in query.question:
            name = question.name.to_text(omit_final_dot=True).lower()
            self.asked[name, dns.rdatatype.to_text(question.rdtype), over] += 1
        return query

    def datagram(self, wire: bytes, peer: tuple[str, int]) -> None:
        """Answer one datagram, now or after the scripted delay."""
        query = self.read(wire, "udp")
        if query is None or self.zone.trouble_of(query).silent:
            return
        delay = self.zone.trouble_of(query).delay
        if not delay:
            self._reply(query, peer)
            return
        self._late = {handle for handle in self._late if handle.when() > asyncio.get_running_loop().time()}
        self._late.add(asyncio.get_running_loop().call_later(delay, self._reply, query, peer))

    def _reply(self, query: dns.message.Message, peer: tuple[str, int]) -> None:
        offered = max(512, query.payload) if query.edns >= 0 else 512
        response = self.zone.answer(query)
        try:
            wire = response.to_wire(max_size=min(offered, LARGEST_UDP))
        except dns.exception.TooBig:
            response.answer.clear()
            response.authority.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        if self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(wire, peer)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                while await self._question(reader, writer):
                    pass
        finally:
            writer.close()

    async def _question(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(IDLE):
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = self.read(await reader.readexactly(size), "tcp")
        if query is None:
            return False
        trouble = self.zone.trouble_of(query)
        if trouble.silent:
            await reader.read()  # says nothing until the asker gives up
            return False
        await asyncio.sleep(trouble.delay)
        wire = self.zone.answer(query).to_wire(max_size=65535)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()
        return True


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.datagram(data, addr)


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)


def _rdata(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    if kind == dns.rdatatype.TXT:
        raw = text.encode()
        parts = [raw[at : at + 255] for at in range(0, len(raw), 255)] or [b""]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, kind, parts)
    return dns.rdata.from_text(dns.rdataclass.IN, kind, text, dns.name.root, False)


def _plain(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(rdata.strings).decode("utf-8", "replace")
    return rdata.to_text().rstrip(".")


def _rrset(name: dns.name.Name, rdataset: dns.rdataset.Rdataset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset))
