"""The rules of ``schemas.reply`` as data: their form, and what is checked when they are read.

Pure. The text of a replies.toml is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from tomllib import TOMLDecodeError, loads
from typing import Any, Literal

import msgspec

Scope = Literal["", "address", "domain", "source", "dkim", "content", "config"]
"""Whom it is about: the recipient, their domain or MX, our IP address, our signing domain, this content,
our configuration; empty where nothing is refused or nothing can be told."""
Permanence = Literal["permanent", "transient", "unknown"]
Action = Literal["suppress", "soft", "retry", "slow", "hold", "complaint", "unsubscribe", "none"]


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


_TABLES = ("rule", "hint", "enhanced", "basic", "guard")


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
    guard = data.get("guard", [])
    faults += [f"guard: {fault}" for text in guard if (fault := _pattern_fault(text))]
    seen: set[str] = set()
    for rule in rules:
        faults += [f"rule {rule.name!r}: {fault}" for fault in _rule_faults(rule)]
        if rule.name in seen:
            faults.append(f"rule {rule.name!r}: the name is used twice")
        seen.add(rule.name)
    if faults:
        raise RulesError("\n".join(faults))
    return Rules(rules, hints, tables[0], tables[1], guard)


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
