"""What a connection to an MX host has to show before it gets a mail. Pure.

TLS policy belongs to the recipient's domain, not to the provider that its MX hosts belong to: it is decided
here, domain by domain and host by host, and connections are shared only where all of it is equal. DANE
(RFC 7672) wins over MTA-STS (RFC 8461 section 2), which wins over what our own settings ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from agents.deliver.dane import Tlsa, usable
from agents.deliver.sts import StsPolicy

TlsMode = Literal["opportunistic", "require", "verify", "dane", "off", "never"]
"""opportunistic: encrypt where offered, else send in clear. require: encrypted or not at all. verify: the
certificate must also name the MX host and chain to a known authority. dane: it must match a TLSA record.
off: in clear (after a broken STARTTLS). never: this host must not get the mail."""
Why = Literal["", "setting", "sts", "testing", "dane"]


class Requirement(NamedTuple):
    """For one MX host. ``why``: who asks for it. ``names``: those that a certificate under a DANE-TA record
    may be for; empty without such records, so that domains share connections where nothing differs."""

    mode: TlsMode = "opportunistic"
    why: Why = ""
    tlsa: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()


OPPORTUNISTIC = Requirement()
_STRENGTH: dict[str, int] = {"opportunistic": 0, "require": 1, "verify": 2}


class HostTlsa(NamedTuple):
    """What DNS says about an MX host's certificates. none: nothing that may be trusted (also where the
    answer was not validated). bogus: nobody could say, or the signatures are wrong: then no mail goes."""

    state: Literal["none", "secure", "bogus"] = "none"
    records: tuple[Tlsa, ...] = ()


def requirements(
    domain: str,
    hosts: Sequence[str],
    setting: TlsMode = "opportunistic",
    sts: StsPolicy | None = None,
    tlsa: Mapping[str, HostTlsa] | None = None,
) -> tuple[Requirement, ...]:
    """One for each of the domain's MX ``hosts``, in their order; empty where all are opportunistic.

    ``setting``: opportunistic, require or verify. ``sts``: the policy in force. ``tlsa``: by host, where the
    MX records themselves were validated.
    """
    found = tuple(_one(domain, host, setting, sts, (tlsa or {}).get(host, HostTlsa())) for host in hosts)
    return () if all(one == OPPORTUNISTIC for one in found) else found


def _one(domain: str, host: str, setting: TlsMode, sts: StsPolicy | None, tlsa: HostTlsa) -> Requirement:
    if tlsa.state == "bogus":
        return Requirement("never", "dane")
    wanted = Requirement(setting, "setting") if setting != "opportunistic" else OPPORTUNISTIC
    if tlsa.state == "secure":
        records = usable(tlsa.records)
        if records:
            names = (host, domain) if any(record.usage == 2 for record in records) else ()
            return Requirement("dane", "dane", records, names)
        # RFC 7672 section 2.2: records of which none can be used still forbid the clear text.
        wanted = _stronger(wanted, Requirement("require", "dane"))
    if sts is not None and sts.mode == "enforce":
        if not sts.matches(host):
            return Requirement("never", "sts")
        wanted = _stronger(Requirement("verify", "sts"), wanted)
    elif sts is not None and sts.mode == "testing" and wanted == OPPORTUNISTIC:
        wanted = Requirement("opportunistic", "testing")
    return wanted


def _stronger(one: Requirement, other: Requirement) -> Requirement:
    return other if _STRENGTH[other.mode] > _STRENGTH[one.mode] else one
