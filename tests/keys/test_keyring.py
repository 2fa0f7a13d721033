"""Who may come, and as whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Outcome, Rejected
from appliance.keys import z85
from appliance.keys.keyring import Keyring, Refusal
from appliance.keys.zap import Status, ZapRequest

ARM, OLD, BOTH, UNKNOWN = (bytes([number]) * 32 for number in range(4))
KEYRING = Keyring(
    {z85.encode(ARM): "arm-3", z85.encode(BOTH): "both"},
    {z85.encode(OLD): "arm-2", z85.encode(BOTH): "both"},
)


def ask(*credentials: bytes, mechanism: str = "CURVE") -> ZapRequest:
    return ZapRequest(request_id=b"1", mechanism=mechanism, credentials=credentials)


def test_an_authorised_key_comes_in_and_is_its_own_user_id() -> None:
    reply, why = KEYRING.judge(ask(ARM))
    assert (reply.status, reply.user_id, reply.request_id, why) == (
        Status.ACCEPTED,
        z85.encode(ARM),
        b"1",
        None,
    )


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ask(UNKNOWN), Refusal.UNKNOWN_KEY),
        (ask(OLD), Refusal.REVOKED_KEY),
        (ask(BOTH), Refusal.REVOKED_KEY),
        (ask(mechanism="NULL"), Refusal.NO_KEY),
        (ask(b"user", b"password", mechanism="PLAIN"), Refusal.NO_KEY),
        (ask(), Refusal.MALFORMED),
        (ask(ARM[:-1]), Refusal.MALFORMED),
        (ask(ARM, ARM), Refusal.MALFORMED),
    ],
)
def test_nobody_else_does(request_: ZapRequest, why: Refusal) -> None:
    reply, said = KEYRING.judge(request_)
    assert (reply.status, reply.user_id, said) == (Status.REFUSED, "", why)


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["CURVE", "NULL", "PLAIN", ""]))
def test_no_key_is_accepted_by_chance(key: bytes, mechanism: str) -> None:
    reply, why = KEYRING.judge(ask(key, mechanism=mechanism))
    assert (reply.status is Status.ACCEPTED) == (mechanism == "CURVE" and key == ARM)
    assert (why is None) == (reply.status is Status.ACCEPTED)


@pytest.mark.parametrize("claimed", ["", "arm-3"])
def test_a_client_may_say_who_it_is_or_nothing(claimed: str) -> None:
    KEYRING.check(z85.encode(ARM), claimed)


@pytest.mark.parametrize(
    ("key", "claimed", "outcome", "message"),
    [
        (ARM, "arm-4", Outcome.FORBIDDEN, "is that of client 'arm-3', not of 'arm-4'"),
        (OLD, "arm-2", Outcome.UNAUTHENTICATED, "the key of 'arm-2' was revoked"),
        (BOTH, "both", Outcome.UNAUTHENTICATED, "revoked"),
        (UNKNOWN, "arm-3", Outcome.UNAUTHENTICATED, "not authorised"),
    ],
)
def test_what_it_says_has_to_be_so(
    key: bytes, claimed: str, outcome: Outcome, message: str
) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        KEYRING.check(z85.encode(key), claimed)
    assert refused.value.outcome is outcome
