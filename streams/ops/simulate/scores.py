"""Which of a run's figures are as they should be, and how many of many runs are: the proof in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streams.ops.simulate.compare import DEFERRED, Outcome
from streams.ops.simulate.measures import PERMITTED

USED = 0.9
BACK = 2.0


class Criterion(NamedTuple):
    """What is asked of a run: its name in JSON, its head in the table, and whether figures meet it."""

    name: str
    head: str
    met: Callable[[dict[str, Any]], bool]


CRITERIA = (
    Criterion("used", f"used ≥{USED:.0%}", lambda f: f["used"] >= USED),
    Criterion("deferred", f"deferred ≤{DEFERRED:.0%}", lambda f: f["deferred_after_first_hour"] <= DEFERRED),
    Criterion("growth", f"growth ≤{PERMITTED:g}", lambda f: (f["worst_growth"] or 0.0) <= PERMITTED + 1e-9),
    Criterion("back", f"back ≤{BACK:g} h", lambda f: (f["hours_to_full_rate_after_drop"] or 0.0) <= BACK),
)


def missed(figures: dict[str, Any]) -> list[str]:
    """Names of the criteria that a run does not meet."""
    return [criterion.name for criterion in CRITERIA if not criterion.met(figures)]


def scored(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many of the runs meet each criterion and all of them, and the mean share of the capacity used."""
    misses = [missed(outcome.figures) for outcome in outcomes]
    counts: dict[str, Any] = {
        criterion.name: sum(criterion.name not in found for found in misses) for criterion in CRITERIA
    }
    used = sum(outcome.figures["used"] for outcome in outcomes) / max(1, len(outcomes))
    return counts | {
        "all": sum(not found for found in misses),
        "of": len(misses),
        "mean_used": round(used, 4),
    }
