"""Block lists of DNS: the questions of RFC 5782, and answers that are no listings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.watch.policy import BlockList, block_lists, in_order, meaning, own_points, question

ADDRESSES, DOMAINS = BlockList("bl.example"), BlockList("dbl.example", "domain")


@pytest.mark.parametrize(
    ("name", "block_list", "asked"),
    [
        ("192.0.2.99", ADDRESSES, "99.2.0.192.bl.example"),  # RFC 5782 section 2.1
        (
            "2001:db8:1:2:3:4:567:89ab",  # its section 2.4
            ADDRESSES,
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example",
        ),
        ("News.Example", DOMAINS, "news.example.dbl.example"),
        ("192.0.2.99", DOMAINS, ""),  # an address asked of a domain list is an error of the asker
        ("news.example", ADDRESSES, ""),
        ("default", ADDRESSES, ""),  # the system's choice of a source has no name
        ("default", DOMAINS, ""),
        ("a..example", DOMAINS, ""),
        ("x" * 300 + ".example", DOMAINS, ""),
    ],
)
def test_the_question(name, block_list, asked):
    assert question(name, block_list) == asked


def test_an_address_with_a_zone_is_asked_for_without_it():
    """One name that raises would keep the lists from being asked about all others."""
    assert question("fe80::1%eth0", ADDRESSES) == question("fe80::1", ADDRESSES) != ""


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("127.0.0.2",), "listed"),
        (("127.0.0.4", "127.0.0.11"), "listed"),
        (("127.0.1.2",), "listed"),
        ((), "clean"),
        (None, "unknown"),
        (("127.255.255.254",), "unknown"),  # a public resolver asked
        (("127.255.255.255",), "unknown"),  # too many questions
        (("127.255.255.252",), "unknown"),  # a mistyped name
        (("127.0.1.255",), "unknown"),
        (("203.0.113.7",), "unknown"),  # the zone lapsed: somebody answers for every name in it
        (("127.0.0.2", "203.0.113.7"), "unknown"),
        (("no address",), "unknown"),
        (("::1",), "unknown"),
    ],
)
def test_what_an_answer_means(answers, said):
    assert meaning(answers) == said


def test_a_list_is_believed_only_if_its_test_points_are_right():
    assert own_points(ADDRESSES) == ("2.0.0.127.bl.example", "1.0.0.127.bl.example")
    assert own_points(DOMAINS) == ("test.dbl.example", "invalid.dbl.example")
    assert in_order("listed", "clean")
    assert not any(
        in_order(has, has_not)
        for has in ("listed", "clean", "unknown")
        for has_not in ("listed", "clean", "unknown")
        if (has, has_not) != ("listed", "clean")
    )


def test_settings_name_lists():
    assert block_lists(["zen.example.", "domain:DBL.example", "address:bl.example", "zen.example"]) == (
        BlockList("zen.example"),
        BlockList("dbl.example", "domain"),
        BlockList("bl.example"),
    )
    for wrong in (
        "",
        "nodots",
        "host:zen.example",
        "a b.example",
        "https://bl.example",
        "x" * 250 + ".example",
    ):
        with pytest.raises(ValueError, match="no block list"):
            block_lists([wrong])


@given(st.text(max_size=60))
def test_whatever_a_name_is_the_question_is_one_or_none(name):
    for block_list in (ADDRESSES, DOMAINS):
        asked = question(name, block_list)
        assert not asked or asked.endswith(f".{block_list.zone}")
        assert asked.isascii()
