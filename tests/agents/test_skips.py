"""What stages have passed over unread is nothing to them, whatever else such an event says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.score import agent as score
from agents.score.policy import matters as scored
from agents.suppress import agent as suppress
from agents.suppress.consent import matters as about_consent
from agents.suppress.policy import matters as suppressed
from schemas.event import MailEvent, headers_of

ACTIONS = ("suppress", "soft", "hold", "slow", "retry", "none", "")


@pytest.mark.parametrize(
    ("stage", "matters"), [(suppress.STAGE, (suppressed, about_consent)), (score.STAGE, (scored,))]
)
@given(action=st.sampled_from(ACTIONS), to=st.sampled_from(("", "a@example.com")), machine=st.booleans())
def test_what_is_skipped_never_matters(stage, matters, action, to, machine):
    assert stage.skips
    for kind in stage.skips:
        event = MailEvent(
            id="1", kind=kind.decode(), mail="m", time=1.0, to=to, action=action, scope="address",
            reason="hard", terminal=True, machine=machine, tracking="oc", asked=1.0,
        )  # fmt: skip
        assert not any(asks(event) for asks in matters)


def test_an_event_says_its_kind_in_its_headers():
    assert headers_of("soft_bounced") == {"type": b"event", "version": b"1", "kind": b"soft_bounced"}
