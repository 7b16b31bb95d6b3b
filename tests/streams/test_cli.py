"""The commands as an operator meets them: help, faults in one sentence, exit codes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from streams.cli import COMMANDS, main
from streams.ops.settings import field_texts
from streams.settings import Settings
from tests.support.ports import free_port

NOBODY = "no Kafka at"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MAILSLUICE_"):
            monkeypatch.delenv(name)


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from leaves(found, (*path, name))
    if path:
        yield path, command


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from streams.cli import main;"
        "print(CliRunner().invoke(main, ['--help']).output);"
        "print('HEAVY', [m for m in ('aiokafka', 'rich', 'aiohttp', 'orjson') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line.split()[0] in done.stdout


@pytest.mark.parametrize(
    ("path", "command"),
    list(leaves(main)),
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    found = call(*path, "--help")
    assert found.exit_code == 0, found.output
    assert "Example:" in found.output
    assert f"mailsluice {path[0]}" in found.output


BROKERED = [
    ("lanes",),
    ("lanes", "explain", "default", "google"),
    ("audit",),
    ("trace", "ada@example.test"),
    ("topics", "list"),
    ("topics", "apply"),
    ("up",),
]


@pytest.mark.parametrize("arguments", BROKERED, ids="-".join)
def test_an_absent_broker_is_one_sentence(arguments: tuple[str, ...]) -> None:
    found = call(*arguments, MAILSLUICE_BROKER=f"127.0.0.1:{free_port()}")
    assert found.exit_code == 1
    assert found.output.count("\n") == 1
    assert f"Error: {NOBODY} 127.0.0.1:" in found.output
    assert "Connection refused" in found.output


@pytest.mark.parametrize("arguments", BROKERED, ids="-".join)
def test_bad_settings_are_all_named(arguments: tuple[str, ...]) -> None:
    found = call(*arguments, MAILSLUICE_SESSION="soon", MAILSLUICE_NONSENSE="1")
    assert found.exit_code == 2
    assert "MAILSLUICE_SESSION='soon'" in found.output
    assert "MAILSLUICE_NONSENSE: no such setting" in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize("broker", ["nowhere", "127.0.0.1:99999", "127.0.0.1:", ""])
def test_a_broker_that_is_no_address(broker: str) -> None:
    found = call("lanes", "--broker", broker)
    assert found.exit_code == 1
    assert "is not HOST:PORT" in found.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("audit", "--since", "2026-03-01"), "has no zone"),
        (("audit", "--since", "yesterday"), "is no RFC 3339 time"),
        (("audit", "--since", "2026-03-02T00:00:00Z", "--until", "2026-03-01T00:00:00Z"), "must be later"),
        (("trace", "nonsense"), "neither an address"),
        (("trace", "a b@example.test"), "not allowed"),
        (("trace", "mail-outcomes/0/1/2/0"), "neither an address"),
        (("up", "--stages", "paint"), "no stage or group 'paint'"),
        (("up", "--workers", "deliver=0"), "is not GROUP=1..64"),
        (("up", "--stages", "render", "--workers", "deliver=2"), "of a group that runs: compose"),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    found = call(*arguments)
    assert found.exit_code == 2
    assert words in found.output


# --- settings and version


def test_every_setting_has_its_text() -> None:
    texts = field_texts(Settings)
    assert set(texts) == set(Settings.__dataclass_fields__)
    assert texts["partitions"].startswith("P for topics apply")


def test_settings_shows_what_is_set_and_hides_secrets() -> None:
    secret = "0123456789" * 4
    found = call("settings", "--changed", MAILSLUICE_SECRET=secret, MAILSLUICE_PARTITIONS="16")
    assert found.exit_code == 0
    assert secret not in found.output
    assert "(set, hidden)" in found.output
    assert "instead of 8" in found.output
    assert "MAILSLUICE_BROKER" not in found.output
    assert secret not in call("settings", "--json", MAILSLUICE_SECRET=secret).output


def test_settings_helps_whoever_has_set_something_wrong() -> None:
    found = call("settings", MAILSLUICE_RUNGS="1,2", COLUMNS="200")
    assert found.exit_code == 2
    assert "Seconds of the wait ladder's rungs" in found.output
    assert "MAILSLUICE_RUNGS must be 4 growing lengths" in found.output


def test_version() -> None:
    assert call("--version").output.startswith("mailsluice ")
    assert '"aiokafka":' in call("version", "--json").output
