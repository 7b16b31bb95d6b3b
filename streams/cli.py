"""``mailsluice``: the operator's commands. Each is imported only when it is called, so that help is quick."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "streams.ops.demo:demo",
        "Send a campaign to simulated providers on this machine; judge the result.",
    ),
    "up": ("streams.ops.up:up", "Run the workers against a broker, or with one of their own."),
    "send": ("streams.ops.send:send", "Publish a campaign and a send for each row of a CSV file."),
    "warmup": ("streams.ops.warmup:warmup", "Warm-up: the plans, who stands where, and your word on it."),
    "lanes": ("streams.ops.lanes:lanes", "How fast each provider is fed, and why."),
    "queue": ("streams.ops.queue:queue", "What waits; bring it forward, end it, move it; who steered what."),
    "forecast": (
        "streams.ops.forecast.command:command",
        "When a campaign will have left, lane by lane, and what holds it up.",
    ),
    "campaign": (
        "streams.ops.campaign:campaign",
        "Pause, resume or cancel a campaign; send what waits for its canary.",
    ),
    "tenant": ("streams.ops.campaign:tenant", "The same for all mail of a tenant,"),
    "lane": ("streams.ops.campaign:lane", "for all mail to a provider,"),
    "source": ("streams.ops.campaign:source", "and for a sending address."),
    "reputation": (
        "streams.ops.reputation:reputation",
        "What block lists and providers say of our addresses and domains.",
    ),
    "dlq": ("streams.ops.dlq:dlq", "Dead letters: list, show, and replay where they died."),
    "trace": ("streams.ops.trace:command", "The whole story of one message."),
    "audit": ("streams.ops.audit_command:command", "Balance the books: what became of every send received."),
    "suppress": (
        "streams.ops.suppress:suppress",
        "Who must not get mail: show, add, release, list, import, export.",
    ),
    "consent": (
        "streams.ops.consent:consent",
        "Who agreed to what: show, grant, revoke, import, export; rules.",
    ),
    "erase": (
        "streams.ops.erase:erase",
        "Erase what is held about a person but a hash, and look where it is left.",
    ),
    "export": ("streams.ops.erase:export", "Everything that is held about a person, as JSON."),
    "list": ("streams.ops.lists:group", "Who gets no marketing mail by screen's rules, and why not."),
    "classify": ("streams.ops.classify:classify", "What SMTP replies, bounces and reports mean."),
    "inbound": (
        "streams.ops.inbound:inbound",
        "Put mail that came back (eml, mbox, Maildir) on mail-inbound.",
    ),
    "simulate": (
        "streams.ops.simulate.command:command",
        "Try a sending policy against models of providers: a month in seconds.",
    ),
    "backtest": (
        "streams.ops.backtest.command:command",
        "What another policy or other reply rules would have decided; reads other engines' logs too.",
    ),
    "report": (
        "streams.ops.tls_report.command:group",
        "Reports to others: what became of TLS on a day, by recipient domain.",
    ),
    "bench": ("streams.ops.bench:bench", "Messages per second on this machine, beside its RSA limit."),
    "chaos": ("streams.ops.chaos.command:command", "Kill everything under load, then balance the books."),
    "topics": ("streams.ops.topics:topics", "Make and list the Kafka topics."),
    "settings": ("streams.ops.settings:settings", "Every setting, its text, default and present value."),
    "version": ("streams.ops.settings:version", "The versions of Mailsluice and what it stands on."),
}
"""Name -> where it is, and its line in ``mailsluice --help``."""


class Lazy(click.Group):
    """A group whose commands are imported when they are called; their lines of help are in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found: Any = getattr(importlib.import_module(module), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Only names and lines: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mailsluice", message="%(package)s %(version)s")
def main() -> None:
    """Mailsluice sends e-mail from Kafka, at the rate that each mailbox provider tolerates.

    Settings come from the environment (MAILSLUICE_*, see `mailsluice settings`); MAILSLUICE_BROKER says
    where Kafka is. Every command has --help with an example.

    \b
    Exit codes of all commands: 0 done; 1 it did not work or the answer is no; 2 wrong usage or settings;
    130 ended by Ctrl-C. A worker whose settings or topics are wrong ends with 78.

    Example: mailsluice demo --messages 500
    """


if __name__ == "__main__":
    main()
