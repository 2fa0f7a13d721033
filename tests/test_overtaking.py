"""Since when each of the batches has had its turn that a GPU runs side by side."""

from __future__ import annotations

from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from appliance.overtaking import account_for, may_be_next


@define(eq=False)
class Batch:
    model: int
    since_ns: int


def test_who_waits_and_who_is_overtaken() -> None:
    first, urgent, last = batches = [Batch(0, 0), Batch(1, 40), Batch(0, 45)]
    assert may_be_next(batches) == [first, urgent]
    account_for(urgent, batches, 50)
    assert [each.since_ns for each in batches] == [10, 40, 50]
    account_for(first, [first, last], 90)  # it ran 80 by itself
    assert last.since_ns == 90


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), min_size=1, max_size=8),
    st.data(),
)
def test_times_never_run_ahead_nor_back(told: list[tuple[int, int]], data: st.DataObject) -> None:
    now_ns, running = 0, list[Batch]()
    for model, passes_ns in told:
        now_ns += passes_ns
        running.append(Batch(model, now_ns))
    begun_ns, busy_ns = running[0].since_ns, 0
    while running:
        now_ns += data.draw(st.integers(0, 50))
        done = data.draw(st.sampled_from(may_be_next(running)))
        before = [each.since_ns for each in running]
        account_for(done, running, now_ns)
        assert all(a <= b.since_ns <= now_ns for a, b in zip(before, running, strict=True))
        busy_ns += now_ns - done.since_ns
        running.remove(done)
    assert busy_ns <= now_ns - begun_ns  # none is counted twice
