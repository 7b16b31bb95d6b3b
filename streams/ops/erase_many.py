"""``mailsluice erase --file``: many people at once, batch by batch, however long the file is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from schemas.address import normalise
from schemas.erasure import Pseudonyms
from schemas.event import MailEvent
from schemas.hold import Command
from schemas.identity import event_id
from streams.ops.person import pattern
from streams.ops.queue_scan import audited
from streams.ops.suppressions import Row, change, read_table
from streams.settings import Settings

BATCH = 5000
"""People that are erased together: the next are written when these are seen to be erased."""
SHOWN = 20
"""Lines that are named one by one."""


@dataclass(slots=True)
class Told:
    """What became of a file: people erased, those of whom no mark was seen, bad lines. ``ended``: the line at which
    it was given up, 0 = it was read to its end."""

    erased: int = 0
    unseen: int = 0
    bad: int = 0
    bad_rows: list[Row] = field(default_factory=list)
    ended: int = 0

    def add(self, row: Row) -> None:
        """Count a bad line."""
        self.bad += 1
        if len(self.bad_rows) < SHOWN:
            self.bad_rows.append(row)


def erasure(to: str, why: str, by: str, settings: Settings, now: float) -> MailEvent:
    """The event that erases a (normalised) address; of the reason, which stays, the address is taken out."""
    name = Pseudonyms(settings.hash_secrets()).of(to)[0]
    reason = pattern(to).sub(name.encode(), why.encode("utf-8", "replace")).decode("utf-8", "replace")
    return MailEvent(
        id=event_id(to, "erased", f"{now:.3f}"),
        kind="erased",
        mail="",
        time=now,
        to=to,
        by=by[:200],
        detail=reason[:1000],
    )


def read_people(lines: Iterable[str], why: str, by: str, settings: Settings) -> Iterator[Row]:
    """An event ``erased`` for each row of a CSV file (see ``suppressions.read_rows``) with the column to, email or
    address and, if wanted, why. Raises BadFile first."""

    def make(cells: dict[str, str]) -> MailEvent:
        to = normalise(cells["to"]).key
        return erasure(to, cells.get("why", why), by, settings, time.time())

    return read_table(lines, ("to", "why"), make)


async def erase_people(
    settings: Settings, rows: Iterable[Row], why: str, by: str, wait: float, told: Told
) -> None:
    """Erase everybody in ``rows``; ``wait``: seconds for each batch until its marks stand. Gives up after a batch of
    which none is seen: nobody is there who erases. Raises WrongTopology, KafkaError."""
    command = Command(what="erase", on={"address": "a file"}, who=by[:200], why=why[:1000], time=time.time())
    async with audited(settings, command) as (_, counts):
        batch: dict[str, MailEvent] = {}
        for row in rows:
            if row.event is None:
                told.add(row)
                continue
            batch.setdefault(row.event.to, row.event)
            if len(batch) >= BATCH:
                if not await _erase(settings, batch, wait, told):
                    told.ended = row.line
                    break
                batch.clear()
        else:
            if batch:
                await _erase(settings, batch, wait, told)
        counts |= {"erased": told.erased, "not seen": told.unseen, "bad lines": told.bad}


async def _erase(settings: Settings, batch: dict[str, MailEvent], wait: float, told: Told) -> bool:
    """Whether anybody of the batch was seen to be erased."""
    found = await change(settings, list(batch.values()), wait)
    told.erased += len(found)
    told.unseen += len(batch) - len(found)
    return bool(found)
