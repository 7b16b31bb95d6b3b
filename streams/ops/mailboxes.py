"""Messages out of files: .eml, mbox and Maildir, one at a time, whatever the size of the mailbox."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

LONGEST_LINE = 1_000_000
"""Bytes of a line that are read at once."""
# A sentence may begin with "From ": a postmark holds a time too.
_POSTMARK = re.compile(rb"From \S{1,320}\s.{0,60}\d:\d\d")


class BadMailbox(ValueError):
    """No mailbox, or one that cannot be read; the text says which and why."""


class Message(NamedTuple):
    """``where``: the file, and in an mbox the number of the message. ``cut``: it was longer than that."""

    where: str
    raw: bytes
    cut: bool


def messages(name: str, stdin: BinaryIO, most: int) -> Iterator[Message]:
    """The messages of a file, a Maildir, a directory of .eml files, or of standard input (``-``).

    Of each at most ``most`` bytes. Raises BadMailbox, at the file where it happens.
    """
    try:
        if name == "-":
            yield from _of_stream("standard input", stdin, most)
        elif os.path.isdir(name):
            yield from _of_directory(Path(name), most)
        else:
            with open(name, "rb") as file:
                yield from _of_stream(name, file, most)
    except OSError as error:
        raise BadMailbox(f"{error.filename or name}: {error.strerror or error}") from None


def _of_directory(path: Path, most: int) -> Iterator[Message]:
    if (path / "cur").is_dir() or (path / "new").is_dir():
        places = [path / "new", path / "cur"]
        found = (entry for place in places if place.is_dir() for entry in _sorted(place))
    else:
        found = (entry for entry in _sorted(path) if entry.suffix.lower() == ".eml")
    some = False
    for entry in found:
        some = True
        with entry.open("rb") as file:
            yield from _of_stream(str(entry), file, most)
    if not some and not (path / "new").is_dir():
        raise BadMailbox(f"{path}: neither a Maildir (cur, new) nor a directory with .eml files")


def _sorted(place: Path) -> Iterator[Path]:
    with os.scandir(place) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    return (place / name for name in names)


def _of_stream(where: str, file: BinaryIO, most: int) -> Iterator[Message]:
    first = file.readline(LONGEST_LINE)
    if not first:
        raise BadMailbox(f"{where}: empty")
    if _POSTMARK.match(first):
        yield from _of_mbox(where, file, most)
        return
    raw = first + file.read(most + 1 - len(first)) if len(first) <= most else first
    yield Message(where, raw[:most], len(raw) > most)


def _of_mbox(where: str, file: BinaryIO, most: int) -> Iterator[Message]:
    """Messages between ``From `` lines that follow an empty one; ``>From `` is unquoted (mboxrd)."""
    number, size, lines, blank, begins = 1, 0, list[bytes](), False, True
    while line := file.readline(LONGEST_LINE):
        if blank and begins and _POSTMARK.match(line):
            yield Message(f"{where} message {number}", b"".join(lines)[:most], size > most)
            number, size, lines, blank = number + 1, 0, [], False
            continue
        blank = begins and line.strip() == b""
        quoted = begins and line.startswith(b">") and line.lstrip(b">").startswith(b"From ")
        begins = line.endswith(b"\n")
        if size <= most:
            lines.append(line[1:] if quoted else line)
        size += len(line)
    yield Message(f"{where} message {number}", b"".join(lines)[:most], size > most)
