"""The providers file in words: ``mailsluice simulate --help-providers``. It is made of the keys themselves."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from streams.ops.simulate.providers_file import Drop, Model, Pause, Spike

HEAD = """A providers file is TOML (or JSON of the same form): seed = N (1) and a table [providers.NAME] for each
provider. Every key is optional and hidden from the policy but for demand, pattern, established and plan.
Times are days from the start, which is a midnight. Where several budgets are given all of them hold.
"""
FOOT = """
In replies {ip} is the source, {rcpt} the recipient, {hours} how long a suspension still lasts. Situations:
rate (too fast, or a quota used up), suspended, connections (too many at once), messages (too many on one),
unknown (no such user), greylist. A reply begins with its code: 421 4.7.0 ...

seed shifts the daily waves of wander; with the same seed the same file gives the same figures.
A file to begin with: mailsluice simulate --example > p.toml, or --generate SEED > p.toml"""


def described() -> str:
    """Every key with its default and its unit."""
    lines = [HEAD, "Keys of a table [providers.NAME], with their defaults:"]
    lines += [_line(f) for f in fields(Model) if f.name != "name"]
    for name, cls in (("drops", Drop), ("suspensions", Pause), ("spikes", Spike)):
        lines += ["", f"Keys of a table in {name}:", *(_line(f) for f in fields(cls))]
    return "\n".join([*lines, FOOT])


def _line(f: Any) -> str:
    default = f.default
    if default is MISSING:
        shown = "{}" if f.default_factory is not MISSING else "needed"
    elif isinstance(default, bool):
        shown = str(default).lower()
    else:
        shown = "[]" if default == () else f"{default:g}" if isinstance(default, float) else repr(default)
    return f"  {f.name:<15} {shown:<7} {f.metadata['text']}"
