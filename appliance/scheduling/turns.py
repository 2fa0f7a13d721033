"""Whose turn it is to go first, of those that have run dry.

The rule: a robot that has run dry goes before everybody in its tier who is not dry; among dry ones,
whoever has waited longest since it last had a turn. But after each turn it yields to those that are
not dry, until as many of their rows were started as clients of them waited then: one round; or
until its own batch was less than a tenth of the time since. What is compared is turns and not
claims: who says all the time that it is dry has its share, or a tenth of a worker.

Turns are counted apart for each tier and each group of models that share workers: who waits for a
worker that could not run this robot's request takes no turn from it. They are a client's, so that
coming by another connection gains nothing; a client that is new ranks by the time it came.

What that bounds, within a tier and a group: while a request that is not dry waits, a dry client
goes first once in a round, or for a tenth of the time. In a round, those that are not dry have as
many rows started as clients of them waited at its beginning: each about one, as among themselves
they go by deadline.

Only one request of a client goes first at a time; its backlog yields. One that a worker gives
back unstarted keeps the place it had.
"""

from __future__ import annotations

import heapq

from attrs import define, field

from appliance.scheduling.events import Request
from appliance.values import new_dict, new_list

SELDOM = 10
"""A client goes first again after this many times the time of its last batch."""

SPARE = 64
"""Reminders that are no longer due to any client are thrown away when there are more than that."""


@define(eq=False)
class Mailbox:
    """What one session has waiting for one model.

    Attributes:
        client: Whose it is.
        requests: By id, oldest first.
        latest: The one of them that a newer one replaces.
    """

    client: Client
    requests: dict[int, Request] = field(factory=new_dict, init=False)
    latest: Request | None = field(default=None, init=False)


@define(eq=False)
class Client:
    """What one client has in one tier of one group of models, whatever sessions it comes by.

    Attributes:
        came_ns: When the first request of it arrived.
        turns: Those of its tier and group.
        mailboxes: How many are its.
        waiting: Its requests that wait and are not dry.
        served_ns: When something of it was last started; -1: never.
        turn: It may go first when so many rows of others that are not dry were started,
        again_ns: or from then on.
        before: All three, as they were before that.
        first: Its dry request that goes first, or that a worker has, until it starts or ends.
        yielding: Other dry ones of it that are in line, by id.
        reminder: The number of its reminder in `turns`; 0: it has none.
    """

    came_ns: int
    turns: Turns
    mailboxes: int = field(default=0, init=False)
    waiting: int = field(default=0, init=False)
    served_ns: int = field(default=-1, init=False)
    turn: int = field(default=0, init=False)
    again_ns: int = field(default=0, init=False)
    before: tuple[int, int, int] = field(default=(-1, 0, 0), init=False)
    first: Request | None = field(default=None, init=False)
    yielding: dict[int, Request] = field(factory=new_dict, init=False)
    reminder: int = field(default=0, init=False)


@define(eq=False)
class Turns:
    """The turns of one tier in one group of models.

    Who yields is reminded of by two heaps, by turn and by time. A reminder lies in both, and counts
    until either is due; what is left of it in the other is thrown away there.

    Attributes:
        started: Rows that are not dry and were started so far.
        waiting: Clients that have something waiting that is not dry.
    """

    started: int = 0
    waiting: int = 0
    _by_turn: list[tuple[int, int, Client]] = field(factory=new_list, init=False)
    _by_time: list[tuple[int, int, Client]] = field(factory=new_list, init=False)
    _number: int = field(default=0, init=False)
    _reminders: int = field(default=0, init=False)

    def arrive(self, client: Client) -> None:
        """Note that a request that is not dry waits."""
        client.waiting += 1
        self.waiting += client.waiting == 1

    def leave(self, client: Client) -> None:
        """Note that a request that is not dry waits no more."""
        client.waiting -= 1
        self.waiting -= client.waiting == 0

    def start(self, client: Client, request: Request, now_ns: int, batch_ns: int) -> None:
        """Note that a row is started in a batch of `batch_ns`: its client has had its turn."""
        self.started += not request.dry
        client.before = client.served_ns, client.turn, client.again_ns
        client.served_ns, client.again_ns = now_ns, now_ns + SELDOM * batch_ns
        client.turn = self.started + self.waiting - (client.waiting > 0)  # one round of the others
        if request.dry:
            self.end(client, request)

    def take_back(self, client: Client, request: Request) -> None:
        """Note that a row that was started did not run: its client has had no turn."""
        self.started -= not request.dry
        client.served_ns, client.turn, client.again_ns = client.before

    def line_up(self, client: Client, request: Request, now_ns: int) -> bool:
        """Let a dry request line up; return whether it goes first."""
        if client.first is None and self.is_due(client, now_ns):
            client.first = request
            return True
        self._yield(client, request)
        return False

    def is_due(self, client: Client, now_ns: int) -> bool:
        """Return whether it is a client's turn."""
        return client.turn <= self.started or client.again_ns <= now_ns

    def _yield(self, client: Client, request: Request) -> None:
        """Let a dry request line up behind the others of its tier."""
        client.yielding[request.id] = request
        self._remind(client)

    def take(self, client: Client, request: Request) -> None:
        """Note that a dry request leaves its line for a worker."""
        client.yielding.pop(request.id, None)
        client.first = client.first or request  # until that starts, no other one goes first

    def come_back(self, client: Client, request: Request) -> None:
        """Let a dry request that was taken line up again, in the place it had."""
        if not request.yields:
            client.first = client.first or request
            return
        if client.first is request:
            client.first = None
        self._yield(client, request)

    def quit(self, client: Client, request: Request) -> None:
        """Note that a dry request leaves its line, to end."""
        client.yielding.pop(request.id, None)

    def end(self, client: Client, request: Request) -> None:
        """Note that a dry request was started, or has ended."""
        if client.first is request:
            client.first = None
        self._remind(client)

    def next(self, now_ns: int) -> Request | None:
        """Take out one that yields and may go first now, if there is one."""
        for reminders, reached in ((self._by_turn, self.started), (self._by_time, now_ns)):
            while reminders and reminders[0][0] <= reached:
                _, number, client = heapq.heappop(reminders)
                if client.reminder != number:
                    continue
                client.reminder = 0
                self._reminders -= 1
                if client.first is None and client.yielding:
                    if self.is_due(client, now_ns):
                        return client.yielding.pop(min(client.yielding))  # the oldest
                    self._remind(client)  # it had a turn meanwhile
        return None

    def _remind(self, client: Client) -> None:
        """Have a client that yields looked at when its turn comes."""
        if not client.yielding or client.first is not None or client.reminder:
            return
        self._number += 1  # no two are equal
        self._reminders += 1
        client.reminder = self._number
        for reminders, due in ((self._by_turn, client.turn), (self._by_time, client.again_ns)):
            if len(reminders) > 2 * self._reminders + SPARE:
                reminders[:] = [each for each in reminders if each[2].reminder == each[1]]
                heapq.heapify(reminders)
            heapq.heappush(reminders, (due, self._number, client))
