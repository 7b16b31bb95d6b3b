"""Mail at the limits, over Apache Kafka and SMTP: it goes through whole, or ends in an event that says why."""

import hashlib
import random
from pathlib import Path

import orjson
import pytest

from tests.support.stories import Story

ROOMY = Path(__file__).parents[1] / "support" / "roomy_providers.toml"
GROUPS = {"control": 1, "edge": 1, "intake": 1, "compose": 1, "deliver": 1, "hygiene": 1}


def ends(events):
    """address -> (kind, reason, detail) of its terminal event."""
    found = [orjson.loads(record.value) for record in events]
    return {
        event["to"]: (
            event["kind"],
            event.get("reason", ""),
            event.get("detail", "") or event.get("reply", ""),
        )
        for event in found
        if event.get("terminal")
    }


def attachment(path, **more):
    data = path.read_bytes()
    return {
        "filename": path.name,
        "content_type": "application/pdf",
        "url": path.as_uri(),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **more,
    }


def sends(*addresses, **fields):
    return [orjson.dumps({"campaign": "c", "to": to, "name": "Anna", **fields}) for to in addresses]


def peak(story, name):
    """Megabytes that a worker held at most."""
    pid = story.scene.supervisor.workers[name].pid
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) // 1000


async def ended(story, *addresses, seconds=60):
    """The events of addresses, once all have ended."""

    def all_there(records):
        return set(addresses) <= set(ends(records))

    return ends(await story.until("mail-events", all_there, seconds))


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_mail_of_30_megabytes_arrives_byte_for_byte(apache_broker, prefix, tmp_path):
    path = tmp_path / "files" / "large.pdf"
    path.parent.mkdir()
    path.write_bytes(random.Random(1).randbytes(22_000_000))
    limits = {"largest": 45_000_000, "render_files": (path.parent,), "render_attached": 24_000_000}
    async with Story(apache_broker, prefix, tmp_path, GROUPS, providers=ROOMY, **limits) as story:
        await story.campaign(tracking=False)
        people = [f"large{n}@gmail.test" for n in range(4)]
        await story.publish(sends(*people, attachments=[attachment(path)]))
        await story.send("small@gmail.test")
        found = await ended(story, *people, "small@gmail.test", seconds=150)
        assert {kind for kind, *_ in found.values()} == {"delivered"}, (found, story.logs())
        theirs = await story.theirs()
        assert (theirs["distinct"], theirs["duplicates"]) == (5, 0)
        # The signature covers every byte of the body: render's, sign's, Kafka's, SMTP's.
        assert theirs["providers"]["gmail"]["dkim"] == {"rsa=pass": 5, "ed25519=pass": 5}
        # By id: on a busy machine a worker may have done a record again, which gate two drops.
        lane = await story.records("mail-lane-google")
        sizes = {dict(m.headers)["id"]: len(m.value) for m in lane if m.value}
        assert sorted(size > 30_000_000 for size in sizes.values()) == [False, True, True, True, True]
        held = {name: peak(story, name) for name in ("intake", "compose", "deliver", "hygiene")}
        print("MB at most:", held)
        assert held["intake"] < 200
        assert held["hygiene"] < 200
        assert max(held.values()) < 600, held


@pytest.mark.timeout(240)
async def test_what_is_above_a_limit_ends_in_an_event_and_the_rest_goes_on(apache_broker, prefix, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for name, size in {"9m.pdf": 9_000_000, "30m.pdf": 30_000_000, "1m.pdf": 1_000_000}.items():
        (files / name).write_bytes(random.Random(1).randbytes(size))
    async with Story(apache_broker, prefix, tmp_path, GROUPS, render_files=(files,)) as story:
        await story.campaign(tracking=False)
        # Every iteration sorts 100,000 numbers: 60,000 of them would take ten minutes.
        slow = "{% for i in range(60000) %}{{ (range(100000)|list|sort|length) * 1 }}{% endfor %}"
        growing = "{% set ns = namespace(x='0123456789') %}{% for i in range(times) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
        await story.campaign("slow", html="<p>{{ name }}</p>" + "{% if slow %}" + slow + "{% endif %}")
        await story.campaign("growing", html=growing)
        many = {f"v{n}": f"value {n}" for n in range(10_000)}
        await story.campaign(
            "many", html="".join(f"{{{{ v{n} }}}}<br>\n" for n in range(10_000)), subject="{{ v9999 }}"
        )

        await story.publish(sends("nine@gmail.test", attachments=[attachment(files / "9m.pdf")]))
        await story.publish(sends("thirty@gmail.test", attachments=[attachment(files / "30m.pdf")]))
        await story.publish(sends("one@gmail.test", attachments=[attachment(files / "1m.pdf")]))
        await story.publish(sends("inline@gmail.test", variables={"x": "x" * 2_000_000}))
        await story.publish(
            sends("unparsed@gmail.test", variables={"x": random.Random(1).randbytes(5_800_000).hex()})
        )
        await story.send("many@gmail.test", campaign="many", variables=many)
        await story.send("slow@gmail.test", campaign="slow", variables={"slow": True})
        await story.send("quick@gmail.test", campaign="slow", variables={"slow": False})
        await story.send("grown@gmail.test", campaign="growing", variables={"times": 4})
        await story.send("grows@gmail.test", campaign="growing", variables={"times": 19})
        await story.send("explodes@gmail.test", campaign="growing", variables={"times": 50})
        others = [f"person{n}@gmail.test" for n in range(200)]
        await story.send(*others)
        good = ["one", "many", "quick", "grown"]
        bad = ["nine", "thirty", "inline", "unparsed", "slow", "grows", "explodes"]
        found = await ended(story, *(f"{name}@gmail.test" for name in good + bad), *others, seconds=120)

        def told(name):
            return found[f"{name}@gmail.test"]

        assert {told(name)[0] for name in good} == {"delivered"}, (found, story.logs())
        assert {found[to][0] for to in others} == {"delivered"}
        assert told("nine")[:2] == told("thirty")[:2] == ("rejected", "attachment")
        assert told("thirty")[2] == "attachments: 30000000 bytes in all, tenant default may attach 8000000"
        assert told("inline")[:2] == told("unparsed")[:2] == ("rejected", "too_large")
        assert "at most 1048576 bytes" in told("inline")[2]
        assert told("slow")[:2] == ("rejected", "template_error")
        assert told("slow")[2] == "the template renders longer than 1 s for this recipient"
        assert told("grows")[:2] == ("rejected", "size")
        assert "at most 2000000 are allowed" in told("grows")[2]
        assert told("explodes")[:2] == ("rejected", "template_error")
        assert told("explodes")[2].endswith("for this recipient")
        assert story.restarts == []
        bodies = [m.value for m in await story.records("mail-lane-google") if m.value]
        (letter,) = [body for body in bodies if b"Subject: value 9999\r\n" in body]
        for n in (0, 77, 9999):
            assert b"\nvalue %d\r\n" % n in letter.replace(b"<br>", b"")
        assert letter.count(b"value ") == 1 + 2 * 10_000
        held = {name: peak(story, name) for name in ("intake", "compose", "deliver", "hygiene")}
        print("MB at most:", held)
        assert max(held.values()) < 400, held
