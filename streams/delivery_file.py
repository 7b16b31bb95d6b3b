"""``delivery.toml`` at work: read when a worker starts, and again when it changes."""

from __future__ import annotations

import logging
from importlib import resources

from agents.deliver.delivery import Asks, BadDelivery, Delivery, read_delivery
from agents.deliver.sources import Sources
from streams.operators import stamp_of, text_of
from streams.settings import Settings

log = logging.getLogger("mailsluice.delivery")
EVERY = 5.0
"""Seconds between two looks at the file."""


def delivery_of(settings: Settings) -> Delivery:
    """The operator's delivery.toml, or the shipped one. Raises BadDelivery."""
    if settings.delivery is not None:
        text = text_of(settings.delivery, "MAILSLUICE_DELIVERY", BadDelivery)
        return read_delivery(text, str(settings.delivery))
    return read_delivery((resources.files("agents.deliver") / "delivery.toml").read_text("utf-8"))


class DeliveryFile:
    """What the file says now: ``sources`` (always the same object) and ``asks``. Raises BadDelivery at first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stamp = stamp_of(self._settings.delivery)
        self.sources, self.asks = self._read()

    def changed(self) -> bool:
        """Look at the file; True where another one is in force now. A faulty one is told, and the old one stays."""
        stamp = stamp_of(self._settings.delivery)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            sources, self.asks = self._read()
        except BadDelivery as error:
            log.error("the changed delivery file is not taken, the old one stays: %s", error)
            return False
        self.sources.become(sources)
        log.warning("the delivery file has changed and is in force; sources: %s", ", ".join(sources.names))
        return True

    def _read(self) -> tuple[Sources, Asks]:
        found = delivery_of(self._settings)
        if self._settings.deliver_sources and not any(found.sources.names):
            return Sources.at(self._settings.deliver_sources), found.asks
        return found.sources, found.asks
