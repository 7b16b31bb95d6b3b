"""What render makes, sign signs, and dkimpy verifies: over render's golden mails."""

from __future__ import annotations

from pathlib import Path

import dkim
import pytest

from agents.sign.agent import Sign
from agents.sign.keys import new_keys
from schemas.codec import Record

KEYS = {"shop.example": new_keys("shop.example", "r1", "e1")}
ZONE = {f"{key.dns_name}.".encode(): key.dns_record.encode() for key in KEYS["shop.example"]}
GOLDEN = sorted((Path(__file__).parents[1] / "render" / "golden").glob("*.eml"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_rendered_mail_verifies(path: Path) -> None:
    record = Record(
        "mail-rendered", 0, -1, 0, None, path.read_bytes(), {"lane": b"google", "to": b"a@x.example"}
    )
    (out,) = Sign(KEYS, lambda: 1.7e9).step(record)
    assert out.value is not None
    mail = dkim.DKIM(out.value)
    assert [mail.verify(idx=n, dnsfunc=lambda name, timeout=5: ZONE.get(name)) for n in range(2)] == [
        True,
        True,
    ]


def test_there_are_golden_mails() -> None:
    assert len(GOLDEN) >= 4
