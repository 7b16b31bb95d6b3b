"""A session against servers that behave, misbehave, close, lie and never answer."""

import asyncio
import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.smtp_mail import BODY, Letter, dial, post, until
from tests.support.smtp_server import (
    CLOSE,
    EXTENSIONS,
    RESET,
    SILENCE,
    Endless,
    Turns,
    Wait,
    self_signed,
    smtp_server,
)

PLAIN = tuple(name for name in EXTENSIONS if name != "PIPELINING")
SHORT = 0.2
BOTH = pytest.mark.parametrize("extensions", [EXTENSIONS, PLAIN], ids=["pipelined", "stepwise"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["clear", "tls"])
def tls(request, certificate):
    return certificate[0] if request.param == "tls" else None


@BOTH
async def test_mails_follow_each_other_on_one_connection(extensions, tls):
    async with smtp_server(extensions=extensions, tls=tls) as server:
        session = await dial(server)
        for n in range(3):
            attempt = await post(session, Letter(rcpt=f"r{n}@b.example", body=b"%d\r\n" % n))
            assert (attempt.state, attempt.reply, attempt.phase) == ("accepted", "250 2.0.0 queued", "dot")
            assert attempt.dot_sent
            assert attempt.carried == n + 1
        assert [(mail.sender, mail.rcpts, mail.body) for mail in server.mails] == [
            ("from@a.example", [f"r{n}@b.example"], b"%d\r\n" % n) for n in range(3)
        ]
        assert bool(session.facts.tls) == bool(tls) == server.seen[0].tls
        session.quit()
        await until(lambda: session.closed)
        assert server.seen[0].commands[-1] == "QUIT"


async def test_mail_rcpt_and_data_are_one_write():
    async with smtp_server() as server:
        await post(await dial(server))
        _ehlo, envelope, *rest = server.seen[0].reads
        size = len(BODY)
        assert envelope == (
            b"MAIL FROM:<from@a.example> SIZE=%d\r\nRCPT TO:<to@b.example>\r\nDATA\r\n" % size
        )
        assert b"".join(rest) == BODY + b".\r\n"


async def test_without_pipelining_each_command_waits_for_its_answer():
    async with smtp_server(extensions=PLAIN) as server:
        await post(await dial(server))
        reads = server.seen[0].reads
        assert [read.split(b" ")[0].strip() for read in reads[1:4]] == [b"MAIL", b"RCPT", b"DATA"]


async def test_replies_may_come_byte_by_byte_and_in_many_lines(tls):
    many = "250-2.1.5 one\n250-2.1.5 two\n250 2.1.5 three"
    async with smtp_server(split=1, rcpt=many, dot=many, tls=tls) as server:
        attempt = await post(await dial(server))
        assert attempt.reply == "250 2.1.5 one 2.1.5 two 2.1.5 three"


@BOTH
@pytest.mark.parametrize(
    ("step", "phase", "state", "code"),
    [
        ({"mail": "550 5.7.1 no"}, "mail", "refused", 550),
        ({"mail": "451 4.3.0 later"}, "mail", "deferred", 451),
        ({"rcpt": "550-5.1.1 who\n550 5.1.1 is that"}, "rcpt", "refused", 550),
        ({"rcpt": "450 4.2.1 slow"}, "rcpt", "deferred", 450),
        ({"data": "554 5.7.1 no"}, "data", "refused", 554),
        ({"data": "451 4.7.1 grey"}, "data", "deferred", 451),
        ({"dot": "552 5.3.4 big"}, "dot", "refused", 552),
        ({"dot": "451 4.7.0 later"}, "dot", "deferred", 451),
    ],
)
async def test_a_refusal_is_an_outcome_and_the_connection_goes_on(extensions, step, phase, state, code):
    [(name, reply)] = step.items()
    steps = {name: Turns(reply, {"data": "354 go"}.get(name, "250 ok"))}
    async with smtp_server(extensions=extensions, **steps) as server:
        session = await dial(server)
        attempt = await post(session)
        assert (attempt.state, attempt.code, attempt.phase) == (state, code, phase)
        assert attempt.dot_sent == (phase == "dot")
        assert session.ready
        again = await post(session, Letter(rcpt="next@b.example"))
        assert (again.state, again.carried) == ("accepted", 2)
        assert server.mails[-1].rcpts == ["next@b.example"]
        assert len(server.seen) == 1


async def test_when_data_is_answered_354_after_a_refused_recipient_a_lone_dot_follows():
    """RFC 2920 3.1: the transaction is ended without a body, and its answer means nothing."""
    async with smtp_server(
        rcpt=Turns("550 5.1.1 no", "250 ok"), dot=Turns("250 took nothing", "250 ok")
    ) as server:
        session = await dial(server)
        attempt = await post(session)
        assert (attempt.state, attempt.phase, attempt.dot_sent) == ("refused", "rcpt", False)
        assert (server.mails[0].rcpts, server.mails[0].body) == ([], b"")
        assert (await post(session)).state == "accepted"
        assert server.mails[1].body == BODY


async def test_when_the_sender_was_refused_nothing_more_is_said():
    async with smtp_server(mail="550 5.7.1 no", strict=False) as server:
        session = await dial(server)
        attempt = await post(session)
        assert (attempt.state, attempt.phase) == ("refused", "mail")
        assert session.closed
        assert server.mails == []


@BOTH
@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize(
    "end", [CLOSE, RESET, SILENCE, b"\0\xff rubbish\r\n", Endless(b"250-x\r\n"), Endless(b"x" * 999)]
)
async def test_a_broken_phase_is_failed_before_the_dot_and_lost_after_it(extensions, phase, end):
    async with smtp_server(extensions=extensions, **{phase: end}) as server:
        session = await dial(server, timeouts=SHORT if end is SILENCE else 10.0)
        letter = Letter()
        attempt = await post(session, letter)
        assert attempt.state == ("lost" if phase == "dot" else "failed")
        assert attempt.dot_sent == (phase == "dot")
        assert (attempt.code, session.closed) == (0, True)
        assert attempt.text
        if end is SILENCE:
            assert attempt.phase == phase
        assert (await post(session, Letter())).state == "failed"
        await asyncio.sleep(0)
        assert len(letter.attempts) == 1


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
async def test_421_ends_the_connection_and_defers(phase):
    async with smtp_server(**{phase: ["421 4.7.0 too fast", CLOSE]}) as server:
        session = await dial(server)
        attempt = await post(session)
        assert (attempt.state, attempt.reply, attempt.phase) == ("deferred", "421 4.7.0 too fast", phase)
        assert session.closed


async def test_421_to_the_dot_defers_and_ends_the_connection():
    async with smtp_server(dot="421 4.7.0 not now") as server:
        session = await dial(server)
        assert (await post(session)).state == "deferred"
        assert session.closed


@pytest.mark.parametrize(
    ("phase", "reply", "state"),
    [("mail", "354 go on", "failed"), ("data", "250 fine", "failed"), ("dot", "354 more", "lost")],
)
async def test_a_reply_of_the_wrong_kind_ends_the_connection(phase, reply, state):
    async with smtp_server(**{phase: reply}) as server:
        session = await dial(server)
        attempt = await post(session)
        assert (attempt.state, attempt.code) == (state, 0)
        assert reply in attempt.text
        assert session.closed


async def test_an_idle_connection_that_the_server_closes_is_not_ready():
    async with smtp_server(dot=["250 ok", Wait(0.05), "421 4.4.2 idle too long", CLOSE]) as server:
        session = await dial(server)
        closed = []
        session.on_close = closed.append
        assert (await post(session)).state == "accepted"
        await until(lambda: closed)
        assert not session.ready
        assert (await post(session)).state == "failed"
        assert closed == [session]


async def test_what_comes_with_the_last_reply_closes_the_connection_and_the_mail_is_accepted():
    async with smtp_server(dot=b"250 2.0.0 ok\r\n421 4.7.0 enough\r\n") as server:
        session = await dial(server)
        assert (await post(session)).state == "accepted"
        assert session.closed


async def test_an_early_end_while_the_body_is_sent_is_the_outcome():
    async with smtp_server(during=(100_000, ["552 5.3.4 too big", CLOSE])) as server:
        session = await dial(server)
        attempt = await post(session, Letter(body=b"x" * 998 + b"\r\n" * 20_000 + b"y" * 30_000_000))
        assert (attempt.state, attempt.dot_sent) in (("refused", False), ("failed", False))
        assert session.closed


async def test_nothing_is_written_when_the_start_is_not_allowed():
    async with smtp_server() as server:
        session = await dial(server)
        attempt = await post(session, Letter(start=lambda: False))
        assert (attempt.state, attempt.carried) == ("held", 0)
        assert session.ready
        assert (await post(session)).state == "accepted"
        assert [line.split(" ")[0] for line in server.seen[0].commands] == ["EHLO", "MAIL", "RCPT", "DATA"]


async def test_stepwise_the_right_is_asked_for_again_before_data():
    async with smtp_server(extensions=PLAIN) as server:
        session = await dial(server)
        answers = iter([True, False])
        assert (await post(session, Letter(start=lambda: next(answers)))).state == "held"
        assert (await post(session)).state == "accepted"
        verbs = [line.split(" ")[0] for line in server.seen[0].commands]
        assert verbs == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]


async def test_the_dot_is_held_and_the_server_has_no_mail(tls):
    async with smtp_server(tls=tls) as server:
        session = await dial(server)
        attempt = await post(session, Letter(dot=lambda: False))
        assert (attempt.state, attempt.dot_sent, attempt.phase) == ("held", False, "data")
        assert session.closed
        await until(lambda: server.open == 0)
        assert server.mails == []


async def test_the_dot_waits_until_all_of_the_body_has_left(tls):
    """A reader that is slow: the right to the dot is asked for when the body is gone, not before."""
    asked = []
    async with smtp_server(slow=(60_000, 0.001), tls=tls) as server:
        session = await dial(server)
        body = b"z" * 76 + b"\r\n"
        letter = Letter(body=body * 100_000)
        letter.dot = lambda: asked.append(len(b"".join(server.seen[0].reads))) or True
        attempt = await post(session, letter)
        assert attempt.state == "accepted"
        assert server.mails[0].body == letter.body
        # What the kernels hold (some MB) may be under way; the rest was read before the dot.
        assert len(asked) == 1
        assert asked[0] > 1_000_000


@pytest.mark.parametrize(
    ("extensions", "whole"),
    [(("PIPELINING",), 1003), (("PIPELINING", "CHUNKING"), 1024)],
    ids=["data", "bdat"],
)
@pytest.mark.parametrize("room", [0, 1, 500, 999, 1000, 1001, 1002, 1003, 1010, 1023, 1024, 10_000])
async def test_what_the_kernel_does_not_take_at_once_follows_and_the_dot_after_another_look(
    extensions, whole, room, monkeypatch
):
    looks = []
    async with smtp_server(extensions=extensions) as server:
        session = await dial(server)

        def narrow(fd: int, parts: Sequence[bytes]) -> int:
            whole = b"".join(parts)
            if not room:
                raise BlockingIOError
            return os.write(fd, whole[:room])

        monkeypatch.setattr("agents.deliver.smtp.os.writev", narrow)
        for _ in range(2):
            looks.clear()
            letter = Letter(body=b"y" * 998 + b"\r\n")
            letter.dot = lambda: looks.append(len(server.mails)) or True
            attempt = await post(session, letter)
            assert (attempt.state, server.mails[-1].body) == ("accepted", letter.body)
            assert looks == [len(server.mails) - 1] * (1 if room >= whole else 2)
        answers = iter((True, False))
        letter = Letter(body=b"y" * 998 + b"\r\n", dot=lambda: next(answers))
        attempt = await post(session, letter)
        await until(lambda: session.closed or len(server.mails) == 3)
        assert (attempt.state, len(server.mails)) == (("held", 2) if room < whole else ("accepted", 3))


@BOTH
async def test_without_the_right_to_the_dot_nothing_of_the_body_leaves(extensions):
    async with smtp_server(extensions=extensions) as server:
        session = await dial(server)
        attempt = await post(session, Letter(body=b"secret\r\n", dot=lambda: False))
        assert (attempt.state, attempt.dot_sent) == ("held", False)
        await until(lambda: not server.open)
        assert b"secret" not in b"".join(server.seen[0].reads)


async def test_a_reader_that_stops_is_timed_out_by_progress(tls):
    async with smtp_server(slow=(1000, 30.0), tls=tls) as server:
        session = await dial(server, timeouts=SHORT)
        attempt = await post(session, Letter(body=b"z" * 30_000_000 + b"\r\n"))
        assert (attempt.state, attempt.phase, attempt.dot_sent) == ("failed", "data", False)
        assert "0.2 s" in attempt.text


@BOTH
@pytest.mark.parametrize(
    ("rset", "state"), [("500 5.5.1 what", "failed"), (CLOSE, "failed"), ("421 4.7.0 enough", "deferred")]
)
async def test_a_broken_reset_says_nothing_about_the_next_mail(extensions, rset, state):
    async with smtp_server(
        extensions=extensions, rcpt=Turns("550 5.1.1 no", "250 ok"), data="503 5.5.1 no recipient", rset=rset
    ) as server:
        session = await dial(server)
        assert (await post(session)).state == "refused"
        attempt = await post(session)
        assert (attempt.state, attempt.phase, attempt.carried) == (state, "mail", 2)
        assert session.closed


@pytest.mark.parametrize(("silent", "state"), [("rcpt", "failed"), ("dot", "lost")])
async def test_close_ends_the_mail_under_way(silent, state):
    async with smtp_server(**{silent: SILENCE}) as server:
        session = await dial(server)
        letter = Letter()
        session.start(letter)
        await until(lambda: server.mails if silent == "dot" else len(server.seen[0].commands) > 2)
        session.close()
        session.close()
        assert [attempt.state for attempt in letter.attempts] == [state]
        assert session.closed


async def test_give_up_before_the_dot_closes_and_holds():
    async with smtp_server(data=[Wait(1), "354 go"]) as server:
        session = await dial(server)
        letter = Letter()
        assert session.start(letter) is None
        await until(lambda: len(server.seen[0].commands) == 4)
        assert session.give_up() is False
        assert [attempt.state for attempt in letter.attempts] == ["held"]
        assert session.closed


@pytest.mark.parametrize(("reply", "state"), [("250 2.0.0 ok", "accepted"), ("550 5.7.1 spam", "refused")])
async def test_give_up_after_the_dot_says_lost_and_tells_the_late_reply(reply, state):
    async with smtp_server(dot=[Wait(0.1), reply]) as server:
        session = await dial(server)
        letter = Letter()
        assert session.start(letter) is None
        await until(lambda: server.mails)
        assert session.give_up() is True
        assert [(attempt.state, attempt.dot_sent) for attempt in letter.attempts] == [("lost", True)]
        with pytest.raises(RuntimeError):
            session.start(Letter())
        await until(lambda: letter.lates)
        assert (letter.lates[0].state, letter.lates[0].reply) == (state, reply)
        await until(lambda: session.closed)
        assert len(letter.attempts) == 1


async def test_give_up_after_the_dot_and_no_reply_comes():
    async with smtp_server(dot=SILENCE) as server:
        session = await dial(server, timeouts=SHORT)
        letter = Letter()
        session.start(letter)
        await until(lambda: server.mails)
        assert session.give_up() is True
        await until(lambda: session.closed)
        assert (len(letter.attempts), letter.lates) == (1, [])


async def test_give_up_on_an_idle_session_says_quit():
    async with smtp_server() as server:
        session = await dial(server)
        assert session.give_up() is False
        await until(lambda: session.closed)
        assert server.seen[0].commands[-1] == "QUIT"


async def test_a_server_that_ignores_quit_is_left_soon():
    async with smtp_server(quit=SILENCE) as server:
        session = await dial(server, timeouts=SHORT)
        session.quit()
        await until(lambda: session.closed)


async def test_the_next_mail_may_start_from_done():
    async with smtp_server() as server:
        session = await dial(server)
        last = Letter(rcpt="last@b.example")
        first = Letter(after=lambda attempt: session.start(last))
        await post(session, first)
        await asyncio.wait_for(last.ended.wait(), 2)
        assert [mail.rcpts[0] for mail in server.mails] == ["to@b.example", "last@b.example"]


async def test_a_busy_session_takes_no_second_mail():
    async with smtp_server(mail=[Wait(0.05), "250 ok"]) as server:
        session = await dial(server)
        letter = Letter()
        session.start(letter)
        with pytest.raises(RuntimeError):
            session.start(Letter())
        await asyncio.wait_for(letter.ended.wait(), 2)


async def test_a_mail_that_does_not_fit_the_server_is_refused_without_a_word():
    async with smtp_server(extensions=("PIPELINING", "SIZE 10")) as server:
        session = await dial(server)
        attempt = await post(session, Letter(body=b"0123456789\r\n"))
        assert (attempt.state, attempt.code, attempt.local) == ("refused", 552, True)
        assert (await post(session, Letter(rcpt="a@b\r\nDATA"))).code == 553
        assert (await post(session, Letter(body="é\r\n".encode()))).code == 554
        assert (await post(session, Letter(body=b"fits\r\n"))).state == "accepted"
        assert len(server.mails) == 1


lines = st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), max_size=30)
dotted = st.lists(st.sampled_from([b".", b"..", b"", b".a", b"QUIT", b"\xe9"]), max_size=30)


@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(lines | dotted, min_size=1, max_size=4))
def test_the_server_gets_the_very_bytes(bodies):
    async def run():
        async with smtp_server() as server:
            session = await dial(server)
            sent = [b"".join(line + b"\r\n" for line in body or [b""]) for body in bodies]
            for body in sent:
                assert (await post(session, Letter(body=body))).state == "accepted"
            assert [mail.body for mail in server.mails] == sent
            assert len(server.seen) == 1

    asyncio.run(run())


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"421 x\r\n", b"250-", b"\r\n"]),
        )
    ).map(b"".join)
)
def test_whatever_a_server_says_a_mail_ends_once(noise):
    """Any bytes in answer to everything, then the end: one Attempt, and never accepted without a dot."""

    async def run():
        async with smtp_server(mail=[noise, Wait(0.01), CLOSE]) as server:
            session = await dial(server)
            letter = Letter()
            attempt = await post(session, letter)
            assert len(letter.attempts) == 1
            assert attempt.state in ("failed", "lost", "refused", "deferred", "accepted", "held")
            assert attempt.dot_sent or attempt.state not in ("accepted", "lost")
            await until(lambda: session.closed)

    asyncio.run(run())
