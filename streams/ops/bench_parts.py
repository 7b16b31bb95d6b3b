"""Single steps of a mail in one process: CPU microseconds each, the best of several rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import resources
from itertools import cycle

from agents.enqueue.agent import gather
from agents.enqueue.policy import Settings as EnqueueSettings
from agents.enqueue.policy import accepted
from agents.sign.agent import Sign
from agents.sign.canonical import is_wire_clean
from agents.sign.dkim import Prepared
from agents.sign.keys import new_keys
from schemas.codec import Record, encode, parse
from schemas.hosts import MailHosts, MxHost
from schemas.identity import partition_of
from schemas.reply import classify, load_rules
from schemas.reply_rules import fixtures
from schemas.send import Send
from streams.ops.bench_load import DOMAIN, DOMAINS, campaign, record, renderer, sends

PARTS = ("dkim", "render", "enqueue", "replies")
ROUNDS, ROUND = 7, 0.05


def measure(part: str, size: int) -> dict[str, float]:
    """Step -> CPU microseconds. Raises KeyError for a part that is none of PARTS."""
    steps = {"dkim": _dkim, "render": _render, "enqueue": _enqueue, "replies": _replies}[part](size)
    return {name: round(_best(step), 2) for name, step in steps.items()}


def _best(step: Callable[[], object]) -> float:
    step()
    best, times = float("inf"), 1
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(times):
            step()
        spent = time.thread_time() - begun
        best = min(best, spent / times)
        times = max(1, int(ROUND / max(best, 1e-7)))
    return best * 1e6


def _rendered(size: int) -> Record:
    found = campaign(size)
    (out,) = renderer(found).step(record(found))
    return Record("mail-rendered", 0, 0, 0, None, out.value, out.headers)


def _dkim(size: int) -> dict[str, Callable[[], object]]:
    ed25519, rsa = new_keys(DOMAIN, "r2048", "e25519")
    mail = _rendered(size)
    message = mail.value or b""
    prepared = Prepared(message, clean=is_wire_clean(message))
    agent = Sign({DOMAIN: (ed25519, rsa)}, lambda: 1.7e9)
    return {
        "canonical form and body hash": lambda: Prepared(message, clean=is_wire_clean(message)),
        "Ed25519 signature": lambda: prepared.sign(ed25519, 1_700_000_000),
        "RSA-2048 signature": lambda: prepared.sign(rsa, 1_700_000_000),
        "both, whole agent": lambda: agent.step(mail),
    }


def _render(size: int) -> dict[str, Callable[[], object]]:
    found = campaign(size)
    agent, mail = renderer(found), record(found)
    plain = Record("mail-screened", 0, 0, 0, None, mail.value, {**mail.headers, "consent": b""})
    return {
        "read the send": lambda: parse(mail.value, Send),
        "whole agent, no tracking": lambda: agent.step(plain),
        "whole agent, opens and clicks": lambda: agent.step(mail),
    }


def _enqueue(size: int) -> dict[str, Callable[[], object]]:
    settings, found = EnqueueSettings(), campaign(size)
    send = next(sends(1))
    raw = Record("mail-sends", 0, 0, 1_700_000_000_000, None, encode(send), {})
    request = gather(raw, settings, 1.7e9)
    _, mx, _ = DOMAINS[0]
    hosts = MailHosts((MxHost(10, mx),), "ok")
    return {
        "write the send": lambda: encode(send),
        "read and check the send": lambda: gather(raw, settings, 1.7e9),
        "envelope and lane": lambda: accepted(request, found, hosts, settings, 1.7e9),
        "partition": lambda: partition_of(send.to, 8),
    }


def _replies(_size: int) -> dict[str, Callable[[], object]]:
    """The fixtures of all rules in turn, as providers repeat them: with an address and an id of each mail."""
    rules = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
    said = [reply for rule in rules.rules for reply in fixtures(rule)]
    mails = [f"{reply} {n}@example.org 4F{n * 7919:010x}" for n in range(4) for reply in said]
    known, repeated = cycle(mails), cycle(mails)

    def distinct() -> object:
        rules.known.clear()
        return classify(rules, next(known))

    return {
        "read a reply, wording known": lambda: classify(rules, next(repeated)),
        "read a reply, wording never seen": distinct,
    }
