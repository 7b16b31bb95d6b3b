"""What the providers saw, as a table: the demo and the chaos tests judge the pipeline by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from streams.lab.ledger import WINDOW, Tally

SUMMED = ("attempts", "taken", "distinct", "duplicates", "duplicates_unreplied", "bounced_late")


def report(tallies: Mapping[str, tuple[Tally, float]]) -> dict[str, Any]:
    """All providers, from their tallies and budgets (messages a second), each by itself and summed.

    ``taken`` counts messages that got (or should have got) a 250, repeats included; ``distinct`` without
    them; ``duplicates`` are repeats although the first 250 was sent, ``duplicates_unreplied`` those whose
    250 a scripted fault kept back; ``bounced_late`` were taken and then bounced by a DSN that the edge
    took. ``within_budget``: every source kept to the budget from 5 s after its first throttle reply.
    """
    each = {name: provider_report(tally, budget) for name, (tally, budget) in tallies.items()}
    return {
        **{field: sum(found[field] for found in each.values()) for field in SUMMED},
        "within_budget": all(found["within_budget"] for found in each.values()),
        "providers": each,
    }


def provider_report(tally: Tally, budget: float) -> dict[str, Any]:
    """One provider."""
    sources = {source: _source(tally, source, budget) for source in tally.sources()}
    every, replied = tally.duplicates(), tally.duplicates(counting_unreplied=False)
    taken = len(tally.taken())
    return {
        "attempts": sum(source["attempts"] for source in sources.values()),
        "taken": taken,
        "distinct": taken - sum(every.values()),
        "duplicates": sum(replied.values()),
        "duplicates_unreplied": sum(every.values()) - sum(replied.values()),
        "bounced_late": len(tally.bounced),
        "refused": dict(tally.refused),
        "dkim": dict(tally.dkim),
        "flaws": dict(tally.flaws),
        "acts": dict(tally.acts),
        "budget": budget,
        "within_budget": all(source["ok"] for source in sources.values()),
        "sources": sources,
    }


def _source(tally: Tally, source: str, budget: float) -> dict[str, Any]:
    verdict = tally.judge(source, budget)
    return {
        "attempts": tally.attempts(source),
        "throttled": tally.throttled(source),
        "most_taken_in_10s": tally.windows(source, WINDOW),
        "ok": verdict.ok,
        "since_settled": asdict(verdict),
    }
