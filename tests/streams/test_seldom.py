"""The Kafka client's complaints are written once in ten seconds each, ours always."""

import io
import logging

import pytest

from streams.seldom import Seldom


@pytest.fixture
def written():
    """(logger for a name, what was written): with a handler of our own."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    handler.addFilter(Seldom("aiokafka", 10.0))

    def tell(name, at, message, *args):
        record = logging.LogRecord(name, logging.ERROR, "", 0, message, args, None)
        record.created = at
        handler.handle(record)

    return tell, lambda: text.getvalue().splitlines()


def test_a_kind_passes_once_in_its_time_and_then_says_how_many_did_not(written):
    tell, lines = written
    for n in range(50):
        tell("aiokafka", 100.0 + n / 10, "no connection to node %s", n)
    tell("aiokafka", 110.0, "no connection to node %s", 50)
    tell("aiokafka", 125.0, "no connection to node %s", 51)
    assert lines() == [
        "aiokafka no connection to node 0",
        "aiokafka no connection to node 50 (and 49 more like this)",
        "aiokafka no connection to node 51",
    ]


def test_other_kinds_and_loggers_pass(written):
    tell, lines = written
    tell("aiokafka", 100.0, "no connection")
    tell("aiokafka", 100.0, "no metadata")
    tell("aiokafka.consumer.fetcher", 100.0, "no connection")
    assert len(lines()) == 3


def test_our_own_all_pass(written):
    tell, lines = written
    for _ in range(3):
        tell("mailsluice.broker", 100.0, "the process ends")
        tell("aiokafkaesque", 100.0, "something else")
    assert len(lines()) == 6
