"""The contiguous watermark: never past something unfinished, never short of what is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.watermark import Watermark


@given(st.lists(st.integers(1, 3), min_size=1, max_size=60), st.randoms())
def test_position_is_always_the_first_unfinished(gaps, random):
    offsets, at = [], 10
    for gap in gaps:
        at += gap
        offsets.append(at)
    mark = Watermark(10)
    for offset in offsets:
        mark.take(offset)
    order = offsets[:]
    random.shuffle(order)
    finished = set()
    for offset in order:
        mark.finish(offset)
        finished.add(offset)
        prefix = [o for i, o in enumerate(offsets) if set(offsets[: i + 1]) <= finished]
        assert mark.position == (prefix[-1] + 1 if prefix else 10)
        assert len(mark) == len(offsets) - len(finished)
        assert mark.oldest == next((o for o in offsets if o not in finished), None)


def test_an_offset_that_was_taken_is_refused():
    mark = Watermark(5)
    mark.take(5)
    with pytest.raises(ValueError, match="taken already"):
        mark.take(5)
    with pytest.raises(ValueError, match="taken already"):
        mark.take(4)
