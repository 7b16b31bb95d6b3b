"""What an SMTP reply means: whom it is about, for how long, and what to do.

Pure. The rules are data (``replies.toml``, passed in as text): a provider's own rules first, then rules
on wording that anybody uses, then the enhanced status code (RFC 3463, RFC 5248), then the basic code.
A reply is a stranger's text: it is cut to ``LONGEST`` characters, addresses and URL paths are taken out
before any wording is looked at (a local part may say ``spam`` or ``user-unknown``), and whatever the
rules say, ``suppress`` is given only to a permanent refusal of an address that names no block.
"""

from __future__ import annotations

import re

import msgspec

from schemas.lanes import provider_of
from schemas.reply_rules import Action, Decision, Permanence, Rules, RulesError, Scope, fixtures, read_rules

LONGEST = 4096
"""Characters of a reply that are looked at (RFC 5321 allows 512 octets a line, any number of lines)."""
_BEGINNING, _END = 700, 300  # characters of wording that rules see: the rest says nothing new


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


_Found = tuple[Decision, str, tuple[tuple[str, str], ...], bool]

# --- reading the codes -----------------------------------------------------------------------------

_ENHANCED = r"[245]\.\d{1,3}\.\d{1,4}(?!\d|\.\d)"
_HEAD = re.compile(rf"([2-5]\d\d)(?!\d)[ \-.:#(\[<]{{0,4}}({_ENHANCED})?")
_QUOTED = re.compile(rf"(?:said:?|smtp;|[ :;(<])\s?([45]\d\d)[ \-]#?({_ENHANCED})?", re.IGNORECASE)
_ANYWHERE = re.compile(rf"(?<![\w.])({_ENHANCED})")
_SCHEME = re.compile(r"(?:[a-z][a-z0-9-]{1,20};)?[\s\"'<]{0,4}", re.IGNORECASE)


def read_codes(reply: str) -> tuple[str, str, int]:
    """(basic code, enhanced code, where the text begins); empty where there is none.

    Reads the raw reply and what DSNs make of it: ``smtp; 550-5.1.1 ...``, ``host x said: 550 ...``,
    ``#5.1.1``, an enhanced code in brackets anywhere in the text, or an enhanced code alone.
    """
    start = _SCHEME.match(reply)
    begin = start.end() if start else 0
    head = _HEAD.match(reply, begin)
    if head is None:
        alone = _ANYWHERE.match(reply, begin)
        quoted = _QUOTED.search(reply, begin)
        if quoted is None:
            found = alone or _ANYWHERE.search(reply, begin)
            return "", found.group(1) if found else "", alone.end() if alone else begin
        head = quoted
    code, enhanced = head.group(1), head.group(2) or ""
    if not enhanced:
        for other in _ANYWHERE.finditer(reply, head.end()):
            if other.group(1)[0] == code[0]:
                enhanced = other.group(1)
                break
    return code, enhanced, head.end()


# --- reading the text ------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[^<>()\[\],;:\"'=@]*+@[^<>()\[\],;:\"'=]*+")
_URL = re.compile(r"(https?://[^/\s>)\]]{1,200})[^\s>)\]]*")
_CONTINUED = re.compile(rf"[\r\n]+\s*[2-5]\d\d[ \-]#?(?:{_ENHANCED})?")


def _without_address(word: str) -> str:
    return "@" if len(word) > 320 else _ADDRESS.sub("@", word)


def plain(text: str) -> str:
    """The wording alone: lower case, one space between words and around, addresses as ``@``.

    Each sentence is a line, so that ``.`` in a pattern stays within it.
    """
    if "\n" in text or "\r" in text:
        text = _CONTINUED.sub(" ", text)
    words = text.lower().split()
    if "@" in text:
        words = [_without_address(word) if "@" in word else word for word in words]
    found = " ".join(words)
    if len(found) > _BEGINNING + _END:
        found = f"{found[:_BEGINNING]} {found[-_END:]}"
    return f" {found} ".replace(". ", ".\n")


# --- deciding --------------------------------------------------------------------------------------

_ABOUT_US = frozenset({"connect", "banner", "ehlo", "helo", "starttls", "auth", "mail"})
"""Phases in which the recipient has not been named yet: no reply there can be about an address. (So it is with 53x: authentication.)"""
_PERMANENCE: dict[str, Permanence] = {"4": "transient", "5": "permanent"}


def classify(rules: Rules, reply: str, *, mx: str = "", phase: str = "", provider: str = "") -> Meaning:
    """What ``reply`` means. Never raises.

    ``mx``: the host that said it; ``provider``: a name of schemas.lanes, instead of the host. Where
    neither names a provider, the reply's own tokens may. ``phase`` as in schemas.outcome.
    """
    if reply[:1] in ("2", "3") and reply[1:3].isdigit() and not reply[3:4].isdigit():
        found = _HEAD.match(reply)
        return _accepted(reply[:3], found.group(2) if found else "")
    reply = reply[:LONGEST]
    code, enhanced, begin = read_codes(reply)
    if code[:1] in ("2", "3"):
        return _accepted(code, enhanced)
    text = plain(reply[begin:])
    if code and (f" {code}-" in text or f" {code} " in text):  # several lines that somebody joined
        text = text.replace(f" {code}-{enhanced} ", " ").replace(f" {code} {enhanced} ", " ")
    whose = provider or (provider_of([mx]) if mx else "") or _hinted(rules, text)
    decision, rule, names, certain = _decide(rules, whose, code, enhanced, text, reply)
    permanence = _PERMANENCE.get((code or enhanced)[:1], "unknown")
    klass, scope, action = _bounded(rules, decision, permanence, phase, code, "" if certain else text)
    return Meaning(klass, scope, permanence, action, rule, int(code or 0), enhanced, names)


def _accepted(code: str, enhanced: str | None) -> Meaning:
    return Meaning("accepted", "", "unknown", "none", f"basic-{code}", int(code), enhanced or "")


def _hinted(rules: Rules, text: str) -> str:
    for hint in rules.hints:
        if any(map(text.__contains__, hint.any)):
            return hint.provider
    return ""


def _decide(rules: Rules, provider: str, code: str, enhanced: str, text: str, reply: str) -> _Found:
    tail = enhanced[2:]
    subject = tail.partition(".")[0]
    for rule, codes, pattern in rules.of(provider, code):
        if codes and enhanced not in codes and tail not in codes:
            continue
        if rule.any and not any(map(text.__contains__, rule.any)):
            continue
        if rule.none and any(map(text.__contains__, rule.none)):
            continue
        if pattern is not None:
            found = pattern.search(text)
            if found is None:
                continue
            if pattern.groups:
                # A Message-ID looks like an address: names are read where addresses still stand.
                full = pattern.search(" ".join(reply.lower().split())) or found
                names = tuple((key, value[:255]) for key, value in full.groupdict().items() if value)
                return (rule.klass, rule.scope, rule.action), rule.name, names, rule.certain
        return (rule.klass, rule.scope, rule.action), rule.name, (), rule.certain
    if enhanced:
        for key in (enhanced, tail, f"{enhanced[:2]}{subject}.*", subject):
            if key in rules.enhanced:
                return rules.enhanced[key], f"enhanced-{key}", (), False
    for key in (code, code[:1]):
        if key and key in rules.basic:
            return rules.basic[key], f"basic-{key}", (), False
    return ("unclassified", "", "none"), "", (), False


def _bounded(
    rules: Rules, decision: Decision, permanence: Permanence, phase: str, code: str, text: str
) -> Decision:
    """The decision within what its code, its phase and its wording allow."""
    klass, scope, action = decision
    if action == "suppress" and permanence == "transient":
        return klass, scope, "retry"
    if action in ("suppress", "soft") and (phase in _ABOUT_US or code.startswith("53")):
        return "refused", "domain", "retry" if permanence == "transient" else "hold"
    if action in ("suppress", "soft") and permanence != "transient" and _names_block(rules, text):
        return "policy", "domain", "hold"
    if action == "suppress" and permanence == "unknown":
        return klass, scope, "soft"
    if action == "retry" and permanence == "permanent":
        return klass, scope, "hold"
    return klass, scope, action


def _names_block(rules: Rules, text: str) -> bool:
    return rules.guard.search(_URL.sub(r"\1", text)) is not None


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
