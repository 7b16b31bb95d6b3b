"""What a runner notes of its starts, in files of this machine: for a broker that drops the metadata of commits.

A hint, as the metadata is: lost with the disk or left on another machine, a record that kills the process
only kills it a few times more.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger("mailsluice.notes")


class Notes:
    """One short text for each topic partition, which counts for one offset only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, topic: str, partition: int) -> Path:
        return self._directory / f"{topic}-{partition}.begun"

    def write(self, topic: str, partition: int, offset: int, text: str) -> None:
        """Replace the note."""
        path = self._path(topic, partition)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(f"{offset} {text}\n")
            os.replace(new, path)
        except OSError as error:
            log.warning("could not note a start in %s: %s", path.name, error)

    def read(self, topic: str, partition: int, offset: int) -> str:
        """The note about ``offset``, empty where there is none."""
        try:
            found, _, text = self._path(topic, partition).read_text().partition(" ")
        except (OSError, UnicodeDecodeError):
            return ""
        return text.strip() if found == str(offset) else ""
