"""Providers and lanes: which MX hosts are whose, and which topics hold their mail.

Source: ``providers.md`` of the design ("Provider = suffix of the MX host"). A provider with a lane of
its own has the topic ``mail-lane-<provider>``; all others share SHARED hashed lanes by MX site.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

LANES = ("google", "yahoo", "outlook", "microsoft365", "apple", "orange", "gmx", "comcast")
"""Providers with a lane of their own. Part of the topology record: changing it is a migration."""

SHARED = 4
"""Number of shared lanes, ``other-0`` .. ``other-3``."""

SUFFIXES: tuple[tuple[str, str], ...] = (
    (".google.com", "google"),
    (".googlemail.com", "google"),
    (".yahoodns.net", "yahoo"),
    (".yahoo.co.jp", "yahoojapan"),
    (".olc.protection.outlook.com", "outlook"),
    (".mail.protection.outlook.com", "microsoft365"),
    (".mx.microsoft", "microsoft365"),
    (".icloud.com", "apple"),
    (".orange.fr", "orange"),
    (".gmx.net", "gmx"),
    (".web.de", "gmx"),
    (".comcast.net", "comcast"),
    (".laposte.net", "laposte"),
    (".free.fr", "free"),
    (".sfr.fr", "sfr"),
    (".kundenserver.de", "ionos"),
    (".ionos.de", "ionos"),
    (".ionos.com", "ionos"),
    (".mimecast.com", "mimecast"),
    (".pphosted.com", "proofpoint"),
    (".barracudanetworks.com", "barracuda"),
    (".iphmx.com", "ironport"),
    (".messagelabs.com", "messagelabs"),
    (".hornetsecurity.com", "hornet"),
    (".sophos.com", "sophos"),
    (".trendmicro.com", "trendmicro"),
    (".trendmicro.eu", "trendmicro"),
    (".t-online.de", "tonline"),
    (".libero.it", "libero"),
    (".yandex.net", "yandex"),
    (".yandex.ru", "yandex"),
    (".mail.ru", "mailru"),
    (".zoho.com", "zoho"),
    (".zoho.eu", "zoho"),
    (".seznam.cz", "seznam"),
    (".naver.com", "naver"),
    (".protonmail.ch", "proton"),
    (".qq.com", "qq"),
    (".netease.com", "netease"),
)

_SECOND_LEVEL = frozenset({
    "ac", "co", "com", "edu", "gen", "go", "gob", "gouv", "gov", "gr", "gv", "id", "info", "ltd",
    "me", "mil", "ne", "net", "nhs", "nic", "nom", "or", "org", "plc", "police", "sch", "web",
})  # fmt: skip
"""Labels under which countries register names: Public Suffix List, those in use under several of them."""


def provider_of(hosts: Sequence[str]) -> str:
    """The provider of a domain's MX hosts, or "" where it is nobody's.

    Every host must match (a domain with a backup MX elsewhere is not that provider's). A trailing dot
    and case do not matter.
    """
    found = ""
    for host in hosts:
        name = "." + host.rstrip(".").lower()
        mine = next((provider for suffix, provider in SUFFIXES if name.endswith(suffix)), "")
        if not mine or (found and mine != found):
            return ""
        found = mine
    return found


def site_of(hosts: Sequence[str]) -> str:
    """The MX site of a domain without a provider: the registrable tail of its first host by name.

    That is its last two labels, or three under a country's second level (``co.uk``, ``com.br``): a short
    list instead of the whole public suffix list, because a wrong guess only shares or splits a pace.
    """
    if not hosts:
        return ""
    labels = min(host.rstrip(".").lower() for host in hosts).split(".")
    second = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3 if second else -2 :])


def lane_of(provider: str, site: str) -> str:
    """The lane for a provider, or the shared lane of an MX site (or domain) where it has none."""
    if provider in LANES:
        return provider
    return f"other-{crc32((provider or site).encode()) % SHARED}"


def lane_names() -> tuple[str, ...]:
    """Every lane: the named ones, then the shared ones."""
    return LANES + tuple(f"other-{n}" for n in range(SHARED))


def lane_topic(lane: str) -> str:
    """The topic that holds a lane's mail."""
    return f"mail-lane-{lane}"
