"""``topics apply`` and the check at a worker's start."""

import asyncio

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.lanes import lane_names
from schemas.topology import Topology
from streams import admin as admin_module
from streams.admin import WrongTopology, add_partitions, apply, check, configuration, read_topology, watch
from streams.topic_settings import Difference, alter, described
from streams.topics import BY_NAME, TOPICS
from tests.support.brokers import admin, create_topics
from tests.support.toys import settings_for, until


async def counts(broker, settings):
    async with admin(broker) as client:
        found = await client.describe_topics([settings.topic(t.name) for t in TOPICS])
    return {t["topic"].removeprefix(settings.prefix): len(t["partitions"]) for t in found}


async def test_apply_makes_everything_once_and_workers_start_on_it(broker, prefix):
    settings = settings_for(broker, prefix, partitions=2)
    with pytest.raises(WrongTopology, match="run `mailsluice topics apply` first"):
        await check(settings)
    first = await apply(settings)
    assert set(first.created) == {settings.topic(t.name) for t in TOPICS}
    assert await counts(broker, settings) == {t.name: t.partitions or 2 for t in TOPICS}
    assert await check(settings) == Topology(partitions=2, lanes=lane_names())
    # Again, and with another wish for P: the record decides.
    again = await apply(settings_for(broker, prefix, partitions=5))
    assert again.created == []
    assert len(again.present) == len(TOPICS)
    assert (await check(settings)).partitions == 2
    # A topic that is missing is made with the P of the record.
    async with admin(broker) as client:
        await client.delete_topics([settings.topic("mail-rendered")])
    await asyncio.sleep(0.3)
    assert (await apply(settings_for(broker, prefix, partitions=5))).created == [
        settings.topic("mail-rendered")
    ]
    assert (await counts(broker, settings))["mail-rendered"] == 2


async def test_other_lanes_are_refused_before_anything_is_made(apache_broker, prefix, monkeypatch):
    settings = settings_for(apache_broker, prefix, partitions=1)
    await create_topics(apache_broker, settings.topic("mail-topology"))
    await admin_module._write_topology(settings, Topology(partitions=1, lanes=("gmail", "elsewhere")))
    for command in (apply, check):
        with pytest.raises(WrongTopology, match="lists the lanes gmail, elsewhere; this version works on"):
            await command(settings)
    async with admin(apache_broker) as client:
        ours = [t for t in await client.list_topics() if t.startswith(prefix)]
    assert ours == [settings.topic("mail-topology")]


async def test_another_partition_count_is_refused_and_added_partitions_are_an_accident(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, partitions=2)
    await create_topics(apache_broker, settings.topic("mail-sends"), partitions=3)
    with pytest.raises(WrongTopology, match="mail-sends has 3 partitions instead of 2"):
        await apply(settings)  # producers already see 3: a P of 2 must not be written
    assert await read_topology(settings, missing_ok=True) is None
    async with admin(apache_broker) as client:
        mine = [t for t in await client.list_topics() if t.startswith(prefix)]
    assert mine == [settings.topic("mail-sends")]  # nothing was made beside it
    settings = settings_for(apache_broker, prefix, partitions=3)
    await apply(settings)
    await add_partitions(settings, "mail-sends", 5)
    assert (await apply(settings)).created == []
    assert (await check(settings)).partitions == 3


async def test_a_changed_p_ends_workers_that_run_on_the_old_one(broker, prefix, monkeypatch, caplog):
    monkeypatch.setattr(admin_module, "LOOK", 0.1)
    settings = settings_for(broker, prefix)
    await create_topics(broker, settings.topic("mail-topology"))
    mine = Topology(partitions=4, lanes=lane_names())
    deaths = []
    watching = asyncio.create_task(watch(settings, mine, lambda *death: deaths.append(death)))
    await until(lambda: "holds no topology record any more" in caplog.text)
    await admin_module._write_topology(settings, mine)
    await asyncio.sleep(0.5)
    assert deaths == []
    await admin_module._write_topology(settings, Topology(partitions=8, lanes=lane_names()))
    await asyncio.wait_for(watching, 15)
    [(code, why)] = deaths
    assert code == 78
    assert "P=8" in why
    assert "this worker runs on P=4" in why


async def test_a_leader_that_does_not_come_is_named(apache_broker, prefix, monkeypatch):
    settings = settings_for(apache_broker, prefix, partitions=1)
    asked = []

    class Without:
        async def describe_topics(self, names):
            asked.append(names)
            return [
                {
                    "topic": n,
                    "error_code": 0,
                    "partitions": [{"error_code": 0, "leader": -1 if len(asked) < 9 else 1}],
                }
                for n in names
            ]

    wanted = {"mail-sends": BY_NAME["mail-sends"]}
    with pytest.raises(WrongTopology, match="no leader after 0 s for: mail-sends"):
        await admin_module._wait_for_leaders(Without(), wanted, 1, 0.3, exact=True)
    asked.clear()
    await admin_module._wait_for_leaders(Without(), wanted, 1, 5, exact=True)
    assert len(asked) == 9
    assert settings.partitions == 1


def test_flow_topics_are_never_compacted_and_outlive_their_mail(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, lifetime=86_400.0, replication=3)
    for topic in TOPICS:
        found = configuration(topic, settings)
        assert found["min.insync.replicas"] == "2"
        assert int(found["max.message.bytes"]) > settings.largest
        if topic.kept == "flow":
            assert found["cleanup.policy"] == "delete"
            assert int(found["retention.ms"]) >= 2 * 86_400_000
    assert configuration(BY_NAME["mail-suppressions"], settings)["cleanup.policy"] == "compact"
    assert configuration(BY_NAME["mail-outcomes"], settings)["cleanup.policy"] == "delete"
    assert configuration(BY_NAME["mail-screen-log"], settings)["cleanup.policy"] == "compact,delete"
    assert configuration(BY_NAME["mail-wait-1m"], settings)["message.timestamp.type"] == "LogAppendTime"


def test_nothing_deleted_stays_in_a_compacted_topic(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, compacted_within=3600.0)
    for topic in TOPICS:
        found = configuration(topic, settings)
        compacted = "compact" in found["cleanup.policy"]
        assert found.get("max.compaction.lag.ms") == ("3600000" if compacted else None)
        # Only closed segments are cleaned or deleted.
        assert int(found["segment.ms"]) <= (3_600_000 if compacted else 86_400_000)


async def test_apache_takes_the_configuration(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, partitions=1)
    await apply(settings)
    name = settings.topic("mail-wait-10m")
    async with admin(apache_broker) as client:
        answer = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    entries = {entry[0]: entry[1] for entry in answer[0].resources[0][4]}
    expected = configuration(BY_NAME["mail-wait-10m"], settings)
    assert {key: entries[key] for key in expected} == expected


async def test_what_an_older_version_made_is_put_right_and_what_was_raised_stays(apache_broker, prefix):
    settings = settings_for(apache_broker, prefix, partitions=1)
    old, mine = settings.topic("mail-suppressions"), settings.topic("mail-events")
    await create_topics(apache_broker, old, cleanup_policy="compact", max_message_bytes="999999999")
    year = str(365 * 86_400_000)
    await create_topics(apache_broker, mine, cleanup_policy="delete", retention_ms=year, flush_ms="12345")
    applied = await apply(settings)
    assert any(f"{old}: max.compaction.lag.ms is 922" in told for told in applied.changed), applied
    assert any(f"{mine}: retention.ms is {year}" in told for told in applied.raised)
    assert (applied.faults, applied.differ) == ([], [])
    async with admin(apache_broker) as client:
        found = await described(client, [old, mine])
    wanted = configuration(BY_NAME["mail-suppressions"], settings)
    assert {**wanted, "max.message.bytes": "999999999"} == {name: found[old][name] for name in wanted}
    assert (found[mine]["retention.ms"], found[mine]["segment.ms"]) == (year, "86400000")
    assert found[mine]["flush.ms"] == "12345"  # not ours: only what the table names is set
    again = await apply(settings)
    assert (again.changed, again.differ) == ([], [])
    assert len(again.raised) == 2
    endless = settings.topic("mail-dlq")
    async with admin(apache_broker) as client:
        assert await alter(client, [Difference(endless, "retention.ms", "", "-1")]) == []
    kept = await apply(settings)
    assert any(f"{endless}: retention.ms is -1" in told for told in kept.raised)
    assert (kept.changed, kept.differ) == ([], [])


def test_a_retention_without_end_is_above_every_other():
    assert Difference("t", "retention.ms", "-1", "100").raised
    assert Difference("t", "retention.ms", "101", "100").raised
    for name, found in (("retention.ms", "99"), ("retention.ms", ""), ("segment.ms", "101")):
        assert not Difference("t", name, found, "100").raised


async def test_the_embedded_broker_is_put_right_too(embedded_broker, prefix):
    settings = settings_for(embedded_broker, prefix, partitions=1)
    name = settings.topic("mail-suppressions")
    await create_topics(embedded_broker, name, cleanup_policy="compact")
    applied = await apply(settings)
    assert f"{name}: max.compaction.lag.ms is not set, the table says 604800000" in applied.changed
    assert (applied.faults, applied.differ) == ([], [])


async def test_a_broker_that_changes_nothing_is_told():
    class Old:
        async def _send_request(self, request):
            return request.prepare({33: (0, 1)})

    found = await alter(Old(), [Difference("t", "segment.ms", "", "1"), Difference("t", "a", "", "2")])
    assert found == ["this broker cannot change topics that are there (1 of them differ)"]
