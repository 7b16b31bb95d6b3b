"""Programs that are not ours: found, or the test skips and says what to install; with CI=true it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(name: str, package: str = "") -> str:
    """The path of a program, also where only root looks for it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin:{ROOT}/.cache/exim/usr/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        _without(f"no {name} here (.ci/install, or Debian: apt install {package or name})")
    assert found is not None
    return found


def root_only(what: str) -> None:
    """The test needs the rights of root."""
    if os.geteuid() != 0:
        _without(f"{what} has to be started by root")


def _without(text: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
