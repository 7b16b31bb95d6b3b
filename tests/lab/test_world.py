"""The world as a whole: in this process, and in one of its own."""

import asyncio
import csv
import itertools
import os
import signal
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager

import aiosmtplib
import dns.asyncresolver
import dns.reversename
import orjson
import pytest
from aiohttp import web

from streams.lab.audience import recipients
from streams.lab.control import tell
from streams.lab.ledger import read
from streams.lab.providers import load
from streams.lab.site import Sink
from streams.lab.smtp import SmtpServer
from streams.lab.world import World, host_port
from tests.lab.letters import letter, publish

SMALL = """
seed = 5
[records."example.test"]
MX = "0 ."
[providers.gmail]
domains = ["gmail.test"]
mx = ["mx1.test-lab.google.com", "mx2.test-lab.google.com"]
address = "127.0.0.11"
share = 0.75
dialect = "google"
late_bounce = 0.3
late_bounce_after = 0.05
complaint = 0.3
complaint_after = 0.05
readers = { open = 1, unsubscribe = 1, delay = 0.02 }
[providers.small]
domains = ["small.test"]
mx = ["mx.small.test"]
address = "127.0.0.16"
share = 0.25
rate = 2
per_connection = 100000
starttls = false
"""


async def send(host: str, port: int, to: str, message: bytes, **more):
    async with aiosmtplib.SMTP(hostname=host, port=port, timeout=5, **more) as client:
        await client.sendmail("b-1@bounces.shop.test", [to], message)


async def test_dns_leads_to_providers_that_speak_tls_in_the_name_of_their_hosts():
    async with World(load(SMALL), port=0) as world:
        ask = dns.asyncresolver.Resolver(configure=False)
        ask.nameservers, ask.port = [world.dns.address[0]], world.dns.address[1]
        hosts = sorted((r.preference, str(r.exchange)) for r in await ask.resolve("gmail.test", "MX"))
        assert hosts == [(10, "mx1.test-lab.google.com."), (20, "mx2.test-lab.google.com.")]
        for host in ("mx1.test-lab.google.com", "mx2.test-lab.google.com"):
            assert str((await ask.resolve(host, "A"))[0]) == "127.0.0.11"
        assert str((await ask.resolve_address("127.0.0.11"))[0]) == "mx1.test-lab.google.com."
        assert str((await ask.resolve("example.test", "MX"))[0].exchange) == "."
        world.publish({"shop.test": {"TXT": "v=spf1 -all"}})
        world.publish({"shop.test": {"TXT": "v=spf1 a -all"}})
        assert world.zone.texts("shop.test", "TXT") == ["v=spf1 a -all"]
        trusting = ssl.create_default_context(cadata=world.authority.decode())
        client = aiosmtplib.SMTP(hostname="127.0.0.11", port=world.port, start_tls=False, timeout=5)
        await client.connect()
        await client.starttls(tls_context=trusting, server_hostname="mx2.test-lab.google.com")
        await client.sendmail("b@shop.test", ["a@gmail.test"], letter(sign=""))
        await client.quit()
        with pytest.raises(aiosmtplib.SMTPException):
            await send("127.0.0.16", world.port, "a@small.test", letter(sign=""), start_tls=True)
        assert world.report()["providers"]["gmail"]["taken"] == 1


async def test_mail_comes_back_as_opens_unsubscribes_bounces_and_complaints(tmp_path):
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path}")
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    http = web.TCPSite(runner, "127.0.0.1", 0)
    await http.start()
    base = f"http://127.0.0.1:{http._server.sockets[0].getsockname()[1]}"
    settings = load(SMALL)
    async with SmtpServer(Sink()) as edge:
        smtp = "{}:{}".format(*edge.address)
        async with World(settings, port=0, edge_http=base, edge_smtp=smtp, ledger=tmp_path) as world:
            publish(world.zone)
            to = [f"user{n}@gmail.test" for n in range(16)]
            fates = [settings.providers[0].fate(settings.seed, address) for address in to]
            for number, address in enumerate(to):
                message = letter(number, address, f"{base}/u/{number}", f'<img src="{base}/o/{number}.gif">')
                await send("127.0.0.11", world.port, address, message, start_tls=False)
            async with asyncio.timeout(10):
                while world.readers.waiting or world.feedback.waiting:
                    await asyncio.sleep(0.02)
            report = world.report()["providers"]["gmail"]
    await runner.cleanup()
    bounces, complaints = fates.count("late_bounce"), fates.count("complaint")
    assert bounces
    assert complaints
    assert report["dkim"] == {"rsa=pass": 16, "ed25519=pass": 16}
    assert report["flaws"] == {}
    assert report["acts"] == {
        "dsn": bounces,
        "complaint": complaints,
        "open": 16 - bounces,
        "unsubscribe": 16 - bounces,
    }
    assert report["bounced_late"] == bounces
    assert edge.site.count == bounces + complaints
    assert len([line for line in seen if line.startswith("POST /u/")]) == 16 - bounces
    # The same from the files, as another process reads them.
    tally = read(tmp_path)["gmail"]
    assert len(tally.taken()) == 16
    assert tally.acts == report["acts"]
    assert orjson.loads((tmp_path / "report.json").read_bytes())["taken"] == 16


async def test_a_naive_sender_is_throttled_and_found_guilty():
    async with World(load(SMALL), port=0) as world:
        start = time.monotonic()
        codes: list[int] = []
        client = aiosmtplib.SMTP(hostname="127.0.0.16", port=world.port, timeout=5)
        async with client:
            while time.monotonic() - start < 6:
                try:
                    await client.sendmail("b@shop.test", ["a@small.test"], letter(len(codes), sign=""))
                    codes.append(250)
                except aiosmtplib.SMTPResponseException as error:
                    codes.append(error.code)
                await asyncio.sleep(0.02)
        report = world.report()
    small = report["providers"]["small"]["sources"]["127.0.0.1"]
    assert codes.count(450) > 100
    assert 10 <= codes.count(250) <= 16
    assert small["most_taken_in_10s"] == codes.count(250)
    assert small["throttled"] == codes.count(450)
    assert not report["within_budget"]


def test_the_audience_is_streamed_deterministic_and_spread_by_share():
    world = load()
    rows = list(csv.DictReader(World(world, port=0).recipients(3000, seed=2)))
    assert rows == list(csv.DictReader(World(world, port=0).recipients(3000, seed=2)))
    assert len({row["to"] for row in rows}) == 3000
    assert all(row["to"].isascii() and row["name"] and row["city"] for row in rows)
    assert {row["consent"] for row in rows} == {"", "oc"}
    for provider in world.providers:
        part = sum(row["to"].rpartition("@")[2] in provider.domains for row in rows)
        assert part / 3000 == pytest.approx(provider.share, abs=0.03)
    # It is a generator: the first of a billion come at once.
    assert len(list(itertools.islice(recipients(world, 10**9), 3))) == 3


def test_bad_addresses_of_the_edge():
    assert host_port("[::1]:25") == ("::1", 25)
    for text in ("host", "host:", ":25", "host:99999"):
        with pytest.raises(ValueError, match="no HOST:PORT"):
            host_port(text)
    with pytest.raises(ValueError, match="no URL"):
        World(load(SMALL), edge_http="127.0.0.1:80")


@contextmanager
def process(*arguments: str):
    started = subprocess.Popen(
        [sys.executable, "-m", "streams.lab.world", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield started, orjson.loads(started.stdout.readline())
    finally:
        started.kill()
        started.communicate()


def test_a_world_of_its_own_process_is_steered_and_stops_cleanly(tmp_path):
    (tmp_path / "world.toml").write_text(SMALL)
    (tmp_path / "records.toml").write_text('[records."shop.test"]\nA = "127.0.0.9"\n')
    arguments = ["--providers", str(tmp_path / "world.toml"), "--records", str(tmp_path / "records.toml")]
    with process(*arguments, "--port", "0", "--ledger", str(tmp_path / "ledger")) as (world, ready):
        control = host_port(ready["control"])
        gmail = ready["providers"]["gmail"]
        assert gmail["domains"] == ["gmail.test"]

        async def story() -> None:
            ask = dns.asyncresolver.Resolver(configure=False)
            (host, ask.port) = host_port(ready["dns"])
            ask.nameservers = [host]
            assert str((await ask.resolve("shop.test", "A"))[0]) == "127.0.0.9"
            tell(control, "records", records={"k._domainkey.shop.test": {"TXT": "v=DKIM1; p=" + "x" * 400}})
            assert await ask.resolve("k._domainkey.shop.test", "TXT")
            tell(control, "trouble", name="shop.test", rcode="SERVFAIL")
            with pytest.raises(dns.resolver.NoNameservers):
                await ask.resolve("shop.test", "A")
            tell(control, "trouble", name="shop.test")
            assert await ask.resolve("shop.test", "A")
            for act in ("reset", "close"):
                tell(control, "fault", provider="gmail", phase="dot", act=act)
                with pytest.raises((aiosmtplib.SMTPException, OSError)):
                    await send(
                        gmail["address"], gmail["port"], "a@gmail.test", letter(sign=""), start_tls=False
                    )
            await send(gmail["address"], gmail["port"], "a@gmail.test", letter(sign=""), validate_certs=False)

        asyncio.run(story())
        report = tell(control, "report")
        assert (
            report["taken"],
            report["distinct"],
            report["duplicates"],
            report["duplicates_unreplied"],
        ) == (3, 1, 0, 2)
        with pytest.raises(ValueError, match="phase"):
            tell(control, "fault", provider="gmail", phase="lunch", act="reset")
        with pytest.raises(ValueError, match="expected a JSON line"):
            tell(control, "dance")
        with pytest.raises(ValueError, match="KeyError"):
            tell(control, "clear", provider="nobody")
        world.send_signal(signal.SIGTERM)
        assert world.wait(10) == 0
        assert world.stderr.read() == b""
    assert len(read(tmp_path / "ledger")["gmail"].taken()) == 3


def test_the_sink_counts_on_the_control_line_and_at_its_end():
    with process("--sink", "--port", "0") as (sink, ready):
        for number in (1, 1, 2):
            asyncio.run(send("127.0.0.1", ready["port"], "a@b.test", letter(number, sign="")))
        assert tell(host_port(ready["control"]), "report")["count"] == 3
        sink.send_signal(signal.SIGTERM)
        last = orjson.loads(sink.stdout.readline())
        assert (last["count"], last["distinct"]) == (3, 2)
        assert sink.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_ends_when_its_parent_dies():
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'streams.lab.world', '--sink', '--port', '0'],"
        " stdout=subprocess.PIPE)\n"
        "print(p.stdout.readline().decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid = orjson.loads(parent.stdout.readline())["pid"]
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_bad_file_ends_with_all_its_faults_and_no_traceback(tmp_path):
    (tmp_path / "bad.toml").write_text("wind = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "streams.lab.world", "--providers", str(tmp_path / "bad.toml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "wind: no such setting" in done.stderr
    assert "at least one" in done.stderr
    assert "Traceback" not in done.stderr
