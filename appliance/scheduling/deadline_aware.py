"""The strategy for robots: each answer before its deadline, each millisecond for an answer in time.

For each lane the most valuable batch is found (`window`), and a few smaller ones. Each is weighed:
what it answers, less the regret, which is what could be answered if it did not run and cannot be
after it; for each millisecond it takes. Whatever loses fewest of tier 0, waiting or expected, goes
before all else. Where nobody has to be lost, nobody is: then the plain order by deadline is tried,
and taken if it answers everybody. Before all that come those without a deadline to lose (`leads`).

Value is the time a row takes in the largest batch, so that no model is starved for another that is
cheaper to serve (Clockwork, OSDI 2020; Shepherd, NSDI 2023, weigh models alike).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from attrs import define

from appliance.scheduling.choice import FOREVER_NS, Choice, Contender, Decided, Wait
from appliance.scheduling.events import ModelRef, Request
from appliance.scheduling.leads import fill, lead, spare_riders, without_deadline
from appliance.scheduling.order import lost_in_order
from appliance.scheduling.outlook import Outlook, look
from appliance.scheduling.shedding import Shedding
from appliance.scheduling.streams import Forecast
from appliance.scheduling.window import Window, best_worth

ABOUT_TO_COME_NS = 1_000_000
"""Somebody who is expected may be so late, and is still waited for."""

SETTLE_NS = 250_000
"""How long after somebody is expected one looks again."""

MARGIN_NS = 500_000
"""Waiting ends so long before it would cost somebody a deadline."""

SMALL, MEDIUM = 4, 8
"""From these sizes on, a smaller batch is weighed too: one for tier 0, one of three quarters."""


@define(eq=False)
class Option:
    """A batch to be weighed: `count` of a lane's timely requests after the first `skip`.

    Attributes:
        one: The lane.
        window: Its most valuable batch.
        score: What it is worth for each nanosecond; once it is weighed, less its regret.
        critical: How many of tier 0 it loses, once it is weighed.
    """

    one: Contender
    window: Window
    skip: int
    count: int
    score: float
    critical: int = 0


@define(eq=False)
class DeadlineAware:
    """See the module's docstring.

    Args:
        forecasts: Where tier 0 is expected.
        shedding: Whether some are refused already, so that losses are planned for.
    """

    forecasts: Mapping[ModelRef, Forecast]
    shedding: Shedding

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        outlook = look(contenders, self.forecasts, start_ns)
        choice = lead(outlook) or _tight_critical(outlook)
        if choice is not None:
            return choice
        best = best_option(outlook)
        if best is None:
            return without_deadline(outlook)
        if best.critical:
            instead = _only_critical(outlook, best.critical) or _wait_for_critical(outlook)
            if instead is not None:
                return instead
        elif self.shedding.is_calm(best.one.lane.model):
            best = _all_in_order(outlook, best)
        one, first = best.one, best.window.first
        requests = one.line.timely.requests[best.skip : best.skip + best.count]
        if best.count < one.most and (first or one.line.has_spare):
            fill(outlook, one, requests, spare_riders(one.line, first))
        return Choice(one.lane, requests)


# ------------------------------------------------------------------------------------ weighing


def best_option(outlook: Outlook) -> Option | None:
    """Return the option that loses fewest of tier 0, and of those the most valuable."""
    best: Option | None = None
    losing: list[Option] = []
    for option in _options(outlook):
        if best is not None and option.score <= best.score:
            break  # regret only lowers what follows
        option.critical = _lost_of_tier_0(outlook, option)
        if option.critical:
            losing.append(option)
            continue
        option.score -= regret(outlook, option)
        if best is None or option.score > best.score:
            best = option
    if best is not None or not losing:
        return best
    fewest = min(option.critical for option in losing)
    for option in losing:
        if option.critical == fewest and (best is None or option.score > best.score):
            option.score -= regret(outlook, option)
            if best is None or option.score > best.score:
                best = option
    return best


def _options(outlook: Outlook) -> list[Option]:
    """Return what there is to weigh, most valuable first, as if nothing were to be regretted."""
    options: list[Option] = []
    for one, window in outlook.pairs:
        skip, count = window.skip, window.count
        if not count:
            continue
        options.append(_option(one, window, skip, count))
        if skip != window.first:
            options.append(_option(one, window, window.first, window.head))
        if count >= SMALL and outlook.critical.lanes:
            left_ns = outlook.critical.latest_finish_ns(one.lane) - outlook.start_ns - one.switch_ns
            fewer = bisect_right(one.careful_ns, left_ns) - 1
            if 0 < fewer < count:
                options.append(_option(one, window, skip, fewer))
        if count >= MEDIUM:
            options.append(_option(one, window, skip, 3 * count // 4))
    if len(options) > 1:
        options.sort(key=_score, reverse=True)
    return options


def _option(one: Contender, window: Window, skip: int, count: int) -> Option:
    timely = one.line.timely
    worth = sum(timely.values[skip : skip + count]) if timely.odd else count
    score = one.unit * worth / (one.times_ns[count] + one.switch_ns)
    return Option(one, window, skip, count, score)


def _score(option: Option) -> float:
    return option.score


def _lost_of_tier_0(outlook: Outlook, option: Option) -> int:
    """Return how many of tier 0 an option would make late."""
    if not outlook.critical.lanes:
        return 0
    one, skip, count = option.one, option.skip, option.count
    taken = one.line.timely.requests[skip : skip + count]
    finish_ns = outlook.start_ns + one.careful_ns[count] + one.switch_ns
    return outlook.critical.lost_by(finish_ns, one.lane, taken)


def regret(outlook: Outlook, option: Option) -> float:
    """Return what could be answered if an option did not run, and not after it, a nanosecond."""
    one, count = option.one, option.count
    busy_ns = one.times_ns[count] + one.switch_ns
    finish_ns = outlook.start_ns + busy_ns
    lost = 0.0
    if len(one.line.timely.times_ns) - option.window.first > count:
        lost = _lost_of_rest(outlook, option, finish_ns)
    for other, window in outlook.pairs:
        if other is one or not window.count:
            continue
        timely = other.line.timely
        free_ns = min(finish_ns + other.usual_switch_ns, other.others_free_ns)
        if timely.times_ns[window.skip] - free_ns < other.times_ns[window.count]:
            values = timely.values if timely.odd else None
            later = best_worth(timely.times_ns, values, other.times_ns, free_ns)
            if later < window.worth:
                lost += other.unit * (window.worth - later)
    return lost / busy_ns


def _lost_of_rest(outlook: Outlook, option: Option, finish_ns: int) -> float:
    """Return the worth of what an option costs those of its own lane that are not in it."""
    one, timely = option.one, option.one.line.timely
    first, skip, end = option.window.first, option.skip, option.skip + option.count
    deadlines_ns = timely.times_ns[first:skip] + timely.times_ns[end:]
    free_ns = min(finish_ns, one.others_free_ns)
    if deadlines_ns[0] - free_ns >= one.times_ns[min(len(deadlines_ns), one.most)]:
        return 0.0  # whatever could run now still can
    values = timely.values[first:skip] + timely.values[end:] if timely.odd else None
    later = best_worth(deadlines_ns, values, one.times_ns, free_ns)
    free_ns = min(outlook.start_ns, one.others_free_ns)
    now = best_worth(deadlines_ns, values, one.times_ns, free_ns)
    return one.unit * max(0.0, now - later)


# ------------------------------------------------------------------------- in order of deadlines


def _all_in_order(outlook: Outlook, best: Option) -> Option:
    """Return the head batch by deadline if that loses nobody and `best` somebody."""
    if not _loses(outlook, best):
        return best
    first_ns, head = FOREVER_NS, best
    for one, window in outlook.pairs:
        if window.count and one.line.timely.times_ns[window.first] < first_ns:
            first_ns = one.line.timely.times_ns[window.first]
            head = _option(one, window, window.first, window.head)
    if (head.one, head.skip, head.count) == (best.one, best.skip, best.count):
        return best
    if _loses(outlook, head) or _lost_of_tier_0(outlook, head):
        return best
    return head


def _loses(outlook: Outlook, option: Option) -> int:
    """Return how many are late if this batch runs and the rest in order of deadlines."""
    one, end = option.one, option.skip + option.count
    deadlines_ns = one.line.timely.times_ns
    rest_ns = deadlines_ns[option.window.first : option.skip] + deadlines_ns[end:]
    free_ns = outlook.start_ns + one.times_ns[option.count] + one.switch_ns
    return _lost_from(outlook, free_ns, one, rest_ns)


def _lost_from(outlook: Outlook, free_ns: int, one: Contender, own_ns: Sequence[int]) -> int:
    """Return how many are late that could be in time now, if served in order of deadlines.

    Args:
        free_ns: When the worker begins with them.
        one: Whose model it runs until then.
        own_ns: The deadlines that are left of that lane.
    """
    waiting: list[tuple[Contender, Sequence[int]]] = []
    first_ns, last_ns = FOREVER_NS, free_ns
    for other, window in outlook.pairs:
        if not window.count:
            continue
        deadlines_ns: Sequence[int] = other.line.timely.times_ns
        if other is one:
            deadlines_ns = own_ns
        elif window.first:
            deadlines_ns = deadlines_ns[window.first :]
        if deadlines_ns:
            waiting.append((other, deadlines_ns))
            first_ns = min(first_ns, deadlines_ns[0])
            full, rest = divmod(len(deadlines_ns), other.most)
            last_ns += full * other.times_ns[-1] + other.times_ns[rest]
            last_ns += (full + 1) * other.usual_switch_ns
    if last_ns <= first_ns:
        return 0  # whoever is last is done before the first has to be
    return lost_in_order(waiting, one, free_ns)


# ---------------------------------------------------------------------------------------- tier 0


def _only_critical(outlook: Outlook, lost: int) -> Choice | None:
    """Return the batch of a lane's tier 0 alone, and who fits in, if that loses fewer of it."""
    for one, window in outlook.pairs:
        if not (window.count and one.line.critical.requests):
            continue
        begins_ns = outlook.start_ns + one.switch_ns
        waiting = one.line.timely.requests[window.first :]
        taken = _in_time([r for r in waiting if r.tier == 0][: one.most], one, begins_ns)
        if not taken:
            continue
        finish_ns = begins_ns + one.careful_ns[len(taken)]
        if outlook.critical.lost_by(finish_ns, one.lane, taken) < lost:
            fill(outlook, one, taken, waiting)
            return Choice(one.lane, taken)
    return None


def _in_time(requests: list[Request], one: Contender, begins_ns: int) -> list[Request]:
    """Return as many as one batch can answer in time, from the first on."""
    taken: list[Request] = []
    due_ns = FOREVER_NS
    for request in requests:
        if begins_ns + one.careful_ns[1] > request.deadline_ns:
            continue
        due_ns = min(
            due_ns, request.deadline_ns
        )  # not the first's: its place may be an older one's
        if begins_ns + one.careful_ns[len(taken) + 1] > due_ns:
            break
        taken.append(request)
    return taken


def _wait_for_critical(outlook: Outlook) -> Wait | None:
    """Return until when to wait for who is expected, if that costs nobody a deadline.

    Not while the first of them is overdue: then they come so irregularly that waiting costs more.
    """
    one, own = outlook.pairs[0]
    now_ns = outlook.start_ns - one.delay_ns
    expected_ns = outlook.critical.next_expected_ns()
    if expected_ns is None or expected_ns <= now_ns - ABOUT_TO_COME_NS:
        return None
    comes_ns = max(expected_ns, now_ns)
    begins_ns = comes_ns + one.delay_ns + MARGIN_NS
    for other, window in outlook.pairs:
        if window.count:
            last_ns = other.line.timely.times_ns[window.first] - other.times_ns[1]
            if begins_ns >= last_ns - other.usual_switch_ns:
                return None
    rest_ns = one.line.timely.times_ns[own.first :]
    begins_ns += SETTLE_NS
    if _lost_from(outlook, begins_ns, one, rest_ns) > _lost_from(
        outlook, outlook.start_ns, one, rest_ns
    ):
        return None
    return Wait(comes_ns + SETTLE_NS)


def _tight_critical(outlook: Outlook) -> Choice | None:
    """Return the batch of one of tier 0 who is in time only if all goes well, if it costs nobody.

    To those that are planned for with care it is lost, as it may be late.
    """
    for one, window in outlook.pairs:
        if not one.line.critical.requests:
            continue
        timely, begins_ns = one.line.timely, outlook.start_ns + one.switch_ns
        first = window.first if window.count else len(timely.requests)
        for request in timely.requests[:first]:
            if request.tier == 0 and begins_ns + one.alone_ns <= request.deadline_ns:
                free_ns = begins_ns + one.times_ns[1]
                if not _lost_from(outlook, free_ns, one, timely.times_ns[first:]):
                    return Choice(one.lane, [request])
    return None
