"""What operators hold back: tenants, lanes and sources that are paused or cancelled. Pure."""

from __future__ import annotations

from agents.deliver.job import Mail
from schemas.hold import Hold
from schemas.mail import base_topic


class Holds:
    """The holds that stand now. Fed with the records of ``mail-lane-policy`` in their order."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], str] = {}

    def feed(self, hold: Hold) -> None:
        """Take in one record: the newest of a name counts."""
        if hold.state == "active":
            self._states.pop((hold.kind, hold.name), None)
        else:
            self._states[(hold.kind, hold.name)] = hold.state

    def tenant(self, name: str) -> str:
        """active, paused or cancelled."""
        return self._states.get(("tenant", name), "active")

    def lane(self, mail: Mail) -> str:
        """The state of a mail's lane, provider or MX site: cancelled before paused."""
        if not self._states:  # nearly always
            return "active"
        names = {base_topic(mail.topic).removeprefix("mail-lane-"), mail.provider}
        if mail.feed is not None:
            names.add(mail.feed.key)
        found = {self._states.get(("lane", name)) for name in names}
        return next((state for state in ("cancelled", "paused") if state in found), "active")

    def source(self, name: str) -> bool:
        """Whether a source sends nothing."""
        return ("source", name) in self._states
