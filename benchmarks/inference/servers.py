"""Who is measured: the appliance, a bare grpc.aio handler, Triton. Each gives back what it gets."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from attrs import frozen

from appliance.wire.pb import inference_pb2
from benchmarks.box import PYTHON, Model, box
from benchmarks.children import Child, cpu_s
from benchmarks.inference.tools import triton

START_S = 60.0
SMALL, IMAGE, SLEEPER = "small", "image", "sleeper"
DATATYPES = {SMALL: ("float32", "FP32", [16], 8), IMAGE: ("uint8", "UINT8", [480, 640, 3], 1)}
"""Of each model: numpy's and the protocol's datatype, the shape of a row, the largest batch."""
BASE_MS, ROW_MS, BATCH = 16.0, 4.0, 4
"""What the sleeper takes for a batch, and for each row of it; its largest batch."""

ECHO = "def run(batch):\n    return {'y': batch['x']}\n"
SLEEPS = f"""
import time

def run(batch):
    time.sleep(({BASE_MS} + {ROW_MS} * len(batch["x"])) / 1000)
    return {{"y": batch["x"]}}
"""
TRITON_MODEL = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        given = [pb.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [pb.InferenceResponse([pb.Tensor("y", array)]) for array in given]
"""
TRITON_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input [{{ name: "x" data_type: TYPE_{datatype} dims: {dims} }}]
output [{{ name: "y" data_type: TYPE_{datatype} dims: {dims} }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ }}
"""


@frozen
class Server:
    """One that runs.

    Attributes:
        cpu_s: Processor time of all its processes so far.
    """

    name: str
    address: str
    cpu_s: Callable[[], float]

    def answered(self, model: str) -> int:
        """Return how many rows of a model it has answered, by its own count."""
        with grpc.insecure_channel(self.address) as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelStatistics",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=inference_pb2.ModelStatisticsResponse.FromString,
            )
            found = ask(inference_pb2.ModelStatisticsRequest(name=model), timeout=10)
        return found.model_stats[0].inference_count


@contextmanager
def appliance() -> Generator[Server, None, None]:
    """Run the appliance."""
    models = [
        Model(name, PYTHON.format(max_batch=most, name="x", dtype=dtype, shape=shape), ECHO)
        for name, (dtype, _, shape, most) in DATATYPES.items()
    ]
    manifest = PYTHON.format(max_batch=BATCH, name="x", dtype="float32", shape=[16])
    models.append(Model(SLEEPER, manifest, SLEEPS))
    config = '[ingest.grpc]\nbind = "127.0.0.1:0"\nshared_memory = true\n'
    with box(*models, config=config) as running:
        (bind,) = (bind for bind in running.status()["binds"] if bind.startswith("grpc://"))
        yield Server("appliance", bind.removeprefix("grpc://"), lambda: _tree_cpu_s(running.pid))


@contextmanager
def floor() -> Generator[Server, None, None]:
    """Run a bare grpc.aio handler."""
    with Child([sys.executable, "-m", "benchmarks.inference.floor"]) as child:
        address = child.ask()["address"]
        yield Server("bare grpc.aio", address, lambda: cpu_s(child.pid))


@contextmanager
def triton_server() -> Generator[Server, None, None]:
    """Run Triton with its python backend.

    Raises:
        ToolMissing: It is not there.
    """
    home, environment = triton()
    address = "127.0.0.1:18461"
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        for model, (_, datatype, shape, most) in DATATYPES.items():
            version = directory / "models" / model / "1"
            version.mkdir(parents=True)
            (version / "model.py").write_text(TRITON_MODEL)
            config = TRITON_CONFIG.format(name=model, max_batch=most, datatype=datatype, dims=shape)
            (version.parent / "config.pbtxt").write_text(config)
        command = [
            str(home / "bin" / "tritonserver"),
            f"--model-repository={directory / 'models'}",
            f"--backend-directory={home / 'backends'}",
            *("--grpc-address=127.0.0.1", f"--grpc-port={address.rpartition(':')[2]}"),
            *("--allow-http=false", "--allow-metrics=false"),
        ]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            server = Server("Triton", address, lambda: _tree_cpu_s(process.pid))
            _wait_until_up(server, process, directory / "log")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(grpc.RpcError):
            server.answered(SMALL)
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _tree_cpu_s(pid: int) -> float:
    """Return the processor time of a process and all below it, seconds."""
    total = cpu_s(pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text("ascii").split():
            total += _tree_cpu_s(int(child))
    return total
