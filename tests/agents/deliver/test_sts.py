"""MTA-STS texts: every way they may be, and every way they may be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.deliver.sts import LONGEST, StsPolicy, read_policy, read_record

GOOD = "version: STSv1\r\nmode: enforce\r\nmx: mx.a.test\r\nmx: *.B.test.\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=spf1 -all", "v=STSv1;id=a1"], "a1"),
        (["v=STSv1 ; x=y ; id=a1 ; id=b2"], "a1"),
        (["v=STSv1; id=a1", "v=STSv1; id=b2"], ""),
        (["v=STSv1"], ""),
        (["v=STSv10; id=a1"], ""),
        (["id=a1; v=STSv1"], ""),
        (["v=STSv1; id=with-dash"], ""),
        (["v=STSv1; id=" + "a" * 33], ""),
        ([], ""),
    ],
)
def test_the_record(texts, found):
    assert read_record(texts) == found


def test_a_policy():
    assert read_policy(GOOD) == StsPolicy("enforce", ("mx.a.test", "*.b.test"), 604_800)
    assert read_policy(GOOD.replace("\r\n", "\n") + "\n\nnew_key: later\nmode: none\n").mode == "enforce"
    assert read_policy("version: STSv1\nmode: none\nmax_age: 0").mx == ()
    assert read_policy(GOOD.replace("604800", "9999999999")).max_age == LONGEST


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("STSv1", "STSv2"),
        ("enforce", "enforced"),
        ("604800", "-1"),
        ("604800", "a week"),
        ("604800", "٣"),
        ("mx: mx.a.test", "mx: mx a"),
        ("mx: mx.a.test", "mx: *.*.test"),
        ("mx: mx.a.test", "mx: "),
        ("max_age: 604800", ""),
        ("mode: enforce", "mode enforce"),
        ("mx: mx.a.test\r\nmx: *.B.test.\r\n", ""),
        ("mx: mx.a.test", "mx: mx.a.test\r\n" * 101),
    ],
)
def test_a_policy_that_is_none(old, new):
    assert old in GOOD
    with pytest.raises(ValueError, match=r"."):
        read_policy(GOOD.replace(old, new))


def test_which_hosts_it_names():
    """RFC 8461 section 4.1: a star is one label, the leftmost."""
    policy = read_policy(GOOD)
    assert policy.matches("MX.a.test.")
    assert policy.matches("any.b.test")
    for host in ("b.test", "x.any.b.test", "a.test", "mx.a.test.evil.test", ""):
        assert not policy.matches(host)


@given(st.text())
def test_nothing_else_is_raised(text):
    read_record([text])
    try:
        read_policy(text)
    except ValueError:
        return
