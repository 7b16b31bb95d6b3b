"""MAILSLUICE_DELIVERY: the operator's file in the place of the shipped one, and what it says when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.deliver.delivery import BadDelivery
from streams.delivery_file import DeliveryFile, delivery_of
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


def test_a_changed_file_is_in_force_and_a_faulty_one_is_not(tmp_path: Path, caplog) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[[source]]\nname = "a"\naddress = "127.0.0.5"\n')
    file = DeliveryFile(load({"MAILSLUICE_DELIVERY": str(mine)}))
    sources = file.sources
    assert not file.changed()
    mine.write_text(
        '[tls]\ndefault = "verify"\n[[source]]\nname = "b"\naddress = "127.0.0.6"\nhelo = "b.mail.test"\n'
        '[[pool]]\nname = "p"\nsources = ["b"]\n'
    )
    assert file.changed()
    assert not file.changed()
    assert file.asks.mode("a.test", "") == "verify"
    assert file.sources is sources
    assert (sources.names, sources.pools, sources.of("b").helo) == (("b",), 1, "b.mail.test")
    assert sources.choices("marketing", "t", "") == (("b",), ())
    assert sources.of("a").address == "127.0.0.5"  # mail may be on its way from there
    caplog.clear()
    mine.write_text("[tls]\ndefault = 'x'\n")
    assert not file.changed()
    assert "the old one stays" in caplog.text
    assert (sources.names, file.asks.mode("a.test", "")) == (("b",), "verify")
    mine.unlink()
    assert not file.changed()
    assert sources.names == ("b",)


def test_addresses_of_the_environment_stand_where_the_file_names_none(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("")
    file = DeliveryFile(load({"MAILSLUICE_DELIVERY": str(mine), "MAILSLUICE_DELIVER_SOURCES": "127.0.0.7"}))
    assert file.sources.names == ("127.0.0.7",)
    mine.write_text('[[source]]\naddress = "127.0.0.8"\n')
    assert file.changed()
    assert file.sources.names == ("127.0.0.8",)
