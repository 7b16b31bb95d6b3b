"""What replies mean: every rule by its own fixtures, the traps of providers.md, and what never happens."""

from __future__ import annotations

from importlib import resources
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.reply import Meaning, classify, dead_fixtures, load_rules, plain, read_codes
from schemas.reply_index import anchors
from schemas.reply_rules import Action, Rules, RulesError, Scope, fixtures, read_rules

TEXT = (resources.files("schemas") / "replies.toml").read_text("utf-8")
RULES = load_rules(TEXT)


def said(reply: str, mx: str = "", phase: str = "", provider: str = "") -> Meaning:
    return classify(RULES, reply, mx=mx, phase=phase, provider=provider)


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.name)
def test_every_rule_is_the_one_chosen_for_its_fixtures(rule):
    assert rule.fixtures
    for reply in fixtures(rule):
        for provider in rule.provider or ("",):
            found = said(reply, provider=provider)
            assert (found.rule, found.klass, found.scope) == (rule.name, rule.klass, rule.scope), reply


def test_no_rule_is_dead():
    assert dead_fixtures(RULES) == []


def test_every_code_table_entry_names_a_scope_and_an_action():
    for klass, scope, action in [*RULES.enhanced.values(), *RULES.basic.values()]:
        assert klass
        assert scope in get_args(Scope)
        assert action in get_args(Action)


GOOGLE, YAHOO, APPLE = "alt1.gmail-smtp-in.l.google.com.", "mta5.am0.yahoodns.net", "mx01.mail.icloud.com"
OUTLOOK = "outlook-com.olc.protection.outlook.com"
M365 = "example-com.mail.protection.outlook.com"
ORANGE, GMX = "smtp-in.orange.fr", "mx00.gmx.net"


@pytest.mark.parametrize(
    ("reply", "mx", "klass", "scope", "action"),
    [
        # 5.7.1 alone is no spam verdict: a DMARC refusal is ours.
        ("550 5.7.1 Refused by DMARC policy of example.com", "", "auth_dmarc", "config", "hold"),
        # Gmail's per-user rate is not an inactive mailbox, whichever code it prints.
        ("450-4.2.1 The user is receiving email at a rate that prevents it", GOOGLE, "recipient_rate", "address", "slow"),
        ("550-5.2.1 The user is receiving email at a rate that prevents it", GOOGLE, "recipient_rate", "address", "slow"),
        ("550 5.2.1 The email account that you tried to reach is disabled", GOOGLE, "disabled", "address", "suppress"),
        ("550 5.2.1 xyz - gsmtp", GOOGLE, "mailbox_busy", "address", "soft"),
        # The enhanced code does not stand at the beginning.
        ("550 5.5.0 Requested action not taken: mailbox unavailable", OUTLOOK, "unknown_user", "address", "suppress"),
        # Yahoo's 552 is unknown, not full; everybody else's is full.
        ("552 1 Requested mail action aborted, mailbox not found", YAHOO, "unknown_user", "address", "suppress"),
        ("552 Requested mail action aborted: exceeded storage allocation", "", "full", "address", "soft"),
        # Orange's full mailbox comes as 5.1.1.
        ("552 5.1.1 Boite pleine OFR_417 [417]", ORANGE, "full", "address", "soft"),
        ("550 5.1.1 Adresse inconnue OFR004_416 [416]", ORANGE, "unknown_user", "address", "suppress"),
        # Microsoft: 5.1.10 is an unknown recipient there and a null MX elsewhere; 5.4.1 is soft.
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound", M365, "unknown_user", "address", "suppress"),
        ("550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", M365, "unknown_user", "address", "soft"),
        ("550 5.2.121 Limit exceeded", OUTLOOK, "recipient_rate", "address", "slow"),
        ("550 5.7.515 Access denied", OUTLOOK, "auth", "config", "hold"),
        ("550 5.7.15 Access denied", OUTLOOK, "policy", "domain", "hold"),
        ("550 5.7.1 Sent (S3150)", OUTLOOK, "block", "source", "hold"),
        ("421 4.7.1 [TS03] permanently deferred", YAHOO, "block", "source", "hold"),
        # Both of Google's codes for a missing DMARC record.
        ("550 5.7.31 No record", GOOGLE, "auth_dmarc", "config", "hold"),
        ("550 5.7.40 No record", GOOGLE, "auth_dmarc", "config", "hold"),
        ("550 5.7.1 The user or domain has a policy that prohibits it", GOOGLE, "policy", "domain", "hold"),
        ("550 5.7.1 Mail from your IP has been rate limited", GOOGLE, "rate", "source", "slow"),
        ("550 5.1.1 inactive email address", APPLE, "inactive", "address", "soft"),
        ("450 Requested mail action not taken: mailbox unavailable, rate limit", GMX, "rate", "source", "slow"),
        # A sender is not a recipient.
        ("550 5.1.8 <us@example.com>: Sender address rejected: Domain not found", "", "sender", "config", "hold"),
        ("501 5.1.7 Invalid address", "", "sender", "config", "hold"),
        ("550-Verification failed for <us@example.com>\n550-No such user\n550 Sender verify failed", "", "sender", "config", "hold"),
        ("554 5.1.10 Null MX", "", "bad_domain", "domain", "suppress"),
        ("556 Does not take mail", "", "no_mail", "domain", "suppress"),
        ("554 5.7.1 <x@example.com>: Relay access denied", "", "relay", "domain", "hold"),
    ],
)  # fmt: skip
def test_the_traps_met_in_the_field(reply, mx, klass, scope, action):
    found = said(reply, mx)
    assert (found.klass, found.scope, found.action) == (klass, scope, action), found


def test_the_basic_code_decides_about_retrying():
    found = said("421 5.7.32 The From: header is not aligned", GOOGLE)
    assert (found.permanence, found.action, found.klass) == ("transient", "hold", "auth_dmarc")
    assert said("550 4.2.2 Mailbox full").permanence == "permanent"


@pytest.mark.parametrize(
    ("text", "scope", "names"),
    [
        ("your IP address [192.0.2.7      19]", "source", {"ip": "192.0.2.7"}),
        ("your IP address [2001:db8::7 19]", "source", {"ip": "2001:db8::7"}),
        ("your IP Netblock [192.0.2.0/24]", "source", {"netblock": "192.0.2.0/24"}),
        ("your DKIM domain [News.Example.com 36]", "dkim", {"dkim": "news.example.com"}),
        ("your SPF domain [bounce.example.com      35]", "dkim", {"spf": "bounce.example.com"}),
        ("one of your URL domains [click.example.com]", "content", {"url": "click.example.com"}),
        ("the same Message-ID [<abc@example.com>]", "content", {"message_id": "abc@example.com"}),
        ("somebody", "source", {}),
    ],
)
def test_google_names_the_guilty_identity(text, scope, names):
    found = said(f"421-4.7.28 An unusual rate of mail comes from {text}.\n421 4.7.28 Slow. gsmtp", GOOGLE)
    assert (found.scope, found.action, dict(found.names)) == (scope, "slow", names)


def test_a_reply_names_its_provider_where_no_mx_does():
    assert said("421 4.7.0 [TSS04] deferred").rule == "yahoo-tss04"
    assert said("550 5.1.1 OFR_416").rule == "orange-unknown"
    assert said("421 4.7.0 [TSS04] deferred", mx="mx.example.org").rule == "yahoo-tss04"


def test_a_local_part_is_not_wording():
    assert said("550 5.1.1 <spam.blocked@example.org>: User unknown").action == "suppress"
    assert said("550 <user-unknown@example.org> refused").action == "hold"
    assert said("550 https://example.org/user-unknown/spam says no").action == "hold"


@pytest.mark.parametrize("phase", ["connect", "ehlo", "starttls", "mail"])
def test_nothing_said_before_rcpt_is_about_an_address(phase):
    assert said("550 5.1.1 User unknown", phase=phase).action == "hold"
    assert (said("554 5.2.2 Mailbox full", phase=phase).scope, said("554", phase=phase).action) == (
        "domain",
        "hold",
    )
    assert said("452 4.2.2 Mailbox full", phase=phase).action == "retry"
    assert said("535 5.7.8 Authentication failed: user unknown").action == "hold"


@pytest.mark.parametrize(
    ("reply", "code", "enhanced"),
    [
        ("550 5.1.1 x", "550", "5.1.1"),
        ("550-5.1.1 x\n550 5.1.1 y", "550", "5.1.1"),
        ("550 #5.1.0 Address rejected", "550", "5.1.0"),
        ("550 sorry, no mailbox here by that name. (#5.1.1)", "550", "5.1.1"),
        ("smtp; 550 5.1.1 x", "550", "5.1.1"),
        ("smtp;550-5.1.1 x", "550", "5.1.1"),
        ("host mx.example.org[192.0.2.5] said: 452 4.2.2 full (in reply to RCPT TO)", "452", "4.2.2"),
        ("5.1.1 gone", "", "5.1.1"),
        ("554 30 disabled (554.30)", "554", ""),
        ("554 from 5.1.1.4", "554", ""),
        ("550 see 4.1.1 in the manual", "550", ""),
        ("2501 5.1.1", "", "5.1.1"),
        ("nonsense", "", ""),
        ("", "", ""),
    ],
)
def test_codes_are_found_where_they_stand(reply, code, enhanced):
    assert read_codes(reply)[:2] == (code, enhanced)


def test_success_means_nothing():
    found = said("250 2.0.0 OK")
    assert (found.klass, found.action, found.code, found.enhanced) == ("accepted", "none", 250, "2.0.0")
    assert said("354 go on").action == "none"


@pytest.mark.parametrize("provider", ["", *sorted({p for rule in RULES.rules for p in rule.provider})])
@pytest.mark.parametrize(
    "reply",
    [
        "421 4.7.0 Too many concurrent SMTP connections from 192.0.2.1",
        "421 4.7.0 Too many messages in this connection",
        "421 Too many connections, try again later",
    ],
)
def test_what_speaks_of_connections_is_about_them_wherever_it_comes(reply, provider):
    """In mid-session too: the rate is not at fault."""
    found = said(reply, provider=provider, phase="mail")
    assert (found.klass, found.action) == ("connections", "slow")


def test_what_says_nothing_is_unclassified():
    for reply in ("", "hello", "999 x", "\x00\xff", "12"):
        found = said(reply)
        assert (found.klass, found.action, found.permanence) == ("unclassified", "none", "unknown")


def test_the_code_decides_where_the_wording_does_not():
    assert said("550 lorem ipsum").rule == "basic-550"
    assert said("450 4.7.1 lorem ipsum").action == "slow"
    assert said("451 4.4.1 lorem ipsum").action == "retry"
    assert said("550 5.1.1 lorem ipsum").action == "suppress"
    assert said("5.1.1 lorem ipsum").action == "suppress"
    # Subject.detail is not class.subject: x.4.7 is an expired message, 4.7.x a rate.
    assert said("451 4.4.7 lorem ipsum").klass == "network"
    assert said("450 4.7.99 lorem ipsum").klass == "rate"
    assert said("451 4.4.2 lorem ipsum").klass == "network"
    assert said("450 4.2.9 lorem ipsum").klass == "mailbox_busy"
    assert said("User unknown").action == "soft"  # without any code nobody is suppressed


# Wordings of many servers, in words of our own where a product's sentence is long.
@pytest.mark.parametrize(
    ("actions", "replies"),
    [
        ("suppress", [
            "550 5.1.1 <a@example.org>: Recipient address rejected: User unknown in virtual alias table",  # Postfix
            "550 Unrouteable address", "550 No Such User Here",  # Exim
            "550 5.1.1 <a@example.org>... User unknown", "550 5.1.2 a@example.org... Host unknown (not found)",  # Sendmail
            "550 sorry, no mailbox here by that name (#5.1.1 - chkuser)",  # qmail
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",  # Exchange
            "550 5.1.1 User Unknown", "550 Invalid Recipient - mimecast docs#550", "550 No such user (a@example.org)",
            "550 5.1.1 <a@example.org>: Recipient address rejected: Address does not exist",  # Proton
            "550 5.1.1 User does not exist - <a@example.org>",  # Zoho
            "550 Message was not accepted -- invalid mailbox. Local mailbox a@example.org is unavailable: user not found",
            "550 5.7.1 No such user!", "550 RCPT TO:<a@example.org> User not exist",  # Yandex, NetEase
            "550 #5.1.0 Address rejected.", "550 Unknown user", "550 mailbox not found", "550 account does not exist",
            "550 5.2.1 mailbox disabled", "550 This account has been closed", "550 Adresse inconnue",
        ]),
        ("soft", [
            "552 5.2.2 Mailbox full", "452 4.2.2 Over quota", "552 Quota exceeded", "550 mailbox is full",
            "552 user has exceeded quota", "554 5.2.2 mailbox full; QuotaExceededException", "550 user suspended",
        ]),
        ("retry", [
            "451 4.7.1 Greylisting in action, come back later", "450 4.2.0 Greylisted", "451 Try again in 300 seconds",
            "451 4.3.0 queue file write error", "421 Service not available", "450 4.1.1 User unknown",
            "452 4.3.1 Insufficient system storage", "421 4.4.2 timeout", "451 Temporary local problem",
        ]),
        ("slow", [
            "421 4.7.0 Too many connections", "450 4.7.1 Error: too much mail from 192.0.2.1", "451 Rate limit exceeded",
            "421 Too many errors", "452 max emails per hour reached", "421 4.7.0 Throttled", "550 Ip frequency limited",
        ]),
        ("hold", [
            "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
            "550 192.0.2.1 is blacklisted", "554 Refused: the sending MTA's poor reputation", "550 Administrative prohibition",
            "550 5.7.23 SPF fail", "550 No DKIM signature", "554 5.7.1 Message contains a virus", "550 spam message rejected",
            "552 5.3.4 Message size exceeds limit", "530 5.7.0 Must issue a STARTTLS command first", "554 5.4.6 Too many hops",
            "550 5.7.1 Relaying denied", "550 Your IP has no reverse DNS", "550 Helo rejected", "550 5.7.1 Access denied",
            "550 Unknown error", "550 your account has been disabled", "550 reply-to address invalid", "571 Refused",
            "550 Rejected. To get your IP address removed contact postmaster", "501 Invalid domain name",
            "550 permanent failure for one or more recipients (a@example.org:blocked)", "554 Mail content denied",
        ]),
    ],
)  # fmt: skip
def test_unseen_wordings(actions, replies):
    assert {reply: said(reply).action for reply in replies} == dict.fromkeys(replies, actions)


# --- what never happens

BLOCKS = [
    "blocked",
    "Spamhaus",
    "on our blacklist",
    "spam",
    "policy",
    "banned",
    "DMARC",
    "SPF",
    "rate limit",
    "reputation",
]
ADDRESS_WORDS = [
    "user unknown",
    "no such user",
    "mailbox unavailable",
    "5.1.1",
    "5.1.2 host unknown",
    "disabled",
    "moved",
]
PROVIDERS = ["", "google", "yahoo", "outlook", "microsoft365", "apple", "gmx", "mimecast", "qq", "nobody"]
WORDS = st.lists(
    st.sampled_from([*ADDRESS_WORDS, "a@example.org", "the", "[192.0.2.1]", ".", "\n", "x" * 50]), max_size=12
)


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from(PROVIDERS),
)
@settings(max_examples=120, deadline=None)
def test_never_raises(text, provider):
    for reply in (text, f"550 {text}", f"451-4.7.1 {text}"):
        found = said(reply, provider=provider)
        assert found.action in get_args(Action)
        assert found.scope in get_args(Scope)


@given(
    st.integers(400, 499),
    st.sampled_from(["", "5.1.1 ", "5.2.1 ", "4.1.1 "]),
    WORDS,
    st.sampled_from(PROVIDERS),
)
@settings(max_examples=120, deadline=None)
def test_a_4xx_never_suppresses(code, enhanced, words, provider):
    found = said(f"{code} {enhanced}{' '.join(words)}", provider=provider)
    assert found.permanence == "transient"
    assert found.action != "suppress"


@given(
    WORDS,
    st.sampled_from(BLOCKS),
    WORDS,
    st.sampled_from(PROVIDERS),
    st.sampled_from(["", "5.1.1 ", "5.2.1 "]),
)
@settings(max_examples=120, deadline=None)
def test_text_that_names_a_block_never_suppresses(before, block, after, provider, enhanced):
    found = said(f"550 {enhanced}{' '.join([*before, block, *after])}", provider=provider)
    assert found.permanence == "permanent"
    assert found.action not in ("suppress", "soft")


@pytest.mark.parametrize(
    "word", ["user ", "no such ", "a@", "mailbox exceed ", "5.1.", "sender not ", "[", "x", "\r\n550-"]
)
def test_a_hostile_reply_costs_little(word):
    import time

    began = time.process_time()
    for _ in range(10):
        said("550 " + word * 50_000)
    assert (time.process_time() - began) / 10 < 0.05


def test_wording_is_bounded():
    assert len(plain("y " * 5000)) < 1100


# --- loading


def rule(**changes: str) -> str:
    fields = {"name": '"x"', "class": '"rate"', "scope": '"source"', "action": '"slow"', "any": '["wait"]'}
    fields |= {"source": '"us"', "reviewed": "2026-01-31", "fixtures": '["421 wait"]'} | changes
    return "[[rule]]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items() if value)


TOP = 'version = "1"\nsource = {us = "ourselves"}\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[rule]", "not TOML"),
        (rule(colour='"red"'), "unknown field `colour`"),
        (rule(action='"kill"'), "Invalid enum value 'kill'"),
        (rule(pattern="'('"), "does not compile"),
        (rule(fixtures="[]"), "no fixture"),
        (rule(any=""), "no condition"),
        (rule(any='["Wait"]'), "lower case"),
        (rule(enhanced='["x.1"]'), "no enhanced code"),
        (rule(fixtures='["421 wait for 192.0.2.1"]'), "no IPv6 address"),
        (rule(fixtures='["421 go"]'), "nothing takes its fixture"),
        (rule(certain="true"), "only a provider's own code"),
        (rule() + "\n" + rule(), "used twice"),
        (rule() + "\n" + rule(name='"y"'), "'y': x takes its fixture"),
        ("[colours]", "unknown table 'colours'"),
        ("guard = ['(']\n" + rule(), "does not compile"),
        (rule(source='"them"'), "'them' is none of the table source"),
        (rule(reviewed='"soon"'), "Invalid RFC3339"),
        (rule(reviewed=""), "missing required field `reviewed`"),
        ('[basic]\n"550" = ["a", "b", "c"]', "table 'basic'"),
        ('[enhanced]\n"x" = ["policy", "domain", "hold"]', "'x' is no code"),
    ],
)  # fmt: skip
def test_a_fault_in_the_rules_is_named(text, fault):
    with pytest.raises(RulesError) as error:
        load_rules(TOP + text)
    assert fault in str(error.value)


def test_a_package_of_rules_without_a_version_is_a_fault():
    with pytest.raises(RulesError, match="no version"):
        load_rules('source = {us = "ourselves"}\n' + rule())
    assert load_rules(TOP + rule()).version == "1"


def test_all_faults_are_named_at_once():
    with pytest.raises(RulesError) as error:
        load_rules(TOP + rule(name='"a"', fixtures="[]") + "\n" + rule(name='"b"', pattern="'['"))
    assert len(str(error.value).splitlines()) == 2


VOCABULARY = sorted(
    {word for rule in RULES.rules for text in (*fixtures(rule), *rule.any) for word in text.split()}
)


@given(
    st.lists(st.one_of(st.sampled_from(VOCABULARY), st.text(max_size=6)), max_size=14),
    st.sampled_from(["", "550", "5.1.1", "550 5.7.1", "421 4.7.0", "554 5.0.0", "452-4.2.2"]),
    st.sampled_from([" ", " ", ". ", "-", ""]),
    st.sampled_from(["", "google", "microsoft365", "orange", "yahoo"]),
)
@settings(deadline=None)
def test_what_the_index_leaves_out_could_not_have_held(words, codes, between, provider):
    reply = f"{codes} {between.join(words)}"
    assert classify(RULES, reply, provider=provider) == classify(EVERY, reply, provider=provider)


def test_the_index_leaves_out_nothing_of_any_fixture():
    for rule in RULES.rules:
        for reply in fixtures(rule):
            for provider in ("", *rule.provider):
                assert classify(RULES, reply, provider=provider) == classify(EVERY, reply, provider=provider)


class _Every(Rules):
    """Rules whose index finds that any text can meet everything."""

    def met(self, text):
        return (1 << 5000) - 1


EVERY = read_rules(TEXT)
EVERY.__class__ = _Every


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("abc", {"abc"}),
        ("abcd?", {"abc"}),
        ("ab?c", None),
        (r"\bspam(?:ming|mers?)?\b", {"spam"}),
        (r"(?:user|account) (?:unknown|not found)", {"unknown", "not found"}),
        ("foo|(?!bar)baz", {"foo", "baz"}),
        ("foobar|x+", None),
        (r"(?<!not )listed (?P<ip>[0-9.]+)", {"listed "}),
        (r"a\.bc[xyz]{2}longer+ly", {"longer"}),
        ("(?:abc){0,2}x", None),
        ("xyz+", {"xyz"}),
        ("", None),
    ],
)
def test_literals_that_a_pattern_needs(pattern, wanted):
    found = anchors(pattern)
    assert (set(found) if found is not None else None) == wanted
