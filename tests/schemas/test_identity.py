"""Identities and partitions are contracts: a change of one bit would send mail twice."""

from __future__ import annotations

from collections import Counter

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.identity import event_id, mail_id, murmur2, origin_of, partition_of

JAVA = {
    # The vectors of the Java client's own test (UtilsTest.testMurmur2).
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}

PARTITIONS_OF_8 = [6, 1, 5, 1]
PARTITIONS_OF_64 = [54, 17, 29, 25]
KEYED = "3c3a46996430a322ea7d722a1f5aae9c"
UNKEYED = "002eaba8adcbc48dfc8aac7e1ab5e558"
DEFERRED = "6b05f78527c8a434993194f9a9a9fe3b"


@pytest.mark.parametrize("data", JAVA)
def test_murmur2_is_the_java_clients(data: bytes) -> None:
    assert murmur2(data) == JAVA[data] & 0xFFFFFFFF


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_murmur2_is_the_python_clients(data: bytes) -> None:
    assert murmur2(data) == murmur2_of_aiokafka(data) & 0xFFFFFFFF


def test_partitions_are_pinned() -> None:
    """Literal answers: whoever changes them must migrate every topic."""
    addresses = ("anna@example.org", "li.wei+shop@example.org", "info@xn--bcher-kva.example", "")
    assert [partition_of(address, 8) for address in addresses] == PARTITIONS_OF_8
    assert [partition_of(address, 64) for address in addresses] == PARTITIONS_OF_64


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60).filter(lambda text: text.isprintable()), st.integers(1, 10_000))
def test_a_partition_exists(address: str, partitions: int) -> None:
    assert 0 <= partition_of(address, partitions) < partitions


def test_recipients_spread_evenly() -> None:
    counts = Counter(partition_of(f"user{n}@example.org", 16) for n in range(16_000))
    assert len(counts) == 16
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_ids_are_pinned() -> None:
    origin = origin_of("mail-sends", 3, 1702, 1_790_000_000_000)
    assert origin == "mail-sends/3/1702/1790000000000/0"
    assert mail_id("acme", "k1", "anna@example.org", origin) == KEYED
    assert mail_id("acme", None, "anna@example.org", origin) == UNKEYED
    assert event_id(KEYED, "deferred", "2") == DEFERRED


def test_a_key_decides_where_there_is_one() -> None:
    assert mail_id("t", "k", "a@x.test", "o/1") == mail_id("t", "k", "a@x.test", "o/2")
    assert mail_id("t", "", "a@x.test", "o/1") == mail_id("t", None, "b@x.test", "o/1")
    assert mail_id("t", None, "a@x.test", "o/1") != mail_id("t", None, "a@x.test", "o/2")


def test_each_part_of_an_identity_counts() -> None:
    one = ("t", "k", "a@x.test")
    for other in (("u", "k", "a@x.test"), ("t", "l", "a@x.test"), ("t", "k", "b@x.test")):
        assert mail_id(*one, "o") != mail_id(*other, "o")
    assert origin_of("t", 1, 2, 3, 4) != origin_of("t", 1, 2, 3, 5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=4),
    st.lists(st.text(max_size=6), min_size=1, max_size=4),
)
def test_parts_do_not_run_together(one: list[str], other: list[str]) -> None:
    assert (event_id("m", *one) == event_id("m", *other)) is (one == other)


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_key_is_no_origin(text: str, recipient: str) -> None:
    """Nobody can choose a key that collides with somebody's origin."""
    assert mail_id("t", text or "k", recipient, text) != mail_id("t", None, recipient, text)
