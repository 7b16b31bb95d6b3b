"""Which domain signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.sign.policy import Settings, from_domain, signing_domain

SETTINGS = Settings(
    frozenset({"shop.example", "mail.other.example"}), {"mail.other.example": frozenset({"acme"})}
)


@pytest.mark.parametrize(
    ("domain", "tenant", "signs"),
    [
        ("shop.example", "any", "shop.example"),
        ("news.shop.example", "any", "shop.example"),
        ("News.Shop.Example", "any", "shop.example"),
        ("notshop.example", "any", None),
        ("example", "any", None),
        ("other.example", "acme", None),
        ("mail.other.example", "acme", "mail.other.example"),
        ("mail.other.example", "eve", None),
        ("x.mail.other.example", "eve", None),
        ("", "any", None),
    ],
)
def test_the_nearest_domain_with_a_key_signs(domain: str, tenant: str, signs: str | None) -> None:
    assert signing_domain(domain, tenant, SETTINGS) == signs


def test_strict_alignment_takes_the_same_domain_only() -> None:
    strict = Settings(SETTINGS.domains, strict=True)
    assert signing_domain("shop.example", "any", strict) == "shop.example"
    assert signing_domain("news.shop.example", "any", strict) is None


@given(st.lists(st.sampled_from(["a", "b", "shop", "example"]), max_size=5).map(".".join))
def test_what_signs_is_the_domain_or_a_parent_of_it(domain: str) -> None:
    signs = signing_domain(domain, "any", SETTINGS)
    assert signs is None or domain == signs or domain.endswith("." + signs)


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("news@shop.example", "shop.example"),
        ("Shop <news@Shop.Example>", "shop.example"),
        ('"Shop, Inc. <x@evil.example>" <news@shop.example>', "shop.example"),
        ('"a\\"b" <news@shop.example>', "shop.example"),
        ("<news@shop.example>", "shop.example"),
        ("a@evil.example <news@shop.example>", None),
        ("a@b.example, c@d.example", None),
        ("Shop <a@b.example> <c@d.example>", None),
        ("Shop <a@b.example", None),
        ('"open <a@b.example>', None),
        ("Shop", None),
        ("a@b example", None),
        ("a@", None),
        ("", None),
    ],
)
def test_the_domain_of_from(value: str, domain: str | None) -> None:
    assert from_domain(value) == domain
