"""A request's way while it waits: whether it is let in, its place in the line, its end.

Owner of every waiting request. It asks how long work takes and when workers will be free, and
decides nothing about what they do: that is the scheduler's, which takes requests out of `room`
and brings back those that got no answer.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal

from attrs import Factory, define, field

from appliance.errors import Outcome
from appliance.scheduling.due import DueTimes
from appliance.scheduling.events import Answer, Effect, Lane, Request, Withdrawn
from appliance.scheduling.room import WaitingRoom
from appliance.scheduling.shedding import Shedding
from appliance.scheduling.streams import Stream, Streams
from appliance.scheduling.turns import Mailbox
from appliance.scheduling.workers import Workers

OverflowPolicy = Literal["drop_oldest", "reject_newest"]

PROBE_NS = 1_000_000_000
"""Where nothing of a model ran for so long, one is run though it may be late."""

RESIDENCE = 4
"""Where it would have to be loaded, no sooner than after so many times what that takes: those that
took its place have been served for a while."""

WRONG_BY = 3
"""Times are not thought to be wrong by more than this."""

TTL_MARGIN = 8
"""Who has more time than it may wait is in line as if it had that, but for one part of so many."""

HOPELESS = "it can no longer make its deadline"
SHED = "more comes than can be answered in time"
SUPERSEDED = "a newer observation replaced it"
CLOSING = "the appliance stopped before it was answered"


@define(eq=False)
class Queue:
    """See the module's docstring.

    Attributes:
        workers: Asked for times, and for what shares workers.
        room: What waits.
        streams: Each client's rhythm and allowance.
        shedding: Who is refused so that the others are in time.
        effects: Where answers go; the scheduler's, a new list in each turn.
    """

    workers: Workers
    max_queue_size: int
    overflow_policy: OverflowPolicy
    room: WaitingRoom = field(
        default=Factory(lambda self: WaitingRoom(self.workers.group_of), takes_self=True),
        init=False,
    )
    streams: Streams = field(factory=Streams, init=False)
    shedding: Shedding = field(
        default=Factory(lambda self: Shedding(self.workers.group_of), takes_self=True), init=False
    )
    effects: list[Effect] = field(factory=list[Effect], init=False)
    _due: DueTimes = field(
        default=Factory(lambda self: DueTimes(self.room), takes_self=True), init=False
    )
    _isolation: int = field(default=0, init=False)

    @property
    def due_ns(self) -> int | None:
        """When the first request that waits has to be looked at again, whatever happens."""
        return self._due.next_ns

    # ------------------------------------------------------------------------------- arrivals

    def arrived(self, request: Request, now_ns: int) -> None:
        """Let a request wait, or end it; a newer one replaces an older one."""
        if request.keep_latest or request.firm or request.period_ns or request.tier == 0:
            request.stream = self.streams.arrived(request, now_ns)
            if self._is_refused(request, request.stream, now_ns):
                return
        # A deadline that was over on arrival is no way to pass those who came before; one that is
        # beyond the time to live would be waited for in vain.
        latest_ns = request.expires_ns - (request.expires_ns - request.arrived_ns) // TTL_MARGIN
        request.rank_ns = max(min(request.deadline_ns, latest_ns), request.arrived_ns)
        mailbox = self.room.mailbox(request)
        older = mailbox.latest
        if older is not None:
            # The newcomer keeps the older one's place, or a fast sender would wait for ever.
            request.rank_ns = min(request.rank_ns, older.rank_ns)
            request.since_ns = older.since_ns or older.arrived_ns
            request.background = request.background and older.background
            self.discard(older, Outcome.SUPERSEDED, SUPERSEDED)
        if mailbox.requests and not request.keep_latest and not self._queue_up(request, mailbox):
            return
        if self.room.count >= self.max_queue_size and not self._make_room(request, mailbox):
            return
        self.room.add(request, mailbox)
        self._watch(request)

    def _is_refused(self, request: Request, stream: Stream, now_ns: int) -> bool:
        """Hold a request to what its client said, and end it if there is no time for it."""
        if request.period_ns or (request.firm and request.keep_latest):
            request.background = not stream.may_come(request, now_ns)
            if request.background and request.dry:
                # It may well ask sooner because it has run dry, but no turn of others is its.
                request.background = not self.room.was_seldom_served(request)
                request.dry = not request.background
        if not request.firm:
            return False
        if not request.background and self.shedding.refuses(request, stream, now_ns):
            period_ns = stream.cadence.period_ns
            self.effects.append(Answer(request, Outcome.SHED, SHED, retry_after_ns=period_ns))
            return True
        model, is_critical = request.lane.model, request.tier == 0
        finish_ns = self.workers.earliest_finish_ns(model, now_ns, beside=is_critical)
        if finish_ns <= request.deadline_ns:
            return False
        if self._may_probe(request, now_ns):
            request.firm = False
            return False
        self._lost(request)
        if request.runs_out and not request.background:
            request.firm, request.dry = False, True
            return False
        self.answer(request, Outcome.INFEASIBLE, "no answer could be in time")
        return True

    def _may_probe(self, request: Request, now_ns: int) -> bool:
        """Return whether to run a request that seems hopeless, to see whether it is.

        Where all are refused nothing runs, and nothing is learnt of times that may be wrong. Nor
        would a model be loaded that others have taken the place of. For tier 0 it is soon.
        """
        estimate = self.workers.estimate_of(request.lane.model)
        if estimate is None:
            return False
        load_ns = self.workers.least_load_ns(request.lane.model)
        pause_ns = max(PROBE_NS, RESIDENCE * load_ns)
        if load_ns and request.tier == 0:
            pause_ns = load_ns
        if now_ns - estimate.ran_ns < pause_ns:
            return False
        least_ns = estimate.of(1) // WRONG_BY
        if request.background or request.deadline_ns - now_ns < least_ns:
            return False
        estimate.ran_ns = now_ns
        return True

    def _queue_up(self, request: Request, mailbox: Mailbox) -> bool:
        """Rank `request` behind its elders, if it stays; return whether it does."""
        # It cannot run before its elders, so it ranks as if each took its turn: a client's
        # backlog counts against itself and not against the others.
        newest = next(reversed(mailbox.requests.values()))
        turn_ns = self.workers.planned_ns(request.lane.model, 1)
        request.rank_ns = max(request.rank_ns, newest.rank_ns + turn_ns)
        if request.firm and request.rank_ns > request.deadline_ns:
            request.background = True  # it could only be in time before its turn
        return len(mailbox.requests) < request.queue_limit or self._overflow(
            request, mailbox, mailbox
        )

    def _make_room(self, request: Request, own: Mailbox) -> bool:
        """Drop one of a full queue: whoever fills it pays, not whoever comes next."""
        fullest = self.room.fullest()
        count = len(own.requests)
        own_turn = count >= len(fullest.requests) - 1 and (
            count > 0 or self.overflow_policy == "reject_newest"
        )
        return self._overflow(request, own, own if own_turn else fullest)

    def _overflow(self, request: Request, own: Mailbox, full: Mailbox) -> bool:
        """Drop one of a full mailbox, or `request` itself; return whether `request` stays."""
        if full.client is own.client and self.overflow_policy == "reject_newest":
            self.answer(request, Outcome.QUEUE_FULL, "the queue is full")
            return False
        waiting = full.requests.values()
        victim = next(iter(waiting) if self.overflow_policy == "drop_oldest" else reversed(waiting))
        self.discard(victim, Outcome.QUEUE_FULL, "the queue is full")
        return True

    # ------------------------------------------------------------------------------- the return

    def put_back(self, requests: list[Request], lane: Lane) -> None:
        """Let requests wait again that were sent to a worker and got no answer there."""
        for request in requests:
            request.started_ns = 0
            if not self.room.knows(request.session):
                self.answer(request, Outcome.CLIENT_GONE, "its client has left")
                continue
            mailbox = self.room.mailbox(request)
            if request.keep_latest and any(other > request.id for other in mailbox.requests):
                self.answer(request, Outcome.SUPERSEDED, SUPERSEDED)
                continue
            older = mailbox.latest
            if older is not None and older.id < request.id:
                self.discard(older, Outcome.SUPERSEDED, SUPERSEDED)
            request.lane = lane
            self.room.put_back(request, mailbox)
            self._watch(request)

    def isolate(self, requests: list[Request]) -> None:
        """Let rows wait again in a lane of their own."""
        self._isolation += 1
        self.put_back(requests, requests[0].lane._replace(isolation=self._isolation))

    # ----------------------------------------------------------------------------------- ends

    def _lost(self, request: Request) -> None:
        """Note that a request does not make its deadline."""
        if request.firm and not request.background and request.stream is not None:
            self.shedding.lost(request.lane.model, request.stream)

    def answered(self, answer: Answer) -> None:
        """End a request whose row was executed."""
        request = answer.request
        if answer.late:
            self._lost(request)
        elif request.firm and request.stream is not None:
            request.stream.made_it()
        self.effects.append(answer)
        if request.dry or request.order_key is not None:
            self.room.end(request)

    def answer(self, request: Request, outcome: Outcome, message: str) -> None:
        """End a request that does not wait."""
        self.effects.append(Answer(request, outcome, message))
        self.room.end(request)

    def discard(self, request: Request, outcome: Outcome, message: str) -> None:
        """End a request that waits."""
        self.room.remove(request)
        self.answer(request, outcome, message)

    def withdrawn(self, event: Withdrawn) -> None:
        """End what a session takes back."""
        outcome = event.outcome or (Outcome.CLIENT_GONE if event.gone else Outcome.CANCELLED)
        for request in self.room.of_session(event.session, event.model):
            if event.tag in (None, request.tag):
                self.discard(request, outcome, event.message)
        if event.gone:
            self.room.forget(event.session)

    def close(self) -> None:
        """End all that waits."""
        for request in list(self.room):
            self.discard(request, Outcome.DRAINING, CLOSING)

    def expire(self, now_ns: int) -> None:
        """End whoever waited too long, or is firm and out of time."""
        while (request := self._due.pop(now_ns)) is not None:
            if now_ns >= request.expires_ns:
                waited_ms = (now_ns - request.arrived_ns) / 1e6
                self.discard(request, Outcome.EXPIRED, f"waited {waited_ms:.0f} ms")
            elif self._due_ns(request) <= now_ns:
                self._hopeless(request)
            else:
                self._watch(request)

    def refuse_hopeless(self, now_ns: int) -> None:
        """End firm requests that no worker will be free for in time."""
        for lane in [lane for lane, line in self.room.lines.items() if line.firm]:
            finish_ns = self.workers.earliest_finish_ns(lane.model, now_ns, beside=False)
            critical_ns = self.workers.earliest_finish_ns(lane.model, now_ns, beside=True)
            # Who ends may let the next of its order into the same line, or leave it empty.
            while (line := self.room.lines.get(lane)) and line.timely.times_ns:
                if line.timely.times_ns[0] >= finish_ns:
                    break
                early = line.timely.requests[: bisect_left(line.timely.times_ns, finish_ns)]
                hopeless = [
                    each
                    for each in early
                    if each.firm and each.deadline_ns < (finish_ns if each.tier else critical_ns)
                ]
                if not hopeless:
                    break
                for request in hopeless:
                    self._hopeless(request)

    def _hopeless(self, request: Request) -> None:
        """End a firm request that cannot be in time any more, or serve its robot that runs dry."""
        self._lost(request)
        if request.runs_out and not request.background:
            self.room.run_dry(request)
            self._watch(request)
        else:
            self.discard(request, Outcome.INFEASIBLE, HOPELESS)

    def _watch(self, request: Request) -> None:
        self._due.add(request, self._due_ns(request))

    def _due_ns(self, request: Request) -> int:
        """Return when a waiting request has to be looked at again at the latest."""
        if not request.firm:
            return request.expires_ns
        model = request.lane.model
        takes_ns = self.workers.planned_ns(model, 1) + self.workers.least_load_ns(model)
        latest_start_ns = request.deadline_ns - takes_ns
        return min(request.expires_ns, latest_start_ns + 1)
