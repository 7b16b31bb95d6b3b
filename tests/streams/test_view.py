"""What the demo shows in a terminal and in a log."""

import io
import re
from typing import Any

from rich.console import Console

from streams.ops.view import View

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EVIL = "421 slow\x1b[2J\x07 [bold]down[/bold]\r\nnow"


def lane(provider: str, **more: Any) -> dict[str, Any]:
    found = {
        "provider": provider, "source": "127.0.0.1", "delivered": 1200, "deferred": 7, "bounced": 3, "unknown": 0, "rate": 12.34,
        "limit": 20.0, "connections": 4, "suspended_seconds": 0, "reason": "6 s quiet", "decisions": [],
    }  # fmt: skip
    return found | more


def table(done: int = 1234, **more: Any) -> dict[str, Any]:
    cut = {"time": 1000.0, "what": "cut", "reason": "throttled", "rate": 7.5, "sample": EVIL}
    start = {"time": 900.0, "what": "start", "reason": "nothing known", "rate": 20.0, "sample": ""}
    found = {
        "time": 1001.0, "done": done, "ended": {"delivered": done - 34, "bounced": 34}, "events": {"opened": 55},
        "lanes": [lane("google", decisions=[start, cut]), lane("yahoo", suspended_seconds=12, reason=EVIL)],
    }  # fmt: skip
    return found | more


RESULT: dict[str, Any] = {
    "received": 5020, "delivered": 4900, "bounced": 100, "expired": 0, "cancelled": 0, "suppressed": 20, "rejected": 0,
    "dead_lettered": 0, "unknown": 0, "pending": 0, "lost": 0, "duplicates": 0, "seconds": 61.24, "messages_per_second": 81.6,
    "providers_took": 4910, "we_say_they_took": 4910, "restarts": 1,
    "second_campaign": {"to_bounced": 20, "skipped": 20, "to_readers": 20, "reached": 20, "ok": True},
    "providers": {
        "gmail": {
            "taken": 1700, "duplicates": 0, "bounced_late": 4, "refused": {"unknown": 20, "rate": 2}, "budget": 60.0,
            "within_budget": False, "sources": {"127.0.0.1": {"throttled": 2, "most_taken_in_10s": 581}},
        }
    },
    "checks": {"the audit balances": True, "every provider's limit was respected": False},
    "ok": False,
}  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def view(terminal: bool, width: int = 120) -> tuple[View, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    screen = Console(
        file=out,
        force_terminal=terminal,
        width=width,
        highlight=False,
        color_system="standard" if terminal else None,
    )
    return View(5000, screen, clock), out, clock


def test_a_log_gets_a_line_every_two_seconds_and_a_sign_of_life() -> None:
    shown, out, clock = view(False)
    for _ in range(8 * 12):
        shown.show(table())
        clock.now += 0.25
    lines = out.getvalue().splitlines()
    assert [line for line in lines if "ended" in line] == [
        f"{at:7.1f} s 1,234 of 5,000 ended; 25 msg/s; 1,200 delivered, 34 bounced" for at in (0.0, 10.0, 20.0)
    ]
    assert sum("google: cut to 7.5/s (throttled): 421 slow" in line for line in lines) == 1
    assert not any("start" in line for line in lines)
    clock.now += 2
    shown.show(table(done=1300))
    assert "1,300 of 5,000" in out.getvalue()


def test_replies_move_no_cursor_and_are_no_markup() -> None:
    for terminal in (False, True):
        shown, out, _ = view(terminal)
        shown.show(table())
        shown.say(EVIL)
        shown.fault(EVIL)
        shown.stop()
        text = out.getvalue()
        assert "\x1b[2J" not in text
        assert "\x07" not in text
        assert "[bold]down[/bold] " in text
    assert shown.faults == [EVIL]


def test_a_terminal_gets_a_picture_of_bar_lanes_and_changes() -> None:
    shown, out, clock = view(True)
    clock.now += 42
    shown.show(table())
    shown.restarted("deliver", -9)
    shown.stop()
    shown.stop()
    text = ANSI.sub("", out.getvalue())
    assert "1,234 of 5,000  42 s" in text
    assert re.search(r"█{15}░{45} ", text)
    assert "1,200 delivered  34 bounced  │ 55 opened  0 clicked" in text
    assert re.search(r"google +127\.0\.0\.1 +1,200 +7 +3 +12\.3 +20\.0 +4 +6 s quiet", text)
    assert "off 12 s" in text
    assert "deliver was ended by signal 9 and is started again" in text


def test_a_narrow_terminal_keeps_every_figure() -> None:
    shown, out, _ = view(True, width=80)
    shown.show(table())
    shown.stop()
    text = ANSI.sub("", out.getvalue())
    assert re.search(r"google +1,200 +7 +3 +12\.3 +20\.0 +4", text)
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_counted_draws_nothing() -> None:
    shown, out, _ = view(True)
    shown.show(table(done=0, ended={}, events={}, lanes=[]))
    shown.stop()
    assert "█" not in out.getvalue()


def test_the_verdict_names_what_failed() -> None:
    shown, out, _ = view(False)
    shown.verdict(RESULT)
    text = out.getvalue()
    assert "received 5,020 = 4,900 delivered + 100 bounced + 20 suppressed\n" in text
    assert "together they took 4,910; we say 4,910; lost 0, duplicates 0" in text
    assert re.search(r"gmail +1,700 +0 +4 +22 +2 +60 +581 +NO", text)
    assert "FAILED  every provider's limit was respected" in text
    assert "ok      the audit balances" in text
    assert "THE DEMO FAILED" in text
    shown.verdict(RESULT | {"ok": True})
    assert "the demo succeeded" in out.getvalue()
