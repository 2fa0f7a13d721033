"""A real worker process with the real engine for GPUs, on a GPU of numpy that takes its time."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fake_gpu_worker import HELD
from support.image_plans import needs_compiler
from support.worker_process import WorkerProcess

from appliance.engines import images
from appliance.engines.preprocess import Preprocessor
from appliance.models.inputs import input_plan
from appliance.models.manifest import parse_manifest
from appliance.models.plans import TensorSignature
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType, Encoding

MANIFEST = """
[[inputs]]
name = "x"
scale = 0.5

[[state]]
input = "state"
output = "stateN"
batch_axis = 1
"""
STATE_BYTES = 2 * 3 * 4
Rows = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
StartFake = Callable[..., WorkerProcess]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    version = tmp_path / "models" / "arm" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"stands for one")
    (version.parent / "model.toml").write_text(MANIFEST)
    return version.parents[1]


@pytest.fixture
def start_fake(tmp_path: Path) -> Iterator[StartFake]:
    workers: list[WorkerProcess] = []

    def starts(root: Path, wishes: str = "", memory_bytes: int = 0) -> WorkerProcess:
        path = str(Path(__file__).parents[1])
        worker = WorkerProcess(
            log=tmp_path / "stderr",
            module="support.fake_gpu_worker",
            environment={"FAKE_GPU": wishes, "PYTHONPATH": path},
        )
        workers.append(worker)
        worker.load(root, "cuda:0", memory_bytes=memory_bytes)
        assert not worker.failed
        return worker

    yield starts
    for worker in workers:
        worker.kill()


def said(tmp_path: Path) -> str:
    return (tmp_path / "stderr").read_text()


def rows_of(generator: np.random.Generator, count: int) -> Rows:
    return [
        (
            generator.standard_normal(4).astype(np.float32),
            generator.integers(0, 256, 3).astype(np.uint8),
            generator.standard_normal((2, 3)).astype(np.float32),
        )
        for _ in range(count)
    ]


class Sent:
    """A batch, and where it lies."""

    def __init__(self, worker: WorkerProcess, rows: Rows, *, go: bool, model: str = "arm") -> None:
        self.rows, self.model = rows, model
        self.states_out = [worker.allocate(STATE_BYTES) for _ in rows]
        self.made = [
            worker_pb2.Row(
                feeds=[worker.feed(x), worker.feed(raw)],
                state_in=[worker.store(state.tobytes())],
                state_out=[out],
            )
            for (x, raw, state), out in zip(rows, self.states_out, strict=True)
        ]
        self.id = worker.stage(model, self.made, go=go)

    def check(self, worker: WorkerProcess, done: worker_pb2.Done) -> None:
        assert done.batch_id == self.id
        found = worker.output(done, "y", len(self.rows))
        for index, (x, raw, state) in enumerate(self.rows):
            new = state * 0.5 + raw
            np.testing.assert_allclose(found[index], x + raw.sum() + new[1].sum(), rtol=1e-5)
            stored = np.frombuffer(worker.read(self.states_out[index]), np.float32).reshape(2, 3)
            np.testing.assert_allclose(stored, new, rtol=1e-6)

    def overwrite(self, worker: WorkerProcess) -> None:
        """Do as the core: other rows lie there from now on."""
        for row in self.made:
            for feed in row.feeds:
                worker.memory[feed.offset : feed.offset + feed.length] = b"\xff" * feed.length


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capturable", [0, 1])
@pytest.mark.parametrize("integrated", [0, 1])
def test_batches_in_flight_do_not_mix(
    root: Path, start_fake: StartFake, tmp_path: Path, seed: int, capturable: int, integrated: int
) -> None:
    worker = start_fake(root, f"seed={seed} capturable={capturable} integrated={integrated}")
    draw, generator = random.Random(seed), np.random.default_rng(seed)
    waiting: deque[Sent] = deque()
    ran = 0

    def collect(most: int) -> None:
        nonlocal ran
        while len(waiting) > most:
            sent = waiting.popleft()
            sent.check(worker, worker.done())
            sent.overwrite(worker)
            ran += 1

    for _ in range(60):
        collect(draw.randrange(3))
        kind = draw.choice(["at once", "later", "taken back"])
        sent = Sent(worker, rows_of(generator, draw.randint(1, 8)), go=kind == "at once")
        if kind == "taken back":
            worker.revoke(sent.id)
            sent.overwrite(worker)
            continue
        if kind == "later":
            worker.go(sent.id)
        waiting.append(sent)
    collect(0)
    rows_started, rows_finished, failed = worker.ledger("arm")
    assert rows_started == rows_finished > ran > 30
    assert failed == 0
    assert ("runs without CUDA graphs" in said(tmp_path)) == (not capturable)
    without = worker.ready["arm"].without_graphs
    assert bool(without) == (not capturable)
    assert without in said(tmp_path)


@pytest.mark.parametrize("pins", [0, 1])
def test_an_arena_that_cannot_be_pinned_is_said_and_served(
    root: Path, start_fake: StartFake, pins: int
) -> None:
    worker = start_fake(root, f"pins={pins}")
    assert worker.unpinned == (not pins)
    generator = np.random.default_rng(0)
    for count in (8, 3):
        Sent(worker, rows_of(generator, count), go=True).check(worker, worker.done())


@pytest.mark.parametrize("go", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_an_urgent_model_is_done_before_one_that_runs(
    root: Path, start_fake: StartFake, seed: int, *, go: bool
) -> None:
    shutil.copytree(root / "arm", root / "guard")
    (root / "guard" / "model.toml").write_text(f"urgent = true\n{MANIFEST}")
    worker = start_fake(root, f"seed={seed}")
    assert [each.urgent for each in worker.ready.values()] == [False, True]
    generator = np.random.default_rng(seed)
    rows = rows_of(generator, 3)
    rows[0][0][0] = 2 * HELD  # it is scaled by a half
    first = Sent(worker, rows, go=True)
    urgent = Sent(worker, rows_of(generator, 2), go=go, model="guard")
    if not go:
        worker.go(urgent.id)
    done = worker.done()
    urgent.check(worker, done)
    another = Sent(worker, rows_of(generator, 1), go=True, model="guard")
    last = {each.batch_id: each for each in (worker.done(), worker.done())}
    another.check(worker, last[another.id])
    first.check(worker, last[first.id])
    assert done.finished_ns < last[first.id].finished_ns
    assert worker.ledger("arm") == worker.ledger("guard") == (3, 3, 0)


def test_a_bad_row_of_an_urgent_model_waits_for_no_other_model(
    root: Path, start_fake: StartFake
) -> None:
    shutil.copytree(root / "arm", root / "guard")
    (root / "guard" / "model.toml").write_text(f"urgent = true\n{MANIFEST}")
    worker = start_fake(root)
    generator = np.random.default_rng(1)
    held = rows_of(generator, 1)
    held[0][0][0] = 2 * HELD  # it runs until two of the other model have run
    first = Sent(worker, held, go=True)
    short = worker_pb2.Row(feeds=[worker.feed(held[0][0]), worker.feed(np.zeros(4, np.uint8))])
    bad = worker.stage("guard", [short])
    done = worker.done()
    assert (done.batch_id, [error.row for error in done.row_errors]) == (bad, [0])
    urgent = [Sent(worker, rows_of(generator, 1), go=True, model="guard") for _ in range(2)]
    last = {done.batch_id: done for done in (worker.done() for _ in range(3))}
    for each in (*urgent, first):
        each.check(worker, last[each.id])


def test_a_graph_that_gives_something_else_is_not_used(
    root: Path, start_fake: StartFake, tmp_path: Path
) -> None:
    worker = start_fake(root, "wrong=1")
    assert "gives another 'y' than a run without it" in said(tmp_path)
    sent = Sent(worker, rows_of(np.random.default_rng(1), 3), go=True)
    sent.check(worker, worker.done())


def test_a_row_that_cannot_be_used_fails_alone(root: Path, start_fake: StartFake) -> None:
    worker = start_fake(root)
    rows = rows_of(np.random.default_rng(2), 4)
    sent = Sent(worker, rows, go=False)
    worker.revoke(sent.id)
    for bad in (0, 1, 3):
        made = list(sent.made)
        made[bad] = worker_pb2.Row(
            feeds=[worker.feed(rows[bad][0]), worker.feed(np.zeros(4, np.uint8))]
        )
        worker.stage("arm", made)
        done = worker.done()
        assert [error.row for error in done.row_errors] == [bad]
        found = worker.output(done, "y", 4)
        for index, (x, raw, state) in enumerate(rows):
            if index != bad:
                new = state * 0.5 + raw
                np.testing.assert_allclose(found[index], x + raw.sum() + new[1].sum(), rtol=1e-5)


def test_without_graphs_a_batch_that_cannot_be_run_fails_alone(
    root: Path, start_fake: StartFake
) -> None:
    worker = start_fake(root, "fails_at=5 capturable=0")
    generator = np.random.default_rng(3)
    first = Sent(worker, rows_of(generator, 4), go=True)
    second = Sent(worker, rows_of(generator, 5), go=True)
    third = Sent(worker, rows_of(generator, 3), go=True)
    first.check(worker, worker.done())
    failed = worker.done()
    assert (failed.batch_id, failed.error) == (second.id, "it does not like that size")
    third.check(worker, worker.done())
    assert worker.ledger("arm") == (12, 7, 5)


def test_a_lost_device_ends_the_process(root: Path, start_fake: StartFake, tmp_path: Path) -> None:
    worker = start_fake(root, "lost_after=1")
    Sent(worker, rows_of(np.random.default_rng(4), 4), go=True)
    assert worker.process.wait(30) == 1
    assert said(tmp_path).splitlines()[-1] == "worker: the GPU's context is lost: fake"
    assert worker.ledger("arm") == (4, 0, 0)


def test_more_batches_than_buffers(root: Path, start_fake: StartFake) -> None:
    worker = start_fake(root)
    generator = np.random.default_rng(5)
    sent = [Sent(worker, rows_of(generator, 2), go=False) for _ in range(3)]
    for each in sent[:2]:
        worker.go(each.id)
        each.check(worker, worker.done())
    worker.go(sent[2].id)
    assert "more batches are staged than the engine has buffers for" in worker.done().error
    last = Sent(worker, rows_of(generator, 2), go=True)
    last.check(worker, worker.done())


def test_too_late_is_skipped_and_its_buffers_are_free_again(
    root: Path, start_fake: StartFake
) -> None:
    worker = start_fake(root)
    generator = np.random.default_rng(6)
    for _ in range(3):
        late = Sent(worker, rows_of(generator, 2), go=False)
        worker.go(late.id, latest_start_ns=1)
        assert worker.done().skipped
    sent = Sent(worker, rows_of(generator, 2), go=True)
    sent.check(worker, worker.done())


def test_it_stops(root: Path, start_fake: StartFake) -> None:
    worker = start_fake(root)
    Sent(worker, rows_of(np.random.default_rng(7), 2), go=False)
    worker.send(worker_pb2.ToWorker(stop=worker_pb2.Stop()))
    assert worker.process.wait(30) == 0


# ------------------------------------------------------------------------------- pictures

EYE = """
[[inputs]]
name = "camera"
decode = ["png"]
resize = [12, 20]
layout = "CHW"
color = "BGR"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


@needs_compiler
@pytest.mark.parametrize(
    ("wishes", "key", "by_kernel"),
    [
        ("seed=1", "", True),
        ("seed=2 integrated=1", "", True),
        ("seed=3 kernels=0", "", False),
        ("seed=4", "cuda_preprocessing = false", False),
    ],
)
def test_pictures_are_what_the_cpu_makes_of_them(
    tmp_path: Path, start_fake: StartFake, wishes: str, key: str, *, by_kernel: bool
) -> None:
    version = tmp_path / "models" / "eye" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"stands for one")
    (version.parent / "model.toml").write_text(key + EYE)
    worker = start_fake(tmp_path / "models", wishes)
    tensor = TensorSignature("camera", DType.FLOAT32, (-1, 3, 12, 20))
    [described] = parse_manifest(EYE, "model.toml").inputs
    preprocessor = Preprocessor(input_plan(described, tensor, 8))
    generator = np.random.default_rng(8)
    for count in (1, 3, 8):
        feeds: list[list[worker_pb2.Feed]] = []
        wanted: list[NDArray[Any]] = []
        for index in range(count):
            shape = [(96, 128, 3), (33, 7, 3), (12, 20, 3), (200, 310, 3)][index % 4]
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            wanted.append(np.empty((3, 12, 20), np.float32))
            preprocessor.write(pixels, wanted[-1])
            if index % 3:
                feeds.append([worker.feed(pixels)])
            else:
                file = images.encode(pixels, Encoding.PNG)
                feeds.append([worker.feed_bytes(file, encoding=Encoding.PNG)])
        worker.stage("eye", feeds)
        found = worker.output(worker.done(), "seen", count)
        np.testing.assert_allclose(found, np.stack(wanted), atol=1.01 / 255 / 0.224)
    worker.send(worker_pb2.ToWorker(stop=worker_pb2.Stop()))
    assert worker.process.wait(30) == 0
    assert ("kernels launched: 0" in said(tmp_path)) == (not by_kernel)
    why = "no kernels are wished for" if "kernels=0" in wishes else ""
    assert worker.ready["eye"].images_on_cpu == why
    assert (f"preprocessed on the CPU: {why}" in said(tmp_path)) == bool(why)


# ------------------------------------------------------------------------------- for real


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")  # noqa: PTH110
def test_a_gpu_that_is_missing_is_an_error_and_never_the_cpu(root: Path, tmp_path: Path) -> None:
    with WorkerProcess(log=tmp_path / "said") as worker:
        worker.start_loading(root, "cuda:0")
        assert worker.process.wait(30) == 1
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last.startswith("worker: no NVIDIA driver: libcuda.so.1 cannot be loaded; install")


def test_a_device_that_is_none(root: Path, tmp_path: Path) -> None:
    with WorkerProcess() as worker:
        worker.start_loading(root, "tpu")
        assert worker.process.wait(30) == 1


def test_an_engine_for_gpus_on_a_worker_without_one(root: Path, tmp_path: Path) -> None:
    (root / "arm" / "model.toml").write_text('engine = "tensorrt"\n' + MANIFEST)
    with WorkerProcess() as worker:
        worker.load(root)
        assert worker.failed == {
            "arm": 'engine "tensorrt" runs on a GPU, and this worker is on cpu; set '
            'device = "cuda:0" in its [[workers]] table'
        }


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")  # noqa: PTH110
def test_the_appliance_does_not_start_without_a_gpu_that_is_configured(
    root: Path, tmp_path: Path
) -> None:
    config = tmp_path / "appliance.toml"
    config.write_text(
        f'models.directory = "{root}"\n[[workers]]\nname = "gpu"\ndevice = "cuda:0"\n'
    )
    ended = subprocess.run(
        [Path(sys.executable).with_name("appliance"), "serve", f"--config={config}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "appliance: error: workers.gpu.device: cuda:0 cannot be used: no NVIDIA driver: libcuda"
    )


def test_a_model_leaves_the_gpu_when_what_runs_there_is_done(
    root: Path, start_fake: StartFake
) -> None:
    shutil.copytree(root / "arm", root / "leg")
    worker = start_fake(root, memory_bytes=20)  # the files have 14 bytes each
    assert worker.resident == ["leg"]
    generator, order = (
        np.random.default_rng(5),
        ["leg", "arm", "arm", "leg", "arm", "leg", "leg", "leg", "arm"],
    )
    sent = [Sent(worker, rows_of(generator, 2), go=True, model=name) for name in order]
    before = "leg"
    for batch in sent:  # all are told at once: two run on the GPU where they need no load
        done = worker.done()
        batch.check(worker, done)
        assert bool(done.load_ns) == (batch.model != before)
        assert worker.resident == [batch.model]
        before = batch.model
    assert worker.ledger("arm") == (8, 8, 0)
    assert worker.ledger("leg") == (10, 10, 0)
