"""consent.toml: what it says by tenant and stream, and every fault in one error."""

from __future__ import annotations

import pytest

from schemas.consent_rules import BadConsents, ConsentRules, read_consent_rules

GOOD = """
[default.marketing]
require = true
[shop.marketing]
from = "Shop <news@shop.test>"
wording = "I want the newsletter"
tracking = "consent"
hours = 12
["b2b.eu".marketing]
require = false
"""


def test_a_tenant_has_the_defaults_where_it_says_nothing() -> None:
    rules = read_consent_rules(GOOD)
    shop = rules.of("shop", "marketing")
    assert (shop.require, shop.tracking, shop.double_opt_in, shop.hours) == (True, "consent", True, 12.0)
    assert not rules.of("b2b.eu", "marketing").require
    assert rules.of("anybody", "marketing").require
    assert not rules.of("shop", "transactional").asks
    assert rules.ask


def test_only_who_takes_subscriptions_has_a_campaign_for_confirmations() -> None:
    (campaign,) = read_consent_rules(GOOD).campaigns()
    assert (campaign.key, campaign.stream, campaign.tracking) == (
        b"shop/confirm.marketing",
        "transactional",
        False,
    )
    assert "{{ confirm_url }}" in campaign.text


def test_without_a_file_nothing_is_asked_for() -> None:
    assert not ConsentRules().ask
    assert not ConsentRules().of("shop", "marketing").asks


def test_every_fault_is_named() -> None:
    with pytest.raises(BadConsents) as caught:
        read_consent_rules(
            """
            tenant = 1
            [default.marketing]
            require = "yes"
            from = "a@b.test"
            [shop.marketing]
            from = "a@shop.test"
            text = "press here"
            hours = 1000
            tracking = "never"
            colour = "red"
            [shop.transactional]
            require = true
            [mail.marketing]
            from = "a@b.test\\nBcc: x"
            wording = "w"
            """,
            "my.toml",
        )
    told = str(caught.value)
    assert told.startswith("my.toml has ")
    for part in (
        "tenant must be a table",
        "default.marketing.require must be true or false, not 'yes'",
        "default.marketing: 'from' is not known",
        "shop.marketing.wording is missing",
        "neither text nor html has {{ confirm_url }}",
        "shop.marketing.hours must be from 1 to 720, not 1000",
        "shop.marketing.tracking is 'never'",
        "shop.marketing: 'colour' is not known",
        "shop: stream 'transactional' is not known",
        "mail.marketing makes no mail",
    ):
        assert part in told
    with pytest.raises(BadConsents, match=r"my\.toml"):
        read_consent_rules("[", "my.toml")
