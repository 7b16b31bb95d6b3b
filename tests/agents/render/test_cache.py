"""The cache never outgrows its limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.render.cache import Bounded


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=40))
def test_it_stays_within_its_bytes(puts: list[tuple[int, int]]) -> None:
    cache: Bounded[int] = Bounded(100)
    for key, weight in puts:
        cache.put(key, weight, weight)
        assert cache.weight <= 100
        assert cache.get(key) == weight
    assert cache.weight == sum(cache.get(key) or 0 for key in range(6))


def test_the_least_recently_used_goes_first() -> None:
    cache: Bounded[str] = Bounded(2)
    cache.put("a", "a", 1)
    cache.put("b", "b", 1)
    assert cache.get("a") == "a"
    cache.put("c", "c", 1)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("a", None, "c")
    cache.put("d", "d", 3)
    assert cache.get("d") is None
