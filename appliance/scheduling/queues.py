"""Where requests wait: in the mailbox of their session, and in the line of their lane.

A mailbox answers *what does this session have waiting for this model*, a line answers *who is
next in this lane*. Every waiting request is in one mailbox; it is in its line too unless another
one with the same order key is still ahead of it. `WaitingRoom` keeps the three consistent and
counts; it decides nothing. At most one request of a mailbox is replaceable: `keep_latest`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from attrs import define, field

from appliance.scheduling.events import Lane, ModelRef, Request

Rank = tuple[int, bool, int, int, int, int]


@define(eq=False)
class Line:
    """The waiting requests of one lane, best first.

    Attributes:
        firm: How many of them are firm.
    """

    firm: int = 0
    _entries: list[tuple[Rank, Request]] = field(factory=list[tuple[Rank, Request]], init=False)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, request in self._entries)

    @property
    def head(self) -> tuple[Rank, Request]:
        """The best request and its rank; the line is not empty."""
        return self._entries[0]

    def ranked(self) -> Iterable[tuple[Rank, Request]]:
        """Every request with its rank, best first."""
        return self._entries

    def add(self, rank: Rank, request: Request) -> None:
        """Insert by rank. Ranks end in the request's id, so no two are equal."""
        insort(self._entries, (rank, request))
        self.firm += request.firm

    def remove(self, rank: Rank) -> None:
        """Take out the request with this rank, which is in the line."""
        index = bisect_left(self._entries, (rank,))
        found, request = self._entries.pop(index)
        assert found == rank
        self.firm -= request.firm

    def take(self, requests: list[Request], ranks: list[Rank]) -> None:
        """Take out several, best first; mostly they are simply the best."""
        count = len(requests)
        if [request for _, request in self._entries[:count]] == requests:
            del self._entries[:count]
            if self.firm:
                self.firm -= sum(request.firm for request in requests)
            return
        for rank in ranks:
            self.remove(rank)


@define(eq=False)
class WaitingRoom:
    """Every waiting request, findable by lane and by session.

    Attributes:
        lines: By lane; never an empty one.
        count: Waiting requests in all.
    """

    lines: dict[Lane, Line] = field(factory=dict[Lane, Line], init=False)
    count: int = field(default=0, init=False)
    _mailboxes: dict[tuple[Hashable, ModelRef], dict[int, Request]] = field(
        factory=dict[tuple[Hashable, ModelRef], dict[int, Request]], init=False
    )
    _latest: dict[tuple[Hashable, ModelRef], Request] = field(
        factory=dict[tuple[Hashable, ModelRef], Request], init=False
    )
    _orders: dict[Hashable, deque[Request]] = field(
        factory=dict[Hashable, "deque[Request]"], init=False
    )
    _ranks: dict[int, Rank] = field(factory=dict[int, Rank], init=False)
    _last_served_ns: dict[Hashable, int] = field(factory=dict[Hashable, int], init=False)

    # --------------------------------------------------------------------------------- asking

    def __iter__(self) -> Iterator[Request]:
        return (request for box in self._mailboxes.values() for request in box.values())

    def mailbox(self, session: Hashable, model: ModelRef) -> list[Request]:
        """Return what `session` has waiting for `model`, oldest first."""
        return list(self._mailboxes.get((session, model), {}).values())

    def latest(self, session: Hashable, model: ModelRef) -> Request | None:
        """Return the one in a mailbox that a newer one replaces."""
        return self._latest.get((session, model))

    def newest(self, session: Hashable, model: ModelRef) -> tuple[Request | None, int]:
        """Return the one that joined a mailbox last, and how many there are."""
        mailbox = self._mailboxes.get((session, model))
        return (next(reversed(mailbox.values())), len(mailbox)) if mailbox else (None, 0)

    def of_session(self, session: Hashable, model: str | None) -> list[Request]:
        """Return what `session` has waiting, for one model name or all."""
        return [
            request
            for (owner, ref), mailbox in self._mailboxes.items()
            if owner == session and model in (None, ref.name)
            for request in mailbox.values()
        ]

    def rank(self, request: Request) -> Rank:
        """Rank by tier, dry robots first, deadline, priority, least recently served."""
        return (
            request.tier,
            not request.dry,
            request.rank_ns,
            request.priority,
            self._last_served_ns.get(request.session, 0),
            request.id,
        )

    def fullest(self) -> list[Request]:
        """Return the mailbox with the most requests, oldest first; somebody waits."""
        return list(max(self._mailboxes.values(), key=len).values())

    def holds(self, request: Request) -> bool:
        """Return whether `request` waits."""
        return request.id in self._mailboxes.get((request.session, request.lane.model), ())

    def by_model(self) -> dict[ModelRef, int]:
        """Return how many wait for each model."""
        counts: dict[ModelRef, int] = {}
        for (_, model), mailbox in self._mailboxes.items():
            counts[model] = counts.get(model, 0) + len(mailbox)
        return counts

    # ------------------------------------------------------------------------------ changing

    def add(self, request: Request) -> None:
        """Let a new request wait, in its line as soon as its order allows."""
        self._last_served_ns.setdefault(request.session, 0)
        self._put(request)
        if request.order_key is not None:
            order = self._orders.setdefault(request.order_key, deque())
            order.append(request)
            if order[0] is not request:
                return
        self._line_up(request)

    def put_back(self, request: Request) -> None:
        """Let a request wait again that was taken; it is still first of its order."""
        self._put(request)
        self._line_up(request)

    def take(self, lane: Lane, requests: list[Request]) -> None:
        """Take some of a lane out, to run them."""
        line = self.lines[lane]
        line.take(requests, [self._ranks.pop(request.id) for request in requests])
        if not line:
            del self.lines[lane]
        for request in requests:
            self._leave_mailbox(request)

    def remove(self, request: Request) -> None:
        """Take one waiting request out, to end it."""
        self._leave_mailbox(request)
        rank = self._ranks.pop(request.id, None)
        if rank is not None:
            line = self.lines[request.lane]
            line.remove(rank)
            if not line:
                del self.lines[request.lane]

    def end(self, request: Request) -> None:
        """Note that `request` ended: the next one of its order may line up."""
        order = self._orders.get(request.order_key) if request.order_key is not None else None
        if order is None or request not in order:
            return
        was_first = order[0] is request
        order.remove(request)
        if not order:
            del self._orders[request.order_key]
        elif was_first:
            self._line_up(order[0])

    def served(self, session: Hashable, now_ns: int) -> None:
        """Note that `session` was answered: among equals it now comes last."""
        if session in self._last_served_ns:  # else it ended meanwhile, and stays forgotten
            self._last_served_ns[session] = now_ns

    def forget(self, session: Hashable) -> None:
        """Drop what is remembered of a session that ended."""
        self._last_served_ns.pop(session, None)

    def knows(self, session: Hashable) -> bool:
        """Return whether `session` sent something and has not ended since."""
        return session in self._last_served_ns

    def _put(self, request: Request) -> None:
        key = (request.session, request.lane.model)
        mailbox = self._mailboxes.get(key)
        if mailbox is None:
            mailbox = self._mailboxes[key] = {}
        mailbox[request.id] = request
        if request.keep_latest:
            self._latest[key] = request
        self.count += 1

    def _leave_mailbox(self, request: Request) -> None:
        key = (request.session, request.lane.model)
        mailbox = self._mailboxes[key]
        del mailbox[request.id]
        if not mailbox:
            del self._mailboxes[key]
        if request.keep_latest:
            del self._latest[key]
        self.count -= 1

    def _line_up(self, request: Request) -> None:
        rank = self._ranks[request.id] = self.rank(request)
        line = self.lines.get(request.lane)
        if line is None:
            line = self.lines[request.lane] = Line()
        line.add(rank, request)
