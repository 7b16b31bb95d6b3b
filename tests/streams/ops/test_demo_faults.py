"""A demo that cannot begin says in a line what is wrong, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import main
from streams.lab.brokers import free_port


@pytest.mark.parametrize("what", ["home", "broker", "word"])
def test_it_is_said_in_words(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    home, broker = tmp_path / "file" / "home", f"127.0.0.1:{free_port()}"
    arguments, said = {
        "home": (["--home", str(home)], f"no directory to work in: [Errno 20] Not a directory: '{home}'"),
        "broker": (["--broker", broker], f"no Kafka answers at {broker}"),
        "word": (["--broker", "kafka"], "no Kafka answers at kafka (HOST:PORT, or embedded or apache)"),
    }[what]
    done = CliRunner().invoke(main, ["demo", "--messages", "1", "--port", "0", "--page", "0", *arguments])
    assert done.exit_code == 1, done.output
    assert said.replace(" ", "") in "".join(done.output.split())
    assert done.exception is None or isinstance(done.exception, SystemExit)
