"""What was freed goes back to the system, also from between what is still in use."""

import subprocess
import sys

import pytest

from streams.memory import give_back

CHURN = """
import os, random
from streams.memory import give_back

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

dice, held = random.Random(1), []
for _ in range(6):
    held += [(os.urandom(11_000 + dice.randrange(1_500)), {f"k{n}": n for n in range(20)}) for _ in range(6_000)]
    dice.shuffle(held)
    held = held[:2_000]
before = resident()
assert give_back()
print(before - resident())
"""


@pytest.mark.skipif(not give_back(), reason="this C library gives nothing back by itself")
def test_freed_mails_between_held_ones_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHURN], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 20_000  # KB, of some 90 that were freed
