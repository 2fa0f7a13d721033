"""A worker's output blocks: two, for the largest of the models it has loaded."""

from __future__ import annotations

import pytest

from appliance.admission.catalog import Catalog, Served
from appliance.dispatch.fleet import Fleet
from appliance.dispatch.memory import Memory
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics
from appliance.scheduling.events import Batch, Lane, ModelRef, WorkerReady, WorkerRef
from appliance.wire.spec import ModelSpec
from appliance.workers.arena import Arena
from appliance.workers.events import ModelLoaded, WorkerUp

WORKER = WorkerRef("cpu-0", 1)
UNIT = 1 << 18
ARENA = 8 * UNIT


def spec(name: str, units: int) -> ModelSpec:
    return ModelSpec(name, "1", (), (), output_bytes_per_row=units * UNIT)


@pytest.fixture
def fleet() -> Fleet:
    names = ("first", "second")
    models = {name: Served(name, "1") for name in names}
    refs = [ModelRef(name, "1") for name in names]
    memory = Memory(Arena(ARENA, ledger_slots=2))
    return Fleet(Catalog(models), memory, Metrics(), Ledger(), {WORKER.slot: refs})


def loaded(fleet: Fleet, worker: WorkerRef, first: int, second: int) -> WorkerReady:
    """Return what the scheduler is told of a worker that has loaded models with such outputs."""
    for index, each in enumerate((spec("first", first), spec("second", second))):
        fleet.on_pool_event(ModelLoaded(worker, index, each, {1: 1}))
    (ready,) = fleet.on_pool_event(WorkerUp(worker))
    assert isinstance(ready, WorkerReady)
    return ready


def used(fleet: Fleet) -> int:
    return fleet.memory.arena.allocator.statistics().used


def test_what_makes_a_worker_slower_is_told_of_it_and_of_no_later_one(fleet: Fleet) -> None:
    slow = {"without_graphs": "no stream", "images_on_cpu": "no NVRTC"}
    fleet.on_pool_event(ModelLoaded(WORKER, 0, spec("first", 1), {1: 1}, **slow))
    fleet.on_pool_event(ModelLoaded(WORKER, 1, spec("second", 1), {1: 1}))
    fleet.on_pool_event(WorkerUp(WORKER, unpinned=True))
    assert fleet.remarks(WORKER.slot, WORKER.generation) == [
        "first runs without CUDA graphs: no stream",
        "images for first are preprocessed on the CPU: no NVRTC",
        "the GPU cannot read the arena: rows are copied once more",
    ]
    assert fleet.remarks(WORKER.slot, WORKER.generation + 1) == []


def test_the_smaller_ones_are_given_back_before_the_larger_ones_are_taken(fleet: Fleet) -> None:
    ready = loaded(fleet, WORKER, 3, 4)
    assert [ref.name for ref in ready.max_batch] == ["first", "second"]
    assert used(fleet) == 8 * UNIT


def test_without_room_for_the_larger_ones_the_smaller_ones_stay(fleet: Fleet) -> None:
    ready = loaded(fleet, WORKER, 3, 5)
    assert [ref.name for ref in ready.max_batch] == ["first"]
    assert "no room" in fleet.catalog.models["second"].error
    assert used(fleet) == 6 * UNIT


def _stage(fleet: Fleet, number: int) -> int:
    """Return where the outputs of a batch go."""
    batch = Batch(number, Lane(ModelRef("first", "1")), [], WORKER, 1)
    return fleet.stage_message(batch, [], go=True).output_offset


def test_a_batch_that_is_overtaken_keeps_its_outputs(fleet: Fleet) -> None:
    loaded(fleet, WORKER, 1, 1)
    first, second = (_stage(fleet, number) for number in (1, 2))
    assert first != second
    fleet.release(WORKER, 2)
    assert _stage(fleet, 3) == second
    fleet.release(WORKER, 1)
    assert _stage(fleet, 4) == first


def test_a_successor_writes_to_what_was_reserved_for_it(fleet: Fleet) -> None:
    loaded(fleet, WORKER, 1, 2)
    outputs = fleet.output_blocks(2 * UNIT)
    assert used(fleet) == 8 * UNIT
    fleet.succeed(WORKER.slot, [ModelRef("first", "1"), ModelRef("second", "1")], 1, outputs)
    ready = loaded(fleet, WorkerRef(WORKER.slot, 2), 1, 2)
    assert [ref.name for ref in ready.max_batch] == ["first", "second"]
    assert used(fleet) == 8 * UNIT
