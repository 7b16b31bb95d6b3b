"""What an SMTP reply means: whom it is about, for how long, and what to do.

Pure. The rules are data (``replies.toml``, passed in as text): a provider's own rules first, then rules
on wording that anybody uses, then the enhanced status code (RFC 3463, RFC 5248), then the basic code.
A reply is a stranger's text: it is cut to ``LONGEST`` characters, addresses and URL paths are taken out
before any wording is looked at (a local part may say ``spam`` or ``user-unknown``), and whatever the
rules say, ``suppress`` is given only to a permanent refusal of an address that names no block.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from schemas.lanes import provider_of
from schemas.reply_rules import Action, Decision, Permanence, Rules, RulesError, Scope, fixtures, read_rules
from schemas.reply_text import LONGEST, decoded, folded, plain, read_codes

KNOWN = 8192
"""Wordings whose meaning is remembered: providers say the same few things, with other ids."""


def known_to_a_rule(rule: str) -> bool:
    """Whether ``rule`` of a Meaning (or of an event that keeps it) is one that knew the wording."""
    return bool(rule) and not rule.startswith(("basic-", "enhanced-"))


class Meaning(msgspec.Struct, frozen=True, gc=False):
    """``klass`` as listed in replies.toml (wire name ``class``); ``rule``: what decided, a stable name.

    ``code`` is the basic code (0 where there is none), ``enhanced`` the enhanced one or empty, ``names``
    the guilty identities that the text gives, e.g. ``(("dkim", "example.com"),)``.
    """

    klass: str
    scope: Scope
    permanence: Permanence
    action: Action
    rule: str
    code: int = 0
    enhanced: str = ""
    names: tuple[tuple[str, str], ...] = ()

    @property
    def classified(self) -> bool:
        """Whether a rule knew the wording, not only the code: the others are there to be reviewed."""
        return known_to_a_rule(self.rule)


_URL = re.compile(r"((?:https?://|www\.)[^/\s>)\]]{1,200})[^\s>)\]]*")

# --- deciding --------------------------------------------------------------------------------------

_ABOUT_US = frozenset({"connect", "banner", "ehlo", "helo", "starttls", "auth", "mail"})
"""Phases in which the recipient has not been named yet: no reply there can be about an address. (So it is with 53x: authentication.)"""
_PERMANENCE: dict[str, Permanence] = {"4": "transient", "5": "permanent"}
_IN_REPLY_TO = re.compile(
    r"(?:in (?:reply|response) to|after|at) (?:the )?(?:initial connection|mail from|helo|ehlo|starttls|auth\b)"
)
"""What MTAs write around a reply in their logs and DSNs: Postfix behind it, Exim before it."""


def classify(rules: Rules, reply: str, *, mx: str = "", phase: str = "", provider: str = "") -> Meaning:
    """What ``reply`` means. Never raises.

    ``mx``: the host that said it; ``provider``: a name of schemas.lanes, instead of the host. Where
    neither names a provider, the reply's own tokens may. ``phase`` as in schemas.outcome.
    """
    # Digits of other scripts are digits to isdigit, and "22" is no code: then there is nothing to accept.
    if reply[:1] in ("2", "3") and reply[1:3].isdigit() and not reply[3:4].isdigit():
        code, enhanced, _ = read_codes(reply[:LONGEST])
        if code:
            return _accepted(code, enhanced)
    reply = reply[:LONGEST]
    code, enhanced, begin = read_codes(reply)
    if code[:1] in ("2", "3"):
        return _accepted(code, enhanced)
    whose = provider or (_provider(mx) if mx else "")
    about_us = phase in _ABOUT_US or (begin > 24 and bool(_IN_REPLY_TO.search(reply[:begin].lower())))
    text = plain(reply[begin:])
    key = (whose, about_us, code, enhanced, text)
    found = rules.known.get(key)
    if found is None:
        if len(rules.known) >= KNOWN:
            rules.known.clear()
        found = rules.known[key] = _read(rules, whose, about_us, code, enhanced, text)
    said, pattern = found
    if pattern is None:
        return said
    names = _names(pattern, reply)
    return msgspec.structs.replace(said, names=names) if names else said


@lru_cache(maxsize=4096)
def _provider(mx: str) -> str:
    return provider_of([mx])


def _accepted(code: str, enhanced: str) -> Meaning:
    return Meaning("accepted", "", "unknown", "none", f"basic-{code}", int(code), enhanced)


_Read = tuple[Meaning, "re.Pattern[str] | None"]


def _read(rules: Rules, whose: str, about_us: bool, code: str, enhanced: str, text: str) -> _Read:
    """What a wording means, and the pattern by which the whole reply names somebody."""
    if code and (f" {code}-" in text or f" {code} " in text):  # several lines that somebody joined
        text = text.replace(f" {code}-{enhanced} ", " ").replace(f" {code} {enhanced} ", " ")
    about_us = about_us or bool(_IN_REPLY_TO.search(text))
    met = rules.met(text)
    whose = whose or rules.hinted(met, text)
    # The path of a link says nothing of an address: help pages are about unknown users and spam alike.
    worded = _URL.sub(r"\1", text) if "://" in text or "www." in text else text
    decision, rule, pattern, certain = _decide(rules, whose, code, enhanced, text, worded, met)
    permanence = _PERMANENCE.get((code or enhanced)[:1], "unknown")
    # A refusal of an address is looked at again: what names a block, a policy or a throttle is about us.
    blocked = decision[2] in ("suppress", "soft") and not certain and rules.names_block(met, worded)
    klass, scope, action = _bounded(decision, permanence, about_us, code, blocked)
    return Meaning(klass, scope, permanence, action, rule, int(code or 0), enhanced), pattern


_Found = tuple[Decision, str, "re.Pattern[str] | None", bool]


def _decide(
    rules: Rules, provider: str, code: str, enhanced: str, text: str, worded: str, met: int
) -> _Found:
    for one in rules.candidates(met, provider, code, enhanced):
        look = worded if one.without_links else text
        if one.any and not any(map(look.__contains__, one.any)):
            continue
        if one.none and any(map(text.__contains__, one.none)):
            continue
        if one.pattern is not None and one.pattern.search(look) is None:
            continue
        return one.decision, one.rule.name, one.pattern if one.names else None, one.rule.certain
    tail = enhanced[2:]
    subject = tail.partition(".")[0]
    if enhanced:
        for key in (enhanced, tail, f"{enhanced[:2]}{subject}.*", subject):
            if key in rules.enhanced:
                return rules.enhanced[key], f"enhanced-{key}", None, False
    for key in (code, code[:1]):
        if key and key in rules.basic:
            return rules.basic[key], f"basic-{key}", None, False
    return ("unclassified", "", "none"), "", None, False


def _names(pattern: re.Pattern[str], reply: str) -> tuple[tuple[str, str], ...]:
    """Who is named, read where addresses still stand: a Message-ID looks like one."""
    found = pattern.search(" ".join(folded(decoded(reply)).split()))
    return tuple((key, value[:255]) for key, value in found.groupdict().items() if value) if found else ()


def _bounded(
    decision: Decision, permanence: Permanence, about_us: bool, code: str, blocked: bool
) -> Decision:
    """The decision within what its code, its phase and its wording (``blocked``) allow."""
    klass, scope, action = decision
    if action == "suppress" and permanence == "transient":
        return klass, scope, "retry"
    if action in ("suppress", "soft") and (about_us or code.startswith("53")):
        return "refused", "domain", "retry" if permanence == "transient" else "hold"
    if blocked and permanence != "transient":
        return "policy", "domain", "hold"
    if action == "suppress" and permanence == "unknown":
        return klass, scope, "soft"
    if action == "retry" and permanence == "permanent":
        return klass, scope, "hold"
    return klass, scope, action


# --- loading ---------------------------------------------------------------------------------------


def load_rules(toml_text: str) -> Rules:
    """Checked rules from the text of a replies.toml. Raises RulesError listing all faults at once.

    Checked: fields and their types, unique names, patterns, ranges of codes, lower case, that each rule
    has a fixture and both kinds of IP address where it has one, and that each fixture chooses its rule.
    """
    rules = read_rules(toml_text)
    faults = dead_fixtures(rules)
    if faults:
        raise RulesError("\n".join(faults))
    return rules


def dead_fixtures(rules: Rules) -> list[str]:
    """Every fixture that another rule takes, or none: a dead rule is a fault."""
    found: list[str] = []
    for rule in rules.rules:
        for reply in fixtures(rule):
            for provider in rule.provider or ("",):
                chosen = classify(rules, reply, provider=provider).rule
                if chosen != rule.name:
                    found.append(
                        f"rule {rule.name!r}: {chosen or 'nothing'} takes its fixture {reply[:90]!r}"
                    )
    return found
