"""Memory runs out while a worker serves: what is loaded goes on, what comes is refused and told."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from appliance.engines.cuda.ports import Cuda, DeviceMemory
from appliance.errors import EngineError
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import ARENA_BYTES, Failed, Setting
from tools.worker_client import WorkerClient, WorkerGone

BATCHES = 200
CHUNK_BYTES = 1 << 30
LEAST_BYTES = 1 << 20
ROOM_BYTES = 32 << 20
"""On the CPU: what a worker may still take; less than the larger model's weights."""


def check(setting: Setting, finding: Finding) -> None:
    """Take all memory away, and give it back."""
    if setting.on_gpu:
        with setting.worker(setting.with_models(["policy"])) as worker:
            with setting.opened() as device:
                assert device.cuda is not None
                taken = take_all(device.cuda)
                finding.add("left free on the GPU", device.cuda.free_bytes() / 2**20, "MiB")
                _serves(setting, finding, worker, "without memory")
                _refused(setting, finding)
                taken.clear()
            _serves(setting, finding, worker, "with memory again")
    else:
        with WorkerClient(arena_bytes=ARENA_BYTES, log=setting.work / "worker.log") as worker:
            with _limited(worker.process.pid):
                worker.load(setting.with_models(["policy", "resnet"]), setting.device)
                _told(finding, worker.failed.get("resnet", "it was loaded"))
                _serves(setting, finding, worker, "without memory")
            _serves(setting, finding, worker, "with memory again")


def _serves(setting: Setting, finding: Finding, worker: WorkerClient, when: str) -> None:
    """Run batches; none may fail, as all that they need was taken when the model was loaded."""
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


def take_all(cuda: Cuda) -> list[DeviceMemory]:
    """Take what memory there is."""
    taken: list[DeviceMemory] = []
    size = CHUNK_BYTES
    while size >= LEAST_BYTES:
        memory = _allocated(cuda, size)
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


def _refused(setting: Setting, finding: Finding) -> None:
    """Load another model, for which there is no room."""
    try:
        with setting.worker(setting.with_models(["resnet"])):
            said = "it was loaded"
    except (Failed, WorkerGone) as error:
        said = str(error)
    _told(finding, said)


def _told(finding: Finding, said: str) -> None:
    finding.details["loading without memory"] = said
    good = any(word in said.lower() for word in ("memory", "alloc"))
    finding.expect(good, f"a model for which there is no memory: {said}")


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
