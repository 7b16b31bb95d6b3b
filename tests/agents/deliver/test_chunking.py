"""BDAT: the body in two chunks, the last of them a write of its own after the last look."""

from __future__ import annotations

import asyncio

import pytest

from agents.deliver.connect import Target, connect
from agents.deliver.wire import TAIL, chunk
from tests.support.smtp_mail import Letter, dial, post, settings, until
from tests.support.smtp_server import (
    CLOSE,
    EXTENSIONS,
    RESET,
    SILENCE,
    Script,
    Turns,
    Wait,
    self_signed,
    smtp_server,
)

PIPELINED = (*EXTENSIONS, "CHUNKING")
STEPWISE = tuple(name for name in PIPELINED if name != "PIPELINING")
BOTH = pytest.mark.parametrize("extensions", [PIPELINED, STEPWISE], ids=["pipelined", "stepwise"])
LONG = b"Subject: x\r\n\r\n" + b".a line that begins with a dot\r\n..\r\n.\r\n" * 400


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("body", [b"x\r\n", LONG, b"a" * TAIL, LONG * 100], ids=len)
@BOTH
async def test_what_goes_in_comes_out(extensions, body, encrypted, tmp_path):
    tls = self_signed(tmp_path)[0] if encrypted else None
    async with smtp_server(extensions=extensions, tls=tls) as server:
        session = await dial(server)
        for n in range(3):
            attempt = await post(session, Letter(rcpt=f"r{n}@b.example", body=body))
            assert (attempt.state, attempt.reply, attempt.phase) == ("accepted", "250 2.0.0 queued", "dot")
            assert attempt.dot_sent
        assert [(mail.rcpts, mail.body) for mail in server.mails] == [
            ([f"r{n}@b.example"], body if body.endswith(b"\r\n") else body + b"\r\n") for n in range(3)
        ]
        assert not any(command.startswith("DATA") for command in server.seen[0].commands)


async def test_a_long_mails_last_chunk_is_written_after_the_last_look_and_by_itself():
    long = LONG * 100
    async with smtp_server(extensions=PIPELINED) as server:
        session = await dial(server)
        seen = []

        def dot() -> bool:
            seen.append((len(server.mails), session._raw.get_write_buffer_size()))
            return True

        writes, write = [], session._write
        session._write = lambda data: (writes.append(data), write(data))
        await post(session, Letter(body=long, dot=dot))
        assert seen == [(0, 0)]
        assert server.seen[0].commands[-2:] == [f"BDAT {len(long) - TAIL}", f"BDAT {TAIL} LAST"]
        assert writes[-1] == b"BDAT %d LAST\r\n%b" % (TAIL, long[-TAIL:])
        assert b"".join(server.seen[0].reads).endswith(writes[-1])


@BOTH
async def test_without_the_right_to_end_it_there_is_no_mail(extensions):
    async with smtp_server(extensions=extensions) as server:
        attempt = await post(await dial(server), Letter(body=LONG, dot=lambda: False))
        assert (attempt.state, attempt.dot_sent) == ("held", False)
        await until(lambda: not server.open)
        assert server.mails == []
        assert not any("LAST" in command for command in server.seen[0].commands)


@BOTH
@pytest.mark.parametrize(
    ("step", "state", "reply", "phase"),
    [
        ({"rcpt": "550 5.1.1 unknown"}, "refused", "550 5.1.1 unknown", "rcpt"),
        ({"mail": "451 4.3.0 later"}, "deferred", "451 4.3.0 later", "mail"),
        ({"bdat": "552 5.3.4 too big"}, "refused", "552 5.3.4 too big", ""),
        ({"bdat": "452 4.3.1 no room"}, "deferred", "452 4.3.1 no room", ""),
        ({"dot": "554 5.7.1 spam"}, "refused", "554 5.7.1 spam", "dot"),
        ({"dot": "503 5.7.1 not you"}, "refused", "503 5.7.1 not you", "dot"),
        ({"dot": "421 4.3.2 closing"}, "deferred", "421 4.3.2 closing", "dot"),
        ({"bdat": CLOSE}, None, "", ""),
        ({"dot": CLOSE}, "lost", "", "dot"),
        ({"dot": RESET}, "lost", "", "dot"),
    ],
)
async def test_refusals_say_what_was_refused(extensions, step, state, reply, phase):
    [(name, first)] = step.items()
    step = {name: Turns(first, getattr(Script(), name))}
    async with smtp_server(extensions=extensions, **step) as server:
        session = await dial(server)
        attempt = await post(session, Letter(body=LONG))
        if state is None:  # the last chunk may have been on its way: then nobody knows
            assert attempt.state in ("failed", "lost")
            assert attempt.dot_sent == (attempt.state == "lost")
        else:
            assert attempt.state == state
            assert attempt.reply.startswith(reply)
        assert not phase or attempt.phase == phase
        if session.ready:
            assert (await post(session, Letter(body=LONG))).state == "accepted"
        assert len(server.mails) == (phase == "dot") + session.ready


@pytest.mark.parametrize("bad", ["500 5.5.1 what", "502 not implemented", "503 5.5.1 bad sequence"])
@pytest.mark.parametrize("step", ["bdat", "dot"])
@BOTH
async def test_who_offers_it_and_does_not_know_it_gets_data_next_time(extensions, step, bad):
    where = settings()
    async with smtp_server(extensions=extensions, **{step: Turns(bad, "250 2.0.0 ok")}) as server:
        target = Target("mx.test", server.host, server.port)
        attempt = await post(await connect(target, where), Letter(body=LONG))
        assert (attempt.state, attempt.phase) == ("failed", "data")
        assert bad in attempt.text
        session = await connect(target, where)
        assert (await post(session, Letter(body=LONG))).state == "accepted"
        assert "DATA" in server.seen[1].commands
        assert server.mails[-1].body == LONG


async def test_a_slow_answer_to_the_first_chunk_is_waited_for():
    async with smtp_server(extensions=STEPWISE, bdat=[Wait(0.3), "250 ok"]) as server:
        assert (await post(await dial(server), Letter(body=LONG))).state == "accepted"
        assert len(server.mails) == 1


@BOTH
async def test_no_answer_to_a_chunk(extensions):
    async with smtp_server(extensions=extensions, bdat=SILENCE) as server:
        attempt = await post(await dial(server, timeouts=0.3), Letter(body=LONG))
        assert attempt.state == ("lost" if extensions is PIPELINED else "failed")
        await until(lambda: not server.open)
        assert server.mails == []


async def test_giving_up_after_the_last_chunk_still_hears_the_reply():
    async with smtp_server(extensions=PIPELINED, dot=[Wait(0.3), "250 2.0.0 late"]) as server:
        session, letter = await dial(server), Letter(body=LONG)
        assert session.start(letter) is None
        await until(lambda: session.past_dot)
        assert session.give_up()
        assert [a.state for a in letter.attempts] == ["lost"]
        async with asyncio.timeout(5):
            await letter.answered.wait()
        assert [a.state for a in letter.lates] == ["accepted"]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b".\r\n.a\r\n", b".\r\n.a\r\n"),
        (b"a\n.\nMAIL FROM:<x@y>\n", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"),
        (b"a\r.\r", b"a\r\n.\r\n"),
        (b".\nQUIT\n", b".\r\nQUIT\r\n"),
        (b"a", b"a\r\n"),
    ],
)
def test_what_a_later_server_could_take_for_the_end_is_made_harmless(body, sent):
    assert chunk(body) == sent
