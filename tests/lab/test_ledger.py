"""The providers' records: what they count, and that a crash loses no taken message."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.lab.ledger import Act, Ledger, Take, Tally, Try, read


def take(at: float, message: str = "<m@x>", rcpt: str = "a@x.test", **more) -> Take:
    return Take(at, at, "127.0.0.1", message[1:].partition("@")[0], message, rcpt, "b@r.test", 100, **more)


def test_counts_duplicates_by_message_and_recipient():
    tally = Tally()
    for entry in (
        take(1, "<1@x>"),
        take(2, "<1@x>", rcpt="other@x.test"),
        take(3, "<2@x>", replied=False),
        take(4, "<2@x>"),
        take(5, "<3@x>"),
        take(6, "<3@x>"),
        take(7, "<3@x>"),
    ):
        tally.add(entry)
    assert tally.duplicates() == {("<2@x>", "a@x.test"): 1, ("<3@x>", "a@x.test"): 2}
    assert tally.duplicates(counting_unreplied=False) == {("<3@x>", "a@x.test"): 2}
    assert len(tally.taken()) == 7


def test_judges_a_source_from_five_seconds_after_its_first_throttle():
    tally = Tally()
    for n in range(384):  # 128/s for 3 s: a burst that does not count
        tally.add(take(n / 128))
    tally.add(Try(3.0, "127.0.0.1", 421, "rate"))
    for n in range(200):  # then 8/s
        tally.add(take(8.0 + n / 8))
    verdict = tally.judge("127.0.0.1", 8)
    assert verdict.ok
    assert verdict.most == 80
    assert verdict.first_throttle == 3.0
    assert not tally.judge("127.0.0.1", 6).ok
    assert tally.windows("127.0.0.1", 1.0) == 128
    for n in range(11):
        tally.add(Try(20.0 + n, "127.0.0.1", 451, "rate"))
    late = tally.judge("127.0.0.1", 100)
    assert not late.ok
    assert late.share > 0.05


def test_a_source_that_was_never_throttled_is_within_its_budget():
    tally = Tally()
    for n in range(100):
        tally.add(take(n / 1000))
    tally.add(Try(1.0, "127.0.0.1", 550, "unknown"))
    verdict = tally.judge("127.0.0.1", 1)
    assert verdict.ok
    assert verdict.first_throttle is None
    assert tally.refused == {"unknown": 1}


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.floats(0, 50, allow_nan=False), max_size=40),
    seconds=st.floats(0.5, 20),
    after=st.floats(0, 20),
)
def test_windows_equal_counting_by_hand(times, seconds, after):
    tally = Tally()
    for at in times:
        tally.add(take(at))
    kept = [t for t in times if t >= after]
    by_hand = max((sum(1 for t in kept if t >= s and t - s < seconds) for s in kept), default=0)
    assert tally.windows("127.0.0.1", seconds, after) == by_hand


def test_is_read_back_and_goes_on_after_a_torn_line(tmp_path):
    ledger = Ledger(tmp_path, "gmail")
    ledger.write(Try(0.5, "127.0.0.1", 421, "rate"))
    ledger.write(take(1, dkim="rsa=pass ed25519=fail", flaws=("no_date",)))
    ledger.write(Act(2, "dsn", "m", "a@x.test"))
    ledger.close()
    ledger.close()
    with (tmp_path / "gmail.jsonl").open("ab") as file:
        file.write(b'{"kind":"take","at":9,"ti')
    again = Ledger(tmp_path, "gmail")
    again.write(take(3, "<n@x>"))
    again.close()
    tally = read(tmp_path)["gmail"]
    assert [entry.message for entry in tally.taken()] == ["<m@x>", "<n@x>"]
    assert tally.dkim == {"rsa=pass": 1, "ed25519=fail": 1, "unchecked": 1}
    assert tally.flaws == {"no_date": 1}
    assert tally.bounced == {("m", "a@x.test")}
    assert tally.attempts("127.0.0.1") == 3
    assert tally.throttled("127.0.0.1") == 1
    assert tally.first_throttle("127.0.0.1") == 0.5


def test_a_killed_process_has_recorded_what_it_took(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from streams.lab.ledger import Ledger, Take
ledger = Ledger(Path({str(tmp_path)!r}), "yahoo")
for n in range(50):
    ledger.write(Take(n, n, "127.0.0.1", str(n), f"<{{n}}@x>", "a@x.test", "", 1))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == -9
    assert len(read(tmp_path)["yahoo"].taken()) == 50
