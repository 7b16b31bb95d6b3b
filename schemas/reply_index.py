"""Which rules a text can meet, found by its words: so that a wording never seen costs a few tries, not hundreds.

A literal can only stand in a text of which some word has three certain letters of it (``_gram``), and a pattern only
where one of its literals (``anchors``) can. What three letters tell of is a number with a bit for each rule; the
numbers of a text's words, ored, are its rules. Providers write with few words: what a word tells is remembered, and
a text of known words costs a look-up a word. Pure but for that memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

WORDS = 20_000
"""Words that are remembered; strangers may send any."""


class Index:
    """Literals and patterns under numbers (bits), and the bits that a text can meet."""

    def __init__(self, common: Iterable[str]) -> None:
        """``common``: texts as they come, by which it is known what is rare."""
        self._common: Counter[str] = Counter()
        for text in common:
            self._common.update(_grams(text))
        self._bits: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self._always = 0
        """Bits that any text can meet."""
        self._foreign = 0
        """Bits that any text can meet which is not all ASCII."""

    def add(self, bit: int, literals: Iterable[str]) -> None:
        """``bit`` (a number with one bit) is met where one of the literals stands."""
        for literal in literals:
            gram = self._rarest(literal)
            if gram is not None:
                self._bits[gram] = self._bits.get(gram, 0) | bit
            elif literal.isascii():
                self._always |= bit
            else:
                self._foreign |= bit

    def add_pattern(self, bit: int, pattern: str) -> None:
        """``bit`` is met where the pattern can match."""
        found = anchors(pattern)
        if found is None:
            self._always |= bit
        else:
            self.add(bit, found)

    def always(self, bit: int) -> None:
        """Whatever the text."""
        self._always |= bit

    def met(self, text: str) -> int:
        """The bits that a text (folded, as ``reply_text.plain`` makes it) can meet."""
        found = self._always if text.isascii() else self._always | self._foreign
        words = self._words
        for word in text.split():
            told = words.get(word)
            if told is None:
                told = self._learn(word)
            found |= told
        return found

    def _learn(self, word: str) -> int:
        told, bits = 0, self._bits
        for gram in _grams(f" {word} "):
            told |= bits.get(gram, 0)
        if len(self._words) >= WORDS:
            self._words.clear()
        if len(word) <= 40:
            self._words[word] = told
        return told

    def _rarest(self, literal: str) -> str | None:
        """Three letters of the literal that lie within one word and its spaces, the rarest."""
        found = [gram for gram in sorted(_grams(literal)) if not gram[1].isspace()]
        return min(found, key=self._common.__getitem__, default=None)


def _grams(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(len(text) - 2)}


def anchors(pattern: str) -> frozenset[str] | None:
    """Literals of which one stands in whatever the pattern matches; None where none can be named.

    Reads what reply rules use of Python's patterns: what it does not know it passes over, so that it names too
    little, never too much.
    """
    found, _ = _alternatives(pattern, 0)
    return found


_Anchors = frozenset[str] | None


def _alternatives(pattern: str, at: int) -> tuple[_Anchors, int]:
    """Of ``a|b``: one of a or one of b; None where one of them names nothing."""
    every: list[_Anchors] = []
    while True:
        one, at = _sequence(pattern, at)
        every.append(one)
        if at >= len(pattern) or pattern[at] == ")":
            break
        at += 1
    known = [one for one in every if one is not None]
    return (frozenset().union(*known) if len(known) == len(every) else None), at


def _sequence(pattern: str, at: int) -> tuple[_Anchors, int]:
    """The best of what must stand there one after the other, and where the sequence ends."""
    found: list[frozenset[str]] = []
    run = ""

    def end() -> None:
        nonlocal run
        if len(run) > 2:
            found.append(frozenset((run,)))
        run = ""

    while at < len(pattern) and pattern[at] not in "|)":
        char = pattern[at]
        if char == "(":
            end()
            inner, at = _group(pattern, at)
            if inner is not None:
                found.append(inner)
        elif char == "[":
            end()
            at = pattern.index("]", at + 2) + 1
        elif char == "\\":
            if pattern[at + 1].isalnum():
                end()
            else:
                run += pattern[at + 1]
            at += 2
        elif char in "?*{":
            run = run[:-1]
            end()
            at = pattern.index("}", at) + 1 if char == "{" else at + 1
        elif char in ".^$+":
            end()
            at += 1
        else:
            run += char
            at += 1
    end()
    return max(found, key=_worth, default=None), at


def _group(pattern: str, at: int) -> tuple[_Anchors, int]:
    """What a group names, None where it may be missing or only looks around; and what comes behind it."""
    head = next((head for head in ("(?:", "(?P<", "(?") if pattern.startswith(head, at)), "(")
    start = pattern.index(">", at) + 1 if head == "(?P<" else at + len(head)
    inner, at = _alternatives(pattern, start)
    at += 1
    may_miss = at < len(pattern) and pattern[at] in "?*{"
    return (None if may_miss or head == "(?" else inner), at


def _worth(found: frozenset[str]) -> tuple[int, int]:
    """The longer the shortest, and the fewer, the better."""
    return min(map(len, found)), -len(found)
