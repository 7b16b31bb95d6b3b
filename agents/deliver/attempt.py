"""The words of sending: what a mail to send is, what is known of a connection, and how an attempt ended.

accepted, refused, deferred  the server said so (2xx to the dot, 5xx, 4xx)
failed  the connection died or talked nonsense before the final dot was written: safe to send again
lost    it died, talked nonsense or ran out of time after the dot: nobody knows
held    ``may_start`` or ``may_dot`` said no, or ``give_up`` came before the dot: the server has no mail
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["accepted", "refused", "deferred", "failed", "lost", "held"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``block``: without progress while the body is sent. The dot's is RFC 5321 4.5.3.2.6."""

    mail: float = 120.0
    rcpt: float = 120.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0
    quit: float = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a connection. ``size``: largest mail the server takes in bytes, 0 unknown.

    ``extensions``: keywords of its EHLO in capitals. ``tls``: protocol version, empty in clear.
    ``security``: what that is worth, ``asked``: who asked for TLS, see ``schemas.outcome``.
    """

    host: str = ""
    ip: str = ""
    source: str = ""
    banner: str = ""
    extensions: frozenset[str] = frozenset()
    size: int = 0
    tls: str = ""
    cipher: str = ""
    security: str = ""
    asked: str = ""


@dataclass(slots=True)
class Attempt:
    """How sending one mail ended.

    ``text``: the reply without its codes, on one line, without control characters, at most 2,000
    characters; with code 0 what happened instead. ``phase``: mail, rcpt, data, dot. ``local``: no server
    said it. ``carried``: which mail on its connection it was, from 1: above 1, a failure in phase mail may
    just be a server that closed an idle connection. ``seconds`` since its start.
    """

    state: State
    code: int
    text: str
    phase: str
    dot_sent: bool
    seconds: float
    carried: int
    local: bool = False

    @property
    def reply(self) -> str:
        """Code and text, as a log or a rule reads it."""
        return f"{self.code} {self.text}" if self.code else self.text


class Job(Protocol):
    """A mail to send. All methods are called from the event loop's thread and return at once."""

    @property
    def mail_from(self) -> str:
        """The envelope sender, empty for a bounce."""

    @property
    def rcpt(self) -> str:
        """The envelope recipient."""

    @property
    def body(self) -> bytes:
        """The signed mail, lines ended by CRLF, not dot-stuffed."""

    def may_start(self) -> bool:
        """Asked just before MAIL, and again before DATA where that is a write of its own."""

    def may_dot(self) -> bool:
        """Asked just before the final dot is written, when all of the body has left."""

    def done(self, attempt: Attempt) -> None:
        """Called once. The session may be started again from here, if it is ``ready``."""

    def late(self, attempt: Attempt) -> None:
        """The real reply after all, when ``give_up`` had ended the mail as lost."""
