"""What deploy/README.md tells people to type is there and does what it says."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agents.sign.keys import load_keys
from streams.settings import Settings, variable

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/README.md").read_text()


def test_files_and_settings_that_it_names_exist():
    for name in re.findall(r"`((?:prometheus|k8s)/[\w./-]+)`|(deploy/[\w./-]+\.(?:example|yml|yaml))", TEXT):
        path = name[1] or f"deploy/{name[0]}"
        assert path == "deploy/k8s/mine" or (ROOT / path).exists(), path
    known = {variable(item.name) for item in dataclasses.fields(Settings)}
    assert set(re.findall(r"MAILSLUICE_[A-Z_]+", TEXT)) <= known


def test_the_keys_it_makes_are_keys_that_sign(tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    commands = [line.strip() for line in TEXT.splitlines() if re.match(r"    (mkdir|openssl gen)", line)]
    assert len(commands) == 3
    subprocess.run(
        ["bash", "-ec", "\n".join(commands)], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    keys = load_keys(tmp_path / "deploy/keys")["example.com"]
    assert [key.algorithm for key in keys] == ["ed25519-sha256", "rsa-sha256"]
    snippet = re.search(r'-c "\n(.*?)"\n', TEXT, re.DOTALL)
    assert snippet is not None
    program = textwrap.dedent(snippet[1]).replace("/keys", str(tmp_path / "deploy/keys"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [f"{key.dns_name} TXT {key.dns_record}" for key in keys]
    for key in keys:
        assert f"`{key.selector}._domainkey" in TEXT
