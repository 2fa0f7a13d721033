"""What a worker may run next, as a strategy is shown it: lanes, and how long they take there.

Left out is what a worker does not host, what it had better not load now, and what might kill the
last one. What nobody waits for is shown where tier 0 is expected.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, evolve

from appliance.scheduling.choice import Contender
from appliance.scheduling.estimate import Estimate
from appliance.scheduling.events import Lane, ModelRef, Request
from appliance.scheduling.line import Line
from appliance.scheduling.queue import Queue
from appliance.scheduling.workers import Worker, Workers

NOBODY = Line()
"""Stays empty."""

_Hosted = tuple[Lane, Line, Estimate, int]
"""A lane that a worker may serve, and its largest batch there."""


@define(eq=False)
class Contenders:
    """See the module's docstring.

    Attributes:
        workers: Those that are up, and the times of their models.
        queue: What waits.
    """

    workers: Workers
    queue: Queue

    def of(self, worker: Worker, start_ns: int) -> list[Contender]:
        """Return the lanes a worker may serve, and those of tier 0 that it may have to."""
        models, estimate = worker.models, self.workers.estimate
        lines: list[_Hosted] = [
            (lane, line, estimate(lane.model), models[lane.model])
            for lane, line in self.queue.room.lines.items()
            if lane.model in models
            and (not lane.isolation or self.may_run(lane, line, worker))
            and (worker.loads is None or self._may_load(lane.model, line, worker, start_ns))
        ]
        if not lines:
            return []
        forecasts = self.queue.streams.forecasts
        if forecasts:
            waiting = [lane.model for lane, _, _, _ in lines]
            for model, forecast in forecasts.items():
                forecast.forget_missing(start_ns)
                if forecast.arrivals and model in models and model not in waiting:
                    lines.append((Lane(model), NOBODY, estimate(model), models[model]))
        is_roomy = self._is_roomy(lines)
        return [self._contender(each, worker, start_ns, is_roomy=is_roomy) for each in lines]

    def beside(self, worker: Worker, start_ns: int) -> list[Contender]:
        """Return the lanes of which tier 0 may be started beside what a worker executes.

        With nobody in them who is of another tier: those take their turn.
        """
        if not any(
            line.has_tier_0 and worker.takes_beside(lane.model)
            for lane, line in self.queue.room.lines.items()
        ):
            return []
        return [
            _of_tier_0(one)
            for one in self.of(worker, start_ns)
            if one.line.has_tier_0 and worker.takes_beside(one.lane.model)
        ]

    def _is_roomy(self, lines: list[_Hosted]) -> bool:
        """Return whether what waits takes no longer than a batch, and nobody is refused."""
        waiting_ns, longest_ns = 0.0, 0
        for lane, line, estimate, most in lines:
            full_ns = estimate.planned_ns[most]
            waiting_ns += len(line.timely.requests) * full_ns / most
            longest_ns = max(longest_ns, full_ns)
            if self.queue.shedding.passing(lane.model) < 1:
                return False
        return waiting_ns <= longest_ns

    def _contender(
        self, hosted: _Hosted, worker: Worker, start_ns: int, *, is_roomy: bool
    ) -> Contender:
        lane, line, estimate, most = hosted
        model = lane.model
        careful_ns = estimate.safe_ns if is_roomy else estimate.careful_ns
        times_ns = careful_ns if line.critical.requests else estimate.planned_ns
        if estimate.largest > most:  # another worker takes larger batches of it
            careful_ns, times_ns = careful_ns[: most + 1], times_ns[: most + 1]
        alone_ns, switch_ns = estimate.planned_ns[1], estimate.switch_ns
        if worker.throttling.is_on:
            pace = worker.throttling.pace(model)
            careful_ns = [int(pace * time_ns) for time_ns in careful_ns]
            times_ns = [int(pace * time_ns) for time_ns in times_ns]
            alone_ns, switch_ns = int(pace * alone_ns), int(pace * switch_ns)
        load_ns = worker.load_ns(model)
        return Contender(
            lane,
            line,
            times_ns,
            careful_ns,
            alone_ns,
            worker.delay_ns,
            (0 if worker.last in (None, model) else switch_ns) + load_ns,
            switch_ns + load_ns,
            self.workers.others_free_ns(model, worker, start_ns),
            worker.dry_from_ns,
            worker.late_from_ns,
            line.timely.usual * times_ns[most] / most,
        )

    def may_run(self, lane: Lane, requests: Iterable[Request], worker: Worker) -> bool:
        """A worker runs what it hosts; a row that killed a worker never risks the last one."""
        if lane.model not in worker.models:
            return False
        if lane.isolation == 0 or not any(request.deaths for request in requests):
            return True
        return self.workers.hosting(lane.model) > 1

    def _may_load(self, model: ModelRef, line: Line, worker: Worker, start_ns: int) -> bool:
        """Return whether a worker may load a model for those that wait for it, if it has to.

        Not where they fit into one batch of another worker that has it and is free before it is
        loaded; nor in the place of one that tier 0 is expected for and no other worker has, unless
        tier 0 waits for it.
        """
        load_ns = worker.load_ns(model)
        if not load_ns or worker.loads is None:
            return True
        others = self.workers.having(model, worker)
        if len(line) <= worker.models[model] and any(
            other.free_ns < start_ns + load_ns for other in others
        ):
            return False
        forecasts = self.queue.streams.forecasts
        return bool(line.critical.requests) or not any(
            leaves in forecasts
            and forecasts[leaves].arrivals
            and not self.workers.having(leaves, worker)
            for leaves in worker.loads.leaving(model)
        )


def _of_tier_0(one: Contender) -> Contender:
    line = one.line.of_tier_0()
    return evolve(one, line=line, unit=line.timely.usual * one.times_ns[-1] / one.most)
