"""Providers files out of a seed: models that the law was not tuned on. The same seed gives the same file."""

from __future__ import annotations

import random
from typing import Any

TUNED = range(1, 51)
"""Seeds that the law was tuned on; figures from them prove nothing."""
MODELS = 6
NAMED = (
    *("google", "google", "yahoo", "yahoo", "outlook", "outlook", "microsoft365", "apple", "orange", "gmx"),
    *("comcast", "laposte", "free", "sfr", "ionos", "mimecast", "qq", "netease", "tonline", "yandex"),
)
ORDERS = (
    "421 4.7.0 Mail from {ip} is suspended for now; try again in {hours} hours",
    "421 4.7.1 Service refused for {ip}, please try again in {hours} hours",
    "421 4.7.0 Temporarily deferred; try again later",
    "450 4.7.1 Mail from {ip} is not accepted for now",
    "451 4.7.650 The mail server [{ip}] has been temporarily rate limited due to IP reputation",
    "421 4.3.2 System not accepting network messages",
    "421 Service not available, closing transmission channel",
)


def generated(seed: int, count: int = MODELS) -> str:
    """A providers file in TOML with ``count`` models."""
    draw = random.Random(seed)
    lines = [f"# mailsluice simulate --generate {seed}", f"seed = {seed}"]
    for number in range(1, count + 1):
        lines += ["", f"[providers.s{seed}m{number}]"]
        lines += [f"{name} = {_toml(value)}" for name, value in _model(draw).items()]
    return "\n".join(lines) + "\n"


def _model(draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw.random() < 0.5:
        found["provider"] = draw.choice(NAMED)
    rate = round(10 ** draw.uniform(-0.5, 1.8), 2)
    found |= _budgets(draw, rate)
    if found.get("provider") == "orange":
        found["connections"] = 2  # its own page says so
    if draw.random() < 0.5:
        found["demand"] = round(rate * 86400 * draw.uniform(0.2, 1.5))
        found["pattern"] = draw.choice(("flat", "day", "day", "burst"))
    if draw.random() < 0.4:
        found["wander"] = round(draw.uniform(0.02, 0.15), 3)
    found |= _temper(draw)
    if draw.random() < 0.2:
        found["greylist"] = draw.choice((60, 300, 900))
        found["fresh"] = round(draw.uniform(0.1, 0.5), 2)
    found["unknown"] = round(draw.uniform(0, 0.02), 4)
    found["complaints"] = round(draw.uniform(0, 0.0006), 5)
    if draw.random() < 0.25:
        found["established"] = round(10 ** draw.uniform(2.3, 4.3))
        found["growth"] = round(draw.uniform(1.45, 2.5), 2)
    found["drops"] = [
        _span(draw, 36) | {"to": round(draw.uniform(0.02, 0.7), 2)} for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    found["suspensions"] = [
        _span(draw, 12) | {"reply": draw.choice(ORDERS)} for _ in range(draw.choice((0, 0, 1)))
    ]
    if draw.random() < 0.15:
        found["spikes"] = [_span(draw, 24) | {"to": round(draw.uniform(0.001, 0.006), 4)}]
    return found


def _budgets(draw: random.Random, rate: float) -> dict[str, Any]:
    """What it takes in a second, minute, hour or day, and over how many connections."""
    found: dict[str, Any] = {"rate": rate, "burst": round(10 ** draw.uniform(0.3, 1.8), 1)}
    kind = draw.random()
    if kind < 0.2:
        found["per_hour"] = round(rate * 3600 * draw.uniform(0.5, 0.9))
        found["sliding"] = draw.random() < 0.5
    elif kind < 0.3:
        found["per_minute"] = max(1, round(rate * 60 * draw.uniform(0.5, 0.9)))
    elif kind < 0.45:
        found["per_day"] = round(rate * 86400 * draw.uniform(0.3, 0.8))
    elif kind < 0.5:  # nothing but an hour's quota
        found = {"per_hour": round(rate * 3600), "sliding": draw.random() < 0.5}
    found["latency"] = round(draw.uniform(0.05, 0.4), 3)
    found["connections"] = max(2, int(rate * found["latency"] * draw.uniform(1.2, 4)))
    found["per_connection"] = draw.choice((5, 10, 20, 50, 100, 1000))
    return found


def _temper(draw: random.Random) -> dict[str, Any]:
    """How it takes to who does not listen."""
    found: dict[str, Any] = {
        "reputation": round(draw.uniform(0.6, 1.0), 2),
        "worst": round(draw.uniform(0.1, 0.6), 2),
        "patience": round(draw.uniform(0.02, 0.1), 3),
        "harm": round(draw.uniform(0.05, 0.4), 3),
        "gain": round(draw.uniform(0.05, 0.5), 2),
    }
    if draw.random() < 0.3:
        found["suspend_share"] = round(draw.uniform(0.1, 0.6), 2)
        found["suspend_hours"] = round(draw.uniform(0.5, 6), 1)
    return found


def _span(draw: random.Random, hours: float) -> dict[str, Any]:
    return {"day": round(draw.uniform(2, 27), 2), "hours": round(draw.uniform(0.5, hours), 1)}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else repr(value)
