"""How much a template can make of what it is given: worked out once, from its source. Pure.

A template runs inside its engine, where nobody can stop it: fuel bounds how many instructions it runs, not
how long one of them takes or how much it makes. So each template gets a bound on what one instruction can
make of the longest value that comes in, and no more fuel than keeps the whole below ``LIMIT``. What this
scan does not know, or what multiplies (``*``, macros, namespaces ...), has no bound: ``Growth.factor`` is 0
and a process of its own renders it (``agents.render.guard``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LIMIT = 16_000_000
"""Characters that one rendering may make at the very worst within this process: some tens of milliseconds."""
MOST = 1000
"""A factor beyond which there is no use in counting."""


class Growth(NamedTuple):
    """``factor``: no value gets longer than this many times the longest one that came in; 0 = no bound."""

    factor: int = 0
    tags: int = 0
    loops: bool = False
    literal: int = 0
    """Characters of the longest text in a loop, or of all string literals."""
    names: frozenset[str] = frozenset()
    """Every word in the tags: no other variable is ever read."""

    def fuel(self, longest: int, fuel: int) -> int:
        """Instructions that keep the output below LIMIT where no value is longer than ``longest``; 0 = none."""
        if not self.factor:
            return 0
        if not self.loops:  # each tag runs once, whatever the fuel
            return fuel if longest <= self.enough(0) else 0
        return min(fuel, LIMIT // ((longest + self.literal) * self.factor))

    def enough(self, usual: int) -> int:
        """How long a value may be with the fuel that is right for ``usual``."""
        if self.loops or not self.factor:
            return usual if self.factor else -1
        return LIMIT // (max(self.tags, 1) * self.factor) - self.literal


def growth_of(source: str) -> Growth:
    """The bound of one template. Takes time in proportion to its length, whatever it holds."""
    kept = most = 1
    tags = literal = strings = depth = 0
    loops = False
    words: set[str] = set()
    for statement, tokens, text in _tags(source):
        if tokens is None:
            return Growth()
        if depth:
            literal = max(literal, text)
        if not tokens:
            continue
        tags += 1
        words.update(token for token in tokens if token[0].isalpha() or token[0] == "_")
        strings += sum(len(token) for token in tokens if token[0] in "\"'")
        keyword = tokens[0] if statement else ""
        grown = _grown(tokens, keyword) if not statement or _allowed(keyword, tokens) else 0
        if not grown or kept * grown > MOST:
            return Growth()
        depth += (keyword == "for") - (keyword == "endfor")
        loops = loops or keyword == "for"
        if keyword in ("set", "with"):  # what it makes may be used to make more
            kept *= grown
        most = max(most, kept * grown)
    return Growth(most, tags, loops, max(literal, strings), frozenset(words))


_TEXT = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'"
_OPEN = re.compile(r"\{[{%#]")
_INSIDE = re.compile(rf"(?:{_TEXT}|[^\"'{{}}%]|%(?!\}}))*", re.DOTALL)
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_TOKEN = re.compile(rf"{_TEXT}|[^\W\d]\w*|\d[\w.]*|\*\*|\S", re.DOTALL)


def _tags(source: str) -> Iterator[tuple[bool, list[str] | None, int]]:
    """(whether it is a statement, its tokens, how much text lies before it) of each tag; tokens None ends it:
    here the scan does not understand the source. At last an empty tag for the text behind the others."""
    end = 0
    while found := _OPEN.search(source, end):
        start, sign = found.start(), source[found.end() - 1]
        if sign == "#" or _RAW.match(source, start):
            close = source.find("#}", start) + 2 if sign == "#" else _closing(source, start)
            if close < 2:
                break
            yield False, [], close - end
            end = close
            continue
        inside = _INSIDE.match(source, start + 2)
        assert inside is not None  # it matches nothing, too
        if not source.startswith("%}" if sign == "%" else "}}", inside.end()):
            break
        yield sign == "%", _TOKEN.findall(inside[0].strip("-+ \t\r\n")), start - end
        end = inside.end() + 2
    else:
        yield False, [], len(source) - end
        return
    yield False, None, len(source) - end


def _closing(source: str, start: int) -> int:
    found = _END_RAW.search(source, start)
    return found.end() if found else 0


_words = str.split
_STATEMENTS = frozenset(_words("if elif else endif for endfor set with endwith"))
_PLAIN = _words(
    "abs attr bool capitalize count d default dictsort first float groupby int items keys last length lines"
    " list lower max min reject rejectattr reverse round safe select selectattr sort split string sum title"
    " trim unique upper values"
)
_FILTERS = dict.fromkeys(_PLAIN, 1) | {"upper": 3, "title": 3, "capitalize": 3, "lower": 2}
_FILTERS |= {"e": 6, "escape": 6, "tojson": 6, "urlencode": 3}
_FILTERS |= dict.fromkeys(("dictsort", "groupby", "sort", "unique"), 8)  # for the time that they take
_METHODS = frozenset(
    _words(
        "count endswith find get isalnum isalpha isascii isdigit islower isnumeric isupper items keys lower lstrip"
        " rstrip split splitlines startswith strip title upper values cycle capitalize"
    )
)


def _allowed(keyword: str, tokens: list[str]) -> bool:
    if keyword == "set":  # not the block form, not an attribute of a namespace
        return "=" in tokens and "." not in tokens[: tokens.index("=")]
    if keyword == "for":
        return "recursive" not in tokens
    return keyword in _STATEMENTS


def _grown(tokens: list[str], keyword: str) -> int:
    """By how much a tag's value may be longer than those that it is made of; 0 = no bound."""
    # A comma: [a, a] is twice as long as a.
    grown = 1 + sum(token in ("~", "+", ",") for token in tokens)
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else ""
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if token == "*" or token == "%":
            return 0
        if before == "|":
            if token in ("join", "replace"):
                grown *= _argument(tokens[place + 1 :])
            elif token == "tojson" and after == "(":
                return 0
            elif token == "map":
                grown *= tokens[place + 1 : place + 4] == ["(", "attribute", "="]
            else:
                grown *= _FILTERS.get(token, 0)
        elif after == "(" and (token[0].isalpha() or token[0] == "_") and before not in ("is", "not"):
            known = token in _METHODS if before == "." else token in ("and", "or", "not", "in", "if", "else")
            grown *= known or (token == "range" and keyword == "for" and before == "in")
    return grown


def _argument(tokens: list[str]) -> int:
    """What ``join`` and ``replace`` multiply by: the length of their literals, one more; 0 for anything else."""
    if tokens[:1] != ["("]:
        return 1
    longest = 0
    for token in tokens[1:]:
        if token == ")":
            return longest + 1
        if token[0] not in "\"',":
            return 0
        longest = max(longest, len(token))
    return 0
