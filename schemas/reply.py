"""What an SMTP reply means: whom it is about, for how long, and what to do.

Pure. The rules are data (``replies.toml``, passed in as text): a provider's own rules first, then rules
on wording that anybody uses, then the enhanced status code (RFC 3463, RFC 5248), then the basic code.
A reply is a stranger's text: it is cut to ``LONGEST`` characters, addresses and URL paths are taken out
before any wording is looked at (a local part may say ``spam`` or ``user-unknown``), and whatever the
rules say, ``suppress`` is given only to a permanent refusal of an address that names no block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from tomllib import TOMLDecodeError, loads
from typing import Any, Literal

import msgspec

from schemas.lanes import provider_of

LONGEST = 4096
"""Characters of a reply that are looked at (RFC 5321 allows 512 octets a line, any number of lines)."""
_BEGINNING, _END = 700, 300  # characters of wording that rules see: the rest says nothing new

Scope = Literal["", "address", "domain", "source", "dkim", "content", "config"]
"""Whom it is about: the recipient, their domain or MX, our IP address, our signing domain, this content,
our configuration; empty where nothing is refused or nothing can be told."""
Permanence = Literal["permanent", "transient", "unknown"]
Action = Literal["suppress", "soft", "retry", "slow", "hold", "complaint", "unsubscribe", "none"]


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


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"klass": "class"}):
    """One rule: every condition that is given must hold. All texts are compared in lower case.

    ``provider``: only their replies. ``codes``: beginnings of the basic code. ``enhanced``: ``5.7.1``,
    ``7.1`` (4.7.1 and 5.7.1) or a range ``5.7.606-649``. ``any`` and ``none``: literals of which one, or
    none, occurs. ``pattern``: searched; its named groups become ``Meaning.names``. ``fixtures``: replies
    for which this rule is chosen; ``{ip}`` stands for an IPv4 and an IPv6 address (two fixtures).
    ``certain``: a provider's own code for a bad address, which outranks what its wording seems to say.
    """

    name: str
    klass: str
    scope: Scope
    action: Action
    provider: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    pattern: str = ""
    certain: bool = False
    fixtures: tuple[str, ...]


class Hint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider's tokens, by which its replies are known where no MX is given."""

    provider: str
    any: tuple[str, ...]


class RulesError(ValueError):
    """The rules cannot be used; the message lists every fault, one a line."""


Decision = tuple[str, Scope, Action]
_Found = tuple[Decision, str, tuple[tuple[str, str], ...], bool]
_Compiled = tuple[Rule, frozenset[str], "re.Pattern[str] | None"]


class Rules:
    """Compiled rules; immutable after ``load_rules``, safe to share between threads."""

    def __init__(
        self,
        rules: Sequence[Rule],
        hints: Sequence[Hint],
        enhanced: dict[str, Decision],
        basic: dict[str, Decision],
        guard: Sequence[str],
    ) -> None:
        self.rules = tuple(rules)
        self.hints = tuple(hints)
        self.enhanced = enhanced
        self.basic = basic
        self.guard = re.compile("|".join(guard) or r"(?!)", re.ASCII)
        self._compiled: tuple[_Compiled, ...] = tuple(
            (rule, _codes(rule.enhanced), re.compile(rule.pattern) if rule.pattern else None)
            for rule in rules
        )
        self._chosen: dict[tuple[str, str], tuple[_Compiled, ...]] = {}
        self._providers = {name for rule in rules for name in rule.provider}

    def of(self, provider: str, code: str) -> tuple[_Compiled, ...]:
        """The rules that can hold for a provider's replies with this basic code, in order."""
        key = (provider if provider in self._providers else "", code)
        found = self._chosen.get(key)
        if found is None:
            own = [c for c in self._compiled if key[0] and key[0] in c[0].provider]
            anyone = [c for c in self._compiled if not c[0].provider]
            found = tuple(c for c in own + anyone if not c[0].codes or code.startswith(c[0].codes))
            self._chosen[key] = found
        return found


def _codes(ranges: Iterable[str]) -> frozenset[str]:
    """``5.7.606-608`` as its codes."""
    found: set[str] = set()
    for text in ranges:
        head, _, last = text.partition("-")
        stem, _, first = head.rpartition(".")
        found.update(f"{stem}.{n}" for n in range(int(first), int(last or first) + 1))
    return frozenset(found)


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
        for key in (enhanced, tail, enhanced[:3], tail.partition(".")[0]):
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
    if action == "suppress" and (phase in _ABOUT_US or code.startswith("53")):
        return "refused", "domain", "hold"
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

_IPS = ("192.0.2.25", "2001:db8::2:25")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9a-f]{1,4}:[0-9a-f:]{2,}", re.IGNORECASE)
_RANGE = re.compile(r"(?:[45]\.)?\d{1,3}\.\d{1,4}(?:-\d{1,4})?|[45]?\.?\d")


def fixtures(rule: Rule) -> list[str]:
    """The rule's fixtures, ``{ip}`` filled in with an IPv4 and an IPv6 address."""
    found: list[str] = []
    for text in rule.fixtures:
        found += [text.replace("{ip}", ip) for ip in _IPS] if "{ip}" in text else [text]
    return found


def load_rules(toml_text: str) -> Rules:
    """Checked rules from the text of a replies.toml. Raises RulesError listing all faults at once.

    Checked: fields and their types, unique names, patterns, ranges of codes, lower case, that each rule
    has a fixture and both kinds of IP address where it has one, and that each fixture chooses its rule.
    """
    try:
        data = loads(toml_text)
    except TOMLDecodeError as error:
        raise RulesError(f"the rules are not TOML: {error}") from None
    faults = [f"unknown table {key!r}" for key in data if key not in _TABLES]
    rules = _structs(data.get("rule", []), Rule, "rule", faults)
    hints = _structs(data.get("hint", []), Hint, "hint", faults)
    tables = [_decisions(data.get(name, {}), name, faults) for name in ("enhanced", "basic")]
    guard = data.get("guard", [])
    faults += [f"guard: {fault}" for text in guard if (fault := _pattern_fault(text))]
    seen: set[str] = set()
    for rule in rules:
        faults += [f"rule {rule.name!r}: {fault}" for fault in _rule_faults(rule)]
        if rule.name in seen:
            faults.append(f"rule {rule.name!r}: the name is used twice")
        seen.add(rule.name)
    if not faults:
        loaded = Rules(rules, hints, tables[0], tables[1], guard)
        faults = dead_fixtures(loaded)
        if not faults:
            return loaded
    raise RulesError("\n".join(faults))


_TABLES = ("rule", "hint", "enhanced", "basic", "guard")


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


def _structs(items: Any, kind: Any, what: str, faults: list[str]) -> list[Any]:
    found: list[Any] = []
    for number, item in enumerate(items if isinstance(items, list) else [items], 1):
        try:
            found.append(msgspec.convert(item, kind))
        except msgspec.ValidationError as error:
            label = item.get("name", number) if isinstance(item, dict) else number
            faults.append(f"{what} {label!r}: {error}")
    return found


def _decisions(table: Any, name: str, faults: list[str]) -> dict[str, Decision]:
    try:
        return msgspec.convert(table, dict[str, tuple[str, Scope, Action]])
    except msgspec.ValidationError as error:
        faults.append(f"table {name!r}: {error}")
        return {}


def _pattern_fault(text: Any) -> str:
    try:
        re.compile(text)
    except (re.error, TypeError) as error:
        return f"pattern {text!r} does not compile: {error}"
    return ""


def _rule_faults(rule: Rule) -> list[str]:
    found = [fault] if (fault := _pattern_fault(rule.pattern)) else []
    texts = (*rule.any, *rule.none)
    found += [f"{text!r} is empty or not in lower case" for text in texts if not text or text != text.lower()]
    found += [
        f"{text!r} is no enhanced code or range" for text in rule.enhanced if not _RANGE.fullmatch(text)
    ]
    if not (rule.codes or rule.enhanced or rule.any or rule.pattern):
        found.append("it has no condition; give codes, enhanced, any or pattern")
    if rule.certain and not rule.provider:
        found.append("only a provider's own code can be certain; give provider")
    if not rule.fixtures:
        found.append("it has no fixture; give at least one reply that it must catch")
    replies = fixtures(rule)
    v4, v6 = (any(ip.search(text) for text in replies) for ip in (_IPV4, _IPV6))
    if v4 != v6:
        found.append(f"its fixtures have no {'IPv6' if v4 else 'IPv4'} address; write {{ip}} for both")
    return found
