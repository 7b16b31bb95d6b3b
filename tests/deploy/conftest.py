"""Prometheus and promtool of Debian; with CI=true they are installed, or their absence is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The path of the prometheus binary; promtool is beside it."""
    if not shutil.which("prometheus") and os.environ.get("CI") == "true":
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ("update", "install -y --no-install-recommends prometheus"):
            subprocess.run(
                ["apt-get", *command.split()], env=environment, capture_output=True, timeout=300, check=False
            )
    found = shutil.which("prometheus")
    if found is None or shutil.which("promtool") is None:
        text = "no prometheus and promtool here (Debian: apt install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found
