"""HTML as text, from the template and from what it renders to."""

from __future__ import annotations

import time
from html import escape

import minijinja
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.render.text import from_html, from_template, squeeze

PAGE = """<!DOCTYPE html>
<html><head><title>No</title><style>p > a { color: red }</style></head>
<body><!-- no <p>this</p> -->
  <h1>Hello {{ name }}</h1>
  <p>One &amp; two<br>three  <b>four</b>, {{ name }}</p>
  <ul>
  {% for item in items %}
    <li>{{ item }}</li>
  {% endfor %}
  </ul>
  {% if vip %}<p>Thank you.</p>{% else %}<p>Join us.</p>{% endif %}
  <p><a href="https://x.example/?a=1&amp;b=2">Shop</a> <a href="https://x.example/">https://x.example/</a>
     <a href="#top">Up</a> <img alt="A logo" src="x.png"> <a href="{{ unsubscribe_url }}">Leave</a></p>
</body></html>
"""
WANTED = """Hello Ann

One & two
three four, Ann

* red
* blue

Thank you.

Shop (https://x.example/?a=1&b=2) https://x.example/ Up A logo Leave (https://u.example/1)
"""
CONTEXT = {"name": "Ann", "items": ["red", "blue"], "vip": True, "unsubscribe_url": "https://u.example/1"}


def fill(source: str, html: bool, **context: object) -> str:
    environment = minijinja.Environment(undefined_behavior="strict")
    return environment.render_str(source, "x.html" if html else "x.txt", **context)


def test_the_template_is_converted_once_and_says_the_same() -> None:
    converted = from_template(PAGE)
    assert converted is not None
    assert squeeze(fill(converted, False, **CONTEXT)) == WANTED


def test_rendered_html_is_converted() -> None:
    assert from_html(fill(PAGE, True, **CONTEXT)) == WANTED


def test_values_are_not_escaped_in_text() -> None:
    converted = from_template("<p>Dear {{ name }}</p>")
    assert converted is not None
    assert squeeze(fill(converted, False, name="A & <B>")) == "Dear A & <B>\n"


@pytest.mark.parametrize(
    "source",
    [
        "<a {% if x %}href='y'{% endif %}>z</a>",
        "{{ body|safe }}",
        "{{ name | e }}",
        "{% macro m() %}<b>x</b>{% endmacro %}{{ m() }}",
        "{% set x %}<b>y</b>{% endset %}{{ x }}",
        "{% raw %}{{ x }}{% endraw %}",
        "<style>{% if x %}a{% endif %}</style>",
        "<!-- {% if x %} -->a<!-- {% endif %} -->",
        "&#123;&#123; x }}",
        "a \ue0000\ue001",
    ],
)
def test_what_is_entangled_is_left_to_the_rendered_html(source: str) -> None:
    assert from_template(source) is None


@given(
    st.lists(
        st.sampled_from(
            [
                "<p>",
                "</p>",
                "<br>",
                "<a href='x'>",
                "</a>",
                "<",
                ">",
                "<!--",
                "-->",
                '<a t="',
                "word",
                " ",
                "\n",
                "<li>",
            ]
        ),
        max_size=30,
    ).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_any_markup_converts(source: str) -> None:
    text = from_html(source)
    assert "\n\n\n" not in text
    assert text.endswith("\n")


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=50))
def test_escaped_text_comes_back(words: str) -> None:
    assert from_html(f"<p>{escape(words)}</p>") == words + "\n"


@pytest.mark.parametrize(
    "bomb", ["<a <", '<a "', "<!--", "<p", "<style>", "<div>", "&", "\n \n", "<a href='x'>"]
)
def test_hostile_markup_costs_linear_time(bomb: str) -> None:
    started = time.process_time()
    from_html(bomb * (300_000 // len(bomb)))
    assert time.process_time() - started < 3
