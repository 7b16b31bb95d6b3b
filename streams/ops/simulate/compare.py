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
from streams.ops.simulate.ideal import Permit
from streams.ops.simulate.measures import PERMITTED, Measures, Point
from streams.ops.simulate.provider import Provider
from streams.ops.simulate.providers_file import Model
from streams.ops.simulate.run import COARSE, START, Run
from streams.ops.simulate.senders import Adaptive, Fixed, FixedReactions, Sender

POLICIES = ("adaptive", "fixed", "rules")
SEARCHED = 300.0
"""Seconds of a step while a constant rate is searched for."""
RATES = (0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.94, 0.98, 1.05)
"""Tried, as parts of what the model takes with nothing amiss, and as many below."""
CLOSELY = 2
"""So many of them are looked at closely."""
DEFERRED = 0.01
PLAN = "conservative"
"""By which a cold source warms up where neither model nor policy name a plan."""


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
    trial = _Trial(model, days, seed, settings or settings_of())
    if policy == "adaptive":
        plan, step = trial.begins
        return trial.outcome(Adaptive(trial.settings, model.policy_name, START, plan=plan, step=step), {})
    make = _maker(model, policy, trial.settings)
    found = []
    for rate in _search(trial, make):
        outcome = trial.outcome(make(rate), {"rate": round(rate, 5)})
        found.append((_score(outcome.figures), rate, outcome))
    return max(found, key=lambda one: one[:2])[2]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A model and what all policies are tried under."""

    model: Model
    days: float
    seed: int
    settings: Settings

    @property
    def begins(self) -> tuple[str, int]:
        """The warm-up plan of a cold source and the step on which it begins; "": a warm source."""
        model, plans = self.model, self.settings.plans
        if not model.established or not plans:
            return "", 0
        own = self.settings.limits(model.policy_name).warm_up
        name = next((plan for plan in (model.plan, own, PLAN) if plan in plans), next(iter(plans)))
        return name, plans[name].step_of(model.established * plans[name].grow)

    def run(self, sender: Sender, coarse: float = COARSE) -> Measures:
        """Let the days pass under one sender."""
        phase = crc32(f"{self.seed}:{self.model.name}".encode()) / 2**32
        limits = self.settings.limits(self.model.policy_name, "dkim", "ideal")
        permit = Permit(self.settings, limits, self.model, *self.begins)
        return Run(self.model, sender, permit, _reply_rules(), phase, coarse).run(self.days)

    def outcome(self, sender: Sender, more: dict[str, Any]) -> Outcome:
        """What is shown of it."""
        found = self.run(sender)
        return Outcome(self.model.name, found.figures() | more, found.points, sender.decisions)


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


def _search(trial: _Trial, make: Callable[[float], Sender]) -> list[float]:
    """The constant rates (messages/s) that look best in a rough run: they use most, with the other measures kept."""
    usual = Provider(replace(trial.model, reputation=1.0)).usual(0.0)
    rates = [usual * part for part in (*(rate / 8 for rate in RATES[::2]), *RATES)]
    found = [(_score(trial.run(make(rate), SEARCHED).figures()), rate) for rate in rates]
    return [rate for _, rate in sorted(found, reverse=True)[:CLOSELY]]


def _score(figures: dict[str, Any]) -> tuple[bool, float]:
    """Whether it keeps to what is permitted, and how well it does."""
    late, growth = figures["deferred_after_first_hour"], figures["worst_growth"]
    kept = late <= DEFERRED and (growth is None or growth <= PERMITTED + 1e-9)
    return kept, figures["used"] if kept else -late
