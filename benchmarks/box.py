"""An appliance in a child process, with the models that the benchmarks need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define

from appliance.admin import client as admin
from appliance.errors import AdminUnreachable
from benchmarks.children import cpu_s

START_S = 60.0


@define(eq=False)
class Box:
    """One `appliance serve`, in a directory of its own; `module` is what is run."""

    directory: Path
    module: str = "appliance"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where robots connect."""
        return f"ipc://{self.directory}/door"

    @property
    def pid(self) -> int:
        """Of the core."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it is ready.

        Raises:
            RuntimeError: It is not.
        """
        self._process = self._launch("ready", "admin.sock")

    def upgrade(self) -> None:
        """Let another instance stand by, and then take the place of this one.

        Raises:
            RuntimeError: It does not.
        """
        before, after = self._process, self._launch("standby", "admin.sock.standby", "--standby")
        assert before is not None
        before.terminate()
        self._process = after
        before.wait(START_S)

    def _launch(self, awaited: str, socket: str, *flags: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", self.module, "serve"),
            *("--config", str(self.directory / "appliance.toml")),
            *("--models", str(self.directory / "models")),
            *("--bind", self.address),
            *("--socket", str(self.directory / "admin.sock")),
            *flags,
        ]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        state = ""
        while state != awaited:
            ended = process.poll() is not None
            if ended or state == "degraded" or time.monotonic() > deadline:
                process.kill()
                process.wait()
                log_text = (self.directory / "log").read_text("utf-8", "replace")[-4000:]
                raise RuntimeError(f"the appliance did not start: {state}\n{log_text}")
            time.sleep(0.05)
            with suppress(AdminUnreachable):
                state = self._document(socket)["state"]
        return process

    def kill(self) -> None:
        """Kill it, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let it end, or kill it."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def status(self) -> dict[str, Any]:
        """Return its status document."""
        return self._document("admin.sock")

    def record(self, name: str) -> int:
        """Begin a recording into a file of its directory; return its number."""
        order = {"path": str(self.directory / name), "seconds": 600}
        found = admin.post(self.directory / "admin.sock", "/v1/recordings", 10.0, order)
        assert isinstance(found, dict)
        return found["id"]

    def end_recording(self, number: int) -> dict[str, Any]:
        """End a recording; return its document when the file is whole.

        Raises:
            RuntimeError: It failed.
        """
        socket = self.directory / "admin.sock"
        admin.post(socket, "/v1/recordings/stop", 10.0, {"id": number})
        while True:
            found = admin.get(socket, "/v1/recordings", 10.0)
            assert isinstance(found, dict)
            recording = next(each for each in found["recordings"] if each["id"] == number)
            if recording["state"] in ("done", "failed"):
                break
        if recording["error"]:
            raise RuntimeError(recording["error"])
        return recording

    def _document(self, socket: str) -> dict[str, Any]:
        document = admin.get(self.directory / socket, "/v1/status", 10.0)
        assert isinstance(document, dict)
        return document

    def cpu_s(self) -> float:
        """Return the processor time of the core, workers excluded, seconds."""
        return cpu_s(self.pid)


@contextmanager
def box(*models: Model, config: str = "", module: str = "appliance") -> Generator[Box, None, None]:
    """Run an appliance that serves `models`, with a configuration in TOML; ended by leaving."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        running = Box(Path(name), module)
        for model in models:
            model.write(running.directory / "models")
        (running.directory / "appliance.toml").write_text(config, "utf-8")
        running.start()
        try:
            yield running
        finally:
            running.stop()


@define(eq=False)
class Model:
    """A model to be written into a repository; `policy` is Python source, or `onnx` the bytes."""

    name: str
    manifest: str
    policy: str = ""
    onnx: bytes = b""

    def write(self, repository: Path) -> None:
        """Write it."""
        version = repository / self.name / "1"
        version.mkdir(parents=True)
        (repository / self.name / "model.toml").write_text(self.manifest, "utf-8")
        if self.policy:
            (version / "policy.py").write_text(textwrap.dedent(self.policy), "utf-8")
        else:
            (version / "model.onnx").write_bytes(self.onnx)


PYTHON = """
engine = "python"
callable = "policy:run"
max_batch = {max_batch}

[[inputs]]
name = "{name}"
dtype = "{dtype}"
shape = {shape}
"""


def noop() -> Model:
    """Return a model that gives back what it is given: 1 KB, up to 32 rows a batch."""
    manifest = PYTHON.format(max_batch=32, name="state", dtype="float32", shape=[256])
    return Model("noop", manifest, "def run(batch):\n    return {'action': batch['state']}\n")


def image() -> Model:
    """Return a model that takes a raw 640x480 image and gives 4 bytes."""
    manifest = PYTHON.format(max_batch=1, name="camera", dtype="uint8", shape=[480, 640, 3])
    return Model(
        "image", manifest, "def run(batch):\n    return {'sum': batch['camera'][:, 0, 0]}\n"
    )


def busy(*, ms: float, name: str = "busy") -> Model:
    """Return a model that takes `ms` for one row, asleep, as if a device worked meanwhile."""
    manifest = PYTHON.format(max_batch=1, name="state", dtype="float32", shape=[256])
    policy = f"""
        import time

        def run(batch):
            time.sleep({ms / 1000})
            return {{"action": batch["state"] + 1}}
        """
    return Model(name, manifest, policy)


def mlp(width: int = 2048, layers: int = 3) -> Model:
    """Return a real ONNX network of `layers` dense layers: by default 50 MB of weights."""
    import numpy as np  # noqa: PLC0415  only this model needs them
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []
    for layer in range(layers):
        name = f"w{layer}"
        values = random.standard_normal((width, width), np.float32) / width**0.5
        weights.append(numpy_helper.from_array(values, name))
        nodes.append(helper.make_node("MatMul", [f"h{layer}", name], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer + 1}"]))
    shape = ["rows", width]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model("mlp", "max_batch = 4\n", onnx=model.SerializeToString())
