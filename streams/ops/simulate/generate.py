"""Providers files out of a seed: models that the law was not tuned on. The same seed gives the same file."""

from __future__ import annotations

import random
from typing import Any

KINDS = ("google", "yahoo", "outlook", "orange", "gmx", "comcast", "", "", "", "")


def generated(seed: int, count: int = 6) -> str:
    """A providers file in TOML with ``count`` models."""
    draw = random.Random(seed)
    lines = [f"# mailsluice simulate --generate {seed}", f"seed = {seed}"]
    for number in range(1, count + 1):
        lines += ["", f"[providers.p{number}]"]
        lines += [f"{name} = {_toml(value)}" for name, value in _model(draw).items()]
    return "\n".join(lines) + "\n"


def _model(draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    provider = draw.choice(KINDS)
    if provider:
        found["provider"] = provider
    rate = round(10 ** draw.uniform(-0.2, 1.6), 2)
    found["rate"] = rate
    found["burst"] = round(10 ** draw.uniform(0.3, 1.8), 1)
    budget = draw.random()
    if budget < 0.2:
        found["per_hour"] = round(rate * 3600 * draw.uniform(0.5, 0.9))
        found["sliding"] = draw.random() < 0.5
    elif budget < 0.3:
        found["per_minute"] = round(rate * 60 * draw.uniform(0.5, 0.9))
    elif budget < 0.45:
        found["per_day"] = round(rate * 86400 * draw.uniform(0.4, 0.8))
    found["latency"] = round(draw.uniform(0.05, 0.4), 3)
    found["connections"] = max(2, int(rate * found["latency"] * draw.uniform(1.2, 4)))
    found["per_connection"] = draw.choice((5, 10, 20, 50, 100, 1000))
    if draw.random() < 0.5:
        found["demand"] = round(rate * 86400 * draw.uniform(0.3, 1.5))
        found["pattern"] = draw.choice(("flat", "day", "burst"))
    if draw.random() < 0.4:
        found["wander"] = round(draw.uniform(0.02, 0.15), 3)
    found["reputation"] = round(draw.uniform(0.6, 1.0), 2)
    found["patience"] = round(draw.uniform(0.02, 0.1), 3)
    found["harm"] = round(draw.uniform(0.05, 0.4), 3)
    if draw.random() < 0.3:
        found["suspend_share"] = round(draw.uniform(0.2, 0.6), 2)
        found["suspend_hours"] = round(draw.uniform(0.5, 6), 1)
    if draw.random() < 0.2:
        found["greylist"] = draw.choice((60, 300, 900))
        found["fresh"] = round(draw.uniform(0.1, 0.5), 2)
    found["unknown"] = round(draw.uniform(0, 0.02), 4)
    found["complaints"] = round(draw.uniform(0, 0.0008), 5)
    found["drops"] = [
        {"day": round(draw.uniform(2, 27), 2), "hours": round(draw.uniform(1, 36), 1), "to": round(draw.uniform(0.02, 0.7), 2)}
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]  # fmt: skip
    found["suspensions"] = [
        {"day": round(draw.uniform(2, 27), 2), "hours": round(draw.uniform(0.5, 8), 1)}
        for _ in range(draw.choice((0, 0, 1)))
    ]
    return found


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else repr(value)
