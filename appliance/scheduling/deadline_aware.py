"""The strategy for robots: each answer before its deadline, each millisecond for an answer in time.

For each lane the most valuable batch is found (`window`), and a few smaller ones. Each is weighed:
what it answers, less the regret, which is what could be answered if it did not run and cannot be
after it; for each millisecond it takes. Whatever loses fewest of tier 0, waiting or expected, goes
before all else. Where nobody has to be lost, nobody is: then the plain order by deadline is tried,
and taken if it answers everybody.

Before that come those who have no deadline to lose: a dry robot whose turn it is, and a soft
request that is late anyway where that costs no firm one its deadline.

Value is the time a row takes in the largest batch, so that no model is starved for another that is
cheaper to serve (Clockwork, OSDI 2020; Shepherd, NSDI 2023, weigh models alike).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from attrs import define, field

from appliance.scheduling.choice import FOREVER_NS, Choice, Contender, Decided, Wait
from appliance.scheduling.critical import Critical
from appliance.scheduling.events import ModelRef, Request
from appliance.scheduling.order import lost_in_order
from appliance.scheduling.room import Line
from appliance.scheduling.shedding import Shedding
from appliance.scheduling.streams import Forecast
from appliance.scheduling.window import NOTHING, Window, best_window
from appliance.values import value

AHEAD_NS = 20_000_000
"""Tier 0 is looked for so far beyond the longest batch."""

ABOUT_TO_COME_NS = 1_000_000
SETTLE_NS = 250_000
"""How long after somebody is expected one looks again."""

MARGIN_NS = 500_000
SMALL, MEDIUM = 4, 8
"""From these sizes on, a smaller batch is weighed too: for tier 0, three quarters."""

BACKGROUND = 4
"""Rows of a batch in which nobody else rides."""


@value
class Option:
    """A batch that is weighed: `count` of a lane's timely requests after the first `skip`."""

    contender: Contender
    skip: int
    count: int
    finish_ns: int
    critical: int
    score: float

    @property
    def requests(self) -> list[Request]:
        """The requests in it."""
        return self.contender.line.timely.requests[self.skip : self.skip + self.count]


@define(eq=False)
class DeadlineAware:
    """See the module's docstring.

    Args:
        forecasts: Where tier 0 is expected.
        shedding: Whether some are refused already, so that losses are planned for.
    """

    forecasts: Mapping[ModelRef, Forecast]
    shedding: Shedding
    _contenders: Sequence[Contender] = field(factory=list[Contender], init=False)
    _windows: list[Window] = field(factory=list[Window], init=False)
    _critical: Critical = field(factory=Critical, init=False)

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        self._contenders = contenders
        self._critical = self._look_for_critical(start_ns)
        self._windows = [
            best_window(
                one.line.timely.times_ns,
                one.line.timely.values,
                one.times_ns,
                start_ns + one.switch_ns,
            )
            if one.line.timely.requests
            else NOTHING
            for one in contenders
        ]
        lead = self._lead(start_ns)
        if lead is not None:
            return lead
        best = self._best(start_ns)
        if best is None:
            return self._without_deadline(start_ns)
        if best.critical:
            only = self._only_critical(best.critical, start_ns)
            if only is not None:
                return only
            until_ns = self._wait_for_critical(start_ns)
            if until_ns is not None:
                return Wait(until_ns)
        elif self.shedding.calm:
            best = self._all_in_order(best, start_ns)
        requests = best.requests
        if len(requests) < best.contender.most:
            riders = _spare_riders(best.contender.line, self._first(best.contender))
            self._fill(best.contender, requests, riders, start_ns)
        return Choice(best.contender.lane, requests)

    # ------------------------------------------------------------------------- weighing

    def _best(self, start_ns: int) -> Option | None:
        """Return the option that loses fewest of tier 0, and of those the most valuable."""
        candidates: list[tuple[float, int, int, int]] = []
        for index, (one, window) in enumerate(zip(self._contenders, self._windows, strict=True)):
            if window.count:
                for skip, count in self._sizes(one, window, start_ns):
                    worth = sum(one.line.timely.values[skip : skip + count])
                    at_best = one.unit * worth / (one.times_ns[count] + one.switch_ns)
                    candidates.append((at_best, index, skip, count))
        candidates.sort(reverse=True)
        best: Option | None = None
        for at_best, index, skip, count in candidates:
            if best is not None and best.critical == 0 and at_best <= best.score:
                break  # regret only lowers the others' scores
            option = self._weigh(index, at_best, skip, count, start_ns)
            if (
                best is None
                or option.critical < best.critical
                or (option.critical == best.critical and option.score > best.score)
            ):
                best = option
        return best

    def _sizes(self, one: Contender, window: Window, start_ns: int) -> list[tuple[int, int]]:
        """Return where in the line to begin and how many to take, for each option."""
        skip, count = window.skip, window.count
        sizes = [(skip, count)]
        if skip != window.first:
            sizes.append((window.first, window.head))
        if count >= SMALL and self._critical.lanes:
            latest_ns = self._critical.latest_finish_ns(one.lane)
            fewer = _largest(one.careful_ns, latest_ns - start_ns - one.switch_ns)
            if 0 < fewer < count:
                sizes.append((skip, fewer))
        if count >= MEDIUM:
            sizes.append((skip, 3 * count // 4))
        return sizes

    def _weigh(self, index: int, at_best: float, skip: int, count: int, start_ns: int) -> Option:
        """Weigh one batch.

        Args:
            at_best: Its score if nothing is to be regretted.
        """
        one = self._contenders[index]
        busy_ns = one.times_ns[count] + one.switch_ns
        finish_ns = start_ns + busy_ns
        timely = one.line.timely
        end = skip + count
        regret = 0.0
        if len(timely.times_ns) > count:
            deadlines_ns = timely.times_ns[:skip] + timely.times_ns[end:]
            values = timely.values[:skip] + timely.values[end:]
            now = best_window(deadlines_ns, values, one.times_ns, min(start_ns, one.others_free_ns))
            if now.worth:
                free_ns = min(finish_ns, one.others_free_ns)
                later = best_window(deadlines_ns, values, one.times_ns, free_ns)
                regret += one.unit * max(0.0, now.worth - later.worth)
        for other, now in zip(self._contenders, self._windows, strict=True):
            if other is one or not now.worth:
                continue
            other_timely = other.line.timely
            free_ns = min(finish_ns + other.usual_switch_ns, other.others_free_ns)
            later = best_window(other_timely.times_ns, other_timely.values, other.times_ns, free_ns)
            regret += other.unit * max(0.0, now.worth - later.worth)
        critical = 0
        if self._critical.lanes:
            careful_ns = start_ns + one.careful_ns[count] + one.switch_ns
            critical = self._critical.lost_by(careful_ns, one.lane, timely.requests[skip:end])
        return Option(one, skip, count, finish_ns, critical, at_best - regret / busy_ns)

    def _all_in_order(self, best: Option, start_ns: int) -> Option:
        """Return the head batch by deadline if that loses nobody and `best` somebody."""
        if not self._loses(best.contender, best.skip, best.count, start_ns):
            return best
        heads = [
            (one.line.timely.times_ns[window.first], index)
            for index, (one, window) in enumerate(zip(self._contenders, self._windows, strict=True))
            if window.count
        ]
        _, index = min(heads)
        one, window = self._contenders[index], self._windows[index]
        if (one is best.contender and (window.first, window.head) == (best.skip, best.count)) or (
            self._loses(one, window.first, window.head, start_ns)
        ):
            return best
        option = self._weigh(index, 0.0, window.first, window.head, start_ns)
        return best if option.critical else option

    def _loses(self, one: Contender, skip: int, count: int, start_ns: int) -> int:
        """Return how many are late if this batch runs and the rest in order of deadlines."""
        waiting: list[tuple[Contender, Sequence[int]]] = []
        for other, window in zip(self._contenders, self._windows, strict=True):
            deadlines_ns = other.line.timely.times_ns
            if other is one:
                deadlines_ns = deadlines_ns[window.first : skip] + deadlines_ns[skip + count :]
            else:
                deadlines_ns = deadlines_ns[window.first :] if window.count else []
            if deadlines_ns:
                waiting.append((other, deadlines_ns))
        free_ns = start_ns + one.times_ns[count] + one.switch_ns
        return lost_in_order(waiting, one, free_ns)

    # --------------------------------------------------------------------------- tier 0

    def _look_for_critical(self, start_ns: int) -> Critical:
        critical = Critical()
        if not self.forecasts and not any(one.line.critical for one in self._contenders):
            return critical
        until_ns = start_ns + AHEAD_NS + max(one.times_ns[-1] for one in self._contenders)
        seen: set[ModelRef] = set()
        for one in self._contenders:
            model = one.lane.model
            forecast = None if model in seen else self.forecasts.get(model)
            seen.add(model)
            critical.add(
                one.lane,
                one.line,
                forecast,
                times_ns=one.careful_ns,
                switch_ns=one.usual_switch_ns,
                others_free_ns=one.others_free_ns,
                until_ns=until_ns,
            )
        return critical

    def _wait_for_critical(self, start_ns: int) -> int | None:
        """Return when to look again, if waiting for who is expected costs nobody a deadline."""
        expected_ns = self._critical.next_expected_ns()
        if expected_ns is None or expected_ns <= start_ns - ABOUT_TO_COME_NS:
            return None
        for one, window in zip(self._contenders, self._windows, strict=True):
            if window.count:
                last_ns = one.line.timely.times_ns[window.first] - one.times_ns[1]
                if expected_ns >= last_ns - one.usual_switch_ns - MARGIN_NS:
                    return None
        return max(expected_ns, start_ns) + SETTLE_NS

    def _only_critical(self, lost: int, start_ns: int) -> Choice | None:
        """Return the batch of a lane's tier 0 alone, and who fits in, if that loses fewer of it."""
        for one, window in zip(self._contenders, self._windows, strict=True):
            if not (window.count and one.line.critical):
                continue
            begins_ns = start_ns + one.switch_ns
            waiting = one.line.timely.requests[window.first :]
            taken = [request for request in waiting if request.tier == 0][: one.most]
            while taken and begins_ns + one.careful_ns[len(taken)] > taken[0].deadline_ns:
                del taken[0 if begins_ns + one.careful_ns[1] > taken[0].deadline_ns else -1]
            if not taken:
                continue
            finish_ns = begins_ns + one.careful_ns[len(taken)]
            if self._critical.lost_by(finish_ns, one.lane, taken) < lost:
                self._fill(one, taken, waiting, start_ns)
                return Choice(one.lane, taken)
        return None

    # -------------------------------------------------------------- without a deadline to lose

    def _lead(self, start_ns: int) -> Choice | None:
        """Return the batch of who goes before all that has a deadline, if somebody does."""
        for one, window in zip(self._contenders, self._windows, strict=True):
            if one.line.first.requests or window.first or (not window.count and one.line.timely):
                break
        else:
            return None
        leads = [
            (*_as_lead(request), one, request)
            for one, window in zip(self._contenders, self._windows, strict=True)
            for request in _leads(one, window)
        ]
        leads.sort(key=lambda lead: lead[:5])
        for lead in leads:
            one, request = lead[-2], lead[-1]
            limit_ns = self._limit_ns(one, request, start_ns)
            if limit_ns is not None:
                members = [request]
                self._fill(one, members, _riders(one.line, self._first(one)), start_ns, limit_ns)
                return Choice(one.lane, members)
        return None

    def _limit_ns(self, one: Contender, lead: Request, start_ns: int) -> int | None:
        """Return until when a batch with `lead` may run; None: somebody is in danger even alone.

        That is whoever is of a better tier, or firm where `lead` is only late.
        """
        alone_ns = start_ns + one.switch_ns + one.times_ns[1]
        limit_ns = FOREVER_NS
        for other, window in zip(self._contenders, self._windows, strict=True):
            if not window.count:
                continue
            timely = other.line.timely
            needs_ns = other.times_ns[1] + (other.usual_switch_ns if other is not one else 0)
            for index in range(window.first, len(timely)):
                last_ns = timely.times_ns[index] - needs_ns
                request = timely.requests[index]
                if request.tier < lead.tier or (request.firm and not lead.dry):
                    if last_ns < alone_ns and other.others_free_ns > last_ns:
                        return None
                    limit_ns = min(limit_ns, last_ns)
                    break
                if request.firm:
                    if last_ns >= alone_ns:
                        limit_ns = min(limit_ns, last_ns)
                    break
        if self._critical.lanes and lead.tier > 0:
            latest_ns = self._critical.latest_finish_ns(one.lane)
            patient = start_ns - lead.arrived_ns <= 2 * one.times_ns[1]
            if latest_ns < alone_ns and (patient or not lead.dry):
                return None
            if latest_ns >= alone_ns:
                limit_ns = min(limit_ns, latest_ns)
        return limit_ns

    def _without_deadline(self, start_ns: int) -> Choice | None:
        """Return a batch of those that wait for a time when nobody else wants the worker."""
        for one in self._contenders:
            line = one.line
            waiting = [*line.first, *line.timely, *line.yielding]
            members = [
                request
                for request in waiting
                if not request.firm
                or start_ns + one.times_ns[1] + one.switch_ns <= request.deadline_ns
            ][:1]
            if members:
                self._fill(one, members, _riders(one.line, self._first(one)), start_ns)
                return Choice(one.lane, members)
        for one in self._contenders:
            latest_ns = self._critical.latest_finish_ns(one.lane)
            members = []
            for request in one.line.background:
                finish_ns = start_ns + one.switch_ns + one.times_ns[len(members) + 1]
                if len(members) < min(BACKGROUND, one.most) and finish_ns <= latest_ns:
                    if not request.firm or finish_ns <= request.deadline_ns:
                        latest_ns = (
                            min(latest_ns, request.deadline_ns) if request.firm else latest_ns
                        )
                        members.append(request)
            if members:
                return Choice(one.lane, members)
        return None

    # ------------------------------------------------------------------------------ riders

    def _first(self, one: Contender) -> int:
        """Return where in a lane's timely requests those begin that are in time if they go alone."""
        window = self._windows[self._contenders.index(one)]
        return window.first if window.count else len(one.line.timely)

    def _fill(
        self,
        one: Contender,
        members: list[Request],
        riders: Iterable[Request],
        start_ns: int,
        limit_ns: int = FOREVER_NS,
    ) -> None:
        """Add to a batch who may ride in it while that makes nobody late.

        Args:
            riders: Best first.
            limit_ns: When it has to be over.
        """
        most = one.most
        begins_ns = start_ns + one.switch_ns
        alone_ns = begins_ns + one.times_ns[1]
        limit_ns = min(limit_ns, self._leaves_ns(one, start_ns))
        for member in members:
            if not member.dry and member.deadline_ns >= alone_ns:
                limit_ns = min(limit_ns, member.deadline_ns)
        for request in riders:
            if len(members) >= most:
                return
            if request in members:
                continue
            finish_ns = begins_ns + one.times_ns[len(members) + 1]
            if finish_ns > limit_ns:
                return
            in_time = not request.dry and request.deadline_ns >= alone_ns
            if in_time and finish_ns > request.deadline_ns:
                if not request.firm and not request.background:
                    return
                continue
            if request.firm and not in_time:
                continue
            if in_time:
                limit_ns = min(limit_ns, request.deadline_ns)
            members.append(request)

    def _leaves_ns(self, one: Contender, start_ns: int) -> int:
        """Return until when riders may keep the worker from the other lanes, and from tier 0."""
        latest_ns = FOREVER_NS
        for other, window in zip(self._contenders, self._windows, strict=True):
            if other is not one and window.count and other.line.firm:
                needs_ns = other.times_ns[1] + other.usual_switch_ns
                last_ns = other.line.timely.times_ns[window.first] - needs_ns
                if other.others_free_ns > last_ns:
                    latest_ns = min(latest_ns, last_ns)
        if self._critical.lanes:
            latest_ns = min(latest_ns, self._critical.latest_finish_ns(one.lane))
        return latest_ns


def _largest(times_ns: Sequence[int], left_ns: int) -> int:
    """Return the largest batch that is over in `left_ns`."""
    return bisect_left(times_ns, left_ns + 1) - 1 if left_ns > 0 else 0


def _as_lead(request: Request) -> tuple[int, int, int, int, int]:
    """Return the rank of a request among dry and late ones: by tier, then by time."""
    first, second, *rest = request.rank
    return (first, second, *rest) if request.dry else (second, first, *rest)  # pyright: ignore


def _leads(one: Contender, window: Window) -> Iterable[Request]:
    """Return who might lead in a lane: its first dry one, its first that is late and soft."""
    yield from one.line.first.requests[:1]
    timely = one.line.timely
    late = window.first if window.count else len(timely)
    for request in timely.requests[:late]:
        if not request.firm:
            yield request
            return


def _riders(line: Line, first: int) -> Iterable[Request]:
    """Return who may ride with who leads, best first.

    Where some are firm, those that are late anyway come after them.

    Args:
        first: Of `timely`, the first that is in time alone.
    """
    timely = line.timely.requests
    order = (timely[first:], timely[:first]) if line.firm else (timely,)
    return chain(line.first, *order, line.yielding, line.background)


def _spare_riders(line: Line, first: int) -> Iterable[Request]:
    """Return who may ride where the timely ones are chosen, best first."""
    return chain(line.first, line.timely.requests[:first], line.yielding, line.background)
