"""The arena as requests see it: each client's share, rows on arrival, recurrent state.

Owner of every input block, and through `States` of every state block. A block goes back to the
allocator when its request has ended and no worker may still read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from attrs import Factory, define, field

from appliance.admission.tensors import Feed
from appliance.dispatch.states import States
from appliance.dispatch.ticket import Ticket
from appliance.errors import Outcome, Rejected
from appliance.wire.worker import ABSENT, encode_feed, feed_head
from appliance.workers.allocator import Block, Quota
from appliance.workers.arena import Arena, packed_bytes

RETRY_NS = 10_000_000
_head = lru_cache(maxsize=1024)(feed_head)


@define(eq=False)
class Memory:
    """See the module's docstring."""

    arena: Arena
    _quotas: dict[str, Quota] = field(factory=dict[str, Quota], init=False)
    states: States = field(
        default=Factory(lambda self: States(self._free), takes_self=True), init=False
    )

    # ---------------------------------------------------------------------------------- rows

    def store(self, ticket: Ticket, feeds: list[Feed], share: int) -> None:
        """Copy a request's tensors into the arena, once, and describe them for a worker.

        Args:
            share: Bytes the client may hold in all.

        Raises:
            Rejected: QUEUE_FULL, its share or the arena is used up; TOO_LARGE, it never fits.
        """
        assert ticket.spec is not None
        buffers = [feed.data for feed in feeds if feed.data is not None]
        size = packed_bytes([len(buffer) for buffer in buffers]) or 1
        ticket.block = self.allocate(ticket.client, size, share)
        try:
            for length in ticket.spec.state_bytes:
                ticket.state_out.append(self.allocate(ticket.client, length, share))
        except Rejected:
            self._free_ticket(ticket)
            raise
        offsets = iter(self.arena.write(ticket.block, *buffers))
        ticket.row = b"".join(
            [
                encode_feed(ABSENT, 0)
                if feed.data is None
                else encode_feed(
                    _head(len(feed.data), feed.dtype, feed.encoding, feed.shape), next(offsets)
                )
                for feed in feeds
            ]
        )

    def hold(self, tickets: Iterable[Ticket]) -> None:
        """A worker may read the tickets' rows from now on."""
        for ticket in tickets:
            ticket.holds += 1

    def release(self, tickets: Iterable[Ticket]) -> None:
        """A worker cannot read the tickets' rows any more."""
        for ticket in tickets:
            ticket.holds -= 1
            self._free_if_done(ticket)

    def end(self, ticket: Ticket) -> None:
        """The request has ended."""
        ticket.ended = True
        if ticket.state_key is not None:
            self.states.end(ticket.state_key, ticket)
        self._free_if_done(ticket)

    def _free_if_done(self, ticket: Ticket) -> None:
        if ticket.ended and ticket.holds == 0 and ticket.block is not None:
            self._free_ticket(ticket)

    def _free_ticket(self, ticket: Ticket) -> None:
        block, ticket.block = ticket.block, None
        assert block is not None
        self._release(ticket.client, block.bytes)
        self.arena.allocator.free(block)
        if ticket.state_out:
            self._free(ticket.client, ticket.state_out)
            ticket.state_out = []

    # ------------------------------------------------------------------------------- blocks

    def allocate(self, client: str, size: int, share: int) -> Block:
        """Return a block for a client that may hold `share` bytes in all.

        Raises:
            Rejected: QUEUE_FULL, its share or the arena is used up; TOO_LARGE, it never fits.
        """
        most = min(share, self.arena.total)
        if size > most:
            raise Rejected(
                Outcome.TOO_LARGE,
                f"client {client!r}: at most {most} bytes of memory, {size} are needed",
            )
        quota = self._quotas.get(client)
        if quota is None:
            quota = self._quotas[client] = Quota(share)
        if not quota.charge(size):
            raise Rejected(
                Outcome.QUEUE_FULL,
                f"client {client!r} holds {quota.used} of its {share} bytes of memory",
                retry_after_ns=RETRY_NS,
            )
        block = self.arena.allocator.allocate(size)
        if block is None:
            self._release(client, size)
            raise Rejected(
                Outcome.QUEUE_FULL,
                f"the arena has no room for {size} bytes",
                retry_after_ns=RETRY_NS,
            )
        return block

    def _free(self, client: str, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self._release(client, block.bytes)
            self.arena.allocator.free(block)

    def _release(self, client: str, size: int) -> None:
        quota = self._quotas[client]
        quota.release(size)
        if quota.used == 0:
            del self._quotas[client]
