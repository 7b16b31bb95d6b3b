"""What shape goes by: limits per provider and name, the law's figures, the sweeping rules, reactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache

WARM = "warm"
"""In the place of a plan's name: known to the provider already."""
GROWTH = 1.4
"""No plan grows by more than this in a day: providers take a doubling for a spammer."""
MANY_STEPS = 200
"""Steps after which no plan grows any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one source may do at a provider. Rates in messages/s."""

    connections: int
    """To begin with; one more where they are the bottleneck, up to ``max_connections``."""
    per_connection: int
    """Messages before QUIT."""
    start: float
    """Rate of a source that nothing is known about."""
    minimum: float
    """The law never goes below; workers without a lease share it."""
    maximum: float
    """The law never goes above."""
    max_connections: int = 0
    """0: the same as ``connections``."""
    warm_up: str = WARM
    """The plan by which what nothing is known about warms up; ``warm``: the law alone."""


@dataclass(frozen=True, slots=True)
class Law:
    """Figures of the control law. Times in seconds, the rest are shares and factors."""

    window: float = 30.0
    """How far back attempts and throttle replies are counted."""
    cut_after: float = 60.0
    """At most one cut in this time (the best adaptive engine: once a minute)."""
    settle: float = 3.0
    """Replies this soon after a cut belong to mail sent before it."""
    share: float = 0.02
    """Share of throttled attempts in the window that calls for a cut."""
    margin: float = 0.92
    """The new rate is this part of what the provider took while it pushed back."""
    first: float = 0.75
    """The same for the first cut after free growth."""
    deepest: float = 0.3
    """One cut goes down to this part of the rate at most."""
    raise_after: float = 3600.0
    """Quiet time before a raise, and between raises (the best adaptive engine: once an hour)."""
    grow: float = 1.3
    """Factor of a raise while no ceiling is known or near."""
    near: float = 0.9
    """From this part of the ceiling on, raises are probes."""
    probe: float = 0.02
    """A probe adds this part of the ceiling."""
    probe_after: float = 7200.0
    """Quiet time before a probe."""
    boldest: int = 4
    """Each probe that nobody minded doubles the next, up to so many times ``probe``."""
    patient: int = 1
    """A ceiling met again and again, each time the same, is probed at ever longer intervals, up to so many times as long."""
    probes: int = 6
    """After so many probes that nobody minded the ceiling is forgotten."""
    used: float = 0.7
    """Only a limit used this far is raised; one used less may be short of connections."""
    short: int = 5
    """Reports in the window that must say that all were busy before there is one more."""
    connect_after: float = 3600.0
    """Time between changes of connections upwards."""
    refused_for: float = 7200.0
    """Connections that were refused, or messages too many on one, are not tried again for so long."""
    lease: float = 5.0
    """Duration of a lease."""
    stop: float = 1.0
    """More than this share of the newest attempts throttled is an order to stop, not a rate (1: never)."""
    trickle: float = 0.02
    """While stopped, this part of the rate asks whether it is over; half of it after each ``trickle_after``."""
    trickle_after: float = 600.0
    asks: float = 1e9
    """... at most so many mails/s: it takes no more to learn the answer, however wide the lane"""
    ask: float = 300.0
    """... and at least one in so many seconds, be that below ``minimum``, which nobody should be refused at for hours."""
    resume: float = 2.0
    """Factor back towards the rate before the stop, every ``resume_after`` in which nobody minded."""
    resume_after: float = 60.0
    stride: float = 0.125
    """The first step back goes to this part of where it goes at least."""
    recover: float = 1.3
    """Factor of a raise below ``near`` of what the provider took for long; every ``recover_after``."""
    recover_after: float = 3600.0
    asked: float = 86400.0
    """The longest time that a reply may ask us to stay away ("try again in 2 hours")."""
    proven: float = 7 * 86400.0
    """How long a rate that the provider took is worth returning to."""
    forget: float = 30 * 86400.0
    """A limit unused for so long starts again (providers.md: warm up again after 30 idle days)."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rules over all replies of a limit together, once it made ``attempts`` within ``window`` seconds."""

    window: float = 86400.0
    attempts: int = 2000
    refused: float = 0.20
    """Share of 5xx that suspends."""
    blocked_slow: float = 0.03
    """Share of blocks (action hold) that halves the rate."""
    blocked: float = 0.10
    """Share of blocks that suspends."""
    suspend: float = 4 * 3600.0
    complaints: float = 0.001
    """Complaints per delivered mail whose 95 % lower bound freezes growth."""
    delivered: int = 1000
    """Deliveries in the window before complaints are judged."""
    freeze: float = 86400.0
    engaged: float = 0.003
    """The same at a DKIM domain: only contacts that clicked lately get mail, until days are good again."""
    engaged_share: float = 0.1
    """What they may get a day, of the fullest day before."""
    good_days: int = 7
    """Measured days below ``engaged`` that open the gate."""
    measured: int = 100
    """Deliveries that make a day, with feedback, a measured one."""
    traps: int = 3
    """Spam traps reached that freeze growth."""
    stop_attempts: int = 200
    """Attempts of a stream (a source or DKIM domain) before a fault of ours can stop it."""
    stop_share: float = 0.05
    """Share of them that met a fault of ours, over ``stop_domains`` recipient domains: stopped everywhere."""
    stop_domains: int = 20
    stop_whole: float = 0.5
    """Share at one named provider: stopped there."""
    stop_window: float = 3600.0
    stop: float = 4 * 3600.0
    """Seconds for which a stream is stopped; an operator looks meanwhile."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """When what comes back pauses a marketing campaign of a tenant, once ``minimum`` of its mails ended
    (delivered or refused for good). A share of 1 is never reached by complaints, and hardly by bounces."""

    minimum: int = 1000
    bounces: float = 0.05
    """Bounced, late ones too, of those that ended."""
    complaints: float = 0.003
    """Complaints of those delivered (Google's and Yahoo's limit for senders)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How what is new at a provider warms up: a step a day, after good days only (providers.md).

    Either ``day`` (messages a day) or ``hourly`` (messages an hour; the day is 24 of them) is given.
    """

    day: tuple[int, ...] = ()
    hourly: tuple[int, ...] = ()
    hour: float = 0.2
    """An hour's cap as a part of the day's (plans of days)."""
    grow: float = 1.3
    """Factor a day after the table's end."""
    filled: float = 0.93
    """A day counts only where so much of it was used: an unused day carries nothing over."""
    deferred: float = 0.05
    """Share of attempts slowed down or held above which a day was not good."""
    bounced: float = 0.10
    """Share of attempts refused for good above which a day was not good."""
    complaints: float = 0.001
    """Complaints per delivered mail whose 95 % lower bound spoils a day."""
    rest: float = 30 * 86400.0
    """After so many seconds without mail the plan starts again."""

    def daily(self, step: int) -> int:
        """Messages on day ``step`` (0 = the first)."""
        return self._at(step) if self.day else 24 * self._at(step)

    def an_hour(self, step: int) -> int:
        """Messages in any hour of day ``step``; at least 1."""
        return max(1, int(self._at(step) * self.hour)) if self.day else self._at(step)

    def step_of(self, daily: float) -> int:
        """The last step whose day is not above ``daily`` messages; 0 where none is."""
        step = 0
        while step < MANY_STEPS and self.daily(step + 1) <= daily:
            step += 1
        return step

    def _at(self, step: int) -> int:
        table = self.day or self.hourly
        last = len(table) - 1
        step = max(0, min(step, MANY_STEPS))
        found = table[min(step, last)]
        for _ in range(step - last):
            found = int(min(1e9, found * self.grow + 1e-9))  # each step for itself: none is above its growth
        return found


@dataclass(frozen=True, slots=True)
class Reaction:
    """What to do when ``count`` replies of a kind came within ``window`` seconds.

    ``rules`` are names of ``replies.toml`` (wildcards allowed), ``classes`` its classes; one match is
    enough. ``factor`` multiplies the rate for good; ``rate`` caps for ``lasting`` seconds;
    ``connections`` there are at most, with no growth for ``lasting`` seconds; ``suspend`` stops the lane for so many seconds.
    """

    name: str
    rules: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    count: int = 1
    window: float = 3600.0
    factor: float = 1.0
    rate: float = 0.0
    connections: int = 0
    lasting: float = 0.0
    suspend: float = 0.0

    def takes(self, provider: str, rule: str, klass: str) -> bool:
        """Whether a reply of this rule and class at this provider counts."""
        if self.providers and provider not in self.providers:
            return False
        return any(fnmatchcase(rule, want) for want in self.rules) or klass in self.classes


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that shape goes by."""

    default: Limits
    providers: Mapping[str, Limits] = field(default_factory=dict)
    reactions: tuple[Reaction, ...] = ()
    law: Law = Law()
    sweep: Sweep = Sweep()
    max_limits: int = 20_000
    """More source x provider pairs than this are refused: they stay at the workers' floor."""

    signer: float = 10.0
    """A DKIM domain starts at, and may reach, so many times the maximum of one source."""

    campaign: Feedback = Feedback()
    tenants: Mapping[str, Feedback] = field(default_factory=dict)
    """By tenant, where the policy says something of it."""

    plans: Mapping[str, Plan] = field(default_factory=dict)
    named: Mapping[tuple[str, str, str], Limits] = field(default_factory=dict)
    """By kind, name and provider ("": any other): what the policy says of one source or DKIM domain."""

    def limits(self, provider: str, kind: str = "source", name: str = "") -> Limits:
        """The limits of a source (or DKIM domain) at a provider; unknown providers have the default."""
        if self.named:
            own = self.named.get((kind, name, provider)) or self.named.get((kind, name, ""))
            if own is not None:
                return own
        found = self.providers.get(provider, self.default)
        return found if kind == "source" else signed(found, self.signer)


@lru_cache(1024)
def signed(limits: Limits, times: float) -> Limits:
    """The limits of a DKIM domain that several sources may sign for."""
    top = limits.maximum * times
    connections = int(max(limits.connections, limits.max_connections) * times)
    return replace(limits, start=top, maximum=top, connections=connections, max_connections=0)
