"""What one recipient's rendering may take: what has no bound is rendered in a process that can be ended."""

import asyncio
import os
import signal
import time
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.render.attachments import Store
from agents.render.growth import LIMIT, growth_of
from agents.render.guard import STRIKES, Guard
from agents.render.policy import Refused, Settings
from agents.render.room import Room
from agents.render.template import Heavy, Source, Template
from agents.render.text import from_html
from tests.agents.render.conftest import watched
from tests.support.agents import FakeTicket

FUEL = Settings().fuel
ORDINARY = [
    "Hello {{ name }}",
    "{% if vip and (total > 100 or not new) %}Dear {{ name|upper }}{% else %}Hi{% endif %}",
    "{%- for item in items -%}<li>{{ loop.index }}. {{ item.title }}: {{ item.price|round(2) }}</li>{%- endfor -%}",
    "{% for i in range(20) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set first = name.split(' ')|first %}{{ first|default('friend') }}",
    "{{ items|map(attribute='title')|join(', ') }}",
    "{{ name|replace(' ', '-') }} {{ 'a' ~ name ~ 'b' }} {# {{ n * n }} #} {% raw %}{{ n * n }}{% endraw %}",
    "{{ total ** 2 }} {{ name[0:3] }} {{ '}}' ~ name }} {{ items[0]['title'] }} 50% off",
]
WILD = [
    "{{ 'a' * n }}",
    "{{ items|join(name) }}",
    "{{ name|replace('', name) }}",
    "{{ name.replace('', name) }}",
    "{{ range(n) }}",
    "{{ '%099999999d'|format(n) }}",
    "{{ items|batch(n, 'x') }}",
    "{{ items|tojson(indent=n) }}",
    "{{ items|map('indent', n) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set x %}{{ name }}{{ name }}{% endset %}{{ x }}",
    "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ f(f(f(name))) }}",
    "{% for x in items recursive %}{{ loop(items) }}{% endfor %}",
    "".join("{% set a = a ~ a %}" for _ in range(30)) + "{{ a }}",
    "".join("{% set a = [a, a] %}" for _ in range(30)) + "{{ a }}",
    '{{ {"a": {"b": 1}} ~ name * n }}',
    # A scan that is fooled about where a comment, a string or raw text ends would see nothing here.
    "{# {{ ' #}{{ 'a' * n }}{# ' }} #}",
    "{% raw %}{#{% endraw %}{{ 'a' * n }}{# #}",
    "{{ '}}' * n }}",
    '{{ "\\"" * n }}',
]


@pytest.mark.parametrize("source", ORDINARY)
def test_ordinary_templates_stay_in_the_process(source):
    assert growth_of(source).fuel(2000, FUEL) > 100
    context = {"name": "Anna B", "vip": True, "new": False, "total": 7, "n": 3}
    context["items"] = [{"title": f"t{n}", "price": 1.5} for n in range(50)]
    template = Template(Source("s", source, "t"), FUEL)
    template.size = 3000
    assert template.render(context) == Template(Source("s", source, "t"), FUEL, False).render(context)


@pytest.mark.parametrize("source", WILD)
def test_what_can_multiply_has_no_bound(source):
    assert growth_of(source).factor == 0
    with pytest.raises(Heavy):
        Template(Source("s", source, "t"), FUEL).render({"name": "x", "n": 10**9, "items": [1], "a": "a"})


PARTS = st.sampled_from(
    ["{{ a }}", "{{ a ~ b }}", "{{ [a, b, a]|join(', ') }}", "{% set a = a ~ b %}", "{% set b = [a, b] %}",
     "{% for i in range(90000) %}", "{% for c in b %}", "{% endfor %}", "{{ a|e|e }}", "{{ b|tojson }}", "text " * 50]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=12), st.integers(1, 20_000))
def test_what_is_rendered_here_is_never_much(parts, size):
    """Whatever the parts make together: an output within the bound, an error, or not here."""
    template_source = "".join(parts)
    begun = time.process_time()
    try:
        template = Template(Source("s", template_source, "t"), FUEL)
        template.size = size + 20
        rendered = template.render({"a": "x" * size, "b": ["y"] * (size // 4)})
    except (Heavy, Refused):
        pass
    else:
        assert len(rendered.html) <= 6 * LIMIT  # escaping comes on top
    assert time.process_time() - begun < 2


def test_a_loop_with_large_values_gets_less_fuel_and_small_ones_get_it_back():
    template = Template(Source("s", "{% for i in range(n) %}{{ a }}{% endfor %}", "t"), FUEL)
    assert len(template.render({"n": 1000, "a": "xy"}).html) == 2000
    template.size = 200_000
    with pytest.raises(Heavy):
        template.render({"n": 1000, "a": "x" * 199_000})
    assert len(template.render({"n": 1000, "a": "xy"}).html) == 2000  # the send is large, its variable is not
    template.size = 100
    assert len(template.render({"n": 4000, "a": "xy"}).html) == 8000
    with pytest.raises(Refused, match="runs too long"):
        template.render({"n": 100_000, "a": ""})


def test_ten_thousand_variables_are_rendered_quickly():
    source = "".join(f"<p>{{{{ v{n} }}}}</p>\n" for n in range(10_000))
    template = Template(Source("{{ v9999 }}", source, "{{ v5 }} {{ name }}"), FUEL)
    context = {f"v{n}": f"value {n} <&>" for n in range(10_000)} | {"name": "Anna"}
    template.size = 300_000
    begun = time.process_time()
    subject, html, text = template.render(context)
    assert time.process_time() - begun < 2
    assert (subject, text) == ("value 9999 <&>", "value 5 <&> Anna")
    assert html.splitlines() == [f"<p>value {n} &lt;&amp;&gt;</p>" for n in range(10_000)]
    # A template that wants one of them does not pay for the others.
    one = Template(Source("s", "{{ v7 }}{{ name }}", "t"), FUEL)
    one.size = 300_000
    begun = time.process_time()
    for _ in range(100):
        assert one.render(context).html == "value 7 &lt;&amp;&gt;Anna"
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "markup", ["<title>", "<head>", "<TITLE>x", "<style", "<!--", "<a '", '<a b="', "{#", "{{ '"]
)
def test_hostile_markup_takes_time_in_proportion(markup):
    begun = time.process_time()
    from_html(markup * 40_000)
    growth_of(markup * 40_000)
    assert time.process_time() - begun < 4


# -- the watched process

ENDLESS = "{% for i in range(60000) %}{{ (range(100000)|list|sort|length) * 1 }}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
)


@pytest.fixture
async def guard():
    found = Guard(Settings(seconds=0.3))
    yield found
    await found.close()


async def test_time_memory_and_size_are_limited_and_others_are_rendered_after(guard):
    async def why(html):
        with pytest.raises(Refused) as refused:
            await guard.render(Source("s", html, "t"), {})
        assert refused.value.outcome == "rejected"
        return refused.value.reason, refused.value.detail

    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await why(ENDLESS) == (
        "template_error",
        "the template renders longer than 0.3 s for this recipient",
    )
    assert ticks > 5, "the event loop was held"
    ticking.cancel()
    assert await why("{{ 'a' * 3000000 }}") == (
        "size", "the template makes 3000002 characters for this recipient, at most 2000000 are allowed"
    )  # fmt: skip
    assert "line 1: 'gone' is undefined" in (await why("{{ gone }}{{ 1 * 1 }}"))[1]
    found = await guard.render(Source("{{ n }}", "{{ a * n }}", "{{ url }}"), {"n": 2, "a": "<", "url": "/"})
    assert found == ("2", "&lt;&lt;", "/")


async def test_memory_is_limited():
    guard = Guard(Settings(seconds=60, memory=100_000_000))
    with pytest.raises(Refused, match="needs more than 100 MB of memory for this recipient"):
        await guard.render(Source("s", DOUBLING, "t"), {})
    await guard.close()


async def test_a_template_that_never_ends_is_given_up_and_others_are_not(guard):
    source = Source("s", DOUBLING, "t")
    guard._strikes[source] = STRIKES - 1
    with pytest.raises(Refused, match="for this recipient"):
        await guard.render(source, {})
    with pytest.raises(Refused, match=f"ended for {STRIKES} recipients in a row"):
        await guard.render(source, {})
    assert (await guard.render(Source("s", "{{ 2 * 2 }}", "t"), {})).html == "4"


async def test_whoever_goes_away_leaves_no_answer_behind(guard):
    await guard.render(Source("s", "{{ 1 * 1 }}", "t"), {})
    task = asyncio.create_task(guard.render(Source("s", ENDLESS, "t"), {}))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await guard.render(Source("s", "{{ 2 * 2 }}", "t"), {})).html == "4"


async def test_a_process_that_somebody_killed_is_no_fault_of_the_template(guard):
    await guard.render(Source("s", "{{ 1 * 1 }}", "t"), {})
    os.kill(guard._process.pid, signal.SIGKILL)
    assert (await guard.render(Source("s", "{{ 2 * 2 }}", "t"), {})).html == "4"
    assert not guard._strikes


async def test_a_wild_template_becomes_the_same_mail(record, campaign, agent):
    """Through the agent: escaping, the unsubscribe link and the text part as everywhere else."""
    html = '<p>{{ name }} {{ 3 * count }} <a href="{{ unsubscribe_url }}">x</a></p>'
    tame = '<p>{{ name }} {{ three }} <a href="{{ unsubscribe_url }}">x</a></p>'
    send = record({"name": "A <B>", "variables": {"count": 2, "three": 6}})
    bodies = [(await watched(agent(campaign(html=part, subject="s")), send)).value for part in (html, tame)]
    assert bodies[0] == bodies[1]
    assert b"A &lt;B&gt; 6" in bodies[0]


# -- large mail


async def test_large_mail_waits_until_there_is_room_for_it(record, campaign, agent, tmp_path):
    data = os.urandom(1_500_000)
    (tmp_path / "a.pdf").write_bytes(data)
    named = {"filename": "a.pdf", "content_type": "application/pdf", "url": (tmp_path / "a.pdf").as_uri()}
    named |= {"size": len(data), "sha256": sha256(data).hexdigest()}
    stage = agent(campaign(), settings=Settings(on_the_way=5_000_000), store=Store([tmp_path]))
    tickets = [FakeTicket(record({"attachments": [named]}), hold=True) for _ in range(6)]
    small = FakeTicket(record(), hold=True)
    await stage.batch([*tickets, small], 3)
    assert small.said_done

    async def done(count):
        for _ in range(500):
            if sum(ticket.said_done for ticket in tickets) == count:
                await asyncio.sleep(0.02)
                break
            await asyncio.sleep(0.01)
        assert sum(ticket.said_done for ticket in tickets) == count

    await done(2)
    tickets[0].ack()
    await done(3)
    # Whoever goes away leaves the room to others.
    await stage.revoked(3)
    assert stage._room.taken == 4_000_000
    for ticket in tickets[1:3]:
        ticket.ack()
    assert stage._room.taken == 0
    await stage.batch([FakeTicket(record({"attachments": [named]}), hold=True)], 3)
    await asyncio.gather(*stage._waiting)
    assert stage._room.taken == 2_000_000


async def test_what_is_larger_than_the_room_goes_alone_and_in_order():
    room = Room(10)
    await room.take(50)
    waiting = [asyncio.create_task(room.take(size)) for size in (50, 4, 4, 4)]
    await asyncio.sleep(0)
    room.give(50)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, False, False, False]
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    room.give(50)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True] * 4
    assert room.taken == 8
