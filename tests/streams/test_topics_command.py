"""``mailsluice topics`` on a real broker."""

import asyncio
import json

import pytest
from click.testing import CliRunner, Result

from streams.cli import main
from streams.topics import TOPICS
from tests.support.brokers import Broker, create_topics


@pytest.fixture
def call(embedded_broker: Broker, prefix: str):
    def go(*arguments: str) -> Result:
        environment = {"MAILSLUICE_BROKER": embedded_broker.bootstrap, "MAILSLUICE_PREFIX": prefix}
        return CliRunner().invoke(main, ["topics", *arguments], env=environment)

    return go


def test_topics_are_missing_then_made_then_kept(call, prefix: str) -> None:
    missing = call("list")
    assert missing.exit_code == 1
    assert (
        f"{len(TOPICS)} of {len(TOPICS)} topics are missing: run `mailsluice topics apply`" in missing.output
    )

    made = call("apply", "--partitions", "3")
    assert made.exit_code == 0, made.output
    assert f"{len(TOPICS)} topics made, 0 were there; P = 3" in made.output

    rows = [json.loads(line) for line in call("list", "--json").output.splitlines()]
    assert {row["topic"] for row in rows} == {prefix + topic.name for topic in TOPICS}
    by_name = {row["topic"].removeprefix(prefix): row for row in rows}
    assert by_name["mail-outcomes"]["partitions"] == 3
    assert by_name["mail-lane-policy"]["partitions"] == 1

    again = call("apply", "--partitions", "5")
    assert again.exit_code == 0
    assert "0 topics made" in again.output
    assert "P stays 3" in again.output


def test_list_planned_asks_no_broker() -> None:
    found = CliRunner().invoke(
        main, ["topics", "list", "--planned"], env={"MAILSLUICE_BROKER": "127.0.0.1:1"}
    )
    assert found.exit_code == 0
    assert "mail-sends" in found.output


def test_other_commands_say_which_topics_are_missing(embedded_broker: Broker, prefix: str) -> None:
    for arguments in (["lanes"], ["audit"], ["trace", "ada@example.test"], ["up"]):
        options = ["--broker", embedded_broker.bootstrap, "--prefix", prefix]
        found = CliRunner().invoke(main, [*arguments, *options])
        assert found.exit_code == 1
        assert "mailsluice topics apply" in found.output
        assert "Traceback" not in found.output


async def test_a_new_topology_needs_exactly_its_partitions(
    embedded_broker: Broker, prefix: str, call
) -> None:
    """Producers spread over what they see: sends beyond P would never be read."""
    await create_topics(embedded_broker, prefix + "mail-sends", partitions=5)
    found = await asyncio.to_thread(call, "apply", "--partitions", "2")
    assert found.exit_code == 1
    assert f"{prefix}mail-sends has 5 partitions instead of 2" in found.output
    assert "no topology" not in found.output
    # Nothing was made beside it: the right number still can be had.
    assert (await asyncio.to_thread(call, "apply", "--partitions", "5")).exit_code == 0
