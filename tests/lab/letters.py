"""Messages for the tests of the lab, signed by dkimpy."""

import base64
from functools import cache

import dkim
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from streams.lab.dns import Zone

ONE_CLICK = "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
COVERED = [b"from", b"to", b"subject", b"date", b"message-id", b"list-unsubscribe", b"list-unsubscribe-post"]


@cache
def keys() -> tuple[bytes, str, bytes, str]:
    """RSA key (PEM) and record, Ed25519 seed (base64) and record."""
    one = rsa.generate_private_key(65537, 2048)
    pem = one.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption())
    der = one.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
    two = ed25519.Ed25519PrivateKey.generate()
    seed = two.private_bytes(s.Encoding.Raw, s.PrivateFormat.Raw, s.NoEncryption())
    point = two.public_key().public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)
    return (
        pem,
        "v=DKIM1; k=rsa; p=" + base64.b64encode(der).decode(),
        base64.b64encode(seed),
        "v=DKIM1; k=ed25519; p=" + base64.b64encode(point).decode(),
    )


def publish(zone: Zone, domain: str = "shop.test") -> None:
    """The records of the keys, selectors r and e."""
    zone.add(f"r._domainkey.{domain}", "TXT", keys()[1])
    zone.add(f"e._domainkey.{domain}", "TXT", keys()[3])


def letter(
    number: int = 1,
    to: str = "ann@gmail.test",
    unsubscribe: str = "https://shop.test/u/1",
    html: str = "<p>hi</p>",
    extra: str = "",
    sign: str = "re",
) -> bytes:
    """A marketing message (no unsubscribe: a transactional one), signed with RSA (r) and Ed25519 (e)."""
    lines = [
        "From: Shop <news@shop.test>",
        f"To: {to}",
        "Subject: News",
        "Date: Sat, 22 Nov 2025 10:00:00 +0000",
        f"Message-ID: <id{number}@shop.test>",
        "MIME-Version: 1.0",
        "Content-Type: text/html; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ]
    if unsubscribe:
        lines += [f"List-Unsubscribe: <{unsubscribe}>, <mailto:u@shop.test>", ONE_CLICK]
    else:
        lines.append("Auto-Submitted: auto-generated")
    if extra:
        lines.append(extra)
    message = ("\r\n".join(lines) + f"\r\n\r\n{html}\r\n").encode()
    covered = COVERED if unsubscribe else COVERED[:5]
    fields = b""
    for which, algorithm, key in (("r", b"rsa-sha256", keys()[0]), ("e", b"ed25519-sha256", keys()[2])):
        if which in sign:
            fields += dkim.sign(
                message,
                which.encode(),
                b"shop.test",
                key,
                canonicalize=(b"relaxed", b"relaxed"),
                signature_algorithm=algorithm,
                include_headers=covered,
            )
    return fields + message
