"""The rules of ``schemas.reply`` as data: their form, and what is checked when they are read.

Pure. The text of a replies.toml is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from tomllib import TOMLDecodeError, loads
from typing import Any, Literal

import msgspec

from schemas.reply_index import Index
from schemas.reply_text import folded

Scope = Literal["", "address", "domain", "source", "dkim", "content", "config"]
"""Whom it is about: the recipient, their domain or MX, our IP address, our signing domain, this content,
our configuration; empty where nothing is refused or nothing can be told."""
Permanence = Literal["permanent", "transient", "unknown"]
Action = Literal["suppress", "soft", "retry", "slow", "hold", "complaint", "unsubscribe", "none"]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"klass": "class"}):
    """One rule: every condition that is given must hold. All texts are compared as ``reply_text.plain``.

    ``provider``: only their replies. ``codes``: beginnings of the basic code. ``enhanced``: ``5.7.1``,
    ``7.1`` (4.7.1 and 5.7.1) or a range ``5.7.606-649``. ``any`` and ``none``: literals of which one, or
    none, occurs. ``pattern``: searched; its named groups become ``Meaning.names``. ``fixtures``: replies
    for which this rule is chosen; ``{ip}`` stands for an IPv4 and an IPv6 address (two fixtures).
    ``certain``: a provider's own code for a bad address, which outranks what its wording seems to say.
    ``source``: a key of the table ``source``: where the rule comes from. ``reviewed``: when somebody last
    looked whether it still holds.
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
    source: str
    reviewed: date
    fixtures: tuple[str, ...]


class Hint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider's tokens, by which its replies are known where no MX is given."""

    provider: str
    any: tuple[str, ...]


class RulesError(ValueError):
    """The rules cannot be used; the message lists every fault, one a line."""


Decision = tuple[str, Scope, Action]


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A rule as it is tried: its texts folded, its codes spelled out, its pattern compiled.

    ``without_links``: it is tried without the paths of links. ``names``: its pattern names the guilty.
    """

    rule: Rule
    decision: Decision
    without_links: bool
    names: bool
    codes: frozenset[str]
    any: tuple[str, ...]
    none: tuple[str, ...]
    pattern: re.Pattern[str] | None


class Rules:
    """Compiled rules; immutable after ``load_rules`` but for memories, safe to share between threads."""

    def __init__(
        self,
        rules: Sequence[Rule],
        hints: Sequence[Hint],
        enhanced: dict[str, Decision],
        basic: dict[str, Decision],
        guard: Sequence[str],
        version: str = "",
        sources: dict[str, str] | None = None,
    ) -> None:
        self.rules = tuple(rules)
        self.hints = tuple(hints)
        self.enhanced = enhanced
        self.basic = basic
        self.version = version
        self.sources = sources or {}
        self.guard = tuple(re.compile(folded_pattern(pattern), re.ASCII) for pattern in guard)
        self._ready = tuple(_ready(rule) for rule in rules)
        # A provider's own rules come first: so a rule's number is its turn.
        self._ready = tuple(sorted(self._ready, key=lambda one: not one.rule.provider))
        self._fits: dict[tuple[str, str], int] = {}
        self._providers = {name for rule in rules for name in rule.provider}
        self._coded: dict[str, int] = {}
        """By enhanced code, or its last two parts: the rules that ask for it."""
        self._uncoded = 0
        self._fill_index()
        self.known: dict[Any, Any] = {}
        """Memory of ``schemas.reply.classify``: wording -> meaning."""

    def _fill_index(self) -> None:
        """A bit for each rule's literals, one for its pattern, then those of the hints and of the guard."""
        texts = [folded(fixture) for rule in self.rules for fixture in rule.fixtures]
        self._index = index = Index(texts)
        self._count = count = len(self._ready)
        for number, one in enumerate(self._ready):
            bit = 1 << number
            if one.any:
                index.add(bit, one.any)
            else:
                index.always(bit)
            if one.pattern is not None:
                index.add_pattern(bit << count, one.pattern.pattern)
            else:
                index.always(bit << count)
            for code in one.codes:
                self._coded[code] = self._coded.get(code, 0) | bit
            self._uncoded |= 0 if one.codes else bit
        self._all = (1 << count) - 1
        for number, hint in enumerate(self.hints):
            index.add(1 << 2 * count + number, hint.any)
        self._guarded = 2 * count + len(self.hints)
        for number, pattern in enumerate(self.guard):
            index.add_pattern(1 << self._guarded + number, pattern.pattern)

    def met(self, text: str) -> int:
        """What of rules, hints and guard a text can meet, for the three below."""
        return self._index.met(text)

    def hinted(self, met: int, text: str) -> str:
        """The provider whose tokens a text has, or empty."""
        bits = met >> 2 * self._count
        for number, hint in enumerate(self.hints) if bits else ():
            if bits >> number & 1 and any(map(text.__contains__, hint.any)):
                return hint.provider
        return ""

    def names_block(self, met: int, text: str) -> bool:
        """Whether the guard finds a block, a policy or a throttle in a text."""
        bits = met >> self._guarded
        while bits:
            low = bits & -bits
            number = low.bit_length() - 1
            if number >= len(self.guard):
                return False
            if self.guard[number].search(text) is not None:
                return True
            bits ^= low
        return False

    def candidates(self, met: int, provider: str, code: str, enhanced: str) -> Iterator[Ready]:
        """The rules that can hold, in order: a provider's own first."""
        met = met & met >> self._count & self._all & self._fitting(provider, code)
        if enhanced:
            met &= self._uncoded | self._coded.get(enhanced, 0) | self._coded.get(enhanced[2:], 0)
        else:
            met &= self._uncoded
        while met:
            low = met & -met
            yield self._ready[low.bit_length() - 1]
            met ^= low

    def _fitting(self, provider: str, code: str) -> int:
        """The rules for a provider's replies with this basic code."""
        own = provider if provider in self._providers else ""
        code = code[:3]
        found = self._fits.get((own, code))
        if found is None:
            found = 0
            for number, one in enumerate(self._ready):
                rule = one.rule
                if (not rule.provider or (own and own in rule.provider)) and (
                    not rule.codes or code.startswith(rule.codes)
                ):
                    found |= 1 << number
            self._fits[own, code] = found
        return found


def _ready(rule: Rule) -> Ready:
    pattern = re.compile(folded_pattern(rule.pattern)) if rule.pattern else None
    return Ready(
        rule,
        (rule.klass, rule.scope, rule.action),
        rule.action in ("suppress", "soft") and not rule.provider,
        pattern is not None and pattern.groups > 0,
        _codes(rule.enhanced),
        tuple(map(folded, rule.any)),
        tuple(map(folded, rule.none)),
        pattern,
    )


def folded_pattern(pattern: str) -> str:
    """A pattern without accents, as the texts are that it is searched in; its classes keep their case."""
    return pattern if pattern.isascii() else "".join(c if c.isascii() else folded(c) for c in pattern)


def _codes(ranges: Iterable[str]) -> frozenset[str]:
    """``5.7.606-608`` as its codes."""
    found: set[str] = set()
    for text in ranges:
        head, _, last = text.partition("-")
        stem, _, first = head.rpartition(".")
        found.update(f"{stem}.{n}" for n in range(int(first), int(last or first) + 1))
    return frozenset(found)


# --- reading and checking

_IPS = ("192.0.2.25", "2001:db8::2:25")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9a-f]{1,4}:[0-9a-f:]{2,}", re.IGNORECASE)
_KEY = re.compile(r"[45]\.\d{1,3}\.(?:\d{1,4}|\*)|\d{1,3}\.\d{1,4}|\d{1,3}")
_RANGE = re.compile(r"(?:[45]\.)?\d{1,3}\.\d{1,4}(?:-\d{1,4})?|[45]?\.?\d")


def fixtures(rule: Rule) -> list[str]:
    """The rule's fixtures, ``{ip}`` filled in with an IPv4 and an IPv6 address."""
    found: list[str] = []
    for text in rule.fixtures:
        found += [text.replace("{ip}", ip) for ip in _IPS] if "{ip}" in text else [text]
    return found


_TABLES = ("version", "source", "rule", "hint", "enhanced", "basic", "guard")


def read_rules(toml_text: str) -> Rules:
    """Rules from the text of a replies.toml, checked one by one. Raises RulesError listing all faults."""
    try:
        data = loads(toml_text)
    except TOMLDecodeError as error:
        raise RulesError(f"the rules are not TOML: {error}") from None
    faults = [f"unknown table {key!r}" for key in data if key not in _TABLES]
    rules = _structs(data.get("rule", []), Rule, "rule", faults)
    hints = _structs(data.get("hint", []), Hint, "hint", faults)
    tables = [_decisions(data.get(name, {}), name, faults) for name in ("enhanced", "basic")]
    guard, version, sources = data.get("guard", []), data.get("version", ""), data.get("source", {})
    if not isinstance(version, str) or not version:
        faults.append('no version; give version = "..." and raise it with each change')
    faults += [f"guard: {fault}" for text in guard if (fault := _pattern_fault(text))]
    seen: set[str] = set()
    for rule in rules:
        faults += [f"rule {rule.name!r}: {fault}" for fault in _rule_faults(rule)]
        if rule.source not in sources:
            faults.append(f"rule {rule.name!r}: {rule.source!r} is none of the table source")
        if rule.name in seen:
            faults.append(f"rule {rule.name!r}: the name is used twice")
        seen.add(rule.name)
    if faults:
        raise RulesError("\n".join(faults))
    return Rules(rules, hints, tables[0], tables[1], guard, version, sources)


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
        found = msgspec.convert(table, dict[str, tuple[str, Scope, Action]])
        faults += [f"table {name!r}: {key!r} is no code" for key in found if not _KEY.fullmatch(key)]
        return found
    except msgspec.ValidationError as error:
        faults.append(f"table {name!r}: {error}")
        return {}


def _pattern_fault(text: Any) -> str:
    try:
        re.compile(folded_pattern(text))
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
