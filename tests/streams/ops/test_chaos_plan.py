"""The plan of a chaos run: repeatable, complete where there is room, and never two blows to one worker at once."""

from collections import Counter

import pytest

from streams.lab.providers import load
from streams.ops.chaos.plan import BY_NAME, GROUPS, KINDS, ROOMY, SHORT, plan, seconds, workers
from streams.ops.chaos.run import WORLD, lifetime

SEEDS = range(1, 40)


def kills(faults):
    return sum(BY_NAME[fault.kind].kills for fault in faults)


def test_the_same_seed_makes_the_same_plan():
    assert plan(7, 30) == plan(7, 30)
    assert plan(7, 30) != plan(8, 30)


@pytest.mark.parametrize("count", [1, 3, 6, 19, 20, 100])
def test_it_has_the_kills_that_were_asked_for(count):
    for seed in SEEDS:
        assert kills(plan(seed, count)) == count


@pytest.mark.parametrize("count", [ROOMY, 100])
def test_every_kind_occurs_where_there_is_room(count):
    for seed in SEEDS:
        assert {fault.kind for fault in plan(seed, count)} == set(BY_NAME)


def test_a_kind_without_weight_occurs_once():
    assert all(Counter(f.kind for f in plan(seed, 100))["outage"] == 1 for seed in SEEDS)


def test_a_short_run_kills_every_group_and_takes_no_long_outage():
    for seed in SEEDS:
        faults = plan(seed, 6, 2.0, SHORT)
        struck = Counter(f.kind for f in faults)
        assert {f"kill-{group}" for group in SHORT} <= set(struck)
        assert not {"outage", "rolling", "kill-broker"} & set(struck)
        assert sum(struck.values()) == 9
        assert seconds(faults) < 40


def test_targets_are_workers_that_run_or_providers_of_the_world():
    providers = {provider.name for provider in load(WORLD).providers}
    for seed in SEEDS:
        for fault in plan(seed, 60):
            kind = BY_NAME[fault.kind]
            if kind.name == "grow":
                group, _, number = fault.target.partition("-")
                assert int(number) == GROUPS[group]
            elif kind.groups:
                assert workers()[fault.target] in kind.groups
            else:
                assert fault.target in providers if kind.providers else fault.target == ""


def test_no_worker_is_struck_twice_at_once():
    for seed in SEEDS:
        over = {}
        for fault in plan(seed, 60):
            assert fault.at >= over.get(fault.target, 0.0)
            if fault.target and BY_NAME[fault.kind].groups:
                over[fault.target] = fault.at + fault.seconds


def test_nothing_begins_while_a_fault_lasts_that_wants_to_be_alone():
    for seed in SEEDS:
        quiet_until = 0.0
        for fault in plan(seed, 40):
            assert fault.at >= quiet_until
            if BY_NAME[fault.kind].alone:
                quiet_until = fault.at + fault.seconds


def test_a_freeze_outlasts_the_session():
    session = 4.0  # of every scene
    freeze = BY_NAME["freeze"]
    assert min(freeze.lasts[0], freeze.short[0]) > session


def test_only_some_kinds():
    faults = plan(3, 5, only=("freeze", "wipe"))
    assert len(faults) == 5
    assert {fault.kind for fault in faults} == {"freeze", "wipe"}


def test_mail_outlives_the_longest_outage():
    assert lifetime(plan(1, 100)) > 2 * max(kind.lasts[1] for kind in KINDS)
    assert lifetime(plan(1, 6)) == 60.0
