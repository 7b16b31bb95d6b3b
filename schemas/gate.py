"""Gate one's memory: its changelog ``mail-screen-log`` (compacted, co-partitioned by recipient)."""

from __future__ import annotations

import msgspec

from schemas.codec import Malformed, event


@event("gate", 1)
class GateRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What screen decided about the first send under ``key`` (an id, or campaign x recipient).

    ``origin`` is that send's; ``decision`` is ``pass`` or the event kind that ended it; ``headers`` are
    those that the decision set on the record (lane, twin, expiry). ``until`` Unix seconds: the horizon.
    """

    key: str
    origin: str
    decision: str
    reason: str = ""
    lane: str = ""
    to_topic: str = ""
    expires: float = 0.0
    not_before: float = 0.0
    until: float = 0.0
    digest: str = ""


class _Until(msgspec.Struct):
    until: float = 0.0


_until = msgspec.json.Decoder(_Until)


def until_of(raw: bytes) -> float:
    """``until`` of a row as it lies in the log: a fifth of the time that reading the whole row takes. Raises
    Malformed."""
    try:
        return _until.decode(raw).until
    except msgspec.MsgspecError as error:
        raise Malformed("bad_json", str(error)) from None
