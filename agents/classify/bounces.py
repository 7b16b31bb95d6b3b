"""Bounces that are no RFC 3464 report: qmail, Exim, old Exchange, and what people wrote themselves.

Only wording is left to go by, so this is careful: without a sender like MAILER-DAEMON, a subject like
"undeliverable" or Exim's own header it makes no guess.
"""

from __future__ import annotations

import re

from agents.classify.mime import Fields

MOST = 20
LONGEST = 600
_LOOKED_AT = 50_000

_FROM = re.compile(
    r"mailer[-_]?daemon|postmaster|mail delivery (?:sub)?system|mail[-_ ]?deliver|<>|noreply-?bounce", re.I
)
_SUBJECT = re.compile(
    r"undeliver|delivery (?:status|fail|report|prob|has failed|incomplete|delay)|fail(?:ure|ed) (?:notice|deliver|to deliver)|"
    r"returned (?:mail|to sender)|mail (?:delivery|could not|system error)|message (?:you sent )?(?:could not|status|delayed)|"
    r"not delivered|unzustellbar|non remis|non recapitabile|no se puede entregar|не доставлено|warning: (?:message|could)|"
    r"message delayed|rejected (?:mail|message)",
    re.I,
)
_DELAYED = re.compile(
    r"delay(?:ed)?\b|will (?:keep|continue) (?:to )?try|still (?:trying|being retried)|not yet (?:been )?delivered|"
    r"do not need to (?:resend|do anything)|warning message",
    re.I,
)
_FINAL = re.compile(
    r"permanent|given up|giving up|could not be delivered|has failed|fatal|undeliverable", re.I
)
_ADDRESS = re.compile(r"[\w.+=!#$%&'*/?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_ALONE = re.compile(rf"^\s{{0,12}}(?:To: )?<?({_ADDRESS.pattern})>?:?\s*(?:\(.{{0,80}}\))?\s*$")
_NAMED = re.compile(rf"^\s{{0,12}}<?({_ADDRESS.pattern})>?\s*[:;]\s+(\S.*)$")
_STATUS = re.compile(r"(?<![\w.])([245]\.\d{1,3}\.\d{1,3})(?![\w]|\.\d)")
_CODE = re.compile(r"(?:^|[\s#<(:;])[45]\d\d[ \-]|(?<![\w.])[45]\.\d{1,3}\.\d{1,3}(?![\w]|\.\d)")
_ORIGINAL = re.compile(
    r"^[ \t]*-{2,}.{0,40}(?:below this line|copy of|original message|returned message|undelivered message|start of)"
    r"|^(?:return-path|received):",
    re.I | re.M,
)


def guess(headers: Fields, text: str) -> tuple[bool, list[tuple[str, str, str]]] | None:
    """(delayed, [(address, status, reply)]) of a bounce in words; None where it does not look like one."""
    failed = _ADDRESS.findall(headers["x-failed-recipients"][:4000])[:MOST]
    automatic = bool(_FROM.search(headers["from"][:500])) or headers["return-path"] == "<>"
    if (
        not failed
        and not (automatic and _SUBJECT.search(headers["subject"][:500]))
        and "qmail-send" not in text[:300]
    ):
        return None
    text = _ORIGINAL.split(text[:_LOOKED_AT], maxsplit=1)[0]
    delayed = bool(_DELAYED.search(headers["subject"] + "\n" + text)) and not _FINAL.search(text)
    found = _named(text.splitlines()) or [(who, _first_reply(text)) for who in failed or _addresses(text)[:1]]
    if failed:
        found = [(who, reply) for who, reply in found if who in failed] or [
            (who, _first_reply(text)) for who in failed
        ]
    if not found:
        found = [("", _first_reply(text))]
    return delayed, [(who, _status(reply), reply) for who, reply in found[:MOST]]


def _named(lines: list[str]) -> list[tuple[str, str]]:
    """Recipients with the words that follow them."""
    found = []
    for number, line in enumerate(lines[:2000]):
        alone = _ALONE.match(line[:400])
        named = None if alone else _NAMED.match(line[:400])
        if not (alone or named):
            continue
        rest = [named.group(2)] if named else []
        for after in lines[number + 1 : number + 16]:
            if _ALONE.match(after[:400]) or (not after.strip() and any(map(_CODE.search, rest))):
                break
            rest.append(after)
        reply = _first_reply("\n".join(rest))
        if reply:
            found.append(((alone or named).group(1), reply))  # type: ignore[union-attr]
    return found


def _addresses(text: str) -> list[str]:
    return [
        who
        for who in _ADDRESS.findall(text[:5000])
        if not who.lower().startswith(("postmaster@", "mailer-daemon@"))
    ]


def _first_reply(text: str) -> str:
    """The words from the first code on; else the first paragraph."""
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines[:1000]):
        code = _CODE.search(line)
        if code:
            begin = code.start() + (0 if code.group()[0].isdigit() else 1)
            # A code in brackets at the end belongs to the words before it (qmail: "no mailbox. (#5.1.1)").
            head = line[begin:] if code.group().strip()[:3].isdigit() else line
            tail = []
            for after in lines[number + 1 : number + 6]:
                if not after:
                    break
                tail.append(after)
            return " ".join([head, *tail])[:LONGEST]
    paragraph = re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
    return " ".join(paragraph.split())[:LONGEST]


def _status(reply: str) -> str:
    found = _STATUS.search(reply)
    return found.group(1) if found else ""
