"""Whom of tier 0 a batch would make late: of those that wait, and those expected meanwhile."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil

from attrs import define, field

from appliance.scheduling.choice import FOREVER_NS, Contender
from appliance.scheduling.events import Lane, Request
from appliance.scheduling.line import Ranked
from appliance.scheduling.streams import Expected, Forecast

TOGETHER, TOGETHER_OBEYING = 0.25, 0.5
"""What part of those that are expected one batch has to take with those that wait: the others come
after it, or have been answered before. More of those that follow their phase advice."""


@define(eq=False)
class CriticalLane:
    """Those of one lane.

    Attributes:
        times_ns: Planned time by batch size.
        switch_ns: Of a change to its model.
        others_free_ns: When another worker could start them.
        waiting: Who waits, by deadline.
        expected: Who is, in order of time.
        together: See `TOGETHER`.
    """

    lane: Lane
    times_ns: Sequence[int]
    switch_ns: int
    others_free_ns: int
    waiting: Ranked
    expected: Sequence[Expected]
    together: float
    _latest_start_ns: int = field(default=-1, init=False)  # -1: not looked for yet

    def batch_ns(self, waiting: int, expected: int) -> int:
        """Return how long the batch takes in which those that wait are answered."""
        rows = waiting + ceil(self.together * expected)
        if rows == 1 and waiting + expected > 1:
            rows = 2
        most = len(self.times_ns) - 1
        return self.times_ns[min(most, rows)]

    def latest_start_ns(self) -> int:
        """Return when a worker has to begin with them for none to be lost."""
        if self._latest_start_ns < 0:
            self._latest_start_ns = max(0, self._find_latest_start_ns())
        return self._latest_start_ns

    def _find_latest_start_ns(self) -> int:
        times_ns, others_free_ns, together = self.times_ns, self.others_free_ns, self.together
        most = len(times_ns) - 1
        latest_ns = FOREVER_NS
        count = 0
        for deadline_ns in self.waiting.times_ns:
            count += 1
            rows = ceil(together * count) + 1
            start_ns = deadline_ns - times_ns[min(most, rows)] - self.switch_ns
            if start_ns < latest_ns and start_ns < others_free_ns:
                latest_ns = start_ns
        for at_ns, _, due_ns, *_ in self.expected:
            if at_ns > latest_ns:
                break
            count += 1
            rows = ceil(together * count) + 1
            start_ns = due_ns - times_ns[min(most, rows)] - self.switch_ns
            if start_ns < latest_ns and start_ns < others_free_ns:
                latest_ns = max(at_ns, start_ns)
        return latest_ns


@define(eq=False)
class Critical:
    """Those of all lanes, as one decision sees them. Empty: there are none."""

    lanes: list[CriticalLane]

    def add(self, one: Contender, forecast: Forecast | None, *, until_ns: int) -> None:
        """Look at a lane; who is expected after `until_ns` does not matter."""
        waiting = one.line.critical
        expected: Sequence[Expected] = ()
        share = 0.0
        if forecast is not None and forecast.arrivals:
            arrivals = forecast.arrivals
            share = forecast.obedience / len(arrivals)
            expected = arrivals[: bisect_right(arrivals, (until_ns,))]
        if waiting.requests or expected:
            together = TOGETHER + (TOGETHER_OBEYING - TOGETHER) * share
            self.lanes.append(
                CriticalLane(
                    one.lane,
                    one.careful_ns,
                    one.usual_switch_ns,
                    one.others_free_ns,
                    waiting,
                    expected,
                    together,
                )
            )

    def lost_by(self, finish_ns: int, chosen: Lane, taken: Sequence[Request]) -> int:
        """Return how many are late if the worker is busy with `taken` until `finish_ns`.

        All of a lane are thought to be answered by one batch that starts then.
        """
        lost = 0
        for one in self.lanes:
            is_chosen = one.lane is chosen
            due_ns: Sequence[int] = one.waiting.times_ns
            if is_chosen and due_ns:
                due_ns = [r.rank[0] for r in one.waiting.requests if r not in taken]
            come = bisect_right(one.expected, (finish_ns + 1,))
            if due_ns or come:
                free_ns = finish_ns if is_chosen else finish_ns + one.switch_ns
                batch_ns = one.batch_ns(len(due_ns), come)
                answered_ns = min(free_ns, one.others_free_ns) + batch_ns
                lost += bisect_left(due_ns, answered_ns)
                for expected in one.expected[:come]:
                    lost += expected[2] < answered_ns
        return lost

    def latest_finish_ns(self, chosen: Lane) -> int:
        """Return until when a batch of `chosen` may run without losing one of another lane."""
        found_ns = FOREVER_NS
        for one in self.lanes:
            if one.lane is not chosen and one.latest_start_ns() < found_ns:
                found_ns = one.latest_start_ns()
        return found_ns

    def next_expected_ns(self) -> int | None:
        """Return when the first is expected to arrive."""
        return min((one.expected[0].at_ns for one in self.lanes if one.expected), default=None)
