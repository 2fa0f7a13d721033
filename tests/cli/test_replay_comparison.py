"""What counts as the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.replay.comparison import (
    DIFFERENCES,
    MOST_EXAMPLES,
    OF_THE_MOMENT,
    Comparison,
    Ending,
    Verdict,
    deviation_of,
)
from appliance.errors import Outcome
from appliance.wire.arrays import pack

floats = st.floats(width=32)


def ok(**outputs: Any) -> Ending:
    tensors, parts = pack(outputs)
    return Ending(Outcome.OK, "1", tensors, b"".join(bytes(part) for part in parts))


def judged(recorded: Ending | None, replayed: Ending | None, tolerance: float = 1e-4) -> Verdict:
    return Comparison(tolerance).judge("m", "arm", recorded, replayed)


def numbers(*values: float) -> Ending:
    return ok(y=np.array(values, np.float32))


@given(st.lists(floats, max_size=5))
def test_everything_is_the_same_as_itself(values: list[float]) -> None:
    assert judged(numbers(*values), numbers(*values), 0.0) is Verdict.SAME


@given(floats, floats, st.floats(0, 1))
def test_the_rule_for_numbers(a: float, b: float, tolerance: float) -> None:
    x, y = np.array([a], np.float32), np.array([b], np.float32)
    (deviation,) = deviation_of(x, y)
    same = judged(ok(y=x), ok(y=y), tolerance) is Verdict.SAME
    assert same == (deviation <= tolerance)
    if np.isnan(a) or np.isnan(b):
        assert same == (np.isnan(a) and np.isnan(b))
    elif np.isinf(a) or np.isinf(b):
        assert same == (a == b)
    else:
        assert same == (abs(a - b) / (1 + abs(a)) <= tolerance)


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        (numbers(1, 2), numbers(1, 3)),
        (numbers(1), numbers(np.nan)),
        (numbers(1), numbers(1, 1)),
        (numbers(1), ok(z=np.ones(1, np.float32))),
        (numbers(1), ok(y=np.ones(1, np.float64))),
        (ok(y=np.array([1, 2])), ok(y=np.array([1, 3]))),
        (ok(y="a cup"), ok(y="a cap")),
    ],
)
def test_outputs_that_differ(recorded: Ending, replayed: Ending) -> None:
    comparison = Comparison(1e-4)
    assert comparison.judge("m", "arm", recorded, replayed) is Verdict.OUTPUTS
    assert not comparison.agrees
    assert comparison.examples[0].startswith("arm: output")


@given(st.sampled_from(Outcome), st.sampled_from(Outcome))
def test_outcomes(was: Outcome, now: Outcome) -> None:
    verdict = judged(Ending(was), Ending(now))
    if was is now:
        assert verdict is Verdict.SAME
    elif {was, now} & OF_THE_MOMENT:
        assert verdict is Verdict.MOMENT
    else:
        assert verdict is Verdict.OUTCOME


def test_an_answer_that_does_not_come() -> None:
    assert judged(Ending(Outcome.OK), None) is Verdict.UNANSWERED
    assert judged(Ending(Outcome.CLIENT_GONE), None) is Verdict.MOMENT
    assert judged(None, Ending(Outcome.OK)) is Verdict.UNKNOWN


def test_outputs_that_were_too_large_to_record_are_not_compared() -> None:
    assert judged(Ending(Outcome.OK, payload=None), numbers(1)) is Verdict.SAME


def test_nothing_compared_does_not_agree() -> None:
    comparison = Comparison(0.0)
    assert not comparison.agrees
    comparison.judge("m", "arm", Ending(Outcome.EXPIRED), Ending(Outcome.OK))
    assert not comparison.agrees
    assert comparison.moments["EXPIRED", "OK"] == 1
    comparison.judge("m", "arm", Ending(Outcome.INVALID), Ending(Outcome.INVALID))
    assert comparison.agrees
    for _ in range(2 * MOST_EXAMPLES):
        comparison.judge("m", "arm", Ending(Outcome.OK), None)
    assert comparison.total(*DIFFERENCES) == 2 * MOST_EXAMPLES
    assert len(comparison.examples) == MOST_EXAMPLES


@pytest.mark.parametrize(("compared", "others", "agrees"), [(1, 1, True), (1, 2, False)])
@pytest.mark.parametrize("recognised", [True, False])
def test_what_little_can_be_compared_does_not_agree(
    compared: int, others: int, *, agrees: bool, recognised: bool
) -> None:
    comparison = Comparison(0.0)
    for _ in range(compared):
        comparison.judge("m", "arm", numbers(1), numbers(1))
    for _ in range(others):
        if recognised:
            comparison.judge("m", "arm", numbers(1), Ending(Outcome.SUPERSEDED))
        else:
            comparison.give_up("m", numbers(1))
    for _ in range(10):  # that say nothing about answers
        comparison.judge("m", "arm", Ending(Outcome.INVALID), Ending(Outcome.INVALID))
        comparison.count("m", Verdict.LEFT_OUT)
    assert comparison.agrees == agrees
