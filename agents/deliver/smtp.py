"""One SMTP connection that carries mail, one at a time: MAIL, RCPT and DATA in one write, body and dot in another.

The dot never waits in this process: between the last look whether it is allowed and the kernel there is nothing. It
goes with the body in one system call where the kernel takes both at once; else, and under TLS, in a write of its own,
once the body has left.

Where the server offers CHUNKING (RFC 3030) the body goes in two chunks instead: all but its last bytes, then
those with BDAT LAST, which then are what "the dot" means here.

``connect`` makes the connection and hands it over after EHLO. Everything the server says is hostile until
parsed. Nothing here awaits: a mail costs two or three writes and two or three reads. Every started mail ends in
one Attempt, through its job's ``done``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from agents.deliver.attempt import Attempt, Facts, Job, State, Timeouts
from agents.deliver.wire import (
    FOLLOWS,
    NAMES,
    NO_BDAT,
    TAIL,
    Phase,
    Refusal,
    Replies,
    chunk,
    commands,
    wire,
)

# Members as plain names: a look-up on the class at every step is measurable.
IDLE, RSET, MAIL, RCPT, DATA, BODY, SPOILED, DOT, QUIT, CLOSED = Phase

RECEIVE = 4096
"""Bytes read at once."""
AT_ONCE = 131_072
"""Bytes of a body up to which body and dot are offered to the kernel together: it takes so much at once. Measured at
10 KB, least of twelve runs each: 72 µs of CPU a mail instead of 90, and of the server's 58 instead of 73."""
_DOT = b".\r\n"


class Session(asyncio.BufferedProtocol):
    """A connection after EHLO. ``carried`` counts its mails; ``on_close`` is called once, when it is over."""

    def __init__(
        self,
        transport: asyncio.Transport,
        raw: asyncio.Transport,
        facts: Facts,
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        """Takes over ``transport``, whose receive buffer must be empty; ``raw`` is the TCP transport under
        it (the same in clear). ``clock``: monotonic seconds. Call it on the running loop."""
        self.facts = facts
        self.carried = 0
        self.on_close: Callable[[Session], None] | None = None
        self.on_no_bdat: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._transport, self._raw, self._clock = transport, raw, clock
        t = timeouts
        self._limits = (0.0, t.mail, t.mail, t.rcpt, t.data, t.block, t.data, t.dot, t.quit, 0.0)
        # No deadline is ever nearer than a tick when it is set, so the armed timer is never too late.
        self._tick = min(self._limits[1:9])
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._began = 0.0
        self._pipelining = "PIPELINING" in facts.extensions
        self._chunking = "CHUNKING" in facts.extensions
        self._last = _DOT
        self._owed = False
        self._phase = IDLE
        self._replies = Replies()
        # Ours, because asyncio maps and unmaps 256 KiB for each read of a plain Protocol.
        self._into = bytearray(RECEIVE)
        self._view = memoryview(self._into)
        self._more = False
        self._job: Job | None = None
        self._late: Job | None = None
        self._mail = self._rcpt = b""
        self._noted: tuple[State, int, str, str] | None = None
        self._dirty = False
        self._unsent = 0
        socket = raw.get_extra_info("socket") if transport is raw else None
        self._fd = -1 if socket is None else socket.fileno()
        raw.set_write_buffer_limits(0)
        transport.set_protocol(self)

    # -- what its owner calls

    @property
    def ssl_object(self) -> object:
        """The TLS object of the connection, None in clear."""
        return self._transport.get_extra_info("ssl_object")

    @property
    def ready(self) -> bool:
        """Whether ``start`` may be called."""
        return self._phase is IDLE and not self._raw.is_closing()

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._phase is CLOSED

    @property
    def past_dot(self) -> bool:
        """Whether the final dot of a mail is written and its reply still open."""
        return self._phase is DOT

    def start(self, job: Job) -> Attempt | None:
        """Send a mail. None: under way, ``job.done`` follows. Else it ended at once, with nothing written:

        held (``may_start`` said no), failed (the connection is closed) or refused locally (address, size,
        or content that this server's EHLO excludes). Raises RuntimeError while another mail is under way.
        """
        if self._job or self._late:
            raise RuntimeError("this session is busy: start the next mail after done()")
        self._began = self._clock()
        if not self.ready:
            return self._attempt("failed", 0, "the connection is closed", "mail")
        found = commands(job.mail_from, job.rcpt, job.body, self.facts)
        if isinstance(found, Refusal):
            return self._attempt("refused", *found, local=True)
        if not job.may_start():
            return self._attempt("held", 0, "not started: no right to send just now", "mail")
        self._job, self._noted = job, None
        self.carried += 1
        self._mail, self._rcpt = found
        if self._pipelining:
            data = b"" if self._chunking else b"DATA\r\n"
            self._write((b"RSET\r\n" if self._dirty else b"") + self._mail + self._rcpt + data)
        else:
            self._write(b"RSET\r\n" if self._dirty else self._mail)
        self._await(RSET if self._dirty else MAIL)
        self._dirty = False
        return None

    def give_up(self) -> bool:
        """Stop: before the dot the connection closes and the mail is held; after it the mail is lost.

        True in the second case: the connection stays, and ``job.late`` tells the reply if one comes.
        """
        if self._phase is IDLE:
            self.quit()
        elif self._phase is DOT and self._job:
            self._late, self._job = self._job, None
            text = "gave up waiting for the reply to the final dot"
            self._late.done(self._attempt("lost", 0, text, "dot", True))
        elif self._job:
            held: tuple[State, int, str, str] = ("held", 0, "stopped before the dot", NAMES[self._phase])
            self._finish(*(self._noted or held), close=True)
        return self._late is not None

    def quit(self) -> None:
        """Say QUIT and close; does nothing while a mail is under way."""
        if self._phase is IDLE:
            self._write(b"QUIT\r\n")
            self._await(QUIT)

    def close(self) -> None:
        """Close at once. A mail under way ends as failed, or as lost after its dot."""
        self._broke("closed by us")

    # -- sending

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _await(self, phase: Phase) -> None:
        self._phase = phase
        now = self._clock()
        self._deadline = now + self._limits[phase]
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick, self._tock)

    def _body(self, job: Job) -> None:
        """The whole body at once: the transport keeps what the server does not take yet."""
        self._last = _DOT
        data = self._chunks(job.body) if self._chunking else wire(job.body)
        self._unsent = len(data)
        self._await(BODY)
        apart = self._fd < 0 or len(data) > AT_ONCE or (self._owed and not self._pipelining)
        if not apart and not self._raw.is_closing() and not self._raw.get_write_buffer_size():
            return self._at_once(job, data)
        if data:
            self._write(data)
        self._dot(0.0)

    def _at_once(self, job: Job, data: bytes) -> None:
        """Body and dot in one call, past the transport, whose buffer is empty: what the kernel does not take is
        handed to the transport, but for the dot, which then waits for another look."""
        if not job.may_dot():
            return self._held()
        try:
            sent = os.writev(self._fd, (data, self._last))
        except OSError:  # full; or gone, which the transport will tell
            sent = 0
        if sent == len(data) + len(self._last):
            return self._await(DOT)
        if sent < len(data):
            self._write(data[sent:])
        else:
            self._last = self._last[sent - len(data) :]
        self._dot(0.0)

    def _chunks(self, body: bytes) -> bytes:
        """All but the last bytes, which wait for their turn."""
        data = chunk(body)
        first, tail = data[:-TAIL], data[-TAIL:]
        self._last = b"BDAT %d LAST\r\n%b" % (len(tail), tail)
        self._owed = bool(first)
        return b"BDAT %d\r\n%b" % (len(first), first) if first else b""

    def _dot(self, again: float) -> None:
        """The final dot, as soon as all of the body has left this process and the dot is still allowed."""
        if self._phase is not BODY or self._job is None or self._raw.is_closing():
            return  # connection_lost follows, or has been
        left = self._raw.get_write_buffer_size()
        if self._transport is not self._raw:
            left += self._transport.get_write_buffer_size()
        if left:
            if left < self._unsent:
                self._unsent, self._deadline = left, self._clock() + self._limits[BODY]
            # Under TLS nobody tells us when the TCP buffer has drained, so we look.
            if self._transport is not self._raw:
                self._loop.call_later(again, self._dot, min(max(0.005, again * 2), 0.1))
        elif self._owed and not self._pipelining:
            return  # the reply to the first chunk comes back here
        elif self._job.may_dot():
            self._write(self._last)
            self._await(DOT)
        else:
            self._held()

    def _held(self) -> None:
        self._finish("held", 0, "closed before the dot: the right to send is gone", "data", close=True)

    def resume_writing(self) -> None:
        """The transport's buffer is empty (its limit is 0)."""
        self._loop.call_soon(self._dot, 0.0)

    # -- receiving

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Cut into replies, each answers the command that waits longest."""
        if self._phase is CLOSED:
            return
        replies = self._replies.feed(bytes(self._view[:nbytes]))
        last = len(replies) - 1
        for n, (code, text) in enumerate(replies):
            self._more = n < last or self._replies.pending
            self._reply(code, text)
            if self._phase is CLOSED:
                return
        if self._replies.nonsense:
            self._broke(self._replies.nonsense)

    def _reply(self, code: int, text: str) -> None:
        phase = self._phase
        if phase is IDLE or phase is QUIT:
            self._broke("the server closed an idle connection")
        elif self._owed and (phase is BODY or phase is DOT):
            self._first_chunk(code, text)
        elif phase is DOT:
            self._ended(code, text)
        elif code == 421 or phase is BODY:  # closing, or an end before we have sent the mail
            self._note(code, text)
            self._finish(*self._noted, close=True) if self._noted else self._broke(f"{code} {text}")
        elif phase is SPOILED:
            self._spoiled()
        elif phase is DATA:
            self._go_ahead(code, text)
        else:
            self._answer(phase, code, text)

    def _answer(self, phase: Phase, code: int, text: str) -> None:
        """To RSET, MAIL or RCPT."""
        if code >= 300:
            if phase is not RSET:  # which says nothing about this mail
                self._note(code, text)
            if not self._noted:
                return self._broke(f"unexpected reply to {phase.name}: {code} {text}")
        if self._pipelining and not (self._chunking and phase is RCPT):
            self._await(FOLLOWS[phase])
        elif self._noted:
            self._dirty = phase is RCPT
            self._finish(*self._noted)
        elif phase is RSET:
            self._write(self._mail)
            self._await(MAIL)
        elif phase is MAIL:
            self._write(self._rcpt)
            self._await(RCPT)
        elif self._job and self._job.may_start():
            if self._chunking:
                self._body(self._job)
            else:
                self._write(b"DATA\r\n")
                self._await(DATA)
        else:
            self._dirty = True
            self._finish("held", 0, "stopped before DATA: no right to send just now", "data")

    def _go_ahead(self, code: int, text: str) -> None:
        """To DATA."""
        job = self._job
        if code == 354 and self._noted:
            if self._noted[3] == "mail":  # no sender, and yet it wants the mail: say nothing more
                return self._finish(*self._noted, close=True)
            self._write(b".\r\n")
            self._await(SPOILED)
        elif code == 354 and job:
            self._body(job)
        elif code < 400:
            self._broke(f"unexpected reply to DATA: {code} {text}")
        else:
            self._note(code, text)
            self._dirty = True
            self._spoiled()

    def _spoiled(self) -> None:
        """The transaction is over and its end was noted before."""
        if self._noted:
            self._finish(*self._noted)

    def _first_chunk(self, code: int, text: str) -> None:
        """To the first BDAT. The last one may be on its way already: then its reply is awaited all the same."""
        self._owed = False
        if 200 <= code < 300:
            if self._phase is BODY and not self._pipelining:
                self._dot(0.0)
        elif code < 400:
            self._broke(f"unexpected reply to BDAT: {code} {text}")
        elif self._unknown(code, text):
            self._no_bdat(code, text)
        else:
            self._note(code, text)
            if self._noted and self._phase is BODY:
                self._finish(*self._noted, close=True)

    def _unknown(self, code: int, text: str) -> bool:
        """Whether the reply to BDAT is about the command, not about the mail."""
        return self._chunking and code in NO_BDAT and (not text[:1].isdigit() or text.startswith("5.5."))

    def _no_bdat(self, code: int, text: str) -> None:
        self.on_no_bdat()
        self._finish(
            "failed", 0, f"CHUNKING is offered and BDAT is not known: {code} {text}", "data", close=True
        )

    def _ended(self, code: int, text: str) -> None:
        """To the final dot."""
        kind = code // 100
        if self._noted:  # the first chunk was refused: what is said to the last one follows from it
            self._finish(*self._noted, sent=True, close=True)
        elif kind == 3:
            self._broke(f"unexpected reply to the final dot: {code} {text}")
        else:
            if self._unknown(code, text):
                return self._no_bdat(code, text)
            state: State = "accepted" if kind == 2 else "deferred" if kind == 4 else "refused"
            self._finish(state, code, text, "dot", sent=True, close=code == 421)

    def _note(self, code: int, text: str) -> None:
        """Keep the first refusal of the transaction: what follows from it is noise."""
        if self._noted is None and code >= 400:
            state: State = "deferred" if code < 500 else "refused"
            self._noted = (state, code, text, NAMES[self._phase])

    # -- ending

    def _attempt(
        self, state: State, code: int, text: str, phase: str, sent: bool = False, local: bool = False
    ) -> Attempt:
        return Attempt(state, code, text, phase, sent, self._clock() - self._began, self.carried, local)

    def _finish(
        self, state: State, code: int, text: str, phase: str, sent: bool = False, close: bool = False
    ) -> None:
        """The mail under way has ended. What came in behind its last reply closes the connection too."""
        job, late = self._job, self._late
        self._job = self._late = None
        if close or self._more:
            self._shut()
        else:
            self._phase = IDLE
            if late:
                self.quit()
        if job or late:
            attempt = self._attempt(state, code, text, phase, sent)
            job.done(attempt) if job else late.late(attempt) if late else None

    def _broke(self, why: str) -> None:
        """The connection is of no use any more; what that means depends on how far the mail had come."""
        if self._phase is CLOSED:
            return
        if self._late:  # ended already, and there is no reply to tell
            self._late = None
        if self._phase is DOT and not self._noted:
            self._finish("lost", 0, why, "dot", sent=True, close=True)
        elif self._noted and self._job:
            self._finish(*self._noted, close=True)
        else:
            self._finish("failed", 0, why, NAMES[self._phase], close=True)

    def _shut(self) -> None:
        """Close the socket, once."""
        if self._phase is not CLOSED:
            self._phase = CLOSED
            if self._timer:
                self._timer.cancel()
            self._transport.abort()
            if self.on_close:
                self.on_close(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        detail = f": {exc}" if exc else ""
        self._broke(f"the server closed the connection in phase {self._phase.name}{detail}")

    def _tock(self) -> None:
        """The one timer: looks at the deadline now and then instead of being set anew for each command."""
        self._timer = None
        if self._phase is IDLE or self._phase is CLOSED:
            return
        left = self._deadline - self._clock()
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._tick), self._tock)
        else:
            self._broke(f"no answer in phase {self._phase.name} within {self._limits[self._phase]:g} s")


def _nothing() -> None:
    return None
