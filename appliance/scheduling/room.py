"""Where requests wait: in a mailbox of their session, and in the line of their lane.

A mailbox answers *what does this session have waiting for this model*, a line answers *who is
next in this lane*. Every waiting request is in one mailbox; it is in its line too unless another
one with the same order key is still ahead of it. `WaitingRoom` keeps the three consistent and
counts. At most one request of a mailbox is replaceable: `keep_latest`.

A rank is fixed while its request is in a line. Only a dry request that yielded (see `turns`) gets
another one, when its client's turn comes: it is taken out and lines up again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator

from attrs import define, field

from appliance.scheduling.events import UNRANKED, Lane, ModelRef, Request
from appliance.scheduling.line import Line
from appliance.scheduling.turns import Client, Mailbox, Turns

SWEPT = 2
"""Clients looked at with each new one, whether they can be forgotten."""


def _one_group(_: ModelRef) -> int:
    return 0


@define(eq=False)
class WaitingRoom:
    """Every waiting request, findable by lane and by session.

    Attributes:
        group_of: Says which group of models that share workers a model is in.
        lines: By lane; never an empty one.
        count: Waiting requests in all.
        now_ns: The time of the present turn (see `look`).
    """

    group_of: Callable[[ModelRef], int] = _one_group
    lines: dict[Lane, Line] = field(factory=dict[Lane, Line], init=False)
    count: int = field(default=0, init=False)
    now_ns: int = field(default=0, init=False)
    _sessions: dict[Hashable, dict[ModelRef, Mailbox]] = field(
        factory=dict[Hashable, "dict[ModelRef, Mailbox]"], init=False
    )
    _clients: dict[tuple[str, int, int], Client] = field(
        factory=dict[tuple[str, int, int], Client], init=False
    )
    _turns: dict[tuple[int, int], Turns] = field(factory=dict[tuple[int, int], Turns], init=False)
    _orders: dict[Hashable, deque[Request]] = field(
        factory=dict[Hashable, "deque[Request]"], init=False
    )

    # --------------------------------------------------------------------------------- asking

    def __iter__(self) -> Iterator[Request]:
        return (request for box in self._mailboxes() for request in box.requests.values())

    def of_session(self, session: Hashable, model: str | None) -> list[Request]:
        """Return what `session` has waiting, for one model name or all."""
        return [
            request
            for ref, mailbox in self._sessions.get(session, {}).items()
            if model in (None, ref.name)
            for request in mailbox.requests.values()
        ]

    def fullest(self) -> Mailbox:
        """Return the mailbox with the most requests, or of those the oldest; somebody waits.

        Rather not that of a dry robot that goes first.
        """
        waiting = (box for box in self._mailboxes() if box.requests)
        return max(
            waiting,
            key=lambda box: (
                len(box.requests),
                box.client.first is None,
                -next(iter(box.requests)),
            ),
        )

    def by_model(self) -> dict[ModelRef, int]:
        """Return how many wait for each model."""
        counts: dict[ModelRef, int] = {}
        for request in self:
            counts[request.lane.model] = counts.get(request.lane.model, 0) + 1
        return counts

    def was_seldom_served(self, request: Request) -> bool:
        """Return whether its last batch was little of the time since, or there was none."""
        return self._client(request).again_ns <= self.now_ns

    def knows(self, session: Hashable) -> bool:
        """Return whether `session` sent something and has not ended since."""
        return session in self._sessions

    def _mailboxes(self) -> Iterator[Mailbox]:
        return (box for mailboxes in self._sessions.values() for box in mailboxes.values())

    # ------------------------------------------------------------------------------ changing

    def look(self, now_ns: int) -> None:
        """Note what time it is: those go first whose turn has come by that."""
        self.now_ns = now_ns
        self._next_turns()

    def mailbox(self, request: Request) -> Mailbox:
        """Return the mailbox a request belongs to."""
        mailboxes = self._sessions.get(request.session)
        if mailboxes is None:
            mailboxes = self._sessions[request.session] = {}
        mailbox = mailboxes.get(request.lane.model)
        if mailbox is None:
            client = self._client(request)
            client.mailboxes += 1
            mailbox = mailboxes[request.lane.model] = Mailbox(client)
        elif not mailbox.requests and mailbox.client.first is None:
            # Its tier, or the group of its model, may be another one by now.
            client = self._client(request)
            mailbox.client.mailboxes -= 1
            client.mailboxes += 1
            mailbox.client = client
        return mailbox

    def _client(self, request: Request) -> Client:
        """Return what the client of a request has in its tier and group."""
        group = self.group_of(request.lane.model)
        key = request.client, request.tier, group
        client = self._clients.pop(key, None)
        if client is None:
            self._forget_clients()
            turns = self._turns.setdefault((request.tier, group), Turns())
            client = Client(request.arrived_ns, turns)
        self._clients[key] = client  # the least recently heard of come first
        return client

    def _forget_clients(self) -> None:
        """Forget some that have no session any more, and no turn to wait for."""
        for key in [key for key, _ in zip(self._clients, range(SWEPT), strict=False)]:
            client = self._clients[key]
            if not client.mailboxes and client.turns.is_due(client, self.now_ns):
                del self._clients[key]
            else:
                self._clients[key] = self._clients.pop(key)

    def _client_of(self, request: Request) -> Client | None:
        """Return the client of a request that may not wait; None: its session has ended."""
        mailboxes = self._sessions.get(request.session)
        mailbox = mailboxes.get(request.lane.model) if mailboxes else None
        return mailbox.client if mailbox else None

    def add(self, request: Request, mailbox: Mailbox) -> None:
        """Let a new request wait, in its line as soon as its order allows."""
        self._put(request, mailbox)
        if request.order_key is not None:
            order = self._orders.setdefault(request.order_key, deque())
            order.append(request)
            if order[0] is not request:
                return
        self._line_up(request)

    def put_back(self, request: Request, mailbox: Mailbox) -> None:
        """Let a request wait again that was taken; it is still first of its order."""
        self._put(request, mailbox)
        if request.dry:
            mailbox.client.turns.come_back(mailbox.client, request)
        self._join(request)

    def take(self, lane: Lane, requests: list[Request]) -> None:
        """Take some of a lane out, to send them to a worker."""
        line = self.lines[lane]
        line.take(requests)
        if not line:
            del self.lines[lane]
        for request in requests:
            client = self._leave(request).client
            if request.dry:
                client.turns.take(client, request)

    def start(self, requests: list[Request], now_ns: int, batch_ns: int) -> None:
        """Note that some that were taken are started, in a batch that takes about `batch_ns`."""
        for request in requests:
            client = self._client_of(request)
            if client is not None:  # else it ended meanwhile, and stays forgotten
                client.turns.start(client, request, now_ns, batch_ns)
        self._next_turns()

    def take_back(self, requests: list[Request]) -> None:
        """Note that some that were started did not run."""
        for request in requests:
            client = self._client_of(request)
            if client is not None:
                client.turns.take_back(client, request)

    def remove(self, request: Request) -> None:
        """Take one waiting request out, to end it."""
        client = self._leave(request).client
        if request.rank is not UNRANKED:
            self._quit(request)
            if request.dry:
                client.turns.quit(client, request)

    def run_dry(self, request: Request) -> None:
        """Let a request that waits go on as that of a robot without actions."""
        assert request.mailbox is not None, "it does not wait"
        client = request.mailbox.client
        if request.rank is not UNRANKED:
            self._quit(request)
        client.turns.leave(client)
        request.firm, request.dry = False, True
        request.since_ns = request.deadline_ns
        if request.rank is not UNRANKED:
            self._line_up(request)

    def end(self, request: Request) -> None:
        """Note that `request`, which waits no more, ended: others may come in its place."""
        if request.dry:
            client = self._client_of(request)
            if client is not None:
                client.turns.end(client, request)
                self._next_turns()
        if request.order_key is None:
            return
        order = self._orders.get(request.order_key)
        if order is None or request not in order:
            return
        was_first = order[0] is request
        order.remove(request)
        if not order:
            del self._orders[request.order_key]
        elif was_first:
            self._line_up(order[0])

    def forget(self, session: Hashable) -> None:
        """Drop what is remembered of a session that ended; nothing of it waits."""
        for mailbox in self._sessions.pop(session, {}).values():
            client = mailbox.client
            client.mailboxes -= 1
            if client.first is not None and client.first.session == session:
                client.turns.end(client, client.first)

    # ------------------------------------------------------------------------------- mailboxes

    def _put(self, request: Request, mailbox: Mailbox) -> None:
        if not request.dry:
            mailbox.client.turns.arrive(mailbox.client)
        mailbox.requests[request.id] = request
        if request.keep_latest:
            mailbox.latest = request
        request.mailbox = mailbox
        self.count += 1

    def _leave(self, request: Request) -> Mailbox:
        mailbox = request.mailbox
        assert mailbox is not None, "it does not wait"
        request.mailbox = None
        del mailbox.requests[request.id]
        if request.keep_latest:
            mailbox.latest = None
        if not request.dry:
            mailbox.client.turns.leave(mailbox.client)
        self.count -= 1
        return mailbox

    # ----------------------------------------------------------------------------------- lines

    def _line_up(self, request: Request) -> None:
        """Rank a request and put it in its line."""
        assert request.mailbox is not None, "it does not wait"
        client = request.mailbox.client
        served_ns = client.served_ns
        if request.dry:
            goes_first = client.turns.line_up(client, request, self.now_ns)
            since_ns = max(served_ns, client.came_ns) if goes_first else request.rank_ns
            request.yields = not goes_first
            request.rank = (request.tier, since_ns, request.priority, served_ns, request.id)
        else:
            rank_ns = request.deadline_ns if request.background else request.rank_ns
            request.rank = (rank_ns, request.tier, request.priority, served_ns, request.id)
        self._join(request)

    def _join(self, request: Request) -> None:
        line = self.lines.get(request.lane)
        if line is None:
            line = self.lines[request.lane] = Line()
        line.add(request)

    def _quit(self, request: Request) -> None:
        line = self.lines[request.lane]
        line.remove(request)
        if not line:
            del self.lines[request.lane]

    def _next_turns(self) -> None:
        """Let those go first whose turn has come."""
        for turns in self._turns.values():
            while (request := turns.next(self.now_ns)) is not None:
                self._quit(request)
                self._line_up(request)
