"""Every mail of the corpora is what it is, and nobody is suppressed for what is not about them."""

from __future__ import annotations

from importlib import resources

import pytest

from schemas.reply import load_rules
from streams.ops.returned_mail import judged
from tests.agents.classify.corpus import CORPUS
from tests.agents.classify.held_out import HELD_OUT
from tests.support.returned import Mail

RULES = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
ALL = [*CORPUS, *HELD_OUT]


def test_the_corpus_is_as_large_as_it_should_be():
    assert len({one.name for one in ALL}) == len(ALL) >= 250


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_what_it_is_and_what_to_do(one: Mail):
    found = judged(RULES, one.raw)
    assert found["kind"] == one.kind
    assert {(who["address"], who["action"]) for who in found["recipients"]} == set(one.want)


@pytest.mark.parametrize("one", [one for one in ALL if one.kind == "bounce"], ids=lambda one: one.name)
def test_a_bounce_that_somebody_forwards_is_none(one: Mail):
    forwarded = (
        b"From: Bob <bob@example.com>\nTo: help@shop.example\nSubject: Fwd: look at this\nMIME-Version: 1.0\n"
    )
    forwarded += b"Content-Type: multipart/mixed; boundary=fwd\n\n--fwd\n\nIs this for you? It could not be delivered.\n"
    forwarded += b"--fwd\nContent-Type: message/rfc822\n\n" + one.raw + b"\n--fwd--\n"
    assert judged(RULES, forwarded)["kind"] == "none"
