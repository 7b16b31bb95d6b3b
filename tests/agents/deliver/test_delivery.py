"""delivery.toml: what it says, and all of its faults at once."""

from __future__ import annotations

from importlib import resources

import pytest

from agents.deliver.delivery import BadDelivery, read_delivery
from agents.deliver.sources import Proxy, Source

TEXT = """
[tls]
default = "opportunistic"
providers = { google = "require" }
domains = { "bank.test" = "verify" }
[family]
default = "ipv4"
providers = { google = "ipv6" }
[[source]]
name = "four"
address = "192.0.2.1"
helo = "four.mail.test"
[[source]]
address = "2001:db8::1"
[[source]]
name = "far"
proxy = "socks5://me:p%40ss@192.0.2.9:1080"
[[source]]
name = "near"
address = "192.0.2.2"
proxy = "proxy-v2://[2001:db8::9]:2525"
[[pool]]
name = "fast"
sources = ["four", "2001:db8::1"]
streams = ["transactional"]
[[pool]]
name = "shop"
sources = ["far"]
tenants = ["shop"]
"""


def test_the_shipped_file_is_good():
    text = (resources.files("agents.deliver") / "delivery.toml").read_text()
    shipped = read_delivery(text)
    assert shipped.asks.mode("a.test", "google") == "require"
    assert shipped.asks.mode("a.test", "") == "opportunistic"
    # Its examples are an operator's first try: they must work.
    examples = text[text.index("# [[source]]") :].replace("\n# ", "\n").replace("\n#\n", "\n\n")[2:]
    assert read_delivery(examples).sources.of("a").helo == "a.mail.example.com"


def test_what_it_says():
    found = read_delivery(TEXT)
    asks = found.asks
    assert asks.mode("bank.test", "google") == "verify"
    assert (asks.mode("a.test", "google"), asks.mode("a.test", "")) == ("require", "opportunistic")
    sources = found.sources
    assert sources.names == ("four", "2001:db8::1", "far", "near")
    assert sources.of("four") == Source("four", "192.0.2.1", "four.mail.test")
    assert sources.of("far").proxy == Proxy("socks5", "192.0.2.9", 1080, "me", "p@ss")
    assert sources.of("near").proxy == Proxy("proxy-v2", "2001:db8::9", 2525)
    assert "p@ss" not in repr(sources.of("far"))


def test_the_first_pool_that_takes_a_mail_decides_and_the_preferred_family_comes_first():
    sources = read_delivery(TEXT).sources
    assert sources.choices("transactional", "shop", "yahoo") == (("four",), ("2001:db8::1",))
    assert sources.choices("transactional", "shop", "google") == (("2001:db8::1",), ("four",))
    assert sources.choices("marketing", "shop", "") == (("far",), ())
    assert sources.choices("marketing", "other", "") == (("four", "far", "near"), ("2001:db8::1",))
    addresses = ("192.0.2.5", "2001:db8::5", "192.0.2.6")
    assert sources.addresses(addresses, "yahoo") == ("192.0.2.5", "192.0.2.6", "2001:db8::5")
    assert sources.addresses(addresses, "google") == ("2001:db8::5", "192.0.2.5", "192.0.2.6")


def test_without_sources_there_is_the_systems_choice():
    sources = read_delivery("").sources
    assert (sources.names, sources.of("")) == (("",), Source())


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"require"', '"sometimes"', "tls.providers.google is 'sometimes', not one of"),
        ("google = ", "gogle = ", "'gogle' is no provider that is known"),
        ('"bank.test"', '"Bank test"', "'Bank test' is no domain in lower case"),
        ("[tls]", "[tsl]", "'tsl' is not known, only tls, family, source, pool"),
        ('"192.0.2.1"', '"192.0.2.300"', "source 1: address '192.0.2.300' is no IP address"),
        ('"four.mail.test"', '"four"', "source 1: helo 'four' is no host name with a domain"),
        ('"192.0.2.1"', "5", "source 1: address must be a text"),
        ('name = "far"', 'name = "four"', "source 'four' is there twice"),
        ('name = "far"', 'name = "default"', "source 3: needs a name"),
        ("socks5://me:p%40ss@192.0.2.9:1080", "http://192.0.2.9:1080", "source 3: a proxy is socks5://"),
        ("@192.0.2.9:1080", "@proxy.test:1080", "source 3: a proxy's HOST must be an IP address"),
        ("@192.0.2.9:1080", "@192.0.2.9", "source 3: a proxy needs HOST:PORT"),
        ("me:p%40ss@", "me@", "source 3: a user and a password of at most 255 bytes"),
        ("proxy-v2://", "proxy-v2://me:x@", "source 4: only socks5:// takes a user"),
        ('address = "192.0.2.2"', "", "source 4: a proxy-v2 proxy needs the address to send from"),
        ('sources = ["far"]', 'sources = ["fra"]', "pool 2: there is no source 'fra'"),
        ('sources = ["far"]', "sources = []", "pool 2: needs sources"),
        ('tenants = ["shop"]', 'tenants = "shop"', "pool 2: tenants must be a list of texts"),
        ('tenants = ["shop"]', "tenant = []", "pool 2: 'tenant' is not known"),
        ('default = "ipv4"', 'default = "ipv5"', "family.default is 'ipv5'"),
        ("[[pool]]", "[[pool]", "delivery.toml has 1 fault"),
        ("[family]", "source = 3\n[family]", "'source' is not known"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(old, new, fault):
    assert old in TEXT
    with pytest.raises(BadDelivery) as raised:
        read_delivery(TEXT.replace(old, new, 1))
    assert fault in str(raised.value)
    assert "p%40ss" not in str(raised.value)
    assert "p@ss" not in str(raised.value)


def test_all_faults_come_in_one_error():
    text = TEXT.replace('"require"', '"x"').replace('"192.0.2.1"', '"y"').replace('["far"]', '["z"]')
    with pytest.raises(BadDelivery) as raised:
        read_delivery(text, "mine.toml")
    assert str(raised.value).startswith("mine.toml has 3 fault(s):\n- ")
