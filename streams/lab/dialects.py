"""How each kind of provider words its refusals: real codes and stable tokens, sentences of our own.

Sources: ``facts/providers.md`` of the design. ``{ip}`` is the source, ``{rcpt}`` the recipient. A 421 is
followed by a hang-up. Situations:

- ``rate``: the source is above its budget; ``connections``: it has too many open at once;
- ``messages``: this connection has carried its share (open another);
- ``unknown``: no such user; ``full``: the mailbox is full; ``recipient``: this one user gets too much;
- ``greylist``: come back later; ``tls``: encryption is required; ``dkim``: nothing proves the sender;
- ``relay``: not a domain of ours; ``bounce``: the diagnostic of a DSN after a 250.
"""

from __future__ import annotations

from collections.abc import Mapping

_ANY = {
    "rate": "450 4.7.1 Too many messages from {ip}; slow down",
    "connections": "421 4.7.0 Too many connections from {ip}; close some",
    "messages": "421 4.7.0 Too many messages on this connection; open a new one",
    "unknown": "550 5.1.1 <{rcpt}>: user unknown",
    "full": "452 4.2.2 <{rcpt}>: mailbox is full",
    "recipient": "450 4.2.1 <{rcpt}> is getting mail too fast; try that user later",
    "greylist": "451 4.7.1 Greylisted; come back in a while",
    "tls": "530 5.7.0 Begin with STARTTLS",
    "dkim": "550 5.7.20 No DKIM signature of this message passed",
    "relay": "550 5.7.1 Relaying denied: <{rcpt}> is not served here",
    "bounce": "550 5.1.1 <{rcpt}>: the mailbox no longer exists",
}

_GOOGLE = {
    "rate": (
        "421 4.7.28 We notice an unusual rate of mail from your IP address [{ip}].\n"
        "4.7.28 To protect our users, mail from it is rate limited for a while - gsmtp"
    ),
    "connections": "421 4.7.0 Too many connections at once from [{ip}]; try again later - gsmtp",
    "messages": "421 4.7.0 Too many messages in this session; open another - gsmtp",
    "unknown": (
        "550 5.1.1 There is no account <{rcpt}> here.\n5.1.1 Look for typing errors or needless spaces - gsmtp"
    ),
    "full": "452 4.2.2 The inbox of this recipient is out of storage space - gsmtp",
    "recipient": "450 4.2.1 This user is receiving mail at a rate that prevents more for now - gsmtp",
    "tls": "530 5.7.0 Issue a STARTTLS command first - gsmtp",
    "dkim": "550 5.7.26 This mail is unauthenticated: neither SPF nor DKIM passed - gsmtp",
    "bounce": "550 5.2.1 The account <{rcpt}> is disabled - gsmtp",
}

_OUTLOOK = {
    "rate": "451 4.7.500 Server busy. Try again later, from [{ip}]. (S77714)",
    "connections": "421 4.7.652 [{ip}] has exceeded the maximum number of connections",
    "messages": "421 4.7.0 Too many messages per connection",
    "unknown": "550 5.5.0 Action not taken: mailbox unavailable (S2017062302)",
    "full": "452 4.2.2 The mailbox of the recipient is full",
    "recipient": "450 5.2.121 More mail for this recipient within the hour than is allowed",
    "dkim": "550 5.7.515 Access denied: the sending domain does not meet the required authentication level",
    "bounce": "550 5.1.10 RESOLVER: recipient <{rcpt}> not found by SMTP address look-up",
}

_YAHOO = {
    "rate": "421 4.7.0 [TSS04] Mail from {ip} is held back for now: unexpected volume or user complaints",
    "connections": "421 4.7.0 [TS01] Mail from {ip} is held back for now: too many connections",
    "messages": "421 Max message per connection reached; close it and open another",
    "unknown": "554 delivery error: dd There is no such account here: {rcpt} [0]",
    "full": "452 4.2.2 [internal] The user's mailbox is over quota",
    "recipient": "450 The user is receiving mail too quickly; try again later",
    "dkim": "554 5.7.9 Message not accepted for policy reasons: authentication failed",
    "bounce": "554 5.1.1 554.30 The account <{rcpt}> is disabled or discontinued",
}

_ORANGE = {
    "rate": "421 4.3.2 Service slowed for {ip}, try again later. OFR_105 [105]",
    "connections": "421 4.7.0 Too many connections from {ip}, slow down. OFR_104 [104]",
    "messages": "421 4.7.0 Too many messages on this connection. OFR_109 [109]",
    "unknown": "550 5.1.1 The recipient's address is unknown. OFR_416 [416]",
    "full": "552 5.1.1 The recipient's mailbox is full. OFR_417 [417]",
    "dkim": "550 5.7.0 No DKIM signature on this mail. OFR_535 [535]",
    "bounce": "550 5.1.1 The recipient's mailbox is archived. OFR_420 [420]",
}

_GMX = {
    "rate": "450 4.7.0 Too many messages from {ip} in a short time; wait a little",
    "connections": "421 4.7.0 Too many connections from {ip}",
    "unknown": "550 5.1.1 Requested action not taken: mailbox unavailable",
    "full": "452 4.2.2 Requested action not taken: mailbox full, storage allocation exceeded",
    "dkim": "550 5.7.1 Refused for policy restrictions: a DKIM signature is mandatory",
    "bounce": "550 5.1.1 Requested action not taken: mailbox unavailable",
}

DIALECTS: Mapping[str, Mapping[str, str]] = {
    "google": {**_ANY, **_GOOGLE},
    "outlook": {**_ANY, **_OUTLOOK},
    "yahoo": {**_ANY, **_YAHOO},
    "orange": {**_ANY, **_ORANGE},
    "gmx": {**_ANY, **_GMX},
    "plain": _ANY,
}
SITUATIONS = tuple(_ANY)
