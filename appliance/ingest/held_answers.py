"""How many bytes of answers wait to leave, by client. Pure.

An answer is held from when the first of its rows is there until gRPC has sent it, or its caller has
gone. In gRPC it takes two to three times as much memory as is counted here.
"""

from __future__ import annotations

from attrs import define, field

from appliance.ingest.calls import Call

CLIENT_BYTES = 128 << 20
"""What may wait for one client to read it; what comes on top is dropped."""
ALL_BYTES = 512 << 20
"""And for all of them together: names may be free."""


@define(eq=False)
class HeldAnswers:
    """See the module's docstring."""

    _bytes: int = field(default=0, init=False)

    def has_room(self, call: Call, answer_bytes: int) -> bool:
        """Return whether more may wait for a call's client; whom nothing waits for, some may."""
        held = call.caller.held_bytes
        if not held:
            return True
        return held + answer_bytes <= CLIENT_BYTES and self._bytes + answer_bytes <= ALL_BYTES

    def hold(self, call: Call, answer_bytes: int) -> None:
        """Take in that so much of an answer waits to leave."""
        call.held_bytes += answer_bytes
        call.caller.held_bytes += answer_bytes
        self._bytes += answer_bytes

    def let_go(self, call: Call) -> None:
        """Take in that nothing of an answer waits any more, and forget it."""
        call.caller.held_bytes -= call.held_bytes
        self._bytes -= call.held_bytes
        call.held_bytes = 0
        call.rows = [None] * len(call.rows)
