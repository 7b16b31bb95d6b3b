"""What every test may use: brokers, a topic prefix of its own, and a wall around this machine.

- ``embedded_broker``, ``apache_broker``: running brokers, one of each for the whole session.
- ``broker``: both of them, one after the other (``-m 'not apache'`` leaves the slow one out).
- ``prefix``: for topics and groups; what starts with it is deleted after the test.

No test may connect or look up a name outside loopback: it fails, even where the code under test
swallows the error.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.brokers import Broker, BrokerUnavailable, SessionBrokers

# A property is no benchmark: beside other work any example can take long.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")

# Tables are as wide for the tests as for a program, also where a terminal has said how wide it is.
os.environ.pop("COLUMNS", None)

# --- reports


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test wrote may hold lone surrogates (hostile input): a worker of xdist could not send it on."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


# --- brokers


@pytest.fixture(scope="session")
def session_brokers() -> Iterator[SessionBrokers]:
    brokers = SessionBrokers()
    yield brokers
    brokers.stop()


def _broker(brokers: SessionBrokers, name: str) -> Broker:
    try:
        return brokers.get(name)
    except BrokerUnavailable as error:
        if os.environ.get("CI") == "true":  # there, a test that did not run is a failure
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded_broker(session_brokers: SessionBrokers) -> Broker:
    return _broker(session_brokers, "embedded")


@pytest.fixture(scope="session")
def apache_broker(session_brokers: SessionBrokers) -> Broker:
    return _broker(session_brokers, "apache")


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.apache)])
def broker(request: pytest.FixtureRequest) -> Broker:
    return request.getfixturevalue(f"{request.param}_broker")


@pytest.fixture(autouse=True)
def _heal_brokers(session_brokers: SessionBrokers) -> Iterator[None]:
    """Whatever a test did to a shared broker, the next test finds it running."""
    yield
    session_brokers.heal()


@pytest.fixture
def prefix(session_brokers: SessionBrokers) -> Iterator[str]:
    """A prefix for topics and groups (MAILSLUICE_PREFIX) that no other test has, such as ``t3f2a1-``."""
    own = f"t{secrets.token_hex(3)}-"
    yield own
    session_brokers.heal()
    session_brokers.drop_topics(own)


# --- order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one process more than cores, because most tests wait for something."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest: dict[Path, float] = {}
    for item in items:
        if "apache_broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.apache)
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), float(mark.args[0]) if mark else 0.0)
    # The files that may take longest first: at the end no process works while the others have nothing left.
    items.sort(key=lambda item: -longest[item.path])


# --- the wall

_crossed: list[str] = []


class OutsideLoopback(RuntimeError):
    """Not an OSError, which network code retries."""


def _is_local(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return str(host).endswith(".localhost")
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 names this machine


def _wall(event: str, args: tuple[object, ...]) -> None:
    # An audit hook sees every way to a socket's connect, asyncio's too; uvloop's alone goes past it.
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a Unix socket's path is local
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if not _is_local(host):
        _crossed.append(f"{event} {host}")
        raise OutsideLoopback(f"a test tried to reach {host!r} ({event}): tests stay on loopback")


sys.addaudithook(_wall)


@pytest.fixture(autouse=True)
def crossings() -> Iterator[list[str]]:
    """What the wall refused during this test; any left at its end fails it."""
    _crossed.clear()
    yield _crossed
    assert not _crossed, f"left loopback: {_crossed}"
