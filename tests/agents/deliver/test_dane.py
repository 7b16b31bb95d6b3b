"""DANE: which TLSA records can be used, and which chains they take."""

from __future__ import annotations

import datetime
import hashlib

import pytest
from cryptography import x509

from agents.deliver.dane import Tlsa, check, usable
from tests.support.pki import issue

NOW = datetime.datetime.now(datetime.UTC)
ROOT = issue("Root", authority=True)
MIDDLE = ROOT.issue("Middle", authority=True)
MX = MIDDLE.issue("mx.test")
OTHER = issue("Other root", authority=True)
ALONE = issue("mx.test")


def record(issued, usage=3, selector=1, matching=1) -> Tlsa:
    data = issued.spki if selector else issued.der
    if matching:
        data = hashlib.new(("sha256", "sha512")[matching - 1], data).digest()
    return Tlsa(usage, selector, matching, data)


def verdict(chain, *records, names=("mx.test",), now=NOW) -> str:
    return check(usable(records), chain, names, now)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_an_end_entity_record_takes_its_certificate_and_nothing_else(selector, matching):
    mine = record(MX, 3, selector, matching)
    assert verdict(MX.chain, mine) == ""
    assert verdict(MX.chain[:1], mine) == ""
    assert "no TLSA record" in verdict(ALONE.chain, mine)
    assert "no TLSA record" in verdict(MX.chain, record(MIDDLE, 3, selector, matching))


def test_an_end_entity_record_asks_for_no_name_no_date_and_no_authority():
    """RFC 7672 section 3.1.1."""
    expired = issue("elsewhere.test", days=(-20, -10))
    assert verdict(expired.chain, record(expired), names=()) == ""


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("anchor", [MIDDLE, ROOT])
def test_an_authority_record_takes_what_leads_to_it(anchor, selector, matching):
    mine = record(anchor, 2, selector, matching)
    assert verdict(MX.chain, mine) == ""
    assert verdict(ALONE.chain, mine)
    assert verdict(MX.chain, mine, names=("b.test", "mx.test")) == ""
    assert "subjectAltName" in verdict(MX.chain, mine, names=("bad name", "b.test"))
    assert "not valid" in verdict(MX.chain, mine, now=NOW + datetime.timedelta(days=60))


def test_an_authority_has_to_be_shown_unless_the_record_holds_it_whole():
    """RFC 7672 section 3.1.2."""
    assert "no TLSA record" in verdict(MX.chain[:2], record(ROOT, 2, 0, 1))
    assert verdict(MX.chain[:2], record(ROOT, 2, 0, 0)) == ""


def test_who_is_no_authority_can_vouch_for_nobody():
    evil = ROOT.issue("evil.test").issue("mx.test")
    assert "basicConstraints" in verdict(evil.chain, record(ROOT, 2))
    signing_not_meant = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    weak = ROOT.issue("Weak", authority=True, usage=signing_not_meant).issue("mx.test")
    assert "may not sign" in verdict(weak.chain, record(ROOT, 2))
    # The right authority in the chain helps nobody who was not signed by it.
    assert verdict([ALONE.der, MIDDLE.der, ROOT.der], record(ROOT, 2))


def test_one_good_record_is_enough():
    """While a key is changed there are records of the old one and the new one."""
    assert verdict(MX.chain, record(ALONE), record(MX)) == ""
    assert verdict(MX.chain, record(OTHER, 2), record(ROOT, 2)) == ""


@pytest.mark.parametrize(
    "bad",
    [
        Tlsa(0, 1, 1, bytes(32)),  # PKIX-TA: not for SMTP
        Tlsa(1, 1, 1, bytes(32)),  # PKIX-EE
        Tlsa(4, 1, 1, bytes(32)),
        Tlsa(3, 2, 1, bytes(32)),
        Tlsa(3, 1, 3, bytes(32)),
        Tlsa(3, 1, 1, bytes(31)),
        Tlsa(3, 1, 2, bytes(32)),
        Tlsa(3, 0, 0, b"no certificate"),
        Tlsa(2, 1, 0, b""),
    ],
)
def test_records_that_cannot_be_used(bad):
    assert usable([bad]) == ()
    assert usable([bad, record(MX)]) == (record(MX),)


def test_of_several_digests_the_strongest_counts():
    """RFC 7671 section 9: a stale SHA-512 is not overruled by a SHA-256."""
    assert usable([record(MX), record(ALONE, matching=2)]) == (record(ALONE, matching=2),)
    assert len(usable([record(MX), record(MX, matching=0), record(MX, 3, 0, 1)])) == 3


def test_a_server_without_a_readable_certificate():
    assert check([record(MX)], [], (), NOW) == "the server showed no certificate"
    assert check([record(MX)], [b"rubbish"], (), NOW) == "the server's certificate cannot be read"
    assert verdict([MX.der, b"rubbish", MIDDLE.der, ROOT.der], record(ROOT, 2)) == ""
