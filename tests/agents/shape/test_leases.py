"""The lease book: never more than the limit, whoever joins, leaves, dies, or does not hear."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.deliver.allowance import Allowance
from agents.shape.leases import TURN, Book
from schemas.lane_policy import LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport

POLICY = LanePolicy(
    kind="source", name="s", provider="p", rate=10.0, minimum=1.0, connections=4, per_connection=20
)
KEY = ("source", "s", "p")
D = 3.0


def report(worker: str, number: int = 1, waiting: int = 100) -> LaneReport:
    return LaneReport(worker=worker, number=number, provider="p", source="s", waiting=waiting)


def answer(book: Book, worker: str, now: float, policy: LanePolicy = POLICY, waiting: int = 100) -> Lease:
    (lease,) = book.answer(report(worker, waiting=waiting), [policy], now)
    return lease


def test_a_new_leader_waits_one_lease():
    book = Book(D, 100.0)
    assert book.answer(report("a"), [POLICY], 102.9) == []
    lease = answer(book, "a", 103.0)
    assert (lease.number, lease.rate, lease.connections, lease.duration) == (1, 9.0, 4, D)


def test_a_raise_for_one_begins_when_what_it_displaces_has_run_out():
    book = Book(D, -D)
    assert answer(book, "a", 0.0).rate == 9.0
    assert answer(book, "b", 0.5).rate == 0.0
    assert answer(book, "a", 1.0).rate == pytest.approx(4.5)
    # a may not have read the smaller one: the larger counts until 3.0.
    assert answer(book, "b", 2.9).rate == 0.0
    assert answer(book, "b", 3.0).rate == pytest.approx(4.5)


def test_a_cut_takes_from_all_alike_and_at_once():
    book = Book(D, -D)
    for now in range(8):
        answer(book, "a", now)
        answer(book, "b", now + 0.5)
    halved = replace(POLICY, rate=5.5)
    assert answer(book, "a", 8.0, halved).rate == pytest.approx(2.25)
    assert answer(book, "b", 8.5, halved).rate == pytest.approx(2.25)
    assert book.outstanding(KEY, 8.5)[0] == pytest.approx(4.5)
    # Back up: what was cut was not lent anew in between.
    assert answer(book, "a", 9.0).rate == pytest.approx(4.5)


def test_the_share_follows_the_backlog():
    book = Book(D, -D)
    for now in range(8):
        a = answer(book, "a", now, waiting=900)
        b = answer(book, "b", now + 0.5, waiting=100)
    assert a.rate == pytest.approx(9 * (0.05 + 0.9 * 0.9))
    assert b.rate == pytest.approx(9 * (0.05 + 0.9 * 0.1))
    assert (a.connections, b.connections) == (3, 1)


def test_a_worker_that_is_gone_is_forgotten():
    book = Book(D, -D)
    answer(book, "a", 0.0)
    answer(book, "b", 1.0)
    book.forget(3.9)
    assert book.outstanding(KEY, 3.9) == (0.0, 0)
    assert answer(book, "b", 4.1).rate == 9.0
    book.forget(100.0)
    assert book._holders == {}


def test_two_domains_of_one_worker_are_one_backlog():
    book = Book(D, -D)
    for dkim, waiting in (("x", 300), ("y", 100)):
        both = replace(report("a", waiting=waiting), dkim=dkim)
        book.answer(both, [POLICY], 0.0)
    answer(book, "b", 0.1, waiting=100)
    (lease,) = book.answer(replace(report("a", waiting=300), dkim="x"), [POLICY], 1.0)
    assert lease.rate == pytest.approx(9 * (0.05 + 0.9 * 0.8))


def test_with_fewer_connections_than_workers_they_take_turns():
    book = Book(D, -D)
    policy = replace(POLICY, connections=1)
    held: dict[str, int] = {}
    for second in range(int(TURN * D) * 8):
        for index, worker in enumerate("abc"):
            lease = answer(book, worker, second + index / 3, policy)
            held[worker] = held.get(worker, 0) + lease.connections
            assert bool(lease.rate) <= bool(lease.connections)
            assert book.outstanding(KEY, second + index / 3)[1] <= 1
    assert all(count >= TURN * D for count in held.values())


def test_an_idle_worker_does_not_hold_the_only_connection():
    book = Book(D, -D)
    policy = replace(POLICY, connections=1)
    assert answer(book, "idle", 0.0, policy, waiting=0).connections == 1
    assert answer(book, "busy", 0.5, policy).connections == 0
    assert answer(book, "idle", 1.0, policy, waiting=0).connections == 0
    assert answer(book, "busy", 3.0, policy).connections == 1


class Cluster:
    """Leaders, workers and a log between them; every answer may be late, and any report lost."""

    def __init__(self, policies: list[LanePolicy]) -> None:
        self.policies = policies
        self.log: list[LanePolicy | Lease | Leader] = []
        self.books: list[tuple[int, Book]] = []
        self.workers: dict[str, tuple[Allowance, int]] = {}
        self.partitions = 12

    def lead(self, now: float) -> None:
        self.log.append(Leader(worker=f"leader{len(self.books)}", time=now))
        self.books.append((len(self.log) - 1, Book(D, now)))
        self.publish(self.policies[-1])

    def publish(self, policy: LanePolicy) -> None:
        self.policies.append(policy)
        self.log.append(replace(policy, epoch=self.books[-1][0]))

    def join(self, name: str) -> None:
        self.workers[name] = (Allowance(name, self.partitions), 0)

    def read(self, name: str, most: int) -> None:
        allowance, position = self.workers[name]
        for offset in range(position, min(len(self.log), position + most)):
            allowance.feed(offset, self.log[offset])
            position = offset + 1
        self.workers[name] = (allowance, position)

    def leased(self, now: float) -> tuple[float, int]:
        """What all living workers may use by their leases: their floors are not counted, nobody owns."""
        rate, connections = 0.0, 0
        for allowance, _ in self.workers.values():
            found = allowance.rate("p", "s", "", now, 0.0)
            rate, connections = rate + found.rate, connections + found.connections
        return rate, connections


@hypothesis(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_leases_never_add_up_to_more_than_the_limit(seed, moving):
    chance = random.Random(seed)
    cluster = Cluster([POLICY])
    cluster.lead(0.0)
    now, number, born = 0.0, 0, 0
    rates = [(0.0, POLICY.rate)]
    on_the_way: list[tuple[float, int, LaneReport]] = []
    for _ in range(300):
        now += chance.choice((0.0, 0.05, 0.3, 0.8))
        roll = chance.random()
        if len(cluster.workers) < 5 and roll < 0.1:
            born += 1
            cluster.join(f"w{born}")
        elif cluster.workers and roll < 0.13:
            del cluster.workers[chance.choice(list(cluster.workers))]
        elif roll < 0.15:
            cluster.lead(now)
        elif moving and roll < 0.2:
            cluster.publish(replace(POLICY, rate=chance.choice((2.0, 5.0, 10.0, 20.0))))
            rates.append((now, cluster.policies[-1].rate))
        elif cluster.workers and roll < 0.6:
            name = chance.choice(list(cluster.workers))
            number += 1
            cluster.workers[name][0].sent(number, now)
            for index in range(max(0, len(cluster.books) - 2), len(cluster.books)):
                if chance.random() < 0.8:  # else it is lost, or this leader never sees it
                    sums = report(name, number, chance.randrange(0, 500))
                    on_the_way.append((now + chance.choice((0.0, 0.2, 2.0)), index, sums))
        elif cluster.workers:
            cluster.read(chance.choice(list(cluster.workers)), chance.choice((1, 5, 1000)))
        for arrives, index, sums in [item for item in on_the_way if item[0] <= now]:
            on_the_way.remove((arrives, index, sums))
            epoch, book = cluster.books[index]
            for lease in book.answer(sums, [cluster.policies[-1]], now):
                cluster.log.append(replace(lease, epoch=epoch))
        rate, connections = cluster.leased(now)
        # What was lent before a cut runs out within a lease; a worker that reads the cut scales at once.
        lately = [kept for at, kept in rates if at > now - D] + [
            [kept for at, kept in rates if at <= now - D or at == 0.0][-1]
        ]
        assert rate <= max(lately) - POLICY.minimum + 1e-6
        assert connections <= POLICY.connections


def test_the_world_of_the_property_really_lends():
    cluster = Cluster([POLICY])
    cluster.lead(0.0)
    cluster.join("w")
    cluster.workers["w"][0].sent(1, 4.0)
    for lease in cluster.books[0][1].answer(report("w"), [POLICY], 4.2):
        cluster.log.append(lease)
    cluster.read("w", 10)
    assert cluster.leased(6.9) == (9.0, 4)
    assert cluster.leased(7.0) == (0.0, 0)
