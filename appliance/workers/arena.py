"""The memory that the core and its workers share: rows go in, outputs come out. Owned by the core.

One sealed memfd, mapped once. First the ledger: one page for each worker slot, in which that
slot's processes count rows, whatever becomes of the processes. The rest belongs to the allocator.
Nobody can shrink the file, so no access through the mapping can fault.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.workers.allocator import ALIGNMENT, Allocator, Block

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer  # type checkers have it; only 3.12 has its own

MODELS_PER_SLOT = 64
"""Rows of a ledger page."""

STARTED, FINISHED, FAILED = 0, 1, 2
"""Columns of a ledger page: rows that a model started, finished and failed."""

_LEDGER_BYTES = -(-MODELS_PER_SLOT * 3 * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arena:
    """Shared memory with its allocator.

    Attributes:
        fd: Of the memfd, for worker processes to map.
        total: Bytes of the whole mapping, ledger included.
        allocator: Of everything behind the ledger.
        memory: The mapping; whoever writes there without `write` knows what it does.
    """

    def __init__(self, size: int, *, ledger_slots: int = 64) -> None:
        """Create and map it.

        Args:
            size: Bytes for rows and outputs; the ledger comes on top.
            ledger_slots: How many worker slots can count rows.

        Raises:
            OSError: The memory cannot be had.
            ValueError: `size` or `ledger_slots` is not positive.
        """
        if ledger_slots < 1:
            raise ValueError(f"cannot keep {ledger_slots} ledgers")
        start = ledger_slots * _LEDGER_BYTES
        self.allocator = Allocator(size, start=start)
        self.total = start + size
        self._ledger_slots = ledger_slots
        self.fd = os.memfd_create("arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.total)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._mapping = mmap.mmap(self.fd, self.total)
        except BaseException:
            os.close(self.fd)
            raise
        self.memory = memoryview(self._mapping)
        self._readable = self.memory.toreadonly()

    def write(self, block: Block, *buffers: Buffer) -> tuple[int, ...]:
        """Copy contiguous buffers into `block`, each once, each at the next multiple of 64.

        Returns:
            Where each of them lies: offsets into the arena, bytes.

        Raises:
            ValueError: They do not fit (see `packed_bytes`).
        """
        memory = self.memory
        end = block.offset + block.bytes
        offset = block.offset
        offsets: list[int] = []
        for buffer in buffers:
            source = memoryview(buffer)
            if source.ndim != 1 or source.format != "B":
                source = source.cast("B")
            stop = offset + source.nbytes
            if stop > end:
                raise ValueError(f"{source.nbytes} bytes at {offset} do not fit into {block}")
            memory[offset:stop] = source
            offsets.append(offset)
            offset = -(-stop // ALIGNMENT) * ALIGNMENT
        return tuple(offsets)

    def view(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes at `offset`, read-only and not copied.

        They are the same bytes only until the block they lie in is freed.

        Raises:
            ValueError: They do not all lie behind the ledger in this arena.
        """
        if offset < self._ledger_slots * _LEDGER_BYTES or not 0 <= length <= self.total - offset:
            raise ValueError(f"{length} bytes at {offset} are not in the arena")
        return self._readable[offset : offset + length]

    def ledger_offset(self, slot_index: int) -> int:
        """Return where the ledger page of a slot begins, bytes.

        Raises:
            ValueError: There is no such page.
        """
        if not 0 <= slot_index < self._ledger_slots:
            raise ValueError(f"there is no ledger {slot_index}; there are {self._ledger_slots}")
        return slot_index * _LEDGER_BYTES

    def ledger(self, slot_index: int) -> npt.NDArray[np.uint64]:
        """Return a live, read-only view: `[model, STARTED | FINISHED | FAILED]`, uint64[64, 3].

        Raises:
            ValueError: There is no such page.
        """
        page: Any = np.frombuffer(
            self._readable,
            dtype=np.uint64,
            count=MODELS_PER_SLOT * 3,
            offset=self.ledger_offset(slot_index),
        )
        return page.reshape(MODELS_PER_SLOT, 3)

    def close(self) -> None:
        """Give the memory up; it goes when the last worker and the last view of it have gone."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        with contextlib.suppress(BufferError):  # views that are still out keep the mapping
            self._readable.release()
            self.memory.release()
            self._mapping.close()


def packed_bytes(lengths: Sequence[int]) -> int:
    """Return how large a block `Arena.write` needs for buffers of these lengths, bytes."""
    return sum([-(-length // ALIGNMENT) * ALIGNMENT for length in lengths])
