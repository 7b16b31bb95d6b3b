"""Where a domain wants its TLS reports, and the mail that carries one (RFC 8460 sections 3 and 5.3). Pure."""

from __future__ import annotations

import gzip
from base64 import encodebytes
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

import orjson

from schemas.address import normalise
from schemas.codec import Malformed
from streams.ops.tls_report.tally import Reporter, bounds

MOST_PLACES = 5
"""Addresses of one record that get the report."""


@dataclass(frozen=True, slots=True)
class Places:
    """What a domain's record names: addresses, and how many places of another kind (https)."""

    addresses: tuple[str, ...] = ()
    others: int = 0


def read_record(texts: Sequence[str]) -> Places | None:
    """The places in the one TLSRPTv1 record among a name's TXT records; None where there is none, or more than one."""
    records = [text for text in texts if text.partition(";")[0].strip() == "v=TLSRPTv1"]
    if len(records) != 1:
        return None
    found: list[str] = []
    others = 0
    for part in records[0].split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip() != "rua":
            continue
        for place in value.split(","):
            scheme, colon, rest = place.strip().partition(":")
            if scheme.lower() != "mailto":
                others += bool(colon)
                continue
            try:
                found.append(normalise(unquote(rest.partition("?")[0]).strip()).key)
            except Malformed:
                others += 1
    return Places(tuple(dict.fromkeys(found))[:MOST_PLACES], others)


def message(
    report: dict[str, Any], domain: str, to: str, sender: str, reporter: Reporter, now: float
) -> bytes:
    """The mail, with CRLF, ASCII alone. ``sender``: address of its From; ``domain``: whom the report is about."""
    day = str(report["date-range"]["start-datetime"])[:10]
    begin, end = bounds(day)
    packed = gzip.compress(orjson.dumps(report), mtime=0)
    name = f"{reporter.domain}!{domain}!{begin:.0f}!{end - 1:.0f}.json.gz"
    border = f"=_tlsrpt_{day}_{len(packed)}"
    head = [
        f"From: <{sender}>",
        f"To: <{to}>",
        f"Date: {format_datetime(datetime.fromtimestamp(now, UTC))}",
        f"Subject: Report Domain: {domain} Submitter: {reporter.domain}",
        f" Report-ID: <{report['report-id']}>",
        f"Message-ID: <tlsrpt.{report['report-id']}>",
        f"TLS-Report-Domain: {domain}",
        f"TLS-Report-Submitter: {reporter.domain}",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt";',
        f' boundary="{border}"',
        "Auto-Submitted: auto-generated",
    ]
    text = [
        f"This is an aggregate TLS report from {reporter.domain} about {domain}, {day} (UTC).",
        f"Questions: {reporter.contact}",
    ]
    parts = [
        *head, "", f"--{border}", "Content-Type: text/plain; charset=us-ascii", "", *text, "", f"--{border}",
        "Content-Type: application/tlsrpt+gzip", "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment; filename="{name}"', "",
        *encodebytes(packed).decode("ascii").split(), "", f"--{border}--", "",
    ]  # fmt: skip
    return "\r\n".join(parts).encode("ascii")
