"""When each waiting request has to be looked at again, even if nothing happens."""

from __future__ import annotations

import heapq
from operator import itemgetter

from attrs import define, field

from appliance.scheduling.events import Request
from appliance.scheduling.room import WaitingRoom

SLACK = 64
"""Stale entries that are not worth a clean-up."""

_Entry = tuple[int, int, Request]


@define(eq=False)
class DueTimes:
    """A heap of (due, id, request). Entries of requests that wait no more are skipped.

    Bounded: with each one added, it holds at most twice what waits, and `SLACK`.
    """

    room: WaitingRoom
    _heap: list[_Entry] = field(factory=list[_Entry], init=False)

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ns(self) -> int | None:
        """When the first request that waits is due."""
        while self._heap and self._heap[0][2].mailbox is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, request: Request, due_ns: int) -> None:
        """Note when a request that waits is due; an earlier note of it stays."""
        heapq.heappush(self._heap, (due_ns, request.id, request))
        if len(self._heap) > 2 * self.room.count + SLACK:
            latest_first = sorted(self._heap, key=itemgetter(0, 1), reverse=True)
            waiting = {entry[1]: entry for entry in latest_first if entry[2].mailbox is not None}
            self._heap = list(waiting.values())
            heapq.heapify(self._heap)

    def pop(self, now_ns: int) -> Request | None:
        """Take out the next request that waits and is due by `now_ns`, if there is one."""
        due_ns = self.next_ns
        if due_ns is None or due_ns > now_ns:
            return None
        return heapq.heappop(self._heap)[2]
