"""Whose turn it is to go first, of those that have run dry.

The rule: a robot that has run dry goes before everybody in its tier who is not dry; among dry ones,
whoever has waited longest since its session last had a turn. But after each turn it yields to those
that are not dry, until as many of their rows were started as sessions of them waited then: one
round; or until its own row was less than a tenth of the time since. What is compared is turns and
not claims, so who claims to be dry all the time gains a tenth of a worker at most.

Turns are counted apart for each tier and each group of models that share workers: who waits for a
worker that could not run this robot's request takes no turn from it.

What that bounds, within a tier and a group: while a request that is not dry waits, a dry session
goes first once in a round, or for a tenth of the time. In a round, those that are not dry have as
many rows started as sessions of them waited at its beginning: each about one, as among themselves
they go by deadline. A new session ranks by the time it came, so that reconnecting gains nothing.

Only one request of a session goes first at a time; its backlog yields. One that a worker gives
back unstarted keeps the place it had.
"""

from __future__ import annotations

import heapq

from attrs import define, field

from appliance.scheduling.events import Request

SELDOM = 10
"""A session goes first again after this many times the time of its last row."""


@define(eq=False)
class Mailbox:
    """What one session has waiting for one model.

    Attributes:
        session: It and its turns, for this model and those it shares workers with.
        requests: By id, oldest first.
        latest: The one of them that a newer one replaces.
    """

    session: Session
    requests: dict[int, Request] = field(factory=dict[int, Request], init=False)
    latest: Request | None = field(default=None, init=False)


@define(eq=False)
class Session:
    """What one session has in one group of models that share workers, until it ends.

    Attributes:
        came_ns: When the first request of it arrived.
        group: Of models.
        turns: Those of its tier, as it was then, in that group.
        waiting: Its requests that wait and are not dry.
        served_ns: When something of it was last started; -1: never.
        turn: It may go first when so many rows of its tier that are not dry were started,
        again_ns: or from then on.
        before: All three, as they were before that.
        first: Its dry request that goes first, or that a worker has, until it starts or ends.
        yielding: Other dry ones of it that are in line, by id.
        note: The number of its note in `turns`; 0: it has none.
    """

    came_ns: int
    group: int
    turns: Turns
    waiting: int = field(default=0, init=False)
    served_ns: int = field(default=-1, init=False)
    turn: int = field(default=0, init=False)
    again_ns: int = field(default=0, init=False)
    before: tuple[int, int, int] = field(default=(-1, 0, 0), init=False)
    first: Request | None = field(default=None, init=False)
    yielding: dict[int, Request] = field(factory=dict[int, Request], init=False)
    note: int = field(default=0, init=False)


@define(eq=False)
class Turns:
    """The turns of one tier in one group of models.

    Attributes:
        started: Rows that are not dry and were started so far.
        waiting: Sessions that have something waiting that is not dry.
    """

    started: int = 0
    waiting: int = 0
    _by_turn: list[tuple[int, int, Session]] = field(
        factory=list[tuple[int, int, "Session"]], init=False
    )
    _by_time: list[tuple[int, int, Session]] = field(
        factory=list[tuple[int, int, "Session"]], init=False
    )
    _notes: int = field(default=0, init=False)

    def arrive(self, session: Session) -> None:
        """Note that a request that is not dry waits."""
        session.waiting += 1
        self.waiting += session.waiting == 1

    def leave(self, session: Session) -> None:
        """Note that a request that is not dry waits no more."""
        session.waiting -= 1
        self.waiting -= session.waiting == 0

    def start(self, session: Session, request: Request, now_ns: int, row_ns: int) -> None:
        """Note that a row is started that takes about `row_ns`: its session has had its turn."""
        self.started += not request.dry
        session.before = session.served_ns, session.turn, session.again_ns
        session.served_ns, session.again_ns = now_ns, now_ns + SELDOM * row_ns
        session.turn = self.started + self.waiting - (session.waiting > 0)
        if request.dry:
            self.end(session, request)

    def take_back(self, session: Session, request: Request) -> None:
        """Note that a row that was started did not run: its session has had no turn."""
        self.started -= not request.dry
        session.served_ns, session.turn, session.again_ns = session.before

    def line_up(self, session: Session, request: Request, now_ns: int) -> bool:
        """Let a dry request line up; return whether it goes first."""
        if session.first is None and self._is_due(session, now_ns):
            session.first = request
            return True
        self._yield(session, request)
        return False

    def _yield(self, session: Session, request: Request) -> None:
        """Let a dry request line up behind the others of its tier."""
        session.yielding[request.id] = request
        self._note(session)

    def take(self, session: Session, request: Request) -> None:
        """Note that a dry request leaves its line for a worker."""
        session.yielding.pop(request.id, None)
        session.first = session.first or request  # until that starts, no other one goes first

    def come_back(self, session: Session, request: Request) -> None:
        """Let a dry request that was taken line up again, in the place it had."""
        if not request.yields:
            session.first = session.first or request
            return
        if session.first is request:
            session.first = None
        self._yield(session, request)

    def end(self, session: Session, request: Request) -> None:
        """Note that a dry request has left its line for good: it was started, or has ended."""
        if session.first is request:
            session.first = None
        self._note(session)

    def next(self, now_ns: int) -> Request | None:
        """Take out one that yields and may go first now, if there is one."""
        for notes, reached in ((self._by_turn, self.started), (self._by_time, now_ns)):
            while notes and notes[0][0] <= reached:
                _, number, session = heapq.heappop(notes)
                if session.note != number:
                    continue  # it was the other one's turn to remind of it
                session.note = 0
                if session.first is None and session.yielding:
                    if self._is_due(session, now_ns):
                        return session.yielding.pop(min(session.yielding))  # the oldest
                    self._note(session)  # it had a turn meanwhile
        return None

    def _is_due(self, session: Session, now_ns: int) -> bool:
        return session.turn <= self.started or session.again_ns <= now_ns

    def _note(self, session: Session) -> None:
        """Note when a session's turn comes, once."""
        if session.yielding and session.first is None and not session.note:
            self._notes += 1
            session.note = self._notes
            heapq.heappush(self._by_turn, (session.turn, session.note, session))
            heapq.heappush(self._by_time, (session.again_ns, session.note, session))
