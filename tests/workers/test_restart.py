from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.workers.restart import Life, Quarantine, RestartPolicy

SECOND = 1_000_000_000
POLICY = RestartPolicy()

NEVER_UP = Life(ready_ns=None, ended_ns=100 * SECOND, finished_batch=False)
SHORT = Life(ready_ns=99 * SECOND, ended_ns=100 * SECOND, finished_batch=False)
LONG = Life(ready_ns=90 * SECOND, ended_ns=100 * SECOND, finished_batch=False)
SERVED = Life(ready_ns=99 * SECOND, ended_ns=100 * SECOND, finished_batch=True)

lives = st.sampled_from([NEVER_UP, SHORT, LONG, SERVED])


def delay_ms(*history: Life) -> float:
    return POLICY.delay_ns(history, 100 * SECOND) / 1e6


def test_the_first_start_and_the_first_restart_are_at_once() -> None:
    assert delay_ms() == 0
    assert delay_ms(NEVER_UP) == 0
    assert delay_ms(SHORT) == 0


def test_backoff_doubles_to_its_bound() -> None:
    delays = [delay_ms(*[NEVER_UP, SHORT] * 500, *[SHORT] * n) for n in range(2)]
    assert delays == [10_000, 10_000]
    assert [delay_ms(*[SHORT] * n) for n in range(1, 11)] == [
        *(0, 100, 200, 400, 800, 1600, 3200, 6400),
        *(10_000, 10_000),
    ]


@given(st.lists(lives), st.sampled_from([LONG, SERVED]))
def test_a_life_of_use_ends_the_row(history: list[Life], useful: Life) -> None:
    assert delay_ms(*history, useful) == 0
    assert delay_ms(*history, useful, SHORT) == 0
    assert delay_ms(*history, useful, SHORT, NEVER_UP) == 100


def test_time_that_has_passed_counts() -> None:
    history = [SHORT] * 4
    assert POLICY.delay_ns(history, 100 * SECOND + 150_000_000) == 250_000_000
    assert POLICY.delay_ns(history, 200 * SECOND) == 0


def test_a_model_is_left_out_after_two_deaths_in_a_row() -> None:
    quarantine = Quarantine(POLICY.loads)
    quarantine.died(1, "killed by SIGKILL")
    assert quarantine.reason(1) is None
    quarantine.died(1, "exited with status 3")
    reason = quarantine.reason(1)
    assert reason is not None
    assert "2 times in a row" in reason
    assert "exited with status 3" in reason
    assert quarantine.reason(0) is None


def test_getting_through_clears_a_model() -> None:
    quarantine = Quarantine(POLICY.loads)
    for _ in range(5):
        quarantine.died(1, "killed by SIGKILL")
        quarantine.loaded(1)
    assert quarantine.reason(1) is None


def test_two_such_models_do_not_hide_each_other() -> None:
    quarantine = Quarantine(POLICY.loads)
    for model in (0, 1, 0, 1):
        quarantine.died(model, "killed by SIGKILL")
    assert quarantine.reason(0) is not None
    assert quarantine.reason(1) is not None
