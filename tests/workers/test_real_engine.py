"""The pool with real `python -m appliance.engines` processes and tiny real models."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pool_harness import House, exists, house
from support.repository import (
    EXITS,
    KILLED,
    RAISES,
    STALLS,
    WRONG_SHAPE,
    add_echo,
    add_exits_at_import,
    add_faulty,
    add_onnx_mlp,
    add_raises_at_import,
    add_stalls_at_import,
    rows,
)

from appliance.models.repository import Repository
from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Encoding
from appliance.workers.arena import FAILED, FINISHED, STARTED
from appliance.workers.events import BatchFinished, ModelFailed, ModelLoaded, WorkerDown, WorkerUp
from appliance.workers.restart import RestartPolicy
from appliance.workers.slot import HostedModel, Slot

SECOND = 1_000_000_000
OUTPUT_BYTES = 1024


def slot(root: Path, **others: int) -> Slot:
    """A slot that hosts every model of a repository, by name."""
    models = tuple(
        HostedModel(
            name=entry.name,
            version=entry.version,
            manifest=entry.manifest,
            manifest_path=str(entry.manifest_path),
            directory=str(entry.directory),
        )
        for entry in Repository(root).scan()
    )
    # Nothing is overdue unless a test moves the clock.
    return Slot(
        name="cpu",
        models=models,
        **{"start_timeout_ns": 10**6 * SECOND, "hang_floor_ns": 10**6 * SECOND, **others},
    )


def stage(home: House, x: NDArray[np.float32], batch_id: int, model: int = 0) -> worker_pb2.Stage:
    output = home.arena.allocator.allocate(OUTPUT_BYTES)
    assert output is not None
    message = worker_pb2.Stage(
        batch_id=batch_id,
        model=model,
        output_offset=output.offset,
        output_bytes=output.bytes,
        go=True,
    )
    for row in x:
        block = home.arena.allocator.allocate(row.nbytes)
        assert block is not None
        (offset,) = home.arena.write(block, row)
        message.rows.add().feeds.add(
            offset=offset,
            length=row.nbytes,
            dtype=int(DType.FLOAT32),
            encoding=int(Encoding.RAW),
            shape=row.shape,
        )
    return message


async def run(
    home: House, worker: WorkerRef, x: NDArray[np.float32], model: int = 0
) -> tuple[worker_pb2.Done, list[NDArray[np.float32]]]:
    home.pool.stage(worker, stage(home, x, batch_id=1, model=model))
    done = (await home.next(BatchFinished)).done
    outputs = [
        np.frombuffer(
            home.arena.view(output.offset, output.row_length * len(x)), np.float32
        ).reshape(len(x), *output.row_shape)
        for output in done.outputs
    ]
    return done, outputs


async def wait_ready(home: House, worker: WorkerRef) -> None:
    """Wait for this worker's WorkerUp, and for no other's."""
    assert (await home.next(WorkerUp)).worker == worker


async def test_onnx_and_python_models_answer(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    add_echo(tmp_path, "echo")
    directory = add_onnx_mlp(tmp_path, "mlp")
    async with house(slot(tmp_path)) as home:
        worker = WorkerRef("cpu", 1)
        echo, mlp = await home.next(ModelLoaded), await home.next(ModelLoaded)
        assert (echo.spec.model_id, mlp.spec.model_id) == ("echo", "mlp")
        assert set(mlp.times_ns) == {1, 2, 4, 8}
        assert min(mlp.times_ns.values()) > 0
        await wait_ready(home, worker)
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        done, (y,) = await run(home, worker, x)
        assert np.array_equal(y, x)
        assert done.gather_ns > 0
        assert done.execute_started_ns <= done.finished_ns
        x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
        _, (y,) = await run(home, worker, x, model=1)
        direct = onnxruntime.InferenceSession(directory / "model.onnx").run(None, {"x": x})[0]
        assert np.allclose(y, direct, atol=1e-6)
        assert home.arena.ledger(0)[:2, FINISHED].tolist() == [3, 3]


@pytest.mark.parametrize(("poison", "says"), [(RAISES, "poisoned"), (WRONG_SHAPE, "y")])
async def test_an_engine_that_fails_goes_on(tmp_path: Path, poison: float, says: str) -> None:
    add_faulty(tmp_path)
    async with house(slot(tmp_path)) as home:
        worker = await home.up()
        done, _ = await run(home, worker, rows(0, poison))
        assert says in done.error
        done, (y,) = await run(home, worker, rows(0, 9))
        assert not done.error
        assert np.array_equal(y, rows(0, 9))
        assert home.arena.ledger(0)[0].tolist() == [4, 2, 2]


@pytest.mark.parametrize(
    ("poison", "cause"), [(EXITS, "exited with status 3"), (KILLED, "killed by SIGKILL")]
)
async def test_an_engine_that_ends_is_replaced(tmp_path: Path, poison: float, cause: str) -> None:
    add_faulty(tmp_path)
    async with house(slot(tmp_path)) as home:
        worker = await home.up()
        home.pool.stage(worker, stage(home, rows(0, poison), batch_id=7))
        assert (await home.next(WorkerDown)).cause.startswith(cause)
        _, (y,) = await run(home, await home.up(), rows(0))
        assert np.array_equal(y, rows(0))
        ledger = home.arena.ledger(0)[0]
        assert (ledger[STARTED], ledger[FINISHED], ledger[FAILED]) == (3, 1, 0)


async def test_an_engine_that_stalls_is_replaced(tmp_path: Path) -> None:
    add_faulty(tmp_path)
    async with house(slot(tmp_path)) as home:
        worker = await home.up()
        home.pool.stage(worker, stage(home, rows(STALLS), batch_id=7))
        home.clock.advance(10**6 + 1)
        down = await home.next(WorkerDown)
        assert down.cause == "hung: batch 7 of faulty runs for more than 1e+06 s"
        _, (y,) = await run(home, await home.up(), rows(0))
        assert np.array_equal(y, rows(0))


async def test_models_that_cannot_be_loaded_leave_the_others(tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    add_raises_at_import(tmp_path, "broken")
    add_exits_at_import(tmp_path, "exits", hard=True)
    add_exits_at_import(tmp_path, "leaves")
    async with house(slot(tmp_path), restart=RestartPolicy(first_backoff_ns=0)) as home:
        worker = await home.up()
        assert worker.generation == 3  # the first two were ended by "exits"
        x = rows(1, 2)
        _, (y,) = await run(home, worker, x, model=1)
        assert np.array_equal(y, x)


async def test_which_models_could_not_be_loaded_is_told(tmp_path: Path) -> None:
    add_raises_at_import(tmp_path, "broken")
    add_echo(tmp_path, "echo")
    async with house(slot(tmp_path)) as home:
        failed, loaded, up = await home.event(), await home.event(), await home.event()
        assert isinstance(failed, ModelFailed)
        assert failed.model == 0
        assert "a_module_that_is_not_there" in failed.message
        assert isinstance(loaded, ModelLoaded)
        assert isinstance(up, WorkerUp)


async def test_a_model_that_stalls_at_load(tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    add_stalls_at_import(tmp_path, "stuck")
    async with house(slot(tmp_path)) as home:
        for _ in range(2):
            await home.next(ModelLoaded)
            await home.until(lambda now: now.step.startswith("stuck"))
            home.clock.advance(10**6 + 1)
            assert (await home.next(WorkerDown)).cause.startswith("did not start: no progress")
        failed = await home.next(ModelFailed)
        assert failed.model == 1
        assert failed.message.startswith("left out: ")
        await home.next(WorkerUp)


@pytest.mark.parametrize("signals", [[], [signal.SIGSTOP]])
async def test_no_process_remains(tmp_path: Path, signals: Sequence[signal.Signals]) -> None:
    add_echo(tmp_path, "echo")
    async with house(slot(tmp_path), stop_grace_s=0.2 if signals else 60) as home:
        await home.up()
        pid = home.pid()
        for number in signals:
            os.kill(pid, number)
    assert not exists(pid)
    cause = "stopped: killed, as it did not go by itself" if signals else "stopped"
    assert (await home.next(WorkerDown)).cause == cause
