"""The worker's view of the shared memory: arrays over it, inside its bounds."""

from __future__ import annotations

import mmap
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import PeerProtocolError

LEDGER_MODELS = 64
LEDGER_COLUMNS = 3


class ArenaView:
    """Memory shared with the core, or private memory that stands for it."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer
        self.bytes = len(buffer)
        self._address = int(self.all.ctypes.data)

    @classmethod
    def of_fd(cls, fd: int, size: int) -> ArenaView:
        """Map the first `size` bytes of the memfd `fd`.

        Raises:
            PeerProtocolError: It is not that large.
        """
        try:
            return cls(mmap.mmap(fd, size))
        except (OSError, ValueError) as error:
            raise PeerProtocolError(f"the arena has no {size} bytes: {error}") from error

    def array(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return a writable view: `shape` elements of `dtype`, row-major, at `offset`.

        Raises:
            PeerProtocolError: It would leave the arena.
        """
        if offset + prod(shape) * dtype.itemsize > self.bytes:
            raise PeerProtocolError(f"{dtype}{list(shape)} at {offset} leaves the arena")
        return np.ndarray(shape, dtype, self._buffer, offset)

    @property
    def all(self) -> NDArray[np.uint8]:
        """All of it."""
        return np.frombuffer(self._buffer, np.uint8)

    def address(self, offset: int, length: int) -> int:
        """Return where `length` bytes at `offset` are in this process's memory.

        Raises:
            PeerProtocolError: They would leave the arena.
        """
        if offset + length > self.bytes:
            raise PeerProtocolError(f"{length} bytes at {offset} leave the arena")
        return self._address + offset

    def copy(self, offset: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `offset`.

        Raises:
            PeerProtocolError: They would leave the arena.
        """
        if offset + length > self.bytes:
            raise PeerProtocolError(f"{length} bytes at {offset} leave the arena")
        return self._buffer[offset : offset + length]

    def ledger(self, offset: int) -> Ledger:
        """Return this worker slot's row counters, at `offset`.

        Raises:
            PeerProtocolError: They would leave the arena.
        """
        end = offset + LEDGER_MODELS * LEDGER_COLUMNS * 8
        if end > self.bytes:
            raise PeerProtocolError(f"a ledger at {offset} leaves the arena")
        return Ledger(memoryview(self._buffer)[offset:end].cast("Q"))


class Ledger:
    """Rows that each model started, finished and failed: shared, so it outlives this process.

    A slot's next process goes on adding. Started less finished less failed is what a process that
    died had in hand.
    """

    def __init__(self, counters: memoryview) -> None:
        self._counters = counters

    def started(self, model: int, rows: int) -> None:
        """Rows are about to run."""
        self._counters[model * LEDGER_COLUMNS] += rows

    def finished(self, model: int, rows: int) -> None:
        """Their outputs are in the arena."""
        self._counters[model * LEDGER_COLUMNS + 1] += rows

    def failed(self, model: int, rows: int) -> None:
        """The engine failed on them."""
        self._counters[model * LEDGER_COLUMNS + 2] += rows
