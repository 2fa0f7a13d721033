"""What goes wrong while an engine is built, kept and loaded, with the real TensorRT for RTX."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from support.fake_gpu import FACTS, FakeCuda
from support.real_models import add_real_models
from support.repository import add_onnx_mlp

from appliance.cli import main
from appliance.engines.tensorrt import loading
from appliance.engines.tensorrt.building import BuildCancelled, Built, Network
from appliance.engines.tensorrt.flavour import RTX, TENSORRT, Flavour, find_flavour
from appliance.engines.tensorrt.runtime import TensorRTExecutor
from appliance.errors import EngineError
from appliance.models.engine_cache import CACHE_VARIABLE, ENGINE
from appliance.models.manifest import parse_manifest
from appliance.models.repository import Repository
from appliance.wire.pb import worker_pb2

Capture = pytest.CaptureFixture[str]
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed (x86_64 only)"
)
MOST_S = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_real_models(root)
    return root


def command(root: Path, cache: Path, model: str) -> list[str]:
    words = ["models", "build", model, "--models", str(root), "--cache", str(cache)]
    return [sys.executable, "-m", "appliance", *words]


# ------------------------------------------------------------------------------ while it is built


@needs_rtx
@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_build_that_is_ended_leaves_no_engine(
    models: Path, tmp_path: Path, signum: int, status: int
) -> None:
    words = command(models, tmp_path / "cache", "text_finder")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as building:
        assert building.stderr is not None
        assert building.stderr.readline().startswith("text_finder 1: ")  # it is being built
        building.send_signal(signum)
        try:
            assert building.wait(MOST_S) == status
        finally:
            building.kill()
    assert not list(tmp_path.rglob("*.plan"))
    assert main(words[3:]) == 0
    assert len(list(tmp_path.rglob("*.plan"))) == 1


@needs_rtx
def test_a_full_disk_leaves_nothing_and_the_next_build_fits(models: Path, tmp_path: Path) -> None:
    script = (
        'cache="$1"; shift; mount -t tmpfs -o size=1m tmpfs "$cache"; '
        '"$@"; echo "rc $?"; ls -A "$cache"; mount -o remount,size=16m "$cache"; '
        '"$@" >/dev/null; echo "rc $?"; ls -A "$cache" | wc -l'
    )
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(tmp_path)]
    if subprocess.run([*inside[:3], "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*inside, *command(models, tmp_path, "policy")],
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert done.stdout == "rc 2\nrc 0\n1\n"
    assert "cannot be written: No space left on device" in done.stderr


WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from appliance.cli import main
from appliance.engines.tensorrt.building import Network

build = Network.build

def with_little(*arguments):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (120 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return build(*arguments)

Network.build = with_little
sys.exit(main(sys.argv[1:]))
"""


@needs_rtx
def test_too_little_memory_is_said(models: Path, tmp_path: Path) -> None:
    words = command(models, tmp_path / "cache", "text_finder")[3:]
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_MEMORY, *words],
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "TensorRT built nothing: there is not enough memory" in done.stderr
    assert not (tmp_path / "cache").exists()


class Timings:
    def __init__(self, before: bytes) -> None:
        self.known = before

    def serialize(self) -> bytes:
        return self.known


class Config:
    def __init__(self) -> None:
        self.flags = {"tf32"}

    def clear_flag(self, flag: str) -> None:
        self.flags.remove(flag)

    def create_timing_cache(self, before: bytes) -> Timings:
        self.timings = Timings(before)
        return self.timings

    def set_timing_cache(self, timings: Timings, *, ignore_mismatch: bool) -> None:
        assert timings is self.timings
        assert not ignore_mismatch

    def add_optimization_profile(self, _: object) -> None: ...


class Builder:
    """Measures: it adds a letter to its timings."""

    def __init__(self, _: object) -> None: ...

    def create_network(self, _: int) -> Any:
        output = SimpleNamespace(name="y", dtype=SimpleNamespace(name="FLOAT"), shape=(1, 4))
        return SimpleNamespace(num_inputs=0, num_outputs=1, get_output=lambda _: output)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> object:
        return object()

    def build_serialized_network(self, _: object, config: Config) -> bytes:
        assert not config.flags
        config.timings.known += b"t"
        return b"engine"


def _played() -> Flavour:
    """TensorRT that measures, as TensorRT for RTX does not."""
    api: Any = ModuleType("tensorrt")
    api.Builder = Builder
    api.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})
    api.BuilderFlag = SimpleNamespace(TF32="tf32")
    api.OnnxParser = lambda *_: SimpleNamespace(parse_from_file=lambda _: True)
    api.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    return Flavour(TENSORRT, "10.3.0", api)


def test_what_an_ended_build_has_measured_is_not_measured_again(tmp_path: Path) -> None:
    network = Network(_played(), tmp_path / "model.onnx")

    def build(timings: bytes, *, is_wanted: bool) -> Built:
        return network.build({}, (), timings, lambda _, __: None, lambda: is_wanted)

    with pytest.raises(BuildCancelled) as cancelled:
        build(b"", is_wanted=False)
    assert cancelled.value.timings == b"t"
    assert build(cancelled.value.timings, is_wanted=True).timings == b"tt"


# ----------------------------------------------------------------------------- when it is loaded


@pytest.fixture(scope="module")
def cache(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an engine of the policy, for compute capability 8.6."""
    directory = tmp_path_factory.mktemp("engines")
    assert main([*command(models, directory, "policy")[3:], "--capability", "8.6"]) == 0
    return directory


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda plan: plan[: int(len(plan) * share)]


@needs_rtx
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut(0), "MALFORMED_ENGINE"),
        (cut(0.5), "header.size == blobSize failed"),
        (lambda plan: plan[:-1], "header.size == blobSize failed"),
        (lambda plan: b"?" + plan[1:], "MALFORMED_ENGINE"),
        (lambda _: b"an engine of the past", "MALFORMED_ENGINE"),
    ],
)
def test_tensorrt_says_what_is_wrong_with_an_engine(
    cache: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    (path,) = cache.glob(f"*/{ENGINE}")
    plan, gpu = damage(path.read_bytes()), FakeCuda(random.Random(0))
    with pytest.raises(EngineError, match=f"{told}.*; build it anew"):
        TensorRTExecutor(find_flavour(), plan, gpu, rebuild="build it anew")


def load(models: Path, cache: Path, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    entry = next(each for each in Repository(models).scan() if each.name == "policy")
    path = worker_pb2.ModelPath(name="policy", version="1", directory=str(entry.directory))
    gpu = FakeCuda(random.Random(0), evolve(FACTS, capability=capability))
    loading.load_tensorrt(parse_manifest(entry.manifest, "model.toml"), path, gpu)


@needs_rtx
def test_an_engine_of_another_gpu_or_version_is_said(
    models: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = "; run: appliance models build policy 1"
    with pytest.raises(EngineError, match=f"was built for 8.6; here is 12.0{remedy}"):
        load(models, cache, "12.0", monkeypatch)
    newer = Flavour(RTX, "9.9.9", find_flavour().api)
    monkeypatch.setattr(loading, "find_flavour", lambda: newer)
    with pytest.raises(
        EngineError, match=f"by tensorrt_rtx 1.*; here is tensorrt_rtx 9.9.9{remedy}"
    ):
        load(models, cache, "8.6", monkeypatch)


@needs_rtx
def test_a_gpu_that_engines_are_not_for_by_default_is_said(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command(models, tmp_path, "policy")[3:]
    assert main(words) == 0
    built_for = "was built for 8.6 and 8.9 and from 12.0 on; here is 8.0; run: appliance models "
    with pytest.raises(EngineError, match=f"{built_for}build policy 1 --capability 8.0$"):
        load(models, tmp_path, "8.0", monkeypatch)
    with pytest.raises(EngineError, match=r"here is 9\.0; run: .* policy 1 --capability current$"):
        load(models, tmp_path, "9.0", monkeypatch)


@needs_rtx
def test_what_was_compiled_on_a_gpu_is_given_to_the_next_start(
    models: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    given: list[bytes] = []

    class Executor:
        tensors, max_batch = (), 1

        def __init__(self, *arguments: Any, rebuild: str) -> None:
            *_, compiled, self.keep = arguments
            given.append(compiled)
            self.keep(b"kernels")
            assert rebuild == f"remove {place}, then run: appliance models build policy 1"

    monkeypatch.setattr(loading, "TensorRTExecutor", Executor)
    (place,) = (path.parent for path in (tmp_path / "cache").glob(f"*/{ENGINE}"))
    for _ in range(2):
        load(models, tmp_path / "cache", "8.6", monkeypatch)
    assert given == [b"", b"kernels"]
    read_only = tmp_path / "cache" / "nowhere"
    monkeypatch.setattr(loading, "default_cache", lambda: read_only / ENGINE)
    read_only.write_bytes(b"a file")
    load(models, tmp_path / "cache", "8.6", monkeypatch)  # it cannot be kept, and is served


@needs_rtx
def test_an_engine_that_was_cut_short_is_said(
    models: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"*/{ENGINE}")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="the engine is damaged; run: appliance models build"):
        load(models, tmp_path / "cache", "8.6", monkeypatch)


@needs_rtx
def test_weights_that_are_missing_are_said(tmp_path: Path, capsys: Capture) -> None:
    import onnx

    directory = add_onnx_mlp(tmp_path / "models", "mlp")
    path = directory / "model.onnx"
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0
    )
    words = command(tmp_path / "models", tmp_path / "cache", "mlp")[3:]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["precision"] == "fp32"
    (directory / "weights").unlink()
    assert main(words) == 2
    assert "TensorRT cannot build it" in capsys.readouterr().err
