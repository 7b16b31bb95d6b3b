"""Key files: what is taken, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agents.sign.keys import BadKey, SigningKey, load_keys, new_keys, read_key


def pem_of(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def test_a_directory_of_keys_is_read_by_domain(tmp_path: Path) -> None:
    for domain in ("a.example", "b.example"):
        (tmp_path / domain).mkdir()
        for key in new_keys(domain, "r1", "e1"):
            (tmp_path / domain / f"{key.selector}.pem").write_bytes(key.pem())
    found = load_keys(tmp_path)
    assert sorted(found) == ["a.example", "b.example"]
    assert [(key.selector, key.algorithm) for key in found["a.example"]] == [
        ("e1", "ed25519-sha256"),
        ("r1", "rsa-sha256"),
    ]
    assert found["a.example"][1].dns_name == "r1._domainkey.a.example"
    assert found["a.example"][0].dns_record.startswith("v=DKIM1; k=ed25519; p=")


def test_short_rsa_keys_are_refused() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(BadKey, match="1024 bits; make one of 2048"):
        read_key("a.example", "old", pem_of(short))


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (b"not a key", "no PEM private key"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret"), "encrypted"),
    ],
)
def test_other_files_are_refused_with_a_reason(pem: bytes, said: str) -> None:
    with pytest.raises(BadKey, match=said):
        read_key("a.example", "s", pem)


@pytest.mark.parametrize("name", ["a b", "a;x=1", "A.example", "", "a\r\nb", "é.example", "-a"])
def test_names_that_would_break_the_field_are_refused(name: str) -> None:
    private = new_keys("a.example", "r", "e")[0].private
    with pytest.raises(BadKey):
        SigningKey(name, "s", private)
    with pytest.raises(BadKey):
        SigningKey("a.example", name, private)


def test_no_directory_and_no_key_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="is no directory"):
        load_keys(tmp_path / "none")
    with pytest.raises(BadKey, match="holds no key"):
        load_keys(tmp_path)
