"""Whose mail host it is, and where mail waits for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.lanes import (
    LANES,
    SHARED,
    SUFFIXES,
    lane_names,
    lane_of,
    lane_topic,
    provider_of,
    site_of,
)
from streams.topics import BY_NAME

HOSTS = [
    ("aspmx.l.google.com", "google"),
    ("alt4.gmail-smtp-in.l.google.com", "google"),
    ("aspmx2.googlemail.com", "google"),
    ("smtp.google.com", "google"),
    ("mta5.am0.yahoodns.net", "yahoo"),
    ("mx1.mail.yahoo.co.jp", "yahoojapan"),
    ("outlook-com.olc.protection.outlook.com", "outlook"),
    ("example-org.mail.protection.outlook.com", "microsoft365"),
    ("example-org.a-v1.mx.microsoft", "microsoft365"),
    ("mx01.mail.icloud.com", "apple"),
    ("smtp-in.orange.fr", "orange"),
    ("smtpz4.laposte.net", "laposte"),
    ("mx1.free.fr", "free"),
    ("smtp-in.sfr.fr", "sfr"),
    ("mx00.gmx.net", "gmx"),
    ("mx-ha02.web.de", "gmx"),
    ("mx00.kundenserver.de", "ionos"),
    ("mx00.ionos.de", "ionos"),
    ("mx01.ionos.com", "ionos"),
    ("mx1.comcast.net", "comcast"),
    ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
    ("mx0a-00000000.pphosted.com", "proofpoint"),
    ("d1.ess.barracudanetworks.com", "barracuda"),
    ("esa1.example.iphmx.com", "ironport"),
    ("cluster1.eu.messagelabs.com", "messagelabs"),
    ("mx01.hornetsecurity.com", "hornet"),
    ("mx-01-eu-west-1.prod.hydra.sophos.com", "sophos"),
    ("example.in.tmes.trendmicro.com", "trendmicro"),
    ("example.in.tmes.trendmicro.eu", "trendmicro"),
    ("mx00.t-online.de", "tonline"),
    ("smtp-in.libero.it", "libero"),
    ("mx.yandex.net", "yandex"),
    ("mx.yandex.ru", "yandex"),
    ("mxs.mail.ru", "mailru"),
    ("mx.zoho.com", "zoho"),
    ("mx2.zoho.eu", "zoho"),
    ("mx1.seznam.cz", "seznam"),
    ("mx1.naver.com", "naver"),
    ("mail.protonmail.ch", "proton"),
    ("mx3.qq.com", "qq"),
    ("163mx01.mxmail.netease.com", "netease"),
]


@pytest.mark.parametrize(("host", "provider"), HOSTS)
def test_a_mail_host_is_its_providers(host: str, provider: str) -> None:
    assert provider_of([host]) == provider
    assert provider_of([host + "."]) == provider
    assert provider_of([host.upper(), host.title() + "."]) == provider


@pytest.mark.parametrize(("host", "provider"), HOSTS)
def test_a_name_that_only_ends_alike_is_nobodys(host: str, provider: str) -> None:
    suffix = next(found for found, _ in SUFFIXES if ("." + host).endswith(found))
    assert provider_of([suffix[1:]]) == provider  # the bare name is theirs
    assert provider_of(["mx.not" + suffix[1:]]) == ""
    assert provider_of([host + ".example.org"]) == ""


def test_every_suffix_has_a_case() -> None:
    for suffix, provider in SUFFIXES:
        assert suffix.startswith(".")
        assert suffix == suffix.lower()
        assert any(("." + host).endswith(suffix) and whose == provider for host, whose in HOSTS), suffix
    assert len({suffix for suffix, _ in SUFFIXES}) == len(SUFFIXES)
    for suffix, provider in SUFFIXES:  # no suffix hides another one's provider
        assert provider_of(["mx" + suffix]) == provider


@pytest.mark.parametrize(
    ("hosts", "provider"),
    [
        ([], ""),
        ([""], ""),
        (["."], ""),
        (["mx.example.org"], ""),
        (["aspmx.l.google.com", "aspmx3.googlemail.com"], "google"),
        (["a.mail.protection.outlook.com", "a.b-v1.mx.microsoft"], "microsoft365"),
        (["aspmx.l.google.com", "backup.example.org"], ""),
        (["backup.example.org", "aspmx.l.google.com"], ""),
        (["aspmx.l.google.com", "mx00.gmx.net"], ""),
        (["a.mail.protection.outlook.com", "a.olc.protection.outlook.com"], ""),
        (["mx00.kundenserver.de", "mx00.gmx.net"], ""),
    ],
)
def test_every_host_must_match(hosts: list[str], provider: str) -> None:
    assert provider_of(hosts) == provider


@pytest.mark.parametrize(
    ("hosts", "site"),
    [
        ([], ""),
        (["mx1.example.org"], "example.org"),
        (["mx1.eu.example.org."], "example.org"),
        (["MX1.Example.ORG"], "example.org"),
        (["mx2.z.example", "mx1.a.example"], "a.example"),
        (["example.org"], "example.org"),
        (["localhost"], "localhost"),
        (["mail.shop.co.uk"], "shop.co.uk"),
        (["a.b.shop.co.uk"], "shop.co.uk"),
        (["mx.firma.co.at"], "firma.co.at"),
        (["mx.loja.com.br"], "loja.com.br"),
        (["mail.school.ac.jp"], "school.ac.jp"),
        (["mx.dept.gov.au"], "dept.gov.au"),
        (["mx.trust.nhs.uk"], "trust.nhs.uk"),
        (["co.uk"], "co.uk"),
        (["shop.co.uk"], "shop.co.uk"),
        (["mx.com.example.de"], "example.de"),
        (["mx.co.example.com"], "example.com"),
        (["mx.t.co"], "t.co"),
    ],
)
def test_the_site_of_a_small_host(hosts: list[str], site: str) -> None:
    assert site_of(hosts) == site


def test_two_shops_of_one_country_do_not_share_a_pace() -> None:
    assert site_of(["mx.one.co.uk"]) != site_of(["mx.two.co.uk"])


def test_a_provider_with_a_lane_keeps_it() -> None:
    for lane in LANES:
        assert lane_of(lane, "whatever.example") == lane


def test_all_others_share_the_hashed_lanes() -> None:
    shared = {f"other-{n}" for n in range(SHARED)}
    assert {lane_of(provider, "") for _, provider in SUFFIXES if provider not in LANES} <= shared
    counts = Counter(lane_of("", f"site{n}.example") for n in range(4000))
    assert set(counts) == shared
    assert max(counts.values()) < 1.2 * min(counts.values())
    # All domains of one provider on one lane, whatever their site.
    assert len({lane_of("mimecast", f"site{n}.example") for n in range(50)}) == 1


def test_lanes_are_pinned() -> None:
    """The lane list is in the topology record, and hashed lanes hold mail: changing either is a migration."""
    assert lane_names() == (
        *("google", "yahoo", "outlook", "microsoft365", "apple", "orange", "gmx", "comcast"),
        *("other-0", "other-1", "other-2", "other-3"),
    )
    assert [lane_of("", site) for site in ("example.org", "shop.co.uk", "")] == [
        "other-3",
        "other-2",
        "other-0",
    ]


def test_every_lane_has_its_topics() -> None:
    for lane in lane_names():
        assert BY_NAME[lane_topic(lane)].partitions == 0
        assert f"{lane_topic(lane)}-now" in BY_NAME


def test_every_lane_of_a_provider_can_be_reached() -> None:
    assert set(LANES) <= {provider for _, provider in SUFFIXES}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_has_a_lane(hosts: list[str]) -> None:
    """DNS answers are a stranger's."""
    assert lane_of(provider_of(hosts), site_of(hosts)) in lane_names()
