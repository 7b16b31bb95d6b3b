"""KumoMTA's log records: one JSON object a line.

Source: docs.kumomta.com, "Log Record". Files are zstd-compressed segments by default.
"""

from __future__ import annotations

from typing import Any

import orjson

from streams.ops.backtest.row import BadLine, Kind, Row, Whose, address, host, name, seconds

KINDS: dict[str, Kind] = {
    "Delivery": "delivered", "TransientFailure": "deferred", "Bounce": "bounced", "OOB": "late", "Feedback": "complaint",
}  # fmt: skip
"""Expiration and AdminBounce are no provider's word; the rest are no deliveries."""
SUPPRESSES = ("InvalidRecipient", "BadDomain", "InactiveMailbox")
"""Bounce classes upon which its users take an address off their lists."""
_PHASES = {"MAIL": "mail", "RCPT": "rcpt", "DATA": "data", "BDAT": "data", ".": "dot", "EHLO": "ehlo", "HELO": "ehlo", "LHLO": "ehlo", "STARTTLS": "starttls", "AUTH": "auth"}  # fmt: skip


class KumoMta:
    """Reads the lines of a file."""

    engine = "KumoMTA"

    def __init__(self, whose: Whose) -> None:
        self._whose = whose

    def row(self, line: str) -> Row | None:
        """The row of a line, None for a record of another kind. Raises BadLine."""
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadLine(f"it is no JSON: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("type"), str):
            raise BadLine("it is no log record: it has no type")
        kind = KINDS.get(found["type"])
        if kind is None:
            return None
        if kind == "complaint" and _text(_dict(found, "feedback_report"), "feedback_type") not in (
            "",
            "abuse",
        ):
            return None
        when = _time(found)
        to = address(_recipient(found, kind))
        mx = host(_text(_dict(found, "peer_address"), "name")) or _of_site(_text(found, "site"))
        if kind in ("late", "complaint"):
            mx = ""  # the peer is whoever brought the report
        source = name(_text(found, "egress_source") or "default", "egress_source")
        provider = name(self._whose.of(to, mx), "site")
        category = _text(found, "bounce_classification")
        said, phase = _reply(_dict(found, "response"))
        return Row(
            when, kind, to, source, provider, said, phase, mx, "" if category == "Uncategorized" else category
        )


def _time(found: dict[str, Any]) -> float:
    value = found.get("timestamp", found.get("event_time", ""))
    return seconds(str(value)) if isinstance(value, (int, float, str)) else seconds("")


def _recipient(found: dict[str, Any], kind: Kind) -> str:
    value: Any = found.get("recipient", "")
    if kind == "complaint":  # the report's own recipient is the mailbox that takes reports
        report = _dict(found, "feedback_report")
        named = report.get("original_rcpto_to") or [_text(_dict(report, "supplemental_trace"), "recipient")]
        value = named[0] if isinstance(named, list) and named else ""
    if isinstance(value, list):  # newer ones may name several of one batch
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""


def _reply(response: dict[str, Any]) -> tuple[str, str]:
    """The reply's text as it came, and the phase that it answered."""
    code, enhanced = response.get("code"), _dict(response, "enhanced_code")
    numbers = [enhanced.get(key) for key in ("class", "subject", "detail")]
    parts = [str(code)] if isinstance(code, int) and 100 <= code <= 999 else []
    if all(isinstance(number, int) for number in numbers):
        parts.append(".".join(map(str, numbers)))
    parts.append(_text(response, "content"))
    words = _text(response, "command").upper().split(" ", 1)
    return " ".join(filter(None, parts))[:4096], _PHASES.get(words[0].strip(), "")


def _of_site(site: str) -> str:
    """``source->(alt1|alt2)?.gmail-smtp-in.l.google.com.``: what all its hosts have in common."""
    return host(site.rpartition("->")[2].rpartition(")")[2].lstrip("?.")) if site else ""


def _dict(found: dict[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key)
    return value if isinstance(value, dict) else {}


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""
