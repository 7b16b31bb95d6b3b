"""What holds for the project as a whole: names, pins, the direction of imports."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("name", ["streams", "agents", "schemas", "tests"])
def test_nobody_else_installs_a_package_of_our_name(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"mailsluice"}


def test_the_command_is_installed() -> None:
    points = importlib.metadata.distribution("mailsluice").entry_points
    assert {(point.name, point.value) for point in points} == {("mailsluice", "streams.cli:main")}


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_with_a_hash(pins: Path) -> None:
    text = re.sub(r"\\\n", "", pins.read_text())
    requirements = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert requirements
    for line in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+", line), line
        assert "--hash=sha256:" in line, line


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_no_registry_is_named(file: Path) -> None:
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted-host"):
        assert word not in file.read_text()


def test_every_direct_requirement_is_among_the_pins() -> None:
    for source in (ROOT / "requirements").glob("*.in"):
        pinned = set(re.findall(r"^([a-z0-9-]+)==", source.with_suffix(".txt").read_text(), re.MULTILINE))
        wanted = set(re.findall(r"^([a-z0-9][a-z0-9-]*)", source.read_text(), re.MULTILINE))
        assert wanted <= pinned, f"make pins: {wanted - pinned}"


def test_the_kafka_that_the_pom_names_is_the_documented_one() -> None:
    pom = (ROOT / "streams/lab/kafka/pom.xml").read_text()
    assert "<artifactId>kafka_2.13</artifactId>\n      <version>4.4.0</version>" in pom


# --- the import contracts: each is shown to bite, on a copy of the tree with one bad agent in it

BAD = {
    "a policy that reads the clock": ("agents/bad/policy.py", "import time"),
    "a policy that reaches it through a neighbour": ("agents/bad/policy.py", "import agents.bad.agent"),
    "a door that is not pure": ("agents/bad/__init__.py", "import asyncio"),
    "a schema that reads files": ("schemas/bad.py", "import pathlib"),
    "an agent that imports another": ("agents/bad/agent.py", "import agents.other"),
    "an agent that imports machinery": ("agents/bad/agent.py", "import streams"),
    "a schema that imports an agent": ("schemas/bad.py", "import agents"),
}


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our import contracts over three packages that keep them."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in ("schemas", "agents", "agents/bad", "agents/other", "streams"):
        (tree / package).mkdir()
        (tree / package / "__init__.py").touch()
    (tree / "agents/bad/agent.py").write_text("import asyncio\n")  # which an agent.py may
    (tree / "agents/bad/policy.py").touch()
    return tree


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def test_contracts_are_kept_by_a_tree_that_keeps_them(small_tree: Path) -> None:
    done = lint_imports(small_tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("why", BAD)
def test_contracts_catch(why: str, small_tree: Path) -> None:
    name, line = BAD[why]
    bad = small_tree / name
    before = bad.read_text() if bad.exists() else None
    bad.write_text(line + "\n")
    try:
        done = lint_imports(small_tree)
    finally:
        bad.unlink() if before is None else bad.write_text(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_ruff_keeps_clocks_out_of_decisions(tmp_path: Path) -> None:
    banned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "datetime.datetime.now" in banned["flake8-tidy-imports"]["banned-api"]
    command = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", "--stdin-filename"]
    code = "from datetime import UTC, datetime\n\nNOW = datetime.now(UTC)\n"
    for where, refused in (("agents/x/policy.py", True), ("streams/x.py", False), ("tests/test_x.py", False)):
        done = subprocess.run([*command, where, "-"], cwd=ROOT, input=code, capture_output=True, text=True)
        assert ("TID251" in done.stdout) is refused, done.stdout
