"""DANE for SMTP: whether a server's certificates match its TLSA records (RFC 6698, 7671, 7672). Pure.

Only DANE-EE(3) and DANE-TA(2) are usable for SMTP (RFC 7672 section 3.1.3). Under DANE-EE the key is all that
counts: no name, no date, no authority. Under DANE-TA the chain must lead to the named authority, be in date
and be for one of the names; its path is checked by the ``cryptography`` package, whose rules are those of
RFC 5280 without the Web's additions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

MOST = 20
"""Certificates and records looked at: more is no chain but work for us."""
_LENGTHS = {1: 32, 2: 64}


class Tlsa(NamedTuple):
    """One TLSA record. ``usage`` 2 DANE-TA, 3 DANE-EE; ``selector`` 0 certificate, 1 its public key;
    ``matching`` 0 as it is, 1 SHA-256, 2 SHA-512."""

    usage: int
    selector: int
    matching: int
    data: bytes


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """Those of the records that an SMTP client can go by, in a fixed order.

    Of several digests for one usage and selector only the strongest counts (RFC 7671 section 9).
    """
    good = {record for record in records[:MOST] if _usable(record)}
    best: dict[tuple[int, int], int] = {}
    for record in good:
        key = (record.usage, record.selector)
        best[key] = max(best.get(key, 0), record.matching)
    return tuple(sorted(r for r in good if r.matching == 0 or r.matching == best[(r.usage, r.selector)]))


def _usable(record: Tlsa) -> bool:
    if record.usage not in (2, 3) or record.selector not in (0, 1) or record.matching not in (0, 1, 2):
        return False
    if record.matching:
        return len(record.data) == _LENGTHS[record.matching]
    if record.selector == 0:
        return read(record.data) is not None
    return bool(record.data)


def check(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], now: datetime) -> str:
    """Empty where the server's ``chain`` (DER, its own certificate first) matches one of the usable
    ``records``; else why not, in a sentence. ``names``: see ``Requirement``. ``now``: in UTC."""
    if not chain:
        return "the server showed no certificate"
    ends = [record for record in records if record.usage == 3]
    leaf = read(chain[0])
    if leaf is None:
        return "the server's certificate cannot be read"
    if any(_matches(record, leaf, chain[0]) for record in ends):
        return ""
    anchors = _anchors([record for record in records if record.usage == 2], chain[:MOST])
    if not anchors:
        return "no TLSA record matches the server's certificates"
    between = [found for der in chain[1:MOST] if (found := read(der)) is not None]
    return _leads(leaf, between, anchors, names, now)


def _anchors(records: Sequence[Tlsa], chain: Sequence[bytes]) -> list[x509.Certificate]:
    """Authorities out of the records themselves, or those in the chain that a record names."""
    found = [
        certificate
        for record in records
        if record.matching == record.selector == 0 and (certificate := read(record.data)) is not None
    ]
    for der in chain[1:]:
        certificate = read(der)
        if certificate is not None and any(_matches(record, certificate, der) for record in records):
            found.append(certificate)
    return found


def _leads(
    leaf: x509.Certificate,
    between: list[x509.Certificate],
    anchors: list[x509.Certificate],
    names: Sequence[str],
    now: datetime,
) -> str:
    why = "it is for no name of this host"
    for name in names:
        why = leads(leaf, between, Store(anchors), name, now)
        if not why:
            return ""
    return f"the chain does not lead to the authority of the TLSA record: {why}"


# Authorities of one's own, and many a mail server's, lack what the Web's must carry: RFC 5280 alone.
_CA = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_CA = _CA.may_be_present(
    x509.KeyUsage, Criticality.AGNOSTIC, lambda _policy, _certificate, usage: _may_sign(usage)
)
_END = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


def _may_sign(usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority's key that may not sign certificates")


def leads(
    leaf: x509.Certificate, between: list[x509.Certificate], anchors: Store, name: str, now: datetime
) -> str:
    """Empty where the leaf is for ``name``, in date, and its chain leads to one of the anchors; else why not."""
    builder = PolicyBuilder().store(anchors).time(now)
    builder = builder.extension_policies(ca_policy=_CA, ee_policy=_END)
    try:
        builder.build_server_verifier(x509.DNSName(name)).verify(leaf, between)
    except (VerificationError, ValueError) as error:  # ValueError: a name that no certificate can be for
        return " ".join(str(error).split())[:300]
    return ""


def _matches(record: Tlsa, certificate: x509.Certificate, der: bytes) -> bool:
    try:
        data = der if record.selector == 0 else _key(certificate)
    except ValueError:  # a kind of key that nobody knows
        return False
    if record.matching == 1:
        data = hashlib.sha256(data).digest()
    elif record.matching == 2:
        data = hashlib.sha512(data).digest()
    return data == record.data


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read(der: bytes) -> x509.Certificate | None:
    """The certificate, or None where the bytes are none."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None
