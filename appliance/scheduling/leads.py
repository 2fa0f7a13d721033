"""Who goes without a deadline to lose: in front, beside others, or when nobody else wants to.

In front go a dry robot whose turn it is and that has waited a while (`outlook`), and a soft request
that is late anyway where that costs no firm one its deadline. They do so for a part of the time
only, and ride beside others else: batches made for them are small and cost others their answers,
who would be the next that run dry or are late. Beside others rides whoever makes nobody late by it.
When nobody else wants the worker, those go that are more than their clients said they would send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import chain

from appliance.scheduling.choice import FOREVER_NS, Choice, Contender, Wait
from appliance.scheduling.events import Request
from appliance.scheduling.line import Line
from appliance.scheduling.outlook import Outlook, dry_patience_ns
from appliance.scheduling.window import Window

BACKGROUND = 4
"""Rows of a batch in which nobody else rides."""

FULL_ENOUGH = 0.5
"""Part of those that want to ride; with fewer a dry robot leads only after twice its patience."""

PATIENCE = 2
"""A dry robot minds who is expected of tier 0 for so many times what answering it alone takes."""


_Lead = tuple[Contender, Window, Request]


def lead(outlook: Outlook) -> Choice | None:
    """Return the batch of who goes before all that has a deadline, if somebody does."""
    leads: list[_Lead] = []
    for one, window in outlook.pairs:
        if one.line.first.requests or window.first or not window.count:
            leads += _leads(one, window, outlook.alone_ns(one))
    leads.sort(key=_rank)
    for one, window, request in leads:
        from_ns = one.dry_from_ns if request.dry else one.late_from_ns
        if outlook.start_ns < from_ns and _has_peers(outlook, request):
            continue
        limit_ns = _limit_ns(outlook, one, request)
        if limit_ns is not None:
            members = [request]
            timely = window.first if window.count else len(one.line.timely)
            fill(outlook, one, members, _riders(one.line, timely), limit_ns)
            if request.dry and _waits_for_more(outlook, one, members):
                continue
            return Choice(one.lane, members, request)
    return None


def without_deadline(outlook: Outlook) -> Choice | Wait | None:
    """Return the batch of who may go where nobody has a deadline to lose."""
    wait: Wait | None = None
    for one, _ in outlook.pairs:
        alone_ns = outlook.alone_ns(one)
        for request in one.line:
            if request.background or (request.firm and alone_ns > request.deadline_ns):
                continue
            limit_ns = _limit_ns(outlook, one, request)
            until_ns = request.arrived_ns + PATIENCE * one.times_ns[1]
            if limit_ns is None and until_ns > outlook.start_ns:  # tier 0 is expected
                wait = Wait(until_ns)
                continue
            members = [request]
            fill(outlook, one, members, one.line, limit_ns or FOREVER_NS)
            return Choice(one.lane, members)
    for one, _ in outlook.pairs:
        members = _background(outlook, one)
        if members:
            return Choice(one.lane, members)
        if one.line.background.requests and outlook.critical.lanes and wait is None:
            # Tier 0 is expected, and may not come.
            wait = Wait(outlook.start_ns + PATIENCE * one.times_ns[1])
    return wait


def fill(
    outlook: Outlook,
    one: Contender,
    members: list[Request],
    riders: Iterable[Request],
    limit_ns: int = FOREVER_NS,
) -> None:
    """Add to a batch of a lane who may ride in it while that makes nobody late.

    Args:
        riders: Best first.
        limit_ns: When it has to be over.
    """
    begins_ns = outlook.start_ns + one.switch_ns
    alone_ns = begins_ns + one.times_ns[1]
    limit_ns = min(limit_ns, _others_ns(outlook, one, begins_ns + one.times_ns[len(members)]))
    critical_ns = outlook.critical.latest_finish_ns(one.lane)
    for member in members:
        if not member.dry and member.deadline_ns >= alone_ns:
            limit_ns = min(limit_ns, member.deadline_ns)
    for request in riders:
        if len(members) == one.most:
            return
        finish_ns = begins_ns + one.times_ns[len(members) + 1]
        careful_ns = begins_ns + one.careful_ns[len(members) + 1]
        if finish_ns > limit_ns or careful_ns > critical_ns:
            return
        is_timely = not request.dry and request.deadline_ns >= alone_ns
        if request in members or (request.firm and not is_timely):
            continue
        if is_timely:
            if finish_ns > request.deadline_ns:
                return
            limit_ns = min(limit_ns, request.deadline_ns)
        members.append(request)


def spare_riders(line: Line, first: int) -> Iterable[Request]:
    """Return who may ride where the timely ones are chosen, best first.

    Args:
        first: Of `timely`, the first that is in time alone.
    """
    return chain(line.first, line.timely.requests[:first], line.yielding, line.background)


def _riders(line: Line, first: int) -> Iterable[Request]:
    """Return who may ride with who leads, best first: where some are firm, the late come last."""
    timely = line.timely.requests
    order = (timely[first:], timely[:first]) if line.firm else (timely,)
    return chain(line.first, *order, line.yielding, line.background)


def _leads(one: Contender, window: Window, alone_ns: int) -> Iterable[_Lead]:
    """Return who might lead in a lane: its first dry one, and the first whose time is over.

    The latter if it is soft, or firm and still in time: its place was that of an older one.
    """
    for request in one.line.first.requests[:1]:
        yield one, window, request
    timely = one.line.timely.requests
    for request in timely[: window.first] if window.count else timely:
        if not request.firm or request.deadline_ns >= alone_ns:  # its place in the line is due
            yield one, window, request
            return


def _rank(lead: _Lead) -> tuple[int, ...]:
    """Return the rank of one that leads: by tier; the dry ones first, by their turns."""
    _, _, request = lead
    return (request.tier, not request.dry, *request.rank)


def _has_peers(outlook: Outlook, lead: Request) -> bool:
    """Return whether anybody waits with a deadline that can be met, of as good a tier."""
    return any(
        request.tier <= lead.tier
        for one, window in outlook.pairs
        if window.count
        for request in one.line.timely.requests[window.first :]
    )


def _waits_for_more(outlook: Outlook, one: Contender, members: list[Request]) -> bool:
    """Return whether the dry robot that leads `members` had better wait for a larger batch.

    Small batches cost the others of its lane their time, and they run dry next.
    """
    lead = members[0]
    longest_ns = 2 * dry_patience_ns(one)
    if outlook.start_ns - (lead.since_ns or lead.arrived_ns) >= longest_ns:
        return False
    wanted = min(one.most, len(one.line.timely) + len(one.line.first))
    return len(members) < FULL_ENOUGH * wanted and lead.tier > 0 and _has_peers(outlook, lead)


def _limit_ns(outlook: Outlook, one: Contender, lead: Request) -> int | None:
    """Return until when a batch with `lead` may run; None: it would endanger somebody even alone.

    That is whoever is of a better tier, or firm where `lead` is only late.
    """
    alone_ns = outlook.alone_ns(one)
    limit_ns = FOREVER_NS
    for other, window in outlook.pairs:
        if not window.count:
            continue
        timely = other.line.timely
        needs_ns = other.times_ns[1] + (0 if other is one else other.usual_switch_ns)
        first = window.first
        for due_ns, request in zip(timely.times_ns[first:], timely.requests[first:], strict=True):
            minds = request.tier < lead.tier or (request.firm and not lead.dry)
            last_ns = due_ns - needs_ns
            if minds and last_ns < alone_ns and other.others_free_ns > last_ns:
                return None
            if (minds or request.firm) and last_ns >= alone_ns:
                limit_ns = min(limit_ns, last_ns)
                break
    if outlook.critical.lanes and lead.tier > 0:
        latest_ns = outlook.critical.latest_finish_ns(one.lane)
        if latest_ns >= alone_ns:
            return min(limit_ns, latest_ns)
        is_patient = outlook.start_ns - lead.arrived_ns <= PATIENCE * one.times_ns[1]
        if is_patient or not lead.dry:
            return None
    return limit_ns


def _others_ns(outlook: Outlook, one: Contender, finish_ns: int) -> int:
    """Return until when riders may keep the worker from firm ones of other lanes.

    Args:
        finish_ns: When it is free without riders: who is lost by that does not matter any more.
    """
    latest_ns = FOREVER_NS
    for other, _ in outlook.pairs:
        if other is not one and other.line.firm:
            needs_ns = other.times_ns[1] + other.usual_switch_ns
            deadlines_ns = other.line.timely.times_ns
            index = bisect_left(deadlines_ns, finish_ns + needs_ns)
            if index < len(deadlines_ns) and other.others_free_ns > deadlines_ns[index] - needs_ns:
                latest_ns = min(latest_ns, deadlines_ns[index] - needs_ns)
    return latest_ns


def _background(outlook: Outlook, one: Contender) -> list[Request]:
    """Return a batch of a lane's background requests, as far as tier 0 allows."""
    begins_ns = outlook.start_ns + one.switch_ns
    latest_ns = outlook.critical.latest_finish_ns(one.lane)
    members: list[Request] = []
    for request in one.line.background:
        if len(members) == min(BACKGROUND, one.most):
            break
        finish_ns = begins_ns + one.times_ns[len(members) + 1]
        if finish_ns > latest_ns:
            break
        if request.firm:
            if finish_ns > request.deadline_ns:
                continue
            latest_ns = min(latest_ns, request.deadline_ns)
        members.append(request)
    return members
