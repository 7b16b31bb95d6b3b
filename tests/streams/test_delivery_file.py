"""MAILSLUICE_DELIVERY: the operator's file in the place of the shipped one, and what it says when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.deliver.delivery import BadDelivery
from streams.app import delivery_of
from streams.settings import BadSettings, Settings, load


def test_the_shipped_file_or_the_operators(tmp_path: Path) -> None:
    assert delivery_of(Settings()).asks.mode("a.test", "google") == "require"
    mine = tmp_path / "mine.toml"
    mine.write_text('[tls]\ndefault = "verify"\n[[source]]\nname = "a"\naddress = "127.0.0.5"\n')
    found = delivery_of(load({"MAILSLUICE_DELIVERY": str(mine)}))
    assert (found.asks.mode("a.test", "google"), found.sources.names) == ("verify", ("a",))


@pytest.mark.parametrize("content", [None, b"\xff", b"[tls]\ndefault = 'x'\n"])
def test_a_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    mine = tmp_path / "mine.toml"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(BadDelivery, match=r"mine\.toml"):
        delivery_of(Settings(delivery=mine))


def test_a_resolvers_word_needs_a_resolver() -> None:
    with pytest.raises(BadSettings, match="MAILSLUICE_DNS_VALIDATES needs MAILSLUICE_DNS"):
        load({"MAILSLUICE_DNS_VALIDATES": "1"})
