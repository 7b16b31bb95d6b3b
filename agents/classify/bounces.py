"""Bounces that are no RFC 3464 report: qmail, Exim, old Exchange, appliances, what people wrote themselves.

Only wording is left to go by. A mail counts as such a bounce where a machine sent it and speaks of a failed
delivery, or where its words say so beyond doubt; a forward, an answer or a list's post never does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agents.classify.mime import Fields, unworded
from agents.classify.wording import (
    DELAYED,
    FINAL,
    LATE,
    OPENING,
    ORIGINAL,
    SURELY_DELAYED,
    SURELY_FINAL,
    is_subject,
    status_of,
)

MOST = 20
LONGEST = 600
_LOOKED_AT = 12_000
_OPENING = 2500


class Found(NamedTuple):
    """A recipient in words. ``status`` is what a host gave, else what the words stand for."""

    address: str
    status: str
    reply: str


_MACHINE = re.compile(
    r"mailer[-_. ]?daemon|post ?master|post-?office|mail(?:er)?[-_ ]?(?:delivery|transport|administrator|system|server|gateway|router|daemon)|mail[-_ ]?deliver|"
    r"deliver\w*[-_ ](?:sub)?system|system administrator|systemadmin|administrat(?:or|eur) (?:syst|du syst)|microsoftexchange|mdaemon|daemon@|<>|"
    r"(?:^|[<\"' ])(?:bounces?|no-?reply-?bounces?|mailadmin|mail-?daemon|undeliver\w*|mmdf|mailgateway|smtp|imss|exchange|notification|mta|mdaemon|uucp|systemadministrator|root|mail)(?:[-+.=][^@<>\s]{0,60})?@|"
    r"администратор|почтовая система|メール配信|配送システム|系统管理员|邮件系统|email administrator|messaging system|internet mail|mail admin|antispam|anti-?virus|gateways?@",
    re.I,
)
_AGAIN = re.compile(
    r"^\W{0,6}(?:re|fwd?|aw|wg|tr|rv|res|enc|sv|vs|vb|r|i|antw|odp|fw|ref|回复|转发|答复|答覆|轉寄|転送|отв|пересл|"
    r"auto(?:matic|mated|matische)?[ -]?(?:reply|response|antwort|re)?|out of (?:the )?office|abwesenheit\w*|r[ée]ponse automatique|respuesta autom\w+|risposta automatica|resposta autom\w+|自动回复|自動応答|自動返信|автоответ)"
    r"\s{0,3}(?:\[\d+\])?\s{0,3}[:：]",
    re.I,
)
_DAEMON = re.compile(
    r"mailer[-_. ]?daemon|postmaster|mail delivery|delivery (?:sub)?system|mdaemon|system administrator|microsoftexchange|mail system|<>",
    re.I,
)
_OTHER = (
    "quarant", "digest", "report domain", "tlsrpt", "tls-rpt", "dmarc", "newsletter", "password", "passwort", "passwörter", "verify#", "parcel", "paket", "colis", "paquete", "pacco",
    " pakk", " order", "invoice", "rechnung", "facture", "factura", "fattura",
)  # fmt: skip
"""Other things that postmasters, shops and couriers write about."""
_PERSONAL = (
    "list-id",
    "list-unsubscribe",
    "list-post",
    "in-reply-to",
    "references",
    "user-agent",
    "x-campaign",
    "feedback-id",
)
_QUOTED = re.compile(
    r"^>|forwarded message|weitergeleitete nachricht|message transf[ée]r|mensaje reenviado|messaggio inoltrato|^\W{2,}original message|^(?:hi|hello|dear|hallo|bonjour|hola|ciao)\b",
    re.I | re.M,
)
_ADDRESS_TEXT = r"[\w.+=!#$%&'*/?^`{|}~-]{1,64}+@(?:[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8}|\[[\d.]{7,15}\])"
_ADDRESS = re.compile(_ADDRESS_TEXT)
_ALONE = re.compile(
    rf"^[\s>*|•·–-]{{0,12}}(?:smtp:|mailto:)?[<\"'(\[]{{0,2}}({_ADDRESS_TEXT})[>\"')\]]{{0,2}}\s?[:;,.]?\s*(?:[(<].{{0,120}}[)>]:?)?\s*$",
    re.I,
)
_NAMED = re.compile(
    rf"^[\s>*|•·–-]{{0,12}}[<\"'(\[]{{0,2}}({_ADDRESS_TEXT})[>\"')\]]{{0,2}}(?:\s*[:;,]|\s+(?:\.\.\.|[-–—=(]|on\b|am\b|le\b|el\b|em\b|il\b)|\.\.\.|\s{{3,}})\s*(\S.*)$"
)
_X400 = re.compile(rf"(?:\bdda:smtp|;smtp|imceaex-)=({_ADDRESS_TEXT})", re.I)
_LABEL = re.compile(
    rf"^[\s>*|•·–#-]{{0,12}}(?:[^\s:@]{{1,24}} ){{0,3}}[^\s:@<]{{1,24}}\s?[:：]\s{{0,40}}(?:smtp:|rfc822; ?)?[<\"'(\[]{{0,2}}({_ADDRESS_TEXT})[>\"')\]]{{0,2}}[,;.]?\s*$",
    re.I,
)
_HEADERS = re.compile(
    r"^\s{0,12}(?:subject|sent|date|from|betreff|gesendet|objet|asunto|oggetto|assunto|件名|主题|тема)\s?[:：]",
    re.I,
)
_SENDER = re.compile(
    r"(?<!generated )(?<!expanded )(?<!forwarded )(?:(?:^|\b)(?:from|sender|reply-to|return-path|absender|remitente|remetente|mittente|exp[ée]diteur|contact|message-id|mail from)\s?[:：]?|"
    r"(?:^|\b)(?:von|de|da|от|help|support|postmaster|送信者|差出人|发件人|寄件者|отправитель)\s?[:：])\s{0,3}[<\"']?$",
    re.I,
)
_ROLES = (
    "postmaster@",
    "mailer-daemon@",
    "abuse@",
    "mailmaster@",
    "hostmaster@",
    "helpdesk@",
    "support@",
    "noreply@",
    "no-reply@",
    "antispam@",
    "webmaster@",
    "mailadmin@",
)
_STATUS = re.compile(r"(?<![\w.])([245]\.\d{1,3}\.\d{1,3})(?![\w]|\.\d)")
_CODE = re.compile(r"(?:^|[\s#<(:;'\"\[])[45]\d\d(?:[ \-#]|: )|(?<![\w.])[45]\.\d{1,3}\.\d{1,3}(?![\w]|\.\d)")
_NO_CODE = re.compile(
    r"^(?:\s*[45]\d\d (?:kb|mb|bytes|hours|days|minutes|recipients|kbytes|messages|seconds|attempt))", re.I
)
_QMAIL = ("qmail-send program", "qmail-send")


def is_bounce(headers: Fields, text: str, report: bool) -> bool:
    """Whether a mail that is no standard report speaks of a failed delivery; ``report``: it claims to be one."""
    if headers["x-failed-recipients"] or any(mark in text[:300] for mark in _QMAIL):
        return True
    subject, sender = unworded(headers["subject"][:500]), unworded(headers["from"][:500])
    if any(map(f" {subject.lower()}".__contains__, _OTHER)):
        return False
    named = bool(_MACHINE.search(sender))
    null = headers["return-path"].strip().lower() in ("<>", "<mailer-daemon>") or not sender
    if _AGAIN.match(subject) and not (named and _DAEMON.search(sender)):
        return False
    spoken = is_subject(subject)
    if spoken and (named or null or report):
        return True
    if report or _DAEMON.search(sender):
        return bool(OPENING.search(text[:_OPENING].lower())) or report
    if null and not named:
        return _STATUS.search(text[:_OPENING]) is not None and bool(OPENING.search(text[:_OPENING].lower()))
    return spoken and not named and _reads_as_one(headers, text)


def _reads_as_one(headers: Fields, text: str) -> bool:
    """From somebody's address, yet a machine's report from end to end: somebody who forwards one writes first,
    quotes, or answers."""
    if any(name in headers for name in _PERSONAL) or headers["precedence"].lower() == "list":
        return False
    own = before_original(text)
    return (
        bool(OPENING.search(own[:400].lower()))
        and (len(own) < len(text) or _STATUS.search(own) is not None)
        and not _QUOTED.search(own[:_OPENING])
        and bool(_sorted_out(own.splitlines()[:200], _own(headers))[0])
    )


def is_delayed(subject: str, text: str) -> bool:
    """Whether the words say that the delivery will be tried again."""
    said = f"{subject}\n{text[:_OPENING]}".lower()
    if not any(map(said.__contains__, LATE)) or SURELY_FINAL.search(said):
        return False
    return bool(SURELY_DELAYED.search(said)) or (bool(DELAYED.search(said)) and not FINAL.search(said))


def before_original(text: str) -> str:
    """The report's own words: what stands above the mail that it quotes."""
    text = text[:_LOOKED_AT]
    # A report may begin with such a line; its words then follow.
    found = ORIGINAL.search(text, min(len(text), 60))
    return text[: found.start()] if found else text


def recipients(headers: Fields, text: str, originals: Iterable[str]) -> list[Found]:
    """Who did not get it, in the report's own words; ``originals``: whom the returned mail was for."""
    text = before_original(text)
    lines = text.splitlines()[:600]
    own = _own(headers)
    meant = {address.lower() for address in originals}
    failed = list(dict.fromkeys(_ADDRESS.findall(headers["x-failed-recipients"][:4000])))[:MOST]
    strong, weak = _sorted_out(lines, own)
    at = (
        failed
        or strong
        or _closest(weak, meant)
        or [address for address in originals if address.lower() not in own][:MOST]
        or _fallback(lines)
    )
    places = {address.lower(): number for address, number in _where(lines, at)}
    found: list[Found] = []
    whole = ""
    for address in at[:MOST]:
        begin = places.get(address.lower())
        reply = _reply_after(lines, begin, set(places.values())) if begin is not None else ""
        if not _CODE.search(reply) and not status_of(reply):
            whole = whole or first_reply(text)
            reply = whole or reply
        found.append(Found(address, _code_in(reply) or status_of(reply) or status_of(text), reply))
    return found


def _own(headers: Fields) -> set[str]:
    """Addresses that a report names but that cannot be whom it is about: its writer's and reader's."""
    found: set[str] = set()
    for name in (
        "from",
        "to",
        "sender",
        "reply-to",
        "return-path",
        "delivered-to",
        "errors-to",
        "x-original-to",
        "envelope-to",
    ):
        found.update(address.lower() for address in _ADDRESS.findall(headers[name][:1000]))
    return found


def _sorted_out(lines: Sequence[str], own: set[str]) -> tuple[list[str], list[str]]:
    """(addresses that stand as a recipient does, others), in order."""
    strong: dict[str, str] = {}
    label: dict[str, str] = {}
    weak: dict[str, str] = {}
    for number, line in enumerate(lines):
        if "@" not in line:
            continue
        line = line[:400]
        if _HEADERS.match(line):
            continue
        found = _ALONE.match(line) or _NAMED.match(line) or _X400.search(line)
        if found and _usable(found.group(1), own):
            strong.setdefault(_clean(found.group(1)).lower(), _clean(found.group(1)))
            continue
        named = _LABEL.match(line)
        if named and not _SENDER.search(line[: named.start(1)]) and _usable(named.group(1), own):
            near = "\n".join(lines[max(0, number - 2) : number + 4])
            header = any(map(_HEADERS.match, near.splitlines()))
            (label if header else strong).setdefault(_clean(named.group(1)).lower(), _clean(named.group(1)))
            continue
        for one in _ADDRESS.finditer(line):
            if _usable(one.group(), own) and not _SENDER.search(line[: one.start()]):
                weak.setdefault(_clean(one.group()).lower(), _clean(one.group()))
    return list(strong.values()) or list(label.values()), list(weak.values())


def _closest(weak: list[str], meant: set[str]) -> list[str]:
    """Of the addresses in running text the ones that the mail was for, else the first."""
    return [address for address in weak if address.lower() in meant] or weak[:1]


def _fallback(lines: Sequence[str]) -> list[str]:
    """An address in the text even if it is a role: somebody may have written to it."""
    for line in lines:
        for one in _ADDRESS.finditer(line[:400]):
            if not _SENDER.search(line[: one.start()]):
                return (
                    []
                    if one.group().lower().startswith(("mailer-daemon@", "postmaster@"))
                    else [_clean(one.group())]
                )
    return []


def _clean(address: str) -> str:
    address = address.strip("'`\"*/").removesuffix(".")
    head, at, rest = address.partition("=")
    # X.400: c=US;a= ;p=Shop;dda:SMTP=anna@example.org
    return rest if at and head.lower() in ("smtp", "mailto", "rfc822", "to", "rcpt") else address


def _usable(address: str, own: set[str]) -> bool:
    lower = _clean(address).lower()
    return lower not in own and not lower.startswith(_ROLES) and not _STATUS.fullmatch(lower)


def _where(lines: Sequence[str], addresses: Sequence[str]) -> list[tuple[str, int]]:
    """The line of each address: where it stands at the beginning, else the first that has it."""
    found = []
    lowered = [line.lower() for line in lines]
    for address in addresses[:MOST]:
        small = address.lower()
        have = [number for number, line in enumerate(lowered) if small in line]
        first = [n for n in have if lowered[n].lstrip(" \t<>\"'*-•(").startswith(small)]
        coded = [n for n in have if _CODE.search(lines[n][:400])]
        if have:
            found.append((address, (first or coded or have)[0]))
    return found


def _reply_after(lines: Sequence[str], begin: int, others: set[int]) -> str:
    """The words beside and below an address, up to the next one's."""
    block = [lines[begin]]
    for number in range(begin + 1, min(begin + 16, len(lines))):
        line = lines[number]
        if number in others or (not line.strip() and any(map(_CODE.search, block))):
            break
        block.append(line)
    return first_reply("\n".join(block))


def first_reply(text: str) -> str:
    """The words from the first code on, to the end of their paragraph; else the first words that say why."""
    lines = [line.strip() for line in text.splitlines()[:400]]
    for number, line in enumerate(lines):
        code = _CODE.search(line)
        while code and _NO_CODE.match(line[code.start() :].lstrip("#<(:;'\"[")):
            code = _CODE.search(line, code.end())
        if not code:
            continue
        begin = code.start() + (0 if code.group()[0].isdigit() else 1)
        # A code in brackets at the end belongs to the words before it (qmail: "no mailbox. (#5.1.1)").
        alone = code.group().strip("#<(:;'\"[ \t")[:3].isdigit()
        head = line[begin:] if alone or begin == 0 else line
        tail = []
        for after in lines[number + 1 : number + 8]:
            if not after:
                break
            tail.append(after)
        above = [lines[number - 1]] if number and not alone and len(head) < 40 else []
        return " ".join([*above, head, *tail])[:LONGEST]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n[ \t]*\n", text.strip())[:12]]
    telling = [part for part in paragraphs if status_of(_ADDRESS.sub(" ", part[:2000]))]
    return (telling or paragraphs)[0][:LONGEST] if paragraphs else ""


def _code_in(reply: str) -> str:
    found = _STATUS.search(reply)
    return found.group(1) if found else ""
