"""The golden examples, and every event known: importing this imports all of ``schemas``."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import schemas
from schemas.codec import Headers, Record, decode

for _found in pkgutil.iter_modules(schemas.__path__):
    importlib.import_module(f"schemas.{_found.name}")

ROOT = Path(schemas.__file__).parent / "examples"
EXAMPLES = sorted(ROOT.glob("*/v*/*.json"))
INBOUND = sorted(ROOT.glob("inbound/v1/*.eml"))


def said(path: Path) -> tuple[str, int]:
    """(type, version) of an example, by its directory."""
    return path.parts[-3], int(path.parts[-2].removeprefix("v"))


def label(path: Path) -> str:
    """How a test names the example."""
    return f"{path.parts[-3]}-{path.stem}"


def headers_of(path: Path) -> Headers:
    """The headers that our own writers put on it."""
    name, version = said(path)
    return {"type": name.encode(), "version": b"%d" % version}


def read(path: Path) -> Any:
    """The event in an example, in its newest version."""
    return decode(Record("t", 0, 0, 0, None, path.read_bytes(), headers_of(path)), "none")


def examples_of(event: str) -> list[Path]:
    """The examples of one event."""
    return [path for path in EXAMPLES if said(path)[0] == event]
