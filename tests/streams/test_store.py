"""The local file of a state: equal to a dictionary, rebuilt rather than trusted, written by one process."""

import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import store as module
from streams.sieve import Sieve
from streams.store import Store, Taken, first_word, whole

KEYS = st.text("ab|é", max_size=4).map(str.encode)
VALUES = st.binary(max_size=6)
UNTIL = st.sampled_from([0.0, 10.0, 20.0, 30.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.dictionaries(KEYS, st.tuples(VALUES, UNTIL)), st.sets(KEYS)),
        st.tuples(st.just("expire"), st.sampled_from([5.0, 15.0, 25.0])),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("sift")),
    ),
    max_size=12,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, KEYS, st.sampled_from([whole, first_word]), st.sampled_from([0, 1, 3, 100]))
def test_it_is_a_dictionary(tmp_path_factory, steps, prefix, head, hold):
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    store, model, position = Store(path, "one", head=head, hold=hold), {}, 0
    for step in steps:
        if step[0] == "apply":
            _, puts, deletes = step
            position += 1
            for key in deletes:
                model.pop(key, None)
            model.update(puts)
            store.apply("log", position, [(k, v, until) for k, (v, until) in puts.items()], deletes)
        elif step[0] == "expire":
            gone = [k for k, (_, until) in model.items() if 0 < until < step[1]]
            assert store.expire(step[1]) == len(gone)
            for key in gone:
                del model[key]
        elif step[0] == "sift":
            store.sift()
        else:
            store.close()
            store = Store(path, "one", head=head, hold=hold)
        if hold and step[0] == "apply":  # nothing below may have them written before it is read
            for key in (prefix, *model):
                assert store.get(key) == (model[key][0] if key in model else None)
        assert store.count() == len(model)
        assert store.scan(prefix) == sorted((k, v) for k, (v, _) in model.items() if k.startswith(prefix))
        for key in (prefix, *list(model)[:3]):
            assert store.get(key) == (model[key][0] if key in model else None)
    assert store.position("log") == (position or -1)
    store.close()


def filled(path, identity="one"):
    store = Store(path, identity)
    store.apply("log", 7, [(b"k", b"v", 0.0)])
    return store


def test_another_identity_begins_anew(tmp_path):
    filled(tmp_path / "s").close()
    assert Store(tmp_path / "s", "one").get(b"k") == b"v"
    other = Store(tmp_path / "s", "of 16 partitions")
    assert other.get(b"k") is None
    assert other.position("log") == -1


@pytest.mark.parametrize("what", ["no sqlite", "cut"])
def test_a_file_that_is_no_database_begins_anew(tmp_path, what):
    path = tmp_path / "s"
    filled(path).close()
    path.write_bytes(b"rubbish" * 2000 if what == "no sqlite" else path.read_bytes()[:3000])
    store = Store(path, "one")
    assert store.position("log") == -1
    store.apply("log", 1, [(b"a", b"b", 0.0)])
    assert store.get(b"a") == b"b"


def test_a_directory_that_cannot_be_says_what_to_check(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the state directory.*MAILSLUICE_STATE"):
        Store(tmp_path / "file" / "s", "one")
    (tmp_path / "dir").mkdir()
    with pytest.raises(OSError, match=r"cannot open the state file dir.*MAILSLUICE_STATE"):
        Store(tmp_path / "dir", "one")


def test_a_full_disk_changes_nothing_and_raises(tmp_path):
    store = filled(tmp_path / "s")
    store._db.execute("PRAGMA max_page_count=20")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.apply("log", 8, [(b"%d" % n, b"x" * 4000, 0.0) for n in range(100)])
    assert store.position("log") == 7
    assert store.count() == 1
    store._db.execute("PRAGMA max_page_count=1000000")
    store.apply("log", 8, [(b"k2", b"v", 0.0)])
    assert store.position("log") == 8


def test_a_former_owner_that_wakes_does_not_turn_rows_back(tmp_path):
    frozen = filled(tmp_path / "s")
    successor = Store(tmp_path / "s", "one")
    assert successor.position("log") == 7
    successor.apply("log", 9, [(b"k", b"newer", 0.0)])
    with pytest.raises(Taken, match="stands at 9, not at 7"):
        frozen.apply("log", 8, [(b"k", b"older", 0.0)])
    assert successor.get(b"k") == b"newer"
    successor.apply("log", 10, [(b"k", b"newest", 0.0)])
    assert successor.position("log") == 10


def test_begin_anew(tmp_path):
    store = filled(tmp_path / "s")
    store.begin_anew()
    assert store.count() == 0
    store.apply("log", 1, [(b"a", b"b", 0.0)])
    assert Store(tmp_path / "s", "one").get(b"a") == b"b"


def test_rows_that_wait_are_read_again_by_the_next_process(tmp_path):
    first = Store(tmp_path / "s", "one", hold=5)
    first.apply("log", 2, [(b"a", b"1", 0.0), (b"b", b"1", 0.0)], mark="m")
    assert (first.get(b"a"), first.position("log"), first.mark("log")) == (b"1", 2, "m")
    assert in_file(tmp_path) == (
        [None, None, None],
        -1,
        "",
    )  # what a process finds whose predecessor was killed
    first.apply("log", 3, [(b"b", b"2", 0.0)])
    first.apply("log", 4, [(b"c", b"1", 0.0)], mark="n")  # five records: written
    assert in_file(tmp_path) == ([b"1", b"2", b"1"], 4, "n")
    first.apply("log", 6, [(b"a", b"2", 0.0)])
    assert in_file(tmp_path)[1] == 4
    first.apply("log", 7, [], [b"b"])  # a deletion waits for nothing
    assert in_file(tmp_path)[1] == 7
    first.apply("log", 8, [(b"c", b"2", 0.0)])
    first.close()
    assert in_file(tmp_path) == ([b"2", None, b"2"], 8, "")


def in_file(tmp_path):
    store = Store(tmp_path / "s", "one")
    found = [store.get(key) for key in (b"a", b"b", b"c")], store.position("log"), store.mark("log")
    store.close()
    return found


def test_a_former_owner_that_closes_leaves_the_file_to_its_successor(tmp_path):
    frozen = Store(tmp_path / "s", "one", hold=10)
    frozen.apply("log", 5, [(b"k", b"older", 0.0)])
    successor = Store(tmp_path / "s", "one")
    successor.apply("log", 9, [(b"k", b"newer", 0.0)])
    frozen.close()
    assert (successor.get(b"k"), successor.position("log")) == (b"newer", 9)


def test_the_sieve_of_a_file_that_was_there_has_all_its_rows(tmp_path, monkeypatch):
    """Filled in steps, while rows come and go; what it lets through is not looked for in the file."""
    monkeypatch.setattr(module, "STEP", 100)
    first = Store(tmp_path / "s", "one")
    first.apply("log", 1, [(b"%d" % n, b"v", 0.0) for n in range(950)])
    first.close()
    store = Store(tmp_path / "s", "one", hold=5)
    assert not store.sifted
    for step in range(100):
        store.apply("log", 2 + step, [(b"new %d" % step, b"v", 0.0)], [b"%d" % step])
        if store.sift():
            break
    assert store.sifted
    assert step == 9
    assert all(store.get(b"%d" % n) == (None if n <= step else b"v") for n in range(950))
    assert all(store.get(b"new %d" % n) == b"v" for n in range(step + 1))
    store._db.close()
    assert sum(_asks(store, b"other %d" % n) for n in range(2000)) < 60


def _asks(store, key):
    try:
        return store.get(key) is not None
    except sqlite3.ProgrammingError:  # the database is closed
        return True


def test_a_sieve_that_is_full_is_made_anew_larger(tmp_path):
    store = Store(tmp_path / "s", "one")
    store.apply("log", 1, [(b"%d" % n, b"v" * 100, 0.0) for n in range(20_000)])
    assert not store.sifted
    while not store.sift():
        pass
    assert store.sifted
    assert all(store.get(b"%d" % n) for n in range(0, 20_000, 7))


def test_a_sieve_lets_little_through_at_its_capacity():
    sieve = Sieve(10_000)
    hashes = [module._hash(b"%d" % n) for n in range(2 * sieve.capacity)]
    for one in hashes[: sieve.capacity]:
        sieve.add(one)
    assert all(one in sieve for one in hashes[: sieve.capacity])
    assert not sieve.full
    assert sum(one in sieve for one in hashes[sieve.capacity :]) < 0.02 * sieve.capacity
    sieve.add(1)
    assert sieve.full


def test_what_was_deleted_is_nowhere_in_the_file(tmp_path):
    store = Store(tmp_path / "s", "one", head=first_word, hold=10)
    rows = [(f"p{n}@b.example|shop".encode(), b'{"to":"p%d@b.example"}' % n, 0.0) for n in range(500)]
    store.apply("log", 500, rows)
    store.flush()
    assert b"p77@b.example" in everything(tmp_path)
    store.apply("log", 501, [], [b"p77@b.example|shop"])
    assert b"p77@b.example" not in everything(tmp_path)  # while it is open
    assert b"p78@b.example" in everything(tmp_path)
    store.close()
    assert b"p77@b.example" not in everything(tmp_path)


def everything(tmp_path):
    return b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_it_knows_whether_anybody_was_erased(tmp_path):
    store = Store(tmp_path / "s", "one", head=first_word, hold=10)
    store.apply("log", 1, [(b"a@b.example|shop", b"1", 0.0)])
    assert not store.hashed
    store.apply("log", 2, [(b"#01234567.ff||global", b"1", 0.0), (b"#89abcdef.00||global", b"1", 0.0)])
    assert store.hashed
    store.close()
    again = Store(tmp_path / "s", "one", head=first_word)
    assert again.hashed == {"#01234567.ff", "#89abcdef.00"}
    plan = again._db.execute(f"EXPLAIN QUERY PLAN SELECT k FROM rows WHERE {module._HASHED}").fetchall()
    assert "rows_hashed" in plan[0][3]  # not by reading millions of rows at each start
    again.begin_anew()
    assert not again.hashed


def test_keys_come_in_parts_also_those_that_are_written_meanwhile(tmp_path):
    store = Store(tmp_path / "s", "one", hold=1000)
    store.apply("log", 30, [(b"%d" % n, b"1", 0.0) for n in range(30)])
    first, after = store.some_keys(0, 20)
    store.apply("log", 31, [(b"new", b"1", 0.0)])
    second, after = store.some_keys(after, 20)
    assert (len(first), second[-1]) == (20, b"new")
    assert sorted(first + second) == sorted([b"%d" % n for n in range(30)] + [b"new"])
    assert store.some_keys(after, 20) == ([], after)


def test_rows_whose_time_has_passed_are_named_and_stay(tmp_path):
    store = Store(tmp_path / "s.sqlite", "x")
    store.apply("t", 1, [(b"a", b"1", 5.0), (b"b", b"2", 0.0), (b"c", b"3", 9.0)], set(), "")
    assert store.past(6.0) == [b"a"]
    assert sorted(store.past(10.0)) == [b"a", b"c"]
    assert store.get(b"a") == b"1"
    store.close()
