"""What a benchmark sends: one campaign whose mails have a given size, and its sends."""

from __future__ import annotations

from collections.abc import Iterator

from agents.render.agent import Render
from schemas.campaign import Campaign
from schemas.codec import Record, encode
from schemas.send import Consent, Send
from schemas.token import Tokens

DOMAIN = "news.bench.test"
RETURN_DOMAIN = "bounces.bench.test"
BASE_URL = "https://t.bench.test"
DOMAINS = (
    ("gmail.bench.test", "mx1.bench-lab.google.com", 35),
    ("outlook.bench.test", "outlook-bench.olc.protection.outlook.com", 25),
    ("yahoo.bench.test", "mta5.bench.yahoodns.net", 15),
    ("orange.bench.test", "smtp-in.bench.orange.fr", 10),
    ("gmx.bench.test", "mx00.bench.gmx.net", 10),
    ("shop.bench.test", "mail.shop.bench.test", 5),
)
"""Recipient domains, their MX host and how many of 100 recipients they have. None leaves this machine."""
FILLER = "A sluice is the gate that lets water through at the rate the channel below can take."


def campaign(size: int) -> Campaign:
    """A campaign whose rendered, unsigned mail has about ``size`` bytes (the smallest is about 3,500)."""
    few, many = _length(4), _length(44)
    per_row = (many - few) / 40
    return _campaign(max(1, round(4 + (size - few) / per_row)))


def sends(number: int, first: int = 0) -> Iterator[Send]:
    """``number`` sends to addresses of their own; ``first`` numbers them."""
    spread = [domain for domain, _, share in DOMAINS for _ in range(share // 5)]
    for n in range(first, first + number):
        # 7 is coprime to 20: neighbours go to different providers.
        yield Send(
            campaign="bench",
            to=f"reader-{n}@{spread[n * 7 % len(spread)]}",
            name="Ada Lindqvist",
            variables={
                "city": "Graz",
                "points": n % 5000,
                "products": [{"id": 7, "title": "Lamp"}, {"id": 9, "title": "Chair"}],
            },
            consent=Consent(opens=True, clicks=True),
        )


def record(campaign: Campaign, number: int = 0) -> Record:
    """A send as render gets it."""
    send = next(sends(1, number))
    headers = {
        "type": b"accepted", "version": b"1", "id": b"%032x" % number, "origin": b"mail-sends/0/%d/0/0" % number,
        "tenant": b"default", "campaign": campaign.id.encode(), "stream": b"marketing", "to": send.to.encode(),
        "attempt": b"1", "expires": b"9999999999", "received": b"1", "lane": b"google", "provider": b"google",
        "consent": b"oc", "priority": b"5",
    }  # fmt: skip
    return Record("mail-screened", 0, number, 0, None, encode(send), headers)


def renderer(campaign: Campaign) -> Render:
    """Render with this one campaign."""
    return Render(
        {campaign.key.decode(): campaign}, Tokens([b"b" * 40]), BASE_URL, RETURN_DOMAIN, lambda: 1.7e9
    )


def _length(rows: int) -> int:
    made = _campaign(rows)
    (out,) = renderer(made).step(record(made))
    if not out.value:
        raise ValueError(f"the benchmark's own mail was refused: {out.headers}")
    return len(out.value)


def _campaign(rows: int) -> Campaign:
    body = "\n".join(f'<tr><td class="row">{n}. {FILLER}</td></tr>' for n in range(rows))
    html = f"""<!DOCTYPE html>
<html><head><style>.row {{ padding: 4px 8px }}</style></head>
<body>
<h1>Hello {{{{ name }}}} in {{{{ city }}}}</h1>
<p>You have {{{{ points }}}} points. <a href="https://shop.bench.test/account">Your account</a></p>
{{% for p in products %}}<p><a href="https://shop.bench.test/p/{{{{ p.id }}}}">{{{{ p.title }}}}</a></p>
{{% endfor %}}
<table>
{body}
</table>
<p><a href="{{{{ unsubscribe_url }}}}">Unsubscribe</a></p>
</body></html>
"""
    return Campaign(
        id="bench",
        sender=f"Bench News <hello@{DOMAIN}>",
        subject="{{ name }}, the water is fine",
        html=html,
        list_id=f"<list.{DOMAIN}>",
    )
