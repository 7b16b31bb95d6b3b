"""Scripted faults: taken back all at once, or some of them."""

from types import SimpleNamespace

from streams.lab.site import Fault, Site

SESSION = SimpleNamespace(source="127.0.0.1")


def scripted() -> Site:
    site = Site()
    site.script(Fault("rcpt", "reply", -1, text="451 4.3.0 Later", rcpt="hold-1-"))
    site.script(Fault("rcpt", "slow", -1, seconds=5.0, rcpt="@tar.test"))
    site.script(Fault("connect", "reset", -1))
    return site


def strikes(site: Site, phase: str, rcpt: str = "") -> bool:
    return site.fault(SESSION, phase, rcpt) is not None  # type: ignore[arg-type]


def test_all_are_taken_back():
    site = scripted()
    site.clear()
    assert not any((strikes(site, "connect"), strikes(site, "rcpt", "hold-1-2@a.test")))


def test_those_of_a_phase():
    site = scripted()
    site.clear("connect")
    assert not strikes(site, "connect")
    assert strikes(site, "rcpt", "hold-1-2@a.test")


def test_those_of_recipients_in_a_phase():
    site = scripted()
    site.clear("rcpt", "hold-1-")
    assert not strikes(site, "rcpt", "hold-1-2@a.test")
    assert strikes(site, "rcpt", "a@tar.test")
    assert strikes(site, "connect")
