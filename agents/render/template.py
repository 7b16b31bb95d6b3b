"""Templates: minijinja, strict and fuelled; each content is compiled once.

HTML is escaped in the HTML part and only there. There is no loader: a template cannot read another one.
``fuel`` bounds the instructions of one rendering. It does not bound memory: whoever may publish campaigns
is trusted not to double a string thirty times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import minijinja

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


class Template:
    """A compiled content. The constructor and ``render`` raise Refused (template_error)."""

    __slots__ = ("_constant", "_converted", "_environment", "_sources", "unsubscribes", "weight")

    def __init__(self, source: Source, fuel: int) -> None:
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
        if source.html and not source.text.strip():
            self._convert(source.html)
        self.weight = 4096 + 20 * sum(map(len, self._sources.values())) + sum(map(len, source))

    def render(self, context: Mapping[str, Any]) -> Rendered:
        """The parts for one recipient."""
        subject = self._fill("subject.txt", context)
        html = self._fill("html.html", context)
        text = self._fill("text.txt", context)
        if self._converted:
            text = squeeze(text)
        elif html and not text:
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
