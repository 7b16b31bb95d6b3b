"""Templates: minijinja, strict and fuelled; each content is compiled once.

HTML is escaped in the HTML part and only there. There is no loader: a template cannot read another one.
``fuel`` bounds the instructions of one rendering, ``agents.render.growth`` what it may make of its variables:
what goes beyond that raises ``Heavy``, and is rendered in a process of its own, which can be ended. An
ordinary rendering (17 us) pays less than 0.3 us for the look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import minijinja
import orjson

from agents.render.growth import Growth, growth_of
from agents.render.policy import Refused
from agents.render.text import from_html, from_template, squeeze


class Source(NamedTuple):
    """What a campaign, or a transactional send with its own content, says."""

    subject: str
    html: str
    text: str


class Rendered(NamedTuple):
    """The filled-in parts; an absent one is empty."""

    subject: str
    html: str
    text: str


class Heavy(Exception):
    """One rendering may take too long, or make too much, for the process that everything else runs in."""

    def __init__(self, source: Source, context: Mapping[str, Any]) -> None:
        super().__init__("the template has to be rendered in a process of its own")
        self.source = source
        self.context = context


class _Short(Exception):
    """There was less fuel than the settings give."""


USUAL = 1024
"""Bytes of a send for which the fuel is worked out once."""
OURS = 512
"""Bytes of the longest variable that we add ourselves."""
TAGS = 10_000
"""Tags in HTML that is turned into text within this process: 50 ms."""
MANY = 12
"""Variables above which only those are handed over that occur: each costs the engine 2 us."""


class Template:
    """A compiled content. The constructor and ``render`` raise Refused (template_error).

    ``bounded``: raise Heavy instead of what could hold the process; a process of its own goes without.
    """

    __slots__ = (
        *("_constant", "_converted", "_enough", "_environment", "_fuel", "_growth", "_names", "_set"),
        *("_sources", "_usual", "size", "source", "unsubscribes", "weight"),
    )

    def __init__(self, source: Source, fuel: int, bounded: bool = True) -> None:
        self.source = source
        self.size = 0
        """Bytes of the send that is to be rendered: no variable of it is longer."""
        self.unsubscribes = any("unsubscribe_url" in part for part in source)
        """Whether the variable may be used."""
        self._environment = minijinja.Environment(debug=False, fuel=fuel, undefined_behavior="strict")
        self._environment.remove_global("debug")  # it prints the whole context
        self._sources: dict[str, str] = {}
        self._constant: dict[str, str] = {}
        self._add("subject.txt", source.subject)
        self._add("html.html", source.html)
        self._converted = False
        self._add("text.txt", source.text)
        alone = bool(source.html) and not source.text.strip()
        long = bounded and alone and source.html.count("<") > TAGS
        if alone and not long:
            self._convert(source.html)
        self._fuel = self._set = fuel
        self._bound([Growth()] if long else [growth_of(text) for text in self._sources.values()], bounded)
        self.weight = 4096 + 20 * sum(map(len, self._sources.values())) + sum(map(len, source))

    def _bound(self, growth: list[Growth], bounded: bool) -> None:
        self._growth = growth if bounded else []
        self._usual = self._fuel_for(USUAL + OURS)
        self._enough = min((one.enough(USUAL + OURS) for one in self._growth), default=1 << 40) - OURS
        known = all(one.factor for one in growth)
        words = frozenset[str]().union(*(one.names for one in growth))
        for name in self._sources if known else ():
            words |= self._environment.undeclared_variables_in_template(name)
        self._names = tuple(words) if known else None

    def _fuel_for(self, longest: int) -> int:
        return min((one.fuel(longest, self._fuel) for one in self._growth), default=self._fuel)

    def render(self, context: Mapping[str, Any]) -> Rendered:
        """The parts for one recipient, of a send of ``size`` bytes. Raises Heavy."""
        fuel = self._usual if self.size <= self._enough else self._fuel_for(self.size + OURS)
        if self._names is not None and len(context) > MANY:
            context = {name: context[name] for name in self._names if name in context}
        for looked in (False, True):
            if looked:  # closer
                longest = max((len(orjson.dumps(value)) for value in context.values()), default=0)
                fuel, before = self._fuel_for(longest), fuel
                if fuel <= before:
                    break
            if fuel:
                try:
                    return self._render(context, fuel)
                except _Short:
                    continue
        raise Heavy(self.source, context)

    def _render(self, context: Mapping[str, Any], fuel: int) -> Rendered:
        if fuel != self._set:
            self._environment.fuel = self._set = fuel
        subject = self._fill("subject.txt", context)
        html = self._fill("html.html", context)
        text = self._fill("text.txt", context)
        if self._converted:
            text = squeeze(text)
        elif html and not text:
            if self._growth and html.count("<") > TAGS:
                raise Heavy(self.source, context)
            text = from_html(html)
        return Rendered(subject, html, text)

    def _convert(self, html: str) -> None:
        converted = from_template(html)
        if converted is None:
            return
        try:
            self._add("text.txt", converted)
        except (
            Refused
        ):  # a "}}" inside a string misled the conversion; the rendered HTML is converted instead
            self._constant["text.txt"] = ""
            return
        self._converted = True

    def _add(self, name: str, text: str) -> None:
        self._constant.pop(name, None)
        self._sources.pop(name, None)
        if "{" not in text:
            self._constant[name] = text
            return
        self._sources[name] = text
        try:
            self._environment.add_template(name, text)
        except minijinja.TemplateError as error:
            self._sources.pop(name)
            raise _fault(error, text) from None

    def _fill(self, name: str, context: Mapping[str, Any]) -> str:
        constant = self._constant.get(name)
        if constant is not None:
            return constant
        try:
            return self._environment.render_template(name, **context)
        except minijinja.TemplateError as error:
            if error.kind == "OutOfFuel" and self._set < self._fuel:
                raise _Short from None
            raise _fault(error, self._sources[name]) from None


def _fault(error: minijinja.TemplateError, source: str) -> Refused:
    """What is wrong, in which part, line and expression; never a value of the recipient's."""
    part = (error.name or "").partition(".")[0]
    where = f"{part} template, line {error.line}" if error.line else f"{part} template"
    kind = {"UndefinedError": "is undefined: send that variable", "OutOfFuel": "runs too long"}.get(
        error.kind
    )
    expression = ""
    if error.range:
        start, end = error.range
        expression = source.encode()[start:end].decode("utf-8", "replace")[:80]
    if kind:
        return Refused("rejected", "template_error", f"{where}: {expression!r} {kind}")
    return Refused(
        "rejected", "template_error", f"{where}: {error.detail or error.kind} {expression!r}"[:300]
    )
