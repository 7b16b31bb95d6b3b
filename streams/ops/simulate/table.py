"""What a terminal shows of the runs: a line a provider and policy, and how many meet what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from streams.ops.ask import clean
from streams.ops.simulate.compare import Outcome
from streams.ops.simulate.scores import CRITERIA, missed, scored

COLUMNS = (
    ("used", "used", "{:.2%}"),
    ("after 1 h", "deferred_after_first_hour", "{:.2%}"),
    ("stopped h", "longest_suspension_hours", "{:.4g}"),
    ("full after d", "days_to_full_volume", "{:.3g}"),
    ("complaints +", "complaint_overshoot", "{:.2%}"),
    ("back after h", "hours_to_full_rate_after_drop", "{:.3g}"),
    ("growth", "worst_growth", "{:.3g}"),
    ("rate/s", "rate", "{:.3g}"),
)
"""Head, figure and how it is written."""


def tables(found: Mapping[str, Sequence[Outcome]]) -> list[Table]:
    """The runs by provider, then the count of those that meet each criterion."""
    return [_runs(found), _met(found)]


def _runs(found: Mapping[str, Sequence[Outcome]]) -> Table:
    table = _table("provider", "policy", *(head for head, *_ in COLUMNS), "misses", left=2)
    for runs in zip(*found.values(), strict=True):
        for policy, outcome in zip(found, runs, strict=True):
            figures = outcome.figures
            cells = [_cell(figures.get(name), form) for _, name, form in COLUMNS]
            table.add_row(clean(outcome.name), policy, *cells, ", ".join(missed(figures)) or "-")
    return table


def _met(found: Mapping[str, Sequence[Outcome]]) -> Table:
    table = _table("runs that meet", *(criterion.head for criterion in CRITERIA), "all", "mean used", left=1)
    for policy, outcomes in found.items():
        counts = scored(outcomes)
        cells = [f"{counts[name]} of {counts['of']}" for name in (*(c.name for c in CRITERIA), "all")]
        table.add_row(policy, *cells, f"{counts['mean_used']:.1%}")
    return table


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _table(*heads: str, left: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < left else "right", no_wrap=True)
    return table
