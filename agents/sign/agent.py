"""mail-rendered -> mail-lane-<lane>: the mail with its signatures in front, or a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from agents import Out, Stage, Steps
from agents.sign.canonical import Unsignable, is_wire_clean
from agents.sign.dkim import Prepared
from agents.sign.keys import SigningKey
from agents.sign.policy import Settings, from_address, from_domain, signing_domain
from schemas.codec import Headers, Malformed, Record
from schemas.lanes import lane_names, lane_of, lane_topic
from schemas.mail import is_verdict, twin, verdict

STAGE = Stage(
    name="sign",
    question="whose word is it?",
    consumes=("mail-rendered",),
    emits=tuple(lane_topic(lane) for lane in lane_names()),
)

_LANES = frozenset(lane_names())


class Sign(Steps):
    """Signs with every key of the signing domain. ``keys``: domain -> keys (``keys.load_keys``).

    ``clock`` gives Unix seconds. Blocks for the signatures: about 0.3 ms a mail with RSA-2048.
    """

    def __init__(
        self,
        keys: Mapping[str, Sequence[SigningKey]],
        clock: Callable[[], float],
        tenants: Mapping[str, frozenset[str]] | None = None,
        strict: bool = False,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._settings = Settings(frozenset(keys), tenants or {}, strict)
        self._chosen: dict[tuple[bytes, str], tuple[str, bytes] | None] = {}

    def step(self, record: Record) -> Iterable[Out]:
        """One mail signed, or its verdict; both go down the lane."""
        if is_verdict(record):
            return (self._out(record, None, record.headers),)
        now = self._clock()
        try:
            expired = record.number("expires", now + 1) <= now
        except Malformed as error:
            return (self._end(record, "rejected", "malformed_mail", error.detail),)
        if expired:
            return (self._end(record, "expired", "expired"),)
        message = record.value or b""
        if not is_wire_clean(message):
            return (self._end(record, "rejected", "malformed_mail", "a line does not end in CRLF"),)
        try:
            mail = Prepared(message, clean=True)
        except Unsignable as error:
            return (self._end(record, "rejected", "malformed_mail", str(error)),)
        chosen = self._signer(mail.sender, record.text("tenant", "default"))
        if chosen is None:
            return (self._end(record, "rejected", "no_dkim_key", _no_key(mail.sender)),)
        domain, author = chosen
        signatures = [mail.sign(key, int(now)) for key in self._keys[domain]]
        headers = {**record.headers, "dkim": domain.encode(), "author": author}
        return (self._out(record, b"".join([*signatures, message]), headers),)

    def _signer(self, sender: bytes, tenant: str) -> tuple[str, bytes] | None:
        """The domain that signs, and the address in From as limits name it."""
        key = (sender, tenant)
        if key not in self._chosen:
            if len(self._chosen) >= 10_000:
                self._chosen.clear()
            address = from_address(sender.decode("utf-8", "replace")) or ""
            domain = signing_domain(address.rpartition("@")[2], tenant, self._settings)
            self._chosen[key] = None if domain is None else (domain, author_of(address).encode())
        return self._chosen[key]

    def _end(self, record: Record, outcome: str, reason: str, detail: str = "") -> Out:
        return self._out(record, None, verdict(record.headers, outcome, reason, detail))

    def _out(self, record: Record, value: bytes | None, headers: Headers) -> Out:
        lane = record.text("lane")
        if lane not in _LANES:  # written by a release with other lanes: it must reach gate two all the same
            lane = lane_of("", record.text("to").rpartition("@")[2])
            headers = {**headers, "lane": lane.encode()}
        return Out(
            twin(lane_topic(lane), record.text("stream")), value, headers, record.key, record.partition
        )


def author_of(address: str) -> str:
    """An address as the name of a limit: what is no name there (too long, unprintable) is cut out of it, so that
    two such addresses may share a limit, which is then the stricter one."""
    found = "".join(char if char.isprintable() and char != "|" else "?" for char in address)
    return found if len(found) <= 255 else found[-255:]


def _no_key(sender: bytes) -> str:
    domain = from_domain(sender.decode("utf-8", "replace"))
    if domain is None:
        return "the From field names no single address; correct the campaign's from"
    return (
        f"no key may sign for {domain} and this tenant; add <domain>/<selector>.pem or correct the campaign"
    )
