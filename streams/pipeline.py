"""The table of contents of the system: every stage, in the order in which mail passes."""

from __future__ import annotations

from agents import Stage
from agents.classify.agent import STAGE as CLASSIFY
from agents.deliver.agent import STAGE as DELIVER
from agents.enqueue.agent import STAGE as ENQUEUE
from agents.enqueue.campaigns import STAGE as CAMPAIGNS
from agents.render.agent import STAGE as RENDER
from agents.score.agent import STAGE as SCORE
from agents.screen.agent import STAGE as SCREEN
from agents.sign.agent import STAGE as SIGN
from agents.suppress.agent import STAGE as SUPPRESS
from agents.wait.agent import STAGE as WAIT

STAGES: tuple[Stage, ...] = (
    CAMPAIGNS,
    ENQUEUE,
    SCREEN,
    RENDER,
    SIGN,
    DELIVER,
    WAIT,
    CLASSIFY,
    SUPPRESS,
    SCORE,
)
BY_NAME = {stage.name: stage for stage in STAGES}

CHAINS = {("render", "sign"): "mail-rendered"}
"""Neighbours that may share a process and skip the topic between them: the second must be stateless."""

GROUPS: dict[str, tuple[str, ...]] = {
    "intake": ("campaigns", "enqueue", "screen"),
    "compose": ("render", "sign"),
    "deliver": ("deliver",),
    "hygiene": ("wait", "classify", "suppress", "score"),
}
"""Which stages usually share a process. ``control`` (shape, on faust) and ``edge`` are processes of their own."""
