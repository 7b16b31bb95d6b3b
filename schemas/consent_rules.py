"""What tenants ask of consents: an operator's file ``consent.toml``, by tenant and stream. Pure: text is an argument.

[default.marketing]             # for every tenant; without this file nothing is asked for
require = true                  # no consent on record: screen rejects the mail (no_consent)
tracking = "consent"            # open pixel and rewritten links only with a consent on record of its own
                                # ("send": as each send says)
[shop.marketing]                # a tenant that takes subscriptions at POST /subscribe
from = "Shop <news@shop.example>"
wording = "I want the weekly newsletter of Shop by e-mail and can leave at any time."
double_opt_in = true            # confirmed by a mail; false: whatever is typed into the form counts
hours = 48                      # for which the link in that mail is good
subject = "Please confirm"      # templates as a campaign's: confirm_url, wording, hours
text = "..."
html = "..."
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from schemas.campaign import Campaign
from schemas.codec import Malformed
from schemas.faults import Faulty, only

STREAMS = ("marketing",)
"""Streams that can ask for consent: transactional mail is the answer to what its recipient did."""
TRACKINGS = ("send", "consent")
SUBJECT = "Please confirm your subscription"
TEXT = """\
Somebody, most likely you, typed this address into a form and agreed to this:

    {{ wording }}

To confirm, open this page within {{ hours }} hours and press the button:

    {{ confirm_url }}

If it was not you, do nothing: you will get no mail.
"""


class BadConsents(Faulty):
    """The text is wrong; ``faults`` names every place."""


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """What one tenant asks of one stream. ``sender`` empty: it takes no subscriptions here. ``hours``: how long a
    confirmation link is good."""

    require: bool = False
    tracking: str = "send"
    sender: str = ""
    wording: str = ""
    double_opt_in: bool = True
    hours: float = 48.0
    subject: str = SUBJECT
    text: str = TEXT
    html: str = ""

    @property
    def asks(self) -> bool:
        """Whether screen has to look at the consents at all."""
        return self.require or self.tracking == "consent"


NOTHING = ConsentRule()


@dataclass(frozen=True, slots=True)
class ConsentRules:
    """All tenants' rules: (tenant, stream) -> its own; ``defaults`` by stream for everybody else."""

    own: Mapping[tuple[str, str], ConsentRule] = field(default_factory=dict)
    defaults: Mapping[str, ConsentRule] = field(default_factory=dict)

    def of(self, tenant: str, stream: str) -> ConsentRule:
        """The rule of a tenant's stream; NOTHING where none is set."""
        found = self.own.get((tenant, stream))
        return found if found is not None else self.defaults.get(stream, NOTHING)

    @property
    def ask(self) -> bool:
        """Whether any mail needs a look at the consents."""
        return any(rule.asks for rule in (*self.own.values(), *self.defaults.values()))

    def campaigns(self) -> list[Campaign]:
        """The campaigns by which the confirmation mails go out, one a tenant and stream that takes subscriptions."""
        return [
            confirmation(tenant, stream, rule) for (tenant, stream), rule in self.own.items() if rule.sender
        ]


def confirmation_campaign(stream: str) -> str:
    """The id of the campaign by which the confirmation mails of a stream go out."""
    return f"confirm.{stream}"


def confirmation(tenant: str, stream: str, rule: ConsentRule) -> Campaign:
    """That campaign. Raises Malformed where the rule's texts make none."""
    try:
        return msgspec.convert(
            {
                "id": confirmation_campaign(stream),
                "tenant": tenant,
                "stream": "transactional",
                "from": rule.sender,
                "subject": rule.subject,
                "text": rule.text,
                "html": rule.html,
                "tracking": False,
            },
            Campaign,
        )
    except msgspec.ValidationError as error:
        raise Malformed("bad_field", str(error)) from None


def read_consent_rules(text: str, where: str = "consent.toml") -> ConsentRules:
    """The rules in ``text``. Raises BadConsents with every fault."""
    faults: list[str] = []
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _stop(where, [str(error)])
    shared = {stream: keys for stream, keys in _streams(found.pop("default", {}), "default", faults) if keys}
    defaults = {
        stream: _rule(keys, f"default.{stream}", faults, ("require", "tracking"))
        for stream, keys in shared.items()
    }
    own = {}
    for tenant, streams in found.items():
        for stream, keys in _streams(streams, tenant, faults):
            rule = _rule({**shared.get(stream, {}), **keys}, f"{tenant}.{stream}", faults, tuple(_KINDS))
            own[tenant, stream] = rule
            if rule.sender:
                faults += _unfit(tenant, stream, rule)
    if faults:
        _stop(where, faults)
    return ConsentRules(own, defaults)


def _stop(where: str, faults: list[str]) -> NoReturn:
    raise BadConsents(where, faults)


def _streams(found: object, tenant: str, faults: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(found, dict):
        faults.append(f"{tenant} must be a table [{tenant}.{STREAMS[0]}]")
        return []
    only(found, STREAMS, f"{tenant}: stream ", faults)
    for stream, keys in found.items():
        if not isinstance(keys, dict):
            faults.append(f"{tenant}.{stream} must be a table [{tenant}.{STREAMS[0]}]")
    return [(stream, keys) for stream, keys in found.items() if stream in STREAMS and isinstance(keys, dict)]


_KINDS: dict[str, type] = {
    "require": bool,
    "tracking": str,
    "from": str,
    "wording": str,
    "double_opt_in": bool,
    "hours": float,
    "subject": str,
    "text": str,
    "html": str,
}


def _rule(keys: Mapping[str, Any], where: str, faults: list[str], known: tuple[str, ...]) -> ConsentRule:
    only(keys, known, f"{where}: ", faults)
    made: dict[str, Any] = {}
    for name, value in keys.items():
        kind = _KINDS.get(name)
        if kind is None or name not in known:
            continue
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            made[name] = float(value)
        elif isinstance(value, kind):
            made["sender" if name == "from" else name] = value
        else:
            wanted = "true or false" if kind is bool else "a number" if kind is float else "a text"
            faults.append(f"{where}.{name} must be {wanted}, not {str(value)[:40]!r}")
    if made.get("tracking", "send") not in TRACKINGS:
        faults.append(f"{where}.tracking is {made.pop('tracking')[:40]!r}, not one of {', '.join(TRACKINGS)}")
    if not 1 <= made.get("hours", 48.0) <= 720:
        faults.append(f"{where}.hours must be from 1 to 720, not {made.pop('hours'):g}")
    return ConsentRule(**made)


def _unfit(tenant: str, stream: str, rule: ConsentRule) -> list[str]:
    faults = []
    if not rule.wording.strip():
        faults.append(f"{tenant}.{stream}.wording is missing: what does the form say that they agree to?")
    if len(rule.wording) > 2000:
        faults.append(f"{tenant}.{stream}.wording has {len(rule.wording)} characters; at most 2000 are kept")
    if not any("confirm_url" in part for part in (rule.text, rule.html)):
        faults.append(
            f"{tenant}.{stream}: neither text nor html has {{{{ confirm_url }}}}: nobody could confirm"
        )
    try:
        confirmation(tenant, stream, rule)
    except Malformed as error:
        faults.append(f"{tenant}.{stream} makes no mail: {error.detail}")
    return faults
