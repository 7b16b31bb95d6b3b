"""Tokens: what we minted is read back, whatever else is refused."""

from __future__ import annotations

import string
from timeit import repeat
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Malformed
from schemas.token import LONGEST_URL, ConfirmToken, MailToken, Tokens

OLD, NEW = b"an old secret, 32 bytes or so ...", b"a new secret, 32 bytes or so ...."
TOKENS = Tokens([NEW])
ID = "00112233445566778899aabbccddeeff"
BASE = "https://t.example.com"
URL = "https://shop.example.com/caf\u00e9?a=1&b=%20x#frag"

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
names = st.text(string.ascii_letters + "._:-", min_size=1, max_size=40)
partitions = st.integers(0, 65535)


def mint(tokens: Tokens = TOKENS) -> str:
    return tokens.mail_token(ID, "acme", "spring", "marketing", "ada@example.org", 7, "google")


@settings(max_examples=100)
@given(ids, names, names, st.sampled_from(["marketing", "transactional"]), st.text(max_size=80), partitions)
def test_a_link_token_says_what_was_put_in(
    id: str, tenant: str, campaign: str, stream: str, to: str, partition: int
) -> None:
    token = TOKENS.mail_token(id, tenant, campaign, stream, to, partition, "gmx")
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")
    assert TOKENS.read_mail_token(token) == MailToken(id, tenant, campaign, stream, to, partition, "gmx")
    assert token == TOKENS.mail_token(id, tenant, campaign, stream, to, partition, "gmx")


def test_the_address_cannot_be_read_and_the_token_is_short() -> None:
    from base64 import urlsafe_b64decode

    token = mint()
    assert b"ada" not in urlsafe_b64decode(token + "==="[: -len(token) % 4])
    assert len(token) <= 110


def test_every_flipped_bit_of_a_link_token_is_refused() -> None:
    token = mint()
    for place in range(len(token)):
        for bit in range(7):
            changed = token[:place] + chr(ord(token[place]) ^ 1 << bit) + token[place + 1 :]
            with pytest.raises(Malformed, match="bad_token"):
                TOKENS.read_mail_token(changed)


@pytest.mark.parametrize(
    "bad", ["", "A", "AQ", "\u00e9" * 20, "A" * 2000, mint() + "=", mint()[:-1], "\n" + mint()]
)
def test_nonsense_is_refused_with_a_bounded_code(bad: str) -> None:
    with pytest.raises(Malformed) as caught:
        TOKENS.read_mail_token(bad)
    assert caught.value.code == "bad_token"


@settings(max_examples=200)
@given(st.text(max_size=120))
def test_no_text_crashes_a_reader(text: str) -> None:
    for read in (TOKENS.read_mail_token, TOKENS.read_verp, TOKENS.read_unsubscribe_address):
        with pytest.raises(Malformed, match="bad_token"):
            read(text)
    with pytest.raises(Malformed, match="bad_token"):
        TOKENS.check_click(mint(), text, text)


def test_a_rotated_secret_still_reads_and_a_dropped_one_does_not() -> None:
    before, during, after = Tokens([OLD]), Tokens([NEW, OLD]), Tokens([NEW])
    token, verp = mint(before), before.verp(ID, 7, "r.example.com")
    url = before.click_url(BASE, token, URL)
    mac = parse_qs(urlsplit(url).query)["s"][0]
    assert during.read_mail_token(token).to == "ada@example.org"
    assert during.check_click(token, URL, mac).to == "ada@example.org"
    assert during.read_verp(verp) == (ID, 7)
    assert mint(during) == mint(after) != token
    for read in (
        lambda: after.read_mail_token(token),
        lambda: after.read_verp(verp),
        lambda: after.check_click(token, URL, mac),
    ):
        with pytest.raises(Malformed, match="bad_token"):
            read()


def test_a_click_goes_only_where_we_said() -> None:
    token = mint()
    query = parse_qs(urlsplit(TOKENS.click_url(BASE, token, URL)).query)
    assert query["u"] == [URL]
    mac = query["s"][0]
    assert TOKENS.check_click(token, URL, mac).id == ID
    other = TOKENS.mail_token(ID, "acme", "spring", "marketing", "eve@example.org", 7, "google")
    for bad_token, bad_url, bad_mac in [
        (token, "https://evil.example", mac),
        (other, URL, mac),
        (token, URL, ""),
        (token, URL, mac[:-1]),
        (token, URL, "A" * len(mac)),
    ]:
        with pytest.raises(Malformed, match="bad_token"):
            TOKENS.check_click(bad_token, bad_url, bad_mac)


@pytest.mark.parametrize(
    "url",
    [
        "mailto:a@example.org",
        "javascript:alert(1)",
        "#top",
        "/x",
        "https://a.example/\r\nX: y",
        "https://a/" + "x" * LONGEST_URL,
    ],
)
def test_what_is_no_web_link_stays_as_it_is(url: str) -> None:
    assert TOKENS.click_url(BASE, mint(), url) == url


def test_the_other_urls() -> None:
    assert TOKENS.open_url(BASE, "T") == "https://t.example.com/o/T.gif"
    assert TOKENS.unsubscribe_url(BASE, "T") == "https://t.example.com/u/T"


@settings(max_examples=100)
@given(ids, partitions)
def test_a_return_path_survives_any_case(id: str, partition: int) -> None:
    address = TOKENS.verp(id, partition, "r.example.com")
    assert len(address.partition("@")[0]) <= 64
    assert TOKENS.read_verp(address) == TOKENS.read_verp(address.upper()) == (id, partition)
    left = TOKENS.unsubscribe_address(id, partition, "r.example.com")
    assert TOKENS.read_unsubscribe_address(left.title()) == (id, partition)


def test_every_changed_letter_of_a_return_path_is_refused() -> None:
    local = TOKENS.verp(ID, 7, "d").partition("@")[0]
    for place in range(2, len(local)):
        for letter in "abcdefghijklmnopqrstuvwxyz234567":
            if letter != local[place]:
                with pytest.raises(Malformed, match="bad_token"):
                    TOKENS.read_verp(local[:place] + letter + local[place + 1 :] + "@d")


def test_a_token_of_one_purpose_is_refused_for_another() -> None:
    verp, left = TOKENS.verp(ID, 7, "d"), TOKENS.unsubscribe_address(ID, 7, "d")
    for read, address in [
        (TOKENS.read_verp, left),
        (TOKENS.read_unsubscribe_address, verp),
        (TOKENS.read_verp, "b-" + left[2:]),
        (TOKENS.read_unsubscribe_address, "u-" + verp[2:]),
        (TOKENS.read_mail_token, verp[2:44]),
        (TOKENS.read_verp, f"b-{mint()[:52]}@d"),
    ]:
        with pytest.raises(Malformed, match="bad_token"):
            read(address)


def test_weak_or_missing_secrets_and_odd_ids_are_an_error() -> None:
    with pytest.raises(ValueError, match="no token secret"):
        Tokens([])
    with pytest.raises(ValueError, match="at least 16"):
        Tokens([b"short"])
    with pytest.raises(ValueError, match="32 hex digits"):
        TOKENS.verp("abcd", 1, "d")


def test_minting_is_cheap() -> None:
    # Budgets are 10 and 2 microseconds; ten times that still passes on a loaded machine.
    token = mint()
    a_token = min(repeat(mint, number=500, repeat=5)) / 500
    a_mac = min(repeat(lambda: TOKENS.click_url(BASE, token, URL), number=500, repeat=5)) / 500
    assert a_token < 100e-6
    assert a_mac < 100e-6


def test_a_confirmation_link_says_what_was_put_in_and_is_no_other_token() -> None:
    about = ConfirmToken(ID, "acme", "marketing", "ada@example.org", 1.5e9, 1.6e9, "oc")
    old = Tokens([OLD]).confirm_url(BASE, about)
    assert old == Tokens([OLD]).confirm_url(BASE, about)
    token = old.removeprefix(BASE + "/confirm/")
    assert Tokens([NEW, OLD]).read_confirm_token(token) == about
    for bad in (token[:-2] + "AA", mint(), "", "é"):
        with pytest.raises(Malformed, match="bad_token"):
            Tokens([NEW, OLD]).read_confirm_token(bad)
    with pytest.raises(Malformed, match="bad_token"):
        Tokens([OLD]).read_mail_token(token)
