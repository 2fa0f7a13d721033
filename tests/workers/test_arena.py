from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from appliance.workers.arena import FINISHED, MODELS_PER_SLOT, Arena, packed_bytes


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(1 << 20, ledger_slots=4)
    yield arena
    arena.close()


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 30])
def test_nobody_can_change_its_size(arena: Arena, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, size)
    assert os.fstat(arena.fd).st_size == arena.total


def test_each_buffer_is_written_once_and_aligned(arena: Arena) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    block = arena.allocator.allocate(packed_bytes([5, image.nbytes, 0, 3]))
    offsets = arena.write(block, b"hello", image, b"", memoryview(b"end"))
    assert all(offset % 64 == 0 for offset in offsets)
    assert bytes(arena.view(offsets[0], 5)) == b"hello"
    seen = np.frombuffer(arena.view(offsets[1], image.nbytes), np.float32).reshape(3, 4)
    assert np.array_equal(seen, image)
    assert bytes(arena.view(offsets[3], 3)) == b"end"


def test_a_block_is_not_overrun(arena: Arena) -> None:
    block = arena.allocator.allocate(100)
    arena.write(block, b"x" * 100)
    with pytest.raises(ValueError, match="do not fit"):
        arena.write(block, b"x" * 101)
    with pytest.raises(ValueError, match="do not fit"):
        arena.write(block, b"x" * 40, b"y" * 40)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 8), (4 * 4096 - 1, 1), (4 * 4096, (1 << 20) + 1), (4 * 4096, -1), (1 << 40, 0)],
)
def test_what_is_not_in_it_cannot_be_viewed(arena: Arena, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="not in the arena"):
        arena.view(offset, length)


def test_views_are_live_and_read_only(arena: Arena) -> None:
    block = arena.allocator.allocate(4)
    view = arena.view(block.offset, 4)
    arena.write(block, b"abcd")
    assert bytes(view) == b"abcd"
    with pytest.raises(TypeError):
        view[0] = 0


def test_ledgers_are_seen_by_all_who_map_it(arena: Arena) -> None:
    ledger = arena.ledger(2)
    assert ledger.shape == (MODELS_PER_SLOT, 3)
    assert ledger.dtype == np.uint64
    assert arena.ledger_offset(2) % mmap.PAGESIZE == 0
    with mmap.mmap(arena.fd, 0) as other:
        at = arena.ledger_offset(2) + (5 * 3 + FINISHED) * 8
        other[at : at + 8] = (7).to_bytes(8, "little")
    assert ledger[5, FINISHED] == 7
    assert ledger.sum() == 7
    assert not arena.ledger(1).any()
    with pytest.raises(ValueError, match="read-only"):
        ledger[0, 0] = 1


@pytest.mark.parametrize("slot", [-1, 4])
def test_ledgers_that_are_not_there(arena: Arena, slot: int) -> None:
    with pytest.raises(ValueError, match="there are 4"):
        arena.ledger(slot)


def test_the_allocator_keeps_off_the_ledger(arena: Arena) -> None:
    assert arena.allocator.allocate(1 << 20).offset == arena.ledger_offset(3) + mmap.PAGESIZE
    assert arena.allocator.allocate(1) is None


def test_closing_leaves_views_that_are_out() -> None:
    arena = Arena(1 << 16)
    block = arena.allocator.allocate(4)
    arena.write(block, b"abcd")
    view, ledger = arena.view(block.offset, 4), arena.ledger(0)
    arena.close()
    arena.close()
    assert bytes(view) == b"abcd"
    assert not ledger.any()


def test_closing_gives_the_descriptor_back() -> None:
    arena = Arena(1 << 16)
    fd = arena.fd
    arena.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_arenas_that_cannot_be() -> None:
    with pytest.raises(ValueError):
        Arena(0)
    with pytest.raises(ValueError):
        Arena(1 << 16, ledger_slots=0)
