from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.workers import allocator as module
from appliance.workers.allocator import ALIGNMENT, Allocator, Block, NotAllocated, Quota


class AllocatorMachine(RuleBasedStateMachine):
    """Against a plain list of what is held."""

    @initialize(total=st.integers(64, 1 << 16), start=st.integers(0, 8), cached=st.integers(0, 9))
    def begin(self, total: int, start: int, cached: int) -> None:
        self.cached, module.CACHED = module.CACHED, cached
        self.start = start * ALIGNMENT
        self.total = total // ALIGNMENT * ALIGNMENT
        self.allocator = Allocator(total, start=self.start)
        self.held: list[Block] = []
        self.peak = 0

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        for block in self.held:
            self.allocator.free(block)
        module.CACHED = self.cached
        # All came back, in one piece: a class is at most 1/16 below its next.
        assert self.allocator.statistics().free == self.total
        assert self.allocator.allocate(max(ALIGNMENT, self.total - self.total // 16)) is not None

    @rule(size=st.one_of(st.integers(1, 300), st.integers(1, 1 << 16)))
    def allocate(self, size: int) -> None:
        block = self.allocator.allocate(size)
        if block is not None:
            assert block.bytes == size
            self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        block = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.allocator.free(block)
        with pytest.raises(NotAllocated):
            self.allocator.free(block)

    @invariant()
    def blocks_are_apart_and_counted(self) -> None:
        blocks = sorted(self.held)
        assert all(block.offset % ALIGNMENT == 0 for block in blocks)
        ends = [self.start] + [block.offset + block.bytes for block in blocks]
        starts = [block.offset for block in blocks] + [self.start + self.total]
        assert all(end <= start for end, start in zip(ends, starts, strict=True))
        statistics = self.allocator.statistics()
        asked = sum(block.bytes for block in blocks)
        # Rounding: to the next unit, and to the next class above that.
        assert asked <= statistics.used <= (asked + ALIGNMENT * len(blocks)) * 17 / 16
        assert statistics.used + statistics.free == statistics.total == self.total
        assert statistics.blocks == len(blocks)
        self.peak = max(self.peak, statistics.used)
        assert statistics.peak == self.peak


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=40, deadline=None)


@given(st.integers(1, 1 << 40))
def test_classes(size: int) -> None:
    units = module._rounded(size)
    assert size <= units * ALIGNMENT < (size + ALIGNMENT) * 17 / 16
    assert module._rounded(units * ALIGNMENT) == units
    assert module._bin(units) > module._bin(units - 1)


def test_the_cache_is_no_reason_to_refuse() -> None:
    allocator = Allocator(1 << 20)
    small = [allocator.allocate(1024) for _ in range(100)]
    for block in small:
        allocator.free(block)
    whole = allocator.allocate(1 << 20)
    assert whole == Block(0, 1 << 20)
    assert allocator.statistics().refused == 0
    assert allocator.allocate(1) is None
    assert allocator.statistics().refused == 1


def test_an_equal_block_is_no_title() -> None:
    allocator = Allocator(1 << 20)
    first = allocator.allocate(1024)
    allocator.free(first)
    second = allocator.allocate(1024)
    assert second == first
    with pytest.raises(NotAllocated):
        allocator.free(first)
    allocator.free(second)


@pytest.mark.parametrize(("total", "start"), [(0, 0), (63, 0), (1 << 20, 1), (1 << 20, -64)])
def test_ranges_that_cannot_be(total: int, start: int) -> None:
    with pytest.raises(ValueError):
        Allocator(total, start=start)


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ValueError):
        Allocator(1 << 20).allocate(size)


@given(st.integers(0, 100), st.lists(st.integers(0, 60)))
def test_quota(limit: int, sizes: list[int]) -> None:
    quota = Quota(limit)
    held: list[int] = []
    for size in sizes:
        fits = sum(held) + size <= limit
        assert quota.charge(size) is fits
        if fits:
            held.append(size)
        elif held:
            quota.release(held.pop())
        assert quota.used == sum(held) <= quota.peak <= limit
    with pytest.raises(NotAllocated):
        quota.release(quota.used + 1)
