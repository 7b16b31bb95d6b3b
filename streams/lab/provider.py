"""A simulated mailbox provider at work: hidden budgets, its users, its policies, its records."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from streams.lab.dialects import DIALECTS
from streams.lab.ledger import Ledger, Take, Try
from streams.lab.message import Lookup, flaws_of, headers_of, is_marketing, verify
from streams.lab.providers import ProviderSettings, chance
from streams.lab.site import TAKEN, Reply, Site
from streams.lab.smtp import Session

Taken = Callable[[Take, bytes], None]
"""Called with every recipient's message after it was recorded: readers and feedback start here."""


@dataclass(slots=True)
class _Source:
    """What a provider knows of one sending address: a token bucket and the open connections."""

    tokens: float
    at: float
    open: int = 0

    def spend(self, now: float, rate: float, burst: float) -> bool:
        """Take one message out of the budget, if there is one left. A clock set back gives nothing."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Provider(Site):
    """One provider. Its hooks decide, record in ``ledger``, and then answer.

    ``lookup`` finds DKIM keys (the lab's zone), ``clock`` is Unix seconds, ``taken`` hears of every
    message taken.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        seed: int,
        ledger: Ledger,
        lookup: Lookup,
        clock: Callable[[], float],
        taken: Taken = lambda take, content: None,
    ) -> None:
        super().__init__()
        self.settings, self.seed, self.ledger = settings, seed, ledger
        self.hostname, self.max_size = settings.mx[0], settings.max_size
        self.smtputf8, self.eager_data = settings.smtputf8, settings.eager_data
        self._lookup, self._clock, self._taken = lookup, clock, taken
        self._replies = {**DIALECTS[settings.dialect], **settings.replies}
        self._burst = max(1.0, settings.rate * settings.burst)
        self._sources: dict[str, _Source] = {}
        self._full: Counter[str] = Counter()
        self._first_seen: dict[tuple[str, str], float] = {}
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._counted: set[Session] = set()
        self._late: set[Session] = set()

    def latency(self, phase: str) -> float:
        """Providers think about a message, not about commands."""
        return self.settings.latency if phase == "dot" else 0.0

    def connected(self, session: Session) -> Reply | None:
        """Too many connections of one source are refused."""
        source = self._source(session)
        if source.open >= self.settings.connections:
            return self._refuse(session, "connections", at=self._clock())
        source.open += 1
        self._counted.add(session)
        return None

    def disconnected(self, session: Session) -> None:
        """Its place is free again."""
        self._late.discard(session)
        if session in self._counted:
            self._counted.discard(session)
            self._source(session).open -= 1

    def mail(self, session: Session) -> Reply | None:
        """Encryption, messages per connection, and the budget."""
        self._late.discard(session)
        if self.settings.require_tls and not session.tls:
            return self._refuse(session, "tls")
        if session.count > self.settings.per_connection:
            return self._refuse(session, "messages")
        if self._source(session).spend(self._clock(), self.settings.rate, self._burst):
            return None
        if self.settings.throttle_at == "mail":
            return self._refuse(session, "rate")
        self._late.add(session)
        return None

    def rcpt(self, session: Session, address: str) -> Reply | None:
        """Is there such a user, and may they get mail now?"""
        address = address.lower()
        fate = self.settings.fate(self.seed, address)
        if address.rpartition("@")[2] not in self.settings.domains:
            return self._refuse(session, "relay", address)
        if fate == "unknown":
            return self._refuse(session, "unknown", address)
        if self._grey(session.source, address):
            return self._refuse(session, "greylist", address)
        if fate == "full":
            self._full[address] += 1
            if not self.settings.full_tries or self._full[address] <= self.settings.full_tries:
                return self._refuse(session, "full", address)
        if self._too_often(address):
            return self._refuse(session, "recipient", address)
        return None

    def dot(self, session: Session, content: bytes, replied: bool) -> Reply:
        """Look at the message, record it for each recipient, take it."""
        if session in self._late:
            return self._refuse(session, "rate", session.rcpts[0])
        headers = headers_of(content)
        message = headers.first("message-id")
        proof = ""
        if chance(self.seed, "verify", message) < self.settings.verify:
            proof = verify(content, self._lookup)
            if self.settings.require_dkim and "=pass" not in proof:
                return self._refuse(session, "dkim", session.rcpts[0])
        flaws, marketing = flaws_of(content, headers), is_marketing(headers)
        for rcpt in session.rcpts:
            take = Take(
                at=session.at,
                time=self._clock(),
                source=session.source,
                id=message.strip("<> ").partition("@")[0],
                message=message,
                rcpt=rcpt.lower(),
                sender=session.sender or "",
                size=len(content),
                dkim=proof,
                flaws=flaws,
                replied=replied,
                tls=session.tls,
                marketing=marketing,
            )
            self.ledger.write(take)
            self._taken(take, content)
        return TAKEN

    def wording(self, situation: str, source: str, rcpt: str = "") -> str:
        """This provider's reply to a situation, as one would see it on the wire."""
        return self._replies[situation].replace("{ip}", source).replace("{rcpt}", rcpt)

    def _refuse(self, session: Session, why: str, rcpt: str = "", at: float = 0.0) -> Reply:
        text = self.wording(why, session.source, rcpt)
        code = int(text[:3])
        self.ledger.write(Try(at or session.at, session.source, code, why, rcpt))
        return Reply(code, text[4:], close=code == 421)

    def _source(self, session: Session) -> _Source:
        found = self._sources.get(session.source)
        if found is None:
            found = self._sources[session.source] = _Source(self._burst, self._clock())
        return found

    def _grey(self, source: str, address: str) -> bool:
        if not self.settings.greylist:
            return False
        first = self._first_seen.setdefault((source, address), self._clock())
        return self._clock() - first < self.settings.greylist

    def _too_often(self, address: str) -> bool:
        limit = self.settings.recipient_rate
        if not limit:
            return False
        recent, now = self._recent[address], self._clock()
        while recent and now - recent[0] >= 60:
            recent.popleft()
        if len(recent) >= limit:
            return True
        recent.append(now)
        return False
