"""Who owns which bytes of the arena. PURE; owned by the arena, used from one thread.

Segregated fit with immediate coalescing, and a small cache in front. Sizes are rounded up to
classes that are at most 1/16 apart, so that a 150 KB image does not take 256 KB as it would from
a buddy allocator. Free extents know their neighbours by offset and lie in one bin per class; a
bit set over the bins finds the smallest bin that fits in constant time, and since every size is
a class, whatever lies in that bin fits. The cache keeps up to `CACHED` freed blocks uncoalesced:
robots send the same sizes over and over. It is given back whole when an allocation fails, which
bounds that pause, and only then is "no room" the answer.
"""

from __future__ import annotations

from typing import NamedTuple

from attrs import define, field, frozen
from attrs.setters import NO_OP
from attrs.validators import ge

from appliance.errors import ApplianceError

ALIGNMENT = 64
"""Of every block, bytes: a cache line, and what vector loads and DMA like."""

CACHED = 256
"""Freed blocks that may wait uncoalesced; giving all of them back takes under a millisecond."""

_UNIT_BITS = ALIGNMENT.bit_length() - 1
_MANTISSA_BITS = 4  # 16 classes to each doubling


class Block(NamedTuple):
    """Bytes `[offset, offset + bytes)` of the arena; `bytes` is what was asked for.

    The object itself is the title to the memory: an equal copy does not free it.
    """

    offset: int
    bytes: int


class NotAllocated(ApplianceError):
    """A block is freed that is not held: freed before, or never from here. A bug here."""

    code = "NOT_ALLOCATED"


@frozen
class AllocatorStatistics:
    """A snapshot, bytes.

    Attributes:
        used: Held by blocks, rounding included; `used + free == total`.
        blocks: How many blocks are held.
        refused: Allocations that found no room, since the start.
    """

    total: int
    used: int
    free: int
    peak: int
    blocks: int
    refused: int


def _rounded(size: int) -> int:
    """Return the class of `size` bytes: the fewest units, of those a class has, that hold it."""
    units = (size + ALIGNMENT - 1) >> _UNIT_BITS
    shift = units.bit_length() - _MANTISSA_BITS - 1
    return units if shift <= 0 else -(-units >> shift) << shift


def _bin(units: int) -> int:
    """Return the index of the largest class that `units` units hold."""
    shift = units.bit_length() - _MANTISSA_BITS - 1
    return units if shift <= 0 else (shift << _MANTISSA_BITS) + (units >> shift)


class Allocator:
    """Hands out aligned blocks of `[start, start + total)`."""

    def __init__(self, total: int, *, start: int = 0) -> None:
        """Start with everything free.

        Args:
            total: Bytes; what lies beyond the last multiple of `ALIGNMENT` is left alone.
            start: Offset of the first byte, a multiple of `ALIGNMENT`.

        Raises:
            ValueError: The range is empty or `start` is not aligned.
        """
        units = total >> _UNIT_BITS
        if units < 1 or start < 0 or start % ALIGNMENT:
            raise ValueError(f"cannot allocate from {total} bytes at {start}")
        self._total = units
        self._origin = start
        self._held: dict[int, Block] = {}
        self._used = 0
        self._peak = 0
        self._refused = 0
        # Free extents in units from the origin: by their start, by their end, by their bin.
        self._extents: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._bins: list[dict[int, None]] = [{} for _ in range(_bin(units) + 1)]
        self._filled = 0  # bit i: bin i is not empty
        self._cache: dict[int, list[int]] = {}  # class -> offsets, units
        self._cached = 0
        self._insert(0, units)

    def allocate(self, size: int) -> Block | None:
        """Return a block of `size` bytes, or None if there is no room for it now.

        Raises:
            ValueError: `size` is not positive.
        """
        if size < 1:
            raise ValueError(f"cannot allocate {size} bytes")
        units = _rounded(size)
        cached = self._cache.get(units)
        if cached:
            start = cached.pop()
            self._cached -= 1
        else:
            found = self._take(units)
            if found is None:
                self._refused += 1
                return None
            start = found
        used = self._used = self._used + units
        if used > self._peak:  # noqa: PLR1730 - twice as fast as max()
            self._peak = used
        offset = self._origin + (start << _UNIT_BITS)
        block = self._held[offset] = Block(offset, size)
        return block

    def free(self, block: Block) -> None:
        """Take `block` back.

        Raises:
            NotAllocated: It is not held.
        """
        offset = block.offset
        if self._held.get(offset) is not block:
            raise NotAllocated(f"{block} is not held")
        del self._held[offset]
        units = _rounded(block.bytes)
        self._used -= units
        start = (offset - self._origin) >> _UNIT_BITS
        if self._cached < CACHED:
            self._cached += 1
            cached = self._cache.get(units)
            if cached is None:
                self._cache[units] = [start]
            else:
                cached.append(start)
        else:
            self._insert(start, units)

    def statistics(self) -> AllocatorStatistics:
        """Return the counters as they are now."""
        return AllocatorStatistics(
            total=self._total << _UNIT_BITS,
            used=self._used << _UNIT_BITS,
            free=(self._total - self._used) << _UNIT_BITS,
            peak=self._peak << _UNIT_BITS,
            blocks=len(self._held),
            refused=self._refused,
        )

    def _take(self, units: int) -> int | None:
        """Cut `units` units out of the free extents."""
        index = _bin(units)
        fitting = self._filled >> index
        if not fitting and self._cached:
            self._flush()
            fitting = self._filled >> index
        if not fitting:
            return None
        index += (fitting & -fitting).bit_length() - 1
        start = next(reversed(self._bins[index]))
        extent = self._remove(start)
        if extent > units:
            self._insert(start + units, extent - units)
        return start

    def _flush(self) -> None:
        """Coalesce all that is cached."""
        for units, starts in self._cache.items():
            for start in starts:
                self._insert(start, units)
        self._cache.clear()
        self._cached = 0

    def _insert(self, start: int, units: int) -> None:
        """Make units free, as one extent with their free neighbours."""
        before = self._ends.get(start)
        if before is not None:
            units += self._remove(before)
            start = before
        if start + units in self._extents:
            units += self._remove(start + units)
        self._extents[start] = units
        self._ends[start + units] = start
        index = _bin(units)
        self._bins[index][start] = None
        self._filled |= 1 << index

    def _remove(self, start: int) -> int:
        """Forget the free extent at `start` and return its units."""
        units = self._extents.pop(start)
        del self._ends[start + units]
        index = _bin(units)
        extents = self._bins[index]
        del extents[start]
        if not extents:
            self._filled &= ~(1 << index)
        return units


@define(eq=False, on_setattr=NO_OP)  # it changes with every request; the limit never does
class Quota:
    """How much of the arena one client may hold at a time, bytes."""

    limit: int = field(validator=ge(0))
    used: int = field(default=0, init=False)
    peak: int = field(default=0, init=False)

    def charge(self, size: int) -> bool:
        """Count `size` bytes and return True, or change nothing if that went beyond the limit."""
        used = self.used + size
        if used > self.limit:
            return False
        self.used = used
        self.peak = max(self.peak, used)
        return True

    def release(self, size: int) -> None:
        """Give back what was charged.

        Raises:
            NotAllocated: It is more than is charged.
        """
        if size > self.used:
            raise NotAllocated(f"{size} bytes are released, {self.used} were charged")
        self.used -= size
