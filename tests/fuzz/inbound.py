"""Mutated mail through the parsers of classify: ``make fuzz`` or ``python -m tests.fuzz.inbound --count 1000000``.

Starts from the corpora; every input derives from the seed and its number, so that what fails can be made again.
Nothing may raise, and nothing may take longer than LONGEST; what does is kept in a directory.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from random import Random

import orjson

from agents.classify.dsn import MOST_RECIPIENTS
from agents.classify.tokens import named_mail, quoted_owner
from schemas.inbound import LARGEST
from schemas.reply import Rules, load_rules
from schemas.token import Tokens
from streams.ops.returned_mail import judged
from tests.agents.classify.corpus import CORPUS
from tests.agents.classify.held_out import HELD_OUT

LONGEST = 0.1
"""Seconds of processor time that a message may take."""
SEEDS = [one.raw for one in (*CORPUS, *HELD_OUT)]
_TOKENS = Tokens([b"a secret of the fuzzer, long enough"])
_WORDS = [
    b"Content-Type: multipart/mixed; boundary=", b"\n--=_ab/12.34\n", b"\r\n\r\n", b"\n\n", b"=?utf-8?b?", b"?=", b"=?iso-2022-jp?q?", b"charset=", b"charset=utf-7",
    b"charset=utf-16", b"charset=hz-gb-2312", b"Content-Transfer-Encoding: base64\n", b"Content-Type: message/rfc822\n\n", b"Content-Type: text/html\n\n", b"550 5.1.1 ", b"5.7.1", b"<a@b.example>",
    b"@", b"<", b">", b"<<<<<<<<<<", b"&#x110000;", b"&amp;&amp;", b"\x00", b"\xff\xfe", b"\x1b$B", b"\x1b(B", b"Final-Recipient: rfc822; ", b"Original-Recipient: utf-8; \\x{D800}",
    b"Action: failed\n", b"Status: 5.1.1\n", b"Diagnostic-Code: smtp; ", b"X-Failed-Recipients: ", b"From: mailer-daemon@x\n", b"Subject: Undeliverable\n", b"Feedback-Type: abuse\n",
    b"Content-Type: message/feedback-report\n\n", b"Content-Type: message/delivery-status\n\n", b"Date: Mon, 99 Jun 99999999 99:99:99 +9999\n", b"-----", b"*****", b"=====", b"=\n", b"\t", b" ", b"\r",
]  # fmt: skip


@dataclass
class Found:
    """What a run showed; times in seconds of processor time."""

    count: int = 0
    raised: list[tuple[int, str]] = field(default_factory=list)
    slow: list[tuple[int, float]] = field(default_factory=list)
    longest: float = 0.0
    spent: float = 0.0


def inputs(seed: int, begin: int = 0) -> Iterator[bytes]:
    """Mutated mails without end, from number ``begin`` on."""
    number = begin
    while True:
        yield mutated(Random(f"{seed}/{number}"))
        number += 1


def mutated(chance: Random) -> bytes:
    """One input: a mail of the corpus, changed in one to eight places."""
    raw = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        raw = bytearray(_MUTATIONS[chance.randrange(len(_MUTATIONS))](raw, chance))[: LARGEST + 1000]
    return bytes(raw)


def _flip(raw: bytearray, chance: Random) -> bytes:
    for _ in range(chance.randrange(1, 8)):
        if raw:
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return raw


def _cut(raw: bytearray, chance: Random) -> bytes:
    begin, end = _span(raw, chance)
    return raw[:begin] + raw[end:]


def _end(raw: bytearray, chance: Random) -> bytes:
    return raw[: chance.randrange(len(raw) + 1)]


def _insert(raw: bytearray, chance: Random) -> bytes:
    at = chance.randrange(len(raw) + 1)
    return raw[:at] + chance.choice(_WORDS) + raw[at:]


def _repeat(raw: bytearray, chance: Random) -> bytes:
    begin, end = _span(raw, chance)
    piece = raw[begin : min(end, begin + 200)] or b"a"
    times = chance.choice((2, 5, 50, 500, 3000 if chance.random() < 0.05 else 20))
    return raw[:begin] + piece * times + raw[begin:]


def _splice(raw: bytearray, chance: Random) -> bytes:
    other = chance.choice(SEEDS)
    return raw[: chance.randrange(len(raw) + 1)] + other[chance.randrange(len(other) + 1) :]


def _shuffle(raw: bytearray, chance: Random) -> bytes:
    lines = bytes(raw).split(b"\n")
    for _ in range(3):
        one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
    return b"\n".join(lines)


def _nest(raw: bytearray, chance: Random) -> bytes:
    body = bytes(raw)
    for level in range(chance.choice((1, 2, 9, 30))):
        if chance.random() < 0.5:
            body = b"Content-Type: message/rfc822\n\n" + body
        else:
            body = b"Content-Type: multipart/mixed; boundary=n%d\n\n--n%d\n%b\n--n%d--\n" % (
                level, level, body, level,
            )  # fmt: skip
    return body


def _encode(raw: bytearray, chance: Random) -> bytes:
    return b"From: mailer-daemon@x\nSubject: failure notice\nContent-Type: %b\nContent-Transfer-Encoding: base64\n\n%b" % (
        chance.choice((b"text/plain", b"text/html", b"message/delivery-status", b"message/rfc822")), b64encode(raw),
    )  # fmt: skip


def _ends(raw: bytearray, chance: Random) -> bytes:
    new = chance.choice((b"\r\n", b"\r", b"\n\n"))
    return bytes(raw).replace(b"\n", new)


def _span(raw: bytearray, chance: Random) -> tuple[int, int]:
    begin = chance.randrange(len(raw) + 1)
    return begin, min(len(raw), begin + int(chance.expovariate(1 / 60)))


_MUTATIONS = (_flip, _cut, _end, _insert, _insert, _repeat, _splice, _shuffle, _nest, _encode, _ends)


def run(rules: Rules, raw: bytes) -> None:
    """What the pipeline and the command do with a message. Raises AssertionError where a bound does not hold."""
    found = judged(rules, raw)
    orjson.dumps(found)
    assert found["kind"] in ("bounce", "delayed", "complaint", "unsubscribe", "auto_reply", "none")
    assert len(found["recipients"]) <= MOST_RECIPIENTS
    for who in found["recipients"]:
        assert len(who["address"]) <= 500, "an address is bounded"
        assert len(who["reply"]) <= 2100, "a reply is bounded"
    named = named_mail(raw, _TOKENS)
    quoted_owner(raw, named[0] if named else "", _TOKENS)


def fuzz(count: int, seed: int, begin: int = 0, keep: Path | None = None) -> Found:
    """Run ``count`` inputs. What raises or is slow is kept in ``keep`` as ``<number>.eml``."""
    rules, found = read_rules(), Found()
    for number, raw in enumerate(inputs(seed, begin), begin):
        if found.count == count or _stopped:
            return found
        start = time.process_time()
        try:
            run(rules, raw)
        except Exception as error:  # whatever it is, it is a fault of ours
            found.raised.append((number, repr(error)))
        took = time.process_time() - start
        found.count += 1
        found.spent += took
        found.longest = max(found.longest, took)
        if took > LONGEST:
            found.slow.append((number, took))
        if keep and (took > LONGEST or (found.raised and found.raised[-1][0] == number)):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}.eml").write_bytes(raw)
        if sys.stderr.isatty() and found.count % 1000 == 0:
            print(f"\r{found.count:,}", end="", file=sys.stderr)
    return found


_stopped: list[int] = []


def read_rules() -> Rules:
    """The reply rules that are shipped."""
    return load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))


def main() -> int:
    """The command. Returns 1 where anything raised or took too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.inbound", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--begin", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path(".cache/fuzz"))
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a run that is ended tells what it has seen
        signal.signal(number, lambda received, _frame: _stopped.append(received))
    found = fuzz(options.count, options.seed, options.begin, options.keep)
    print(
        f"{found.count:,} inputs, {len(found.raised)} raised, {len(found.slow)} above {LONGEST * 1000:.0f} ms, "
        f"longest {found.longest * 1000:.1f} ms, {found.count / max(found.spent, 1e-9):,.0f}/s of processor time"
    )
    for number, why in found.raised[:20]:
        print(f"input {number} of seed {options.seed}: {why} ({options.keep}/{number}.eml)")
    for number, took in found.slow[:20]:
        print(f"input {number} of seed {options.seed}: {took * 1000:.0f} ms ({options.keep}/{number}.eml)")
    return 1 if found.raised or found.slow else 0


if __name__ == "__main__":
    sys.exit(main())
