"""A model under each policy. The constant rates of ``fixed`` and ``rules`` are the best that a search finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any
from zlib import crc32

from agents.shape.figures import Settings
from agents.shape.rules import parse_policy
from schemas.lane_policy import Decision
from schemas.reply import Rules, load_rules
from streams.ops.simulate.measures import PERMITTED, Measures, Point
from streams.ops.simulate.provider import Provider
from streams.ops.simulate.providers_file import Model
from streams.ops.simulate.run import COARSE, Run
from streams.ops.simulate.senders import Adaptive, Fixed, FixedReactions, Sender

POLICIES = ("adaptive", "fixed", "rules")
SEARCHED = 300.0
"""Seconds of a step while a constant rate is searched for."""
RATES = (0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.94, 0.98, 1.05)
"""Tried, as parts of what the model takes with nothing amiss, and as many below."""
DEFERRED = 0.01


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is shown of a run."""

    name: str
    figures: dict[str, Any]
    points: list[Point]
    decisions: list[Decision]


def settings_of(text: str = "", where: str = "policy.toml") -> Settings:
    """The policy in ``text``, or the one that ships. Raises BadPolicy."""
    return parse_policy(text or (resources.files("agents.shape") / "policy.toml").read_text("utf-8"), where)


def simulate(model: Model, policy: str, days: float, seed: int, settings: Settings | None = None) -> Outcome:
    """One model under one policy for ``days``. The same arguments give the same outcome."""
    settings = settings or settings_of()
    if policy == "adaptive":
        sender: Sender = Adaptive(settings, model.policy_name, cold=model.established > 0)
        return _outcome(model, sender, days, seed, {})
    make = _maker(model, policy, settings)
    rate = _search(model, make, days, seed)
    return _outcome(model, make(rate), days, seed, {"rate": round(rate, 5)})


def _outcome(model: Model, sender: Sender, days: float, seed: int, more: dict[str, Any]) -> Outcome:
    found = _run(model, sender, days, seed, COARSE)
    return Outcome(model.name, found.figures() | more, found.points, sender.decisions)


def _run(model: Model, sender: Sender, days: float, seed: int, coarse: float) -> Measures:
    phase = crc32(f"{seed}:{model.name}".encode()) / 2**32
    return Run(model, sender, _reply_rules(), phase, coarse).run(days)


@cache
def _reply_rules() -> Rules:
    return load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))


def _maker(model: Model, policy: str, settings: Settings) -> Callable[[float], Sender]:
    # Whoever sets a constant rate has asked the provider for its connections too.
    if policy == "fixed":
        return lambda rate: Fixed(rate, model.connections, model.per_connection)
    text = (resources.files("streams.ops.simulate") / "rules.toml").read_text("utf-8")
    reacting = settings_of(text, "rules.toml")
    return lambda rate: FixedReactions(reacting, model.policy_name, rate, model.connections)


def _search(model: Model, make: Callable[[float], Sender], days: float, seed: int) -> float:
    """The constant rate (messages/s) with the most delivered that keeps the other measures, else the best."""
    usual = Provider(replace(model, reputation=1.0)).usual(0.0)
    best: tuple[bool, float, float] = (False, -1.0, usual * RATES[0])
    for part in (*(rate / 8 for rate in RATES[::2]), *RATES):
        found = _run(model, make(usual * part), days, seed, SEARCHED).figures()
        growth = found["worst_growth"]
        kept = found["deferred_after_first_hour"] <= DEFERRED and (
            growth is None or growth <= PERMITTED + 1e-9
        )
        score = (kept, found["used"] if kept else -found["deferred_after_first_hour"], usual * part)
        best = max(best, score)
    return best[2]
