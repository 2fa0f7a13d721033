"""Who asks through the gRPC door, as `GET /v1/clients` shows it. Pure; time is passed in.

There is a name with each call, and nothing that begins or ends: who has not asked for a while is
gone, and later forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from appliance.errors import Rejected
from appliance.metrics.client_record import ClientRecord
from appliance.metrics.status import Client

PROTOCOL = "grpc"
VERSION = 2
"""Of the Open Inference Protocol."""

MOST = 1024
"""Clients that are remembered: with another one, the longest silent is forgotten."""
HERE_NS = 10_000_000_000
"""Who asked nothing for so long is not here any more; that silence is not part of its cadence."""
REMEMBERED_NS = 600_000_000_000
"""And is forgotten after so long."""


@define(eq=False)
class Caller(ClientRecord):
    """One client, by its name. Its calls are what a robot's observations are.

    Attributes:
        last_ns: When its last call came.
        asked: Requests, of which each row of a call is one.
        held_bytes: Of answers that wait for it to read them.
    """

    client: str
    last_ns: int = 0
    asked: int = 0
    held_bytes: int = 0

    def called(self, now_ns: int) -> None:
        """Take in the arrival of a call."""
        interval_ns = now_ns - self.last_ns
        self.last_ns = now_ns
        if interval_ns <= HERE_NS:  # which its first one is not
            self.paced(interval_ns)


NOBODY = Caller("")
"""Takes what comes without a name; it is not shown."""


@define(eq=False)
class CallerTable:
    """Clients by name, the least recently heard of first."""

    _by_name: dict[str, Caller] = field(factory=dict[str, Caller], init=False)

    def called(self, client: str, now_ns: int) -> Caller:
        """Return the client of a call that just came; a new one if need be."""
        if not client:
            return NOBODY
        caller = self._by_name.pop(client, None)
        if caller is None:
            # It begins without a last call, however early on the clock it comes.
            caller = Caller(client, now_ns - HERE_NS - 1)
            if len(self._by_name) >= MOST:
                del self._by_name[next(iter(self._by_name))]
        self._by_name[client] = caller
        caller.called(now_ns)
        return caller

    def expire(self, now_ns: int) -> None:
        """Forget who has been silent for long."""
        before_ns = now_ns - REMEMBERED_NS
        while self._by_name:
            client, caller = next(iter(self._by_name.items()))
            if caller.last_ns >= before_ns:
                return
            del self._by_name[client]

    def documents(self, tier_of: Callable[[str], int], now_ns: int) -> list[Client]:
        """Return every client, the most recently heard of first."""
        return [_document(caller, tier_of, now_ns) for caller in reversed(self._by_name.values())]


def _document(caller: Caller, tier_of: Callable[[str], int], now_ns: int) -> Client:
    try:
        tier = tier_of(caller.client)
    except Rejected:  # it may not come; it is shown all the same
        tier = -1
    queued = caller.asked - caller.ended_count
    silent_ns = now_ns - caller.last_ns
    return Client(
        id=caller.client,
        door="grpc",
        session=f"{PROTOCOL}:{caller.client}",
        type=PROTOCOL,
        protocol=VERSION,
        tier=tier,
        connected=queued > 0 or silent_ns <= HERE_NS,
        observations=caller.asked,
        **caller.counted(),
        runs_dry_in_ms=None,
        overdue_ms=None,  # it asks when it wants to know
        silent_s=round(silent_ns / 1e9, 2),
        queued=queued,
        address="",
    )
