"""Screen's rules for marketing mail: a table of cases, and what holds for every contact."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.screen.rules import DAY, PASS, REASONS, STRANGER, Known, Rules, Screening, judge
from agents.screen.rules_file import BadRules, read_rules, warnings_of
from schemas.contact import REMEMBERED

TEXT = (resources.files("agents.screen") / "rules.toml").read_text("utf-8")
SHIPPED = read_rules(TEXT, disposable=("mailinator.com",))
NOW = 1_790_000_000.0


def ago(days: float) -> float:
    return NOW - days * DAY


def every(days: float, count: int, last: float = 1.0) -> tuple[int, ...]:
    """Times of ``count`` deliveries, one every ``days`` days, the last ``last`` days ago."""
    return tuple(int(ago(last + days * n)) for n in reversed(range(count)))


def contact(**fields) -> Known:
    recent = fields.get("recent", ())
    found = {"delivered": len(recent), "first_seen": ago(400), "last_delivered": max(recent, default=0.0)}
    return Known(**(found | fields))


def said(to: str = "anna@example.org", known: Known = STRANGER, tracked=True, passed=(), screening=SHIPPED):
    return judge(to, "t", known, tracked, passed, screening, NOW)


CASES = [
    ("anna@example.org", STRANGER, ""),
    ("info@example.org", STRANGER, "role_address"),
    ("info+news@example.org", STRANGER, "role_address"),
    ("information.desk@example.org", STRANGER, ""),
    ("a@mailinator.com", STRANGER, "disposable_domain"),
    ("a@box7.mailinator.com", STRANGER, "disposable_domain"),
    ("a@notmailinator.com", STRANGER, ""),
    ("anna@gmial.com", STRANGER, "mistyped_domain"),
    ("anna@gmail.con", STRANGER, "mistyped_domain"),
    ("anna@mail.com", STRANGER, ""),
    ("anna@ymail.com", STRANGER, ""),
    ("anna@gmx.com", STRANGER, ""),
    # Frequency by recency: a reader of yesterday may get seven a week, one of last winter two.
    ("a@b.example", contact(recent=every(1, 7), last_click=ago(1)), ""),
    ("a@b.example", contact(recent=every(0.6, 11), last_click=ago(1)), "too_many"),
    ("a@b.example", contact(recent=every(2, 2), last_open=ago(200)), "too_many"),
    ("a@b.example", contact(recent=every(10, 2), last_open=ago(50)), ""),
    # New people are no strangers to mail.
    ("a@b.example", contact(recent=every(1, 9), first_seen=ago(9)), ""),
    # Sunset by cadence.
    ("a@b.example", contact(recent=every(1, 5, 2), last_open=ago(31)), "dormant"),
    ("a@b.example", contact(recent=every(7, 8), last_open=ago(59)), ""),
    ("a@b.example", contact(recent=every(7, 8), last_open=ago(61)), "dormant"),
    ("a@b.example", contact(recent=every(14, 9), last_open=ago(91)), "dormant"),
    ("a@b.example", contact(recent=every(30, 9), last_open=ago(179)), ""),
    ("a@b.example", contact(recent=every(90, 5), last_open=ago(366)), "dormant"),
    ("a@b.example", contact(recent=every(30, 2), last_open=ago(200)), ""),  # ignored two mails only
    # Long unknown, long silent.
    ("a@b.example", contact(last_delivered=ago(370), delivered=4), "recycled_risk"),
    ("a@b.example", contact(last_delivered=ago(370), delivered=4, last_click=ago(20)), ""),
]


@pytest.mark.parametrize(("to", "known", "reason"), CASES)
def test_what_stops_a_mail(to, known, reason):
    found = said(to, known)
    assert found.reason == reason
    assert bool(found.detail) is bool(reason)


def test_a_mistyped_domain_comes_with_what_was_meant():
    assert said("Anna.B@gmial.com").suggestion == "Anna.B@gmail.com"
    assert said("anna@hotmail.con").suggestion == "anna@hotmail.com"


def test_silence_says_nothing_where_nobody_listens():
    silent = contact(recent=every(1, 4, 3), first_seen=ago(300))
    assert said(known=silent).reason == "dormant"
    assert said(known=silent, tracked=False) == PASS


def test_what_passed_counts_before_it_is_delivered():
    assert said(passed=[NOW - 60 * n for n in range(9)]) == PASS
    assert said(passed=[NOW - 60 * n for n in range(10)]).reason == "too_many"
    # What is delivered by now is not counted twice.
    both = contact(recent=every(0.1, 6, 0.1), last_click=ago(1))
    assert said(known=both, passed=[float(when) for when in both.recent]) == PASS


def test_a_tenant_may_be_warned_instead_and_the_operator_adds_to_the_lists():
    mine = read_rules(
        TEXT,
        override="""
        [default]
        dormant = "off"
        [tenant.t]
        role = "warn"
        [lists]
        disposable = ["burner.example"]
        allowed = ["gmial.com"]
        """,
    )
    found = said("info@example.org", screening=mine)
    assert (found.reason, found.warned) == ("", ("role_address",))
    assert judge("info@example.org", "other", STRANGER, True, (), mine, NOW).reason == "role_address"
    assert said("a@burner.example", screening=mine).reason == "disposable_domain"
    assert said("a@gmial.com", screening=mine) == PASS
    assert [text.split(":")[0] for text in warnings_of(mine)] == ["screen rule dormant is off"]
    assert warnings_of(SHIPPED) == []


def test_a_relaunch_begins_with_those_who_read_and_ends_with_everybody():
    reader = contact(recent=every(7, 3, 20), last_open=ago(40), first_seen=ago(60))

    def on(day: float, known: Known) -> str:
        rules = replace(SHIPPED.default, relaunch=ago(day))
        return said(known=known, screening=Screening(rules)).reason

    assert [on(day, reader) for day in (-1, 0, 4, 9, 10, 30)] == ["relaunch"] * 4 + ["", ""]
    assert [on(day, STRANGER) for day in (0, 49, 50)] == ["relaunch", "relaunch", ""]


BAD = """
colour = "red"
[default]
role = "maybe"
rolle = "stop"
relaunch = "tomorrow"
[tenant]
x = 3
[[frequency]]
within = 90
most = 500
days = 7
[[frequency]]
within = 14
most = 1
days = -1
[dormant]
always = "long"
sunsets = [{ every = 2 }]
[lists]
roles = "info"
[mistyped]
"gmial.com" = ["gmaik.com"]
"""


def test_all_faults_are_in_one_error():
    with pytest.raises(BadRules) as found:
        read_rules(TEXT, override=BAD, by="mine.toml")
    assert found.value.faults == ["mine.toml: 'colour' is not known, only default, tenant, frequency, new, "
                                  "unseen, dormant, recycled, relaunch, lists, mistyped, endings"]  # fmt: skip
    with pytest.raises(BadRules) as found:
        read_rules(TEXT, override=BAD.replace('colour = "red"', ""), by="mine.toml")
    told = "\n".join(found.value.faults)
    for part in (
        "default.role is 'maybe'",
        "'rolle' is not known",
        "relaunch must be a day",
        "tenant.x must be a table",
        "most must be a whole number from 1 to 20",
        "frequency: within must grow",
        "frequency 2.days",
        "dormant.always must be a number",
        "dormant.sunsets 1.after",
        "lists.roles must be a list of texts",
        "gmial.com is both a mistake and meant",
    ):
        assert part in told
    with pytest.raises(BadRules, match=r"mine.toml: "):
        read_rules(TEXT, override="[", by="mine.toml")


DAYS = st.floats(0, 2000).map(ago)


@given(
    st.builds(
        Known,
        delivered=st.integers(0, 1000),
        first_seen=DAYS,
        last_delivered=DAYS,
        last_open=DAYS | st.just(0.0),
        last_click=DAYS | st.just(0.0),
        recent=st.lists(DAYS.map(int), max_size=REMEMBERED).map(sorted).map(tuple),
    ),
    st.booleans(),
    st.lists(DAYS, max_size=REMEMBERED),
)
def test_who_read_later_is_never_stopped_where_who_read_earlier_is_not(known, tracked, passed):
    earlier = said(known=known, tracked=tracked, passed=passed)
    assert earlier.reason in ("", *REASONS)
    if known.engaged:
        import msgspec

        later = said(known=msgspec.structs.replace(known, last_click=NOW), tracked=tracked, passed=passed)
        if not earlier.reason:
            assert later == PASS


def test_off_is_off():
    off = Rules(
        **dict.fromkeys(("role", "disposable", "mistyped", "frequency", "dormant", "recycled"), "off")
    )
    assert (
        said("info@gmial.com", contact(recent=every(0.1, 20)), screening=Screening(off, {}, SHIPPED.lists))
        == PASS
    )
