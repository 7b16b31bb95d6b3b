"""Keeps the Kafka client from filling the log: in an outage each process tries dozens of times a second."""

from __future__ import annotations

import logging

SECONDS = 10.0


class Seldom(logging.Filter):
    """For handlers: of the records of ``logger`` and below, each kind (its text before the values are put in)
    passes once in ``seconds``; the next that passes says how many did not. Warnings of ours all pass."""

    def __init__(self, logger: str = "aiokafka", seconds: float = SECONDS) -> None:
        super().__init__(logger)
        self._seconds = seconds
        self._kinds: dict[tuple[str, str], list[float]] = {}
        """(logger, kind) -> [when the last one passed, how many since]."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if not super().filter(record):
            return True
        kind = self._kinds.setdefault((record.name, str(record.msg)), [float("-inf"), 0])
        if record.created - kind[0] < self._seconds:
            kind[1] += 1
            return False
        if kind[1]:
            record.msg = f"{record.getMessage()} (and {kind[1]:.0f} more like this)"
            record.args = None
        kind[:] = [record.created, 0]
        return True


def install() -> None:
    """On what the root logger writes to."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())
