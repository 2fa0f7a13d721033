"""Memory runs out while a worker serves, and while one loads.

What is loaded goes on; what does not fit is refused, with a reason, by a worker that lives on.
"""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from appliance.engines.cuda.ports import Cuda, DeviceMemory
from appliance.errors import EngineError
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Failed, Setting
from tools.worker_client import WorkerClient

BATCHES = 200
CHUNK_BYTES = 1 << 30
LEAST_BYTES = 1 << 20
LARGE = "resnet"
"""For which there is no room."""
ROOM_BYTES = 32 << 20
"""What a worker may take beyond what it needs without that: less than its weights, 100 MB."""
TAKES = Limit(">=", 1)
HARDLY_ANY = Limit("<=", 64)
"""MiB."""
NO_MEMORY = ("memory", "alloc", "of the gpu are free")
"""What a refusal for want of memory says, one of these at least; small letters."""


def check(setting: Setting, finding: Finding) -> None:
    """Take memory away, and give it back."""
    if setting.on_gpu:
        with setting.opened() as device:
            assert device.cuda is not None
            needed = _while_serving(setting, finding, device.cuda)
            _while_loading(setting, finding, device.cuda, needed + ROOM_BYTES)
    else:
        with setting.empty_worker() as worker:
            with _limited(worker.process.pid):
                _loads_what_fits(setting, finding, worker)
            _serves(setting, finding, worker, "with memory again")


def _while_serving(setting: Setting, finding: Finding, cuda: Cuda) -> int:
    """Take all memory while a worker serves; return what it had taken, its context with it."""
    free = cuda.free_bytes()
    with setting.worker(setting.with_models(["policy"])) as worker:
        needed = free - cuda.free_bytes()
        finding.add("a worker with the small model takes", needed / 2**20, "MiB", TAKES)
        taken = take_all(cuda)
        finding.add("left free while it serves", cuda.free_bytes() / 2**20, "MiB", HARDLY_ANY)
        _serves(setting, finding, worker, "without memory")
        taken.clear()
        _serves(setting, finding, worker, "with memory again")
    return needed


def _while_loading(setting: Setting, finding: Finding, cuda: Cuda, room: int) -> None:
    """Take memory but for so much before a worker loads."""
    taken = take_all(cuda, leave=room)
    finding.add("left free for a worker that loads", cuda.free_bytes() / 2**20, "MiB")
    with setting.empty_worker() as worker:
        _loads_what_fits(setting, finding, worker)
        taken.clear()


def _loads_what_fits(setting: Setting, finding: Finding, worker: WorkerClient) -> None:
    """Load a model that fits, and one that does not: only that is refused.

    Raises:
        Failed: The one that fits is refused, too.
        WorkerGone: The worker ended instead.
    """
    worker.load(setting.with_models(["policy", LARGE]), setting.device)
    if "policy" in worker.failed:
        raise Failed(f"a model for which there is memory: {worker.failed['policy']}")
    said = worker.failed.get(LARGE, "it was loaded")
    finding.details["loading without memory"] = said
    is_told = LARGE in worker.failed and any(word in said.lower() for word in NO_MEMORY)
    finding.expect(is_told, f"a model for which there is no memory: {said}")
    _serves(setting, finding, worker, "beside a model that was refused")


def _serves(setting: Setting, finding: Finding, worker: WorkerClient, when: str) -> None:
    """Run batches; none may fail: all that they need was taken when the model was loaded."""
    rows = worker.rows("policy", {"state": np.zeros((16, 14), np.float32)})
    output = worker.output_block("policy", 16)
    batches, failed, said = setting.runs(BATCHES), 0, ""
    for _ in range(batches):
        worker.stage("policy", rows, output=output)
        done = worker.done()
        failed += bool(done.error)
        said = done.error or said
    finding.add(f"failed of {batches} batches {when}", failed, "", Limit("<=", 0))
    if said:
        finding.details[when] = said


def take_all(cuda: Cuda, *, leave: int = 0) -> list[DeviceMemory]:
    """Take what memory there is, but for so much."""
    taken: list[DeviceMemory] = []
    size = CHUNK_BYTES
    while size >= LEAST_BYTES:
        memory = None if cuda.free_bytes() - size < leave else _allocated(cuda, size)
        if memory is None:
            size //= 2
        else:
            taken.append(memory)
    return taken


def _allocated(cuda: Cuda, size: int) -> DeviceMemory | None:
    try:
        return cuda.allocate(size)
    except EngineError:
        return None


@contextmanager
def _limited(pid: int) -> Generator[None, None, None]:
    """Let a process take hardly more than it has."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    [had_kib] = [int(line.split()[1]) for line in lines if line.startswith("VmData")]
    before = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (had_kib * 1024 + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, before)
