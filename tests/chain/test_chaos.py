"""``mailsluice chaos``, a few blows of it: the long form is ``make chaos``."""

import json
import subprocess
import sys

import pytest

KINDS = "kill-deliver,kill-intake,point-kill,point-stop,smtp-reset-after-dot,cancel"


@pytest.mark.long
@pytest.mark.apache
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_run_keeps_the_promise_and_says_so_in_its_last_line(tmp_path):
    command = ["-m", "streams.cli", "chaos", "--kills", "6", "--seed", "3", "--messages", "1000"]
    done = subprocess.run(
        [sys.executable, *command, "--only", KINDS, "--home", str(tmp_path)],
        capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seed"] == 3
    assert found["kills"] == 3
    assert found["faults"] == dict.fromkeys(KINDS.split(","), 1)
    assert found["received"] > 300
    assert found["lost"] == 0
    assert found["received"] == sum(found["outcomes"].values())
    assert found["duplicates"] <= found["in_flight_at_kills"] + found["unreplied"]
    assert found["outcomes"]["cancelled"] > 0
    assert found["unreplied"] > 0
    assert sum(found["points"].values()) >= 1  # a rare one may not be passed in time
    assert found["failed"] == {}
    assert len(json.loads((tmp_path / "plan.json").read_text())) == 6
