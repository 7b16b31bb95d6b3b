"""Tracked links and the pixel."""

from __future__ import annotations

import time

import pytest

from agents.render.links import add_pixel, rewrite

BASE = "https://t.example"


def track(url: str) -> str:
    return f"{BASE}/c/T?u={url}&s=1"


@pytest.mark.parametrize(
    ("html", "found"),
    [
        (
            '<a href="https://x.example/">x</a>',
            '<a href="https://t.example/c/T?u=https://x.example/&amp;s=1">x</a>',
        ),
        (
            "<a class='b' href='http://x.example/?a=1&amp;b=2'>",
            "<a class='b' href=\"https://t.example/c/T?u=http://x.example/?a=1&amp;b=2&amp;s=1\">",
        ),
        (
            "<A\n HREF = https://x.example/ >",
            '<A\n HREF = "https://t.example/c/T?u=https://x.example/&amp;s=1" >',
        ),
        (
            '<area href="https:&#x2f;&#x2f;x.example">',
            '<area href="https://t.example/c/T?u=https://x.example&amp;s=1">',
        ),
    ],
)
def test_links_go_through_us(html: str, found: str) -> None:
    assert rewrite(html, BASE, track) == found


@pytest.mark.parametrize(
    "html",
    [
        '<a href="mailto:a@b.example">',
        '<a href="tel:+4912345">',
        '<a href="#top">',
        '<a href="/relative">',
        '<a href="">',
        '<a name="x">',
        '<a href="https://t.example/u/TOKEN">',
        '<a data-href="https://x.example/">',
        '<link href="https://x.example/">',
        '<img src="https://x.example/">',
        '<abbr href="https://x.example/">',
        'text href="https://x.example/"',
        '<a href="javascript:alert(1)">',
    ],
)
def test_other_links_are_left_alone(html: str) -> None:
    assert rewrite(html, BASE, track) == html


def test_what_cannot_be_tracked_stays_as_it_is() -> None:
    html = "<a href='https://x.example/'>"
    assert rewrite(html, BASE, lambda url: url) == html


def test_the_pixel_stands_before_the_end() -> None:
    assert add_pixel("<body>x</body></html>", "https://t.example/o/T.gif").startswith(
        '<body>x<img src="https://t.example/o/T.gif"'
    )
    assert add_pixel("x", "https://t.example/o/T.gif").startswith("x<img ")


@pytest.mark.parametrize("bomb", ["<a ", "<a  href", '<a href="', "<a " + " " * 50])
def test_hostile_markup_costs_linear_time(bomb: str) -> None:
    started = time.process_time()
    rewrite(bomb * (500_000 // len(bomb)), BASE, track)
    assert time.process_time() - started < 3
