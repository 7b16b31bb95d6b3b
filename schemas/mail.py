"""The envelope of mail on its way: which record headers it has, and what they mean.

From ``mail-enqueued`` on every record of a mail carries these headers; the value is the send's JSON
(``accepted``), then the raw MIME bytes (``mail``), or nothing (``verdict``). Stages copy the headers and
change what they must, so that nobody parses a body to route it.

=============  =============================================================================
``type``       accepted | mail | verdict (see below); ``version`` is 1
``id``         identity of the mail (schemas.identity), the same in every attempt
``origin``     topic/partition/offset/timestamp/index of the send
``tenant`` ``campaign`` ``stream``   identifiers; stream is marketing or transactional
``to``         recipient, normalised (schemas.address); its murmur2 is the partition
``rcpt``       what goes into RCPT TO, where it differs from ``to`` (case of the local part); else absent
``keyed``      1 where the producer gave an idempotency key (``id`` derives from it); else absent
``attempt``    the attempt that this record asks for: 1 for the first
``expires``    Unix seconds: later than this it is not sent any more
``not_before`` Unix seconds: a scheduled mail; absent = now
``lane``       name of the lane (schemas.lanes), decided once by enqueue; ``provider`` of its MX
``host``       absent, or why the domain takes no mail: null_mx | no_domain (screen bounces it)
``consent``    letters: o (opens), c (clicks) may be tracked
``return_path``  VERP envelope sender, set by render; ``dkim`` the d= domain, set by sign
``cohort``     0 .. 4, of marketing mail, set by screen: the recipient clicked within 30 days | opened within
               30 | either within 90 | is new, or cannot be seen to read | is silent
``author``     the address in the From field, in lower case, set by sign: limits go by it
``guarantee``  at_most_once, or absent
``note``       gmail_clips where render found HTML so long that Gmail cuts it; else absent
``priority``   0 .. 9
``received``   Unix seconds when the send was received (latency counts from it)
``reply``      what the last attempt was told, at most 500 characters; absent before the second
``from``       the source that greylisting knows the mail from: it is tried from there first; else absent
``next``       on the ladder: the topic that the record goes to when due; ``due`` Unix seconds
``held``       on the ladder: for what it waits: somebody's pause (campaign | tenant | lane | canary), its turn
               while its lane is in warm-up (warmup), the end of a gate on complaints (engaged); absent = for
               its time
``tried``      the source of the last attempt, from the second attempt on
``sources``    sources by which alone it may leave, separated by commas (`queue move`); absent = any
``traceparent``  W3C trace context, passed on as it came
=============  =============================================================================

A *verdict* is a mail that must end without being sent (template error, expired, cancelled ...). It goes
down its lane without a body, so that gate two alone ends messages (design, "Nothing lost", 5). Its own
headers: ``outcome`` (rejected | expired | cancelled | bounced | suppressed), ``reason`` (bounded code),
``detail`` (text for people, at most 500 characters).
"""

from __future__ import annotations

from schemas.codec import Headers, Record

VERDICTS = frozenset({"rejected", "expired", "cancelled", "bounced", "suppressed"})
"""What a verdict may say: these end a mail, and none of them claims that it was sent."""
NOW = "-now"
"""Suffix of the twin topic that carries transactional mail; polled first."""


def twin(topic: str, stream: str) -> str:
    """The topic for a mail of this stream: the ``-now`` twin for transactional."""
    return topic + NOW if stream == "transactional" else topic


def base_topic(topic: str) -> str:
    """The topic without its twin suffix."""
    return topic.removesuffix(NOW)


def is_verdict(record: Record) -> bool:
    """Whether the record ends a mail instead of sending it."""
    return record.headers.get("type") == b"verdict"


def verdict(headers: Headers, outcome: str, reason: str, detail: str = "") -> Headers:
    """The headers of a verdict over the mail with ``headers``."""
    found = dict(headers)
    found["type"] = b"verdict"
    found["outcome"] = outcome.encode()
    found["reason"] = reason.encode()
    if detail:
        found["detail"] = detail[:500].encode("utf-8", "replace")
    return found


def number(value: float) -> bytes:
    """A time or count as header text: whole numbers without a fraction, else milliseconds."""
    return b"%d" % value if value == int(value) else b"%.3f" % value
