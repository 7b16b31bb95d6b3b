"""The providers file: the demo's own one, and one with every kind of fault."""

import pytest

from schemas.lanes import provider_of
from streams.lab.dialects import DIALECTS, SITUATIONS
from streams.lab.providers import BadWorld, load

ONE = """
[providers.one]
domains = ["one.test"]
mx = ["mx.one.test"]
address = "127.0.0.11"
share = 1.0
"""


def test_the_demo_world_is_sound_and_can_be_served_within_a_minute():
    world = load()
    assert [p.name for p in world.providers] == ["gmail", "outlook", "yahoo", "orange", "gmx", "small"]
    assert [provider_of(p.mx) for p in world.providers] == ["google", "outlook", "yahoo", "orange", "gmx", ""]
    assert all(5000 * p.share / p.rate < 40 for p in world.providers)
    assert world.provider_of("Ann@GMAIL.test").name == "gmail"
    assert world.provider_of("ann@elsewhere.test") is None


def test_every_dialect_words_every_situation():
    for dialect in DIALECTS.values():
        assert set(dialect) == set(SITUATIONS)
        assert all(text[0] in "45" and text[3] == " " for text in dialect.values())


def test_fates_follow_the_shares_and_never_change():
    (one,) = load(ONE + 'unknown = 0.1\nfull = 0.05\ncomplaint = 0.2\nunknown_pattern = "^gone[.]"').providers
    fates = [one.fate(7, f"user{n}@one.test") for n in range(4000)]
    assert fates == [one.fate(7, f"USER{n}@one.test") for n in range(4000)]
    assert fates != [one.fate(8, f"user{n}@one.test") for n in range(4000)]
    for fate, share in (("unknown", 0.1), ("full", 0.05), ("late_bounce", 0.0), ("complaint", 0.2)):
        assert fates.count(fate) / 4000 == pytest.approx(share, abs=0.02)
    assert all(one.fate(seed, "gone.ann@one.test") == "unknown" for seed in range(20))


def test_all_faults_are_in_one_error():
    with pytest.raises(BadWorld) as error:
        load(
            """
            wind = "west"
            [records."a.test"]
            A = "999.1.1.1"
            [providers.a]
            domains = ["a.com", "b.test"]
            mx = "mx.a.test"
            rate = "fast"
            address = "127.0.0.11"
            [providers.b]
            domains = ["b.test"]
            mx = ["mx.b.test"]
            address = "8.8.8.8"
            share = 0.4
            burst = true
            throttle_at = "noon"
            dialect = "latin"
            unknown = 0.9
            full = 0.2
            unknown_pattern = "("
            replies = { rate = "250 fine", whim = "450 no" }
            readers = { open = 2, sing = 1 }
            """
        )
    for part in (
        "wind: no such setting",
        "records: a.test A",
        "providers.a.domains: a.com must end in .test",
        "providers.a.mx: 'mx.a.test' is no list",
        "providers.a.rate: 'fast' is no number",
        "providers.b.address: 8.8.8.8 is not a loopback address",
        "providers.b.burst: 'True' is no number",
        "providers.b.throttle_at: 'noon' is none of mail, dot",
        "providers.b.dialect: 'latin' is none of google",
        "more than everybody",
        "providers.b.unknown_pattern: ",
        "providers.b.replies.rate: '250 fine' is no refusal",
        "providers.b.replies.whim: no such situation",
        "providers.b.readers.open: 2 is not from 0 to 1",
        "providers.b.readers.sing: no such setting",
        "shares add up to 0.4, not to 1",
        "domains: b.test is there twice",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("a = ", "not TOML"), ("seed = 1", "at least one")])
def test_not_a_world_at_all(text, said):
    with pytest.raises(BadWorld, match=said):
        load(text)
