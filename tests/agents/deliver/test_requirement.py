"""What domains require: DANE before MTA-STS before our settings, host by host."""

from __future__ import annotations

import pytest

from agents.deliver.dane import Tlsa
from agents.deliver.requirement import HostTlsa, Requirement, requirements
from agents.deliver.sts import StsPolicy

ENFORCE = StsPolicy("enforce", ("mx1.test", "mx2.test"), 86_400)
TESTING = StsPolicy("testing", ("mx1.test",), 86_400)
END = Tlsa(3, 1, 1, bytes(32))
AUTHORITY = Tlsa(2, 1, 1, bytes(32))
UNUSABLE = Tlsa(1, 1, 1, bytes(32))
NONE, BOGUS = HostTlsa(), HostTlsa("bogus")
DANE = Requirement("dane", "dane", (END,))


def modes(setting="opportunistic", sts=None, **tlsa: HostTlsa) -> list[tuple[str, str]]:
    found = requirements(
        "b.test", ("mx1.test", "other.test"), setting, sts, {f"{k}.test": v for k, v in tlsa.items()}
    )
    return [(one.mode, one.why) for one in found]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (modes(), []),
        (modes("require"), [("require", "setting")] * 2),
        (modes("verify", TESTING), [("verify", "setting")] * 2),
        (modes(sts=ENFORCE), [("verify", "sts"), ("never", "sts")]),
        (modes("verify", ENFORCE), [("verify", "sts"), ("never", "sts")]),
        (modes(sts=TESTING), [("opportunistic", "testing")] * 2),
        (modes("require", TESTING), [("require", "setting")] * 2),
        (modes(mx1=HostTlsa("secure", (END,))), [("dane", "dane"), ("opportunistic", "")]),
        # RFC 8461 section 2: DANE wins, also over a policy that does not name the host, and where it fails.
        (modes(sts=ENFORCE, other=HostTlsa("secure", (END,))), [("verify", "sts"), ("dane", "dane")]),
        (modes(sts=ENFORCE, mx1=BOGUS), [("never", "dane"), ("never", "sts")]),
        (modes("verify", mx1=HostTlsa("secure", (END,))), [("dane", "dane"), ("verify", "setting")]),
        # Secure records of which none can be used: encrypted all the same.
        (modes(mx1=HostTlsa("secure", (UNUSABLE,))), [("require", "dane"), ("opportunistic", "")]),
        (modes(sts=ENFORCE, mx1=HostTlsa("secure", (UNUSABLE,))), [("verify", "sts"), ("never", "sts")]),
        (modes(mx1=NONE, other=NONE), []),
    ],
)  # fmt: skip
def test_what_is_required(found, expected):
    assert found == expected


def test_domains_share_connections_where_they_require_the_same():
    def of(domain, record):
        return requirements(domain, ("mx1.test",), tlsa={"mx1.test": HostTlsa("secure", (record,))})

    assert of("a.test", END) == of("b.test", END) == (DANE,)
    # A certificate under an authority's record may be for the recipient's domain: then they differ.
    assert of("a.test", AUTHORITY) != of("b.test", AUTHORITY)
    assert of("a.test", AUTHORITY)[0].names == ("mx1.test", "a.test")
    assert requirements("a.test", ("mx1.test",), sts=ENFORCE) == requirements(
        "b.test", ("mx1.test",), sts=ENFORCE
    )
