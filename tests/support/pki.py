"""Certificates for tests: an authority of their own, and what it signs."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate, its key and those above it (nearest first)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[Issued, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def chain(self) -> list[bytes]:
        """What a server shows, in DER."""
        return [self.der, *(one.der for one in self.above)]

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def server(self, directory: Path) -> ssl.SSLContext:
        """The context of a server with this certificate and those above it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files(directory))
        return context

    def files(self, directory: Path) -> tuple[Path, Path]:
        """(chain, key) as files."""
        serial = f"{self.certificate.serial_number:x}"
        chain, key = directory / f"{serial}.pem", directory / f"{serial}.key"
        chain.write_bytes(self.pem + b"".join(one.pem for one in self.above))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key

    def issue(
        self,
        name: str,
        *,
        authority: bool = False,
        hosts: Sequence[str] | None = None,
        days: tuple[int, int] = (-1, 30),
        usage: x509.KeyUsage | None = None,
    ) -> Issued:
        """A certificate under this one, valid between the days counted from now."""
        return issue(name, self, authority=authority, hosts=hosts, days=days, usage=usage)


def issue(
    name: str,
    by: Issued | None = None,
    *,
    authority: bool = False,
    hosts: Sequence[str] | None = None,
    days: tuple[int, int] = (-1, 30),
    usage: x509.KeyUsage | None = None,
) -> Issued:
    """A certificate; without ``by`` it signs itself. ``hosts``: the names it is for, else its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = [x509.DNSName(host) for host in ([name] if hosts is None else hosts)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    signed = builder.sign(by.key if by else key, hashes.SHA256())
    return Issued(signed, key, (by, *by.above) if by else ())
