"""The best batch of a line that starts at a given time. A row takes 10, each further one 2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.scheduling.window import NOTHING, Window, best_window

TIMES = (0, 10, 12, 14, 16)
START = 100


def window(*deadlines: int, values: tuple[float, ...] = ()) -> Window:
    return best_window(deadlines, values or (1.0,) * len(deadlines), TIMES, START)


def test_nobody_waits() -> None:
    assert window() == NOTHING


def test_nobody_is_in_time() -> None:
    assert window(50, 109) == NOTHING


def test_who_is_late_is_left_out() -> None:
    assert window(50, 109, 110) == Window(skip=2, count=1, worth=1.0, head=1, first=2)


def test_it_grows_up_to_the_largest_batch() -> None:
    assert window(200, 201, 202, 203, 204) == Window(0, 4, 4.0, 4, 0)


@pytest.mark.parametrize(("deadline", "count"), [(110, 1), (111, 1), (112, 2), (115, 3), (116, 3)])
def test_it_is_over_by_the_deadline_of_its_first(deadline: int, count: int) -> None:
    assert window(deadline, 117, 118).head == count


def test_a_tight_head_is_left_out_where_that_gains_a_row() -> None:
    assert window(110, 120, 121) == Window(skip=1, count=2, worth=2.0, head=1, first=0)


def test_a_tight_head_stays_where_leaving_it_out_gains_nothing() -> None:
    assert window(110, 120) == Window(skip=0, count=1, worth=1.0, head=1, first=0)
    assert window(110, 111, 111) == Window(skip=0, count=1, worth=1.0, head=1, first=0)


def test_it_is_worth_what_is_in_it() -> None:
    assert window(110, 200, 200, values=(1.0, 0.25, 0.0625)).worth == 1.0


@pytest.mark.parametrize(
    ("deadlines", "values", "skip"),
    [((110, 111), (0.25, 1.0), 1), ((110, 200, 200), (1.0, 0.25, 0.0625), 0)],
)
def test_the_most_valuable_is_taken_and_not_the_largest(
    deadlines: tuple[int, ...], values: tuple[float, ...], skip: int
) -> None:
    assert window(*deadlines, values=values).skip == skip


times = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(lambda each: [0, *sorted(each)])
deadlines = st.lists(st.integers(-20, 120), max_size=20).map(sorted)


@given(deadlines, times)
def test_of_equals_as_many_as_possible_side_by_side_are_in_time(
    due: list[int], takes: list[int]
) -> None:
    found = best_window(due, [1.0] * len(due), takes, 0)
    most = max(
        (
            count
            for skip in range(len(due))
            for count in range(1, min(len(takes), len(due) - skip + 1))
            if takes[count] <= due[skip]
        ),
        default=0,
    )
    assert found.count == found.worth == most
    if most:
        assert takes[found.count] <= due[found.skip]
        assert takes[found.head] <= due[found.first]
        assert all(each < takes[1] for each in due[: found.first])
