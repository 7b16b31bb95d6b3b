"""The oracle over books made by hand: it finds each breach of the promise, and what is allowed it lets pass."""

from dataclasses import replace

import pytest

from schemas.suppression import Suppression
from streams.ops.chaos.oracle import (
    CANCELLED,
    KNOWN,
    Books,
    Ended,
    Event,
    Moment,
    Row,
    Sent,
    Took,
    flights,
    judge,
)
from streams.ops.chaos.records import Flow, spread

TO = "ada@gmail.test"
TWICE = "duplicates only of what was in flight at a crash, or never answered"
MAILED = "nobody gets mail once suppressed"


def books(**more):
    """One mail, sent and delivered in order."""
    found = Books(
        received=1,
        ends={"delivered": 1},
        sent={"m1": Sent(TO, "spring")},
        took=[Took("m1", TO, 100.0, 100.2, source="127.0.0.21")],
        outcomes=[Ended("m1", "delivered", 100.3)],
    )
    return replace(found, **more)


def taken_twice(**more):
    """The same mail taken again, five seconds later."""
    two = [
        Took("m1", TO, 100.0, 100.2, source="127.0.0.21"),
        Took("m1", TO, 105.0, 105.2, source="127.0.0.22"),
    ]
    return books(**{"took": two, "outcomes": [Ended("m1", "delivered", 105.3)], **more})


def suppressed(at, **more):
    row = Suppression(
        tenant="default", to=TO, scope="stream", stream="marketing", reason="unsubscribe", **more
    )
    return {"rows": [Row(at, row)], "causes": {TO: frozenset({"unsubscribe"})}}


def test_good_books_are_good():
    found = judge(books())
    assert found.failed == {}
    assert (found.lost, found.duplicates, found.in_flight_at_kills) == (0, 0, 0)


# -- lost


def test_a_send_without_an_end_is_lost():
    found = judge(books(ends={"delivered": 0, "lost": 1}))
    assert found.lost == 1
    assert list(found.failed) == ["nothing is lost"]


def test_a_mail_that_we_call_delivered_and_nobody_took_is_lost():
    found = judge(books(took=[]))
    assert found.lost == 1
    assert "m1" in found.failed["nothing is lost"][0]


def test_an_acknowledged_send_that_its_topic_lacks_is_lost():
    found = judge(books(missing=["mail-sends/0@7"]))
    assert found.lost == 1
    assert "mail-sends/0@7" in found.failed["nothing is lost"][0]


def test_books_that_do_not_add_up():
    assert "the audit balances" in judge(books(received=2)).failed


def test_pending_mail_is_stuck():
    assert "nothing is stuck" in judge(books(ends={"pending": 1})).failed


@pytest.mark.parametrize("end", ["dead_lettered", "rejected"])
def test_good_mail_is_not_refused(end):
    assert "no good mail is refused" in judge(books(ends={end: 1})).failed


# -- twice


def test_a_second_copy_without_a_crash_is_unexplained():
    found = judge(taken_twice())
    assert (found.duplicates, found.explained) == (1, 0)
    assert list(found.failed) == [TWICE]


def test_a_second_copy_is_explained_by_a_crash_of_its_sender_in_its_flight():
    found = judge(taken_twice(moments=[Moment(100.25, 101.3, "SIGKILL deliver", "127.0.0.21")]))
    assert (found.duplicates, found.explained, found.in_flight_at_kills) == (1, 1, 1)
    assert found.failed == {}


def test_a_crash_of_another_worker_explains_nothing():
    found = judge(taken_twice(moments=[Moment(100.25, 101.3, "SIGKILL deliver-1", "127.0.0.22")]))
    assert TWICE in found.failed


def test_a_crash_of_the_broker_explains_it_whoever_sent():
    assert judge(taken_twice(moments=[Moment(100.25, 104.0, "the broker was away")])).failed == {}


def test_a_crash_after_the_outcome_was_in_the_journal_explains_nothing():
    outcomes = [Ended("m1", "delivered", 100.3), Ended("m1", "delivered", 105.3)]
    crash = Moment(100.31, 101.3, "SIGKILL deliver", "127.0.0.21")
    assert TWICE in judge(taken_twice(outcomes=outcomes, moments=[crash])).failed


def test_a_crash_before_the_dot_explains_nothing():
    assert TWICE in judge(taken_twice(moments=[Moment(98.0, 100.1, "SIGKILL", "127.0.0.21")])).failed


def test_a_deferral_is_no_word_about_what_was_taken():
    """It belongs to an attempt before: the flight goes on."""
    found = flights(taken_twice(outcomes=[Ended("m1", "deferred", 100.4), Ended("m1", "delivered", 105.3)]))
    assert [flight.until for flight in found["m1"]] == [105.3, 105.3]


def test_a_reply_that_the_fault_swallowed_explains_it():
    two = [Took("m1", TO, 100.0, 100.2, replied=False), Took("m1", TO, 105.0, 105.2)]
    outcomes = [Ended("m1", "unknown", 100.3), Ended("m1", "delivered", 105.3)]
    found = judge(taken_twice(took=two, outcomes=outcomes))
    assert (found.duplicates, found.explained, found.unreplied) == (1, 1, 1)
    assert found.failed == {}


def test_of_three_copies_each_needs_its_own_explanation():
    three = [*taken_twice().took, Took("m1", TO, 110.0, 110.2, source="127.0.0.21")]
    outcomes = [Ended("m1", "delivered", 105.3), Ended("m1", "delivered", 110.3)]
    crash = Moment(100.25, 101.3, "SIGKILL deliver", "127.0.0.21")
    found = judge(books(took=three, outcomes=outcomes, moments=[crash]))
    assert (found.duplicates, found.explained) == (2, 1)
    assert len(found.failed[TWICE]) == 1


def test_a_rolling_restart_repeats_nothing_whatever_explains_it():
    crash = Moment(100.25, 101.3, "deliver ended with 70", "127.0.0.21")
    found = judge(taken_twice(moments=[crash], rolling=[(90.0, 120.0)]))
    assert list(found.failed) == ["a rolling restart repeats nothing"]


def test_two_mails_of_one_campaign_to_one_address():
    found = judge(
        books(
            sent={"m1": Sent(TO, "spring"), "m2": Sent(TO, "spring")},
            took=[Took("m1", TO, 100.0, 100.2), Took("m2", TO, 101.0, 101.2)],
        )
    )
    assert list(found.failed) == ["one mail of a campaign to one address"]


def test_two_receipts_to_one_address_are_two_mails():
    sent = {name: Sent(TO, "receipts", stream="transactional") for name in ("m1", "m2")}
    assert judge(books(sent=sent, took=[Took("m1", TO, 100, 100), Took("m2", TO, 101, 101)])).failed == {}


def test_a_mail_that_nobody_sent():
    found = judge(books(took=[*books().took, Took("m9", TO, 100.0, 100.2)]))
    assert list(found.failed) == ["one mail of a campaign to one address"]


# -- suppressions, cancellations, edge


def test_a_mail_after_its_suppression_was_known():
    found = judge(books(**suppressed(100.0 - KNOWN - 0.1)))
    assert list(found.failed) == [MAILED]
    assert TO in found.failed[MAILED][0]


def test_a_mail_within_the_freshness_is_allowed():
    assert judge(books(**suppressed(100.0 - KNOWN + 0.1))).failed == {}


def test_a_receipt_goes_to_whoever_left_the_newsletter():
    more = suppressed(90.0)
    assert judge(books(sent={"m1": Sent(TO, "receipts", stream="transactional")}, **more)).failed == {}


def test_a_suppression_taken_back_forbids_nothing():
    more = suppressed(80.0)
    more["rows"].append(Row(90.0, replace_row(more["rows"][0].row, active=False)))
    assert judge(books(**more)).failed == {}


def replace_row(row, **values):
    import msgspec

    return msgspec.structs.replace(row, **values)


def test_a_suppression_without_a_cause():
    more = suppressed(200.0) | {"causes": {}}
    assert list(judge(books(**more)).failed) == ["nobody is suppressed without a cause"]


def test_a_suppression_for_another_reason_than_its_cause():
    more = suppressed(200.0) | {"causes": {TO: frozenset({"hard_bounce"})}}
    assert list(judge(books(**more)).failed) == ["nobody is suppressed without a cause"]


def test_who_is_told_suppressed_must_be():
    event = Event("suppressed", "m1", 100.0, TO, "unsubscribe")
    assert list(judge(books(events=[event])).failed) == ["who is told suppressed is"]
    known = suppressed(99.0)
    assert judge(books(took=[], outcomes=[], events=[event], **known)).failed == {}


def test_a_bounce_without_a_word_of_the_provider():
    gone = {"took": [], "outcomes": [Ended("m1", "bounced", 100.3, "no_domain")], "ends": {"bounced": 1}}
    assert list(judge(books(**gone)).failed) == ["nobody bounced without a word of their provider"]
    assert judge(books(**gone, refused=frozenset({TO}))).failed == {}


def test_mail_of_a_cancelled_campaign():
    assert judge(books(cancelled={"spring": 100.0 - CANCELLED + 0.1})).failed == {}
    found = judge(books(cancelled={"spring": 100.0 - CANCELLED - 0.1}))
    assert list(found.failed) == ["cancelled mail does not begin"]


def test_what_the_edge_answered_must_be_an_event():
    acts = [("click", "m1"), ("dsn", "m1")]
    events = [Event("clicked", "m1", 101.0), Event("bounced", "m1", 102.0)]
    assert judge(books(acts=acts, events=events)).failed == {}
    found = judge(books(acts=acts, events=events[1:]))
    assert list(found.failed) == ["what the edge took is an event"]


# -- recovery


def test_recovery_is_when_the_last_partition_flows_again():
    flow = Flow({"deliver": {0: [9.0, 10.1, 10.5, 11.0], 1: [9.5, 15.0], 2: [1.0]}})
    assert flow.recovery("deliver", 10.0, 60.0) == pytest.approx(5.0)
    assert flow.recovery("deliver", 30.0, 60.0) is None  # nothing had flowed
    assert flow.recovery("intake", 10.0, 60.0) is None


def test_a_partition_that_stays_silent_counts_to_the_end():
    assert Flow({"deliver": {0: [9.0]}}).recovery("deliver", 10.0, 60.0) == 50.0


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "worst": 3.0}
    assert spread([]) == {"median": 0.0, "worst": 0.0}
