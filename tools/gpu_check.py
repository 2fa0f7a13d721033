"""`python -m tools.gpu_check RESULTS.json`: does this GPU do what it should, and how fast?

Runs where there is no network, after `install`, from the repository's root. Each section is a
process of its own with a time of its own, so that none takes the others with it, and what is known
is written after each. 0 only if all sections are good.

`--engine onnxruntime` runs what can be run on the CPU, to try this program itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from appliance.engines import verification
from appliance.engines.cuda.driver import find_device, ordinal_of
from appliance.engines.device import Device, open_named
from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.tensorrt.building import Network, profile_of
from appliance.engines.tensorrt.flavour import ANY_TARGET, find_flavour
from appliance.engines.tensorrt.loading import load_tensorrt
from appliance.errors import ApplianceError, DeviceMissing
from appliance.models.engine_cache import (
    CACHE_VARIABLE,
    ENGINE,
    EngineCache,
    EngineRecipe,
    default_cache,
    version_sha256,
)
from appliance.models.manifest import parse_manifest
from appliance.models.repository import ModelEntry, Repository
from appliance.models.resolve import resolve
from appliance.wire.pb import worker_pb2
from tools.gpu_models import MODELS, make
from tools.worker_client import Client, WorkerFailed

BUDGET_S = 470.0
"""For everything: less than the eight minutes that such a box may be had."""
ARENA_BYTES = 512 << 20
PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "numpy", "onnxruntime")
Result = dict[str, Any]


@frozen
class Setting:
    """What every section is given.

    Attributes:
        root: A model repository.
        device: As in the configuration.
        work: A directory for what is left over.
    """

    root: Path
    device: str
    work: Path

    @property
    def on_gpu(self) -> bool:
        """Whether engines are TensorRT's."""
        return self.device != "cpu"

    def entries(self) -> list[ModelEntry]:
        """Return the models."""
        return Repository(self.root).scan()


class NotGood(Exception):
    """A section found what should not be; `result` is what it found."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


# ------------------------------------------------------------------------------ sections


def device(setting: Setting) -> Result:
    """What there is."""
    found: Result = {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "nvidia_smi": _nvidia_smi(),
    }
    if setting.on_gpu:
        with _opened(setting) as opened:
            assert opened.cuda is not None
            found["facts"] = str(opened.cuda.facts)
            found["free_bytes"] = opened.cuda.free_bytes()
    return found


def build(setting: Setting) -> Result:
    """Engines are built, and TensorRT says whether it would run them."""
    flavour = find_flavour()
    found: Result = {"builder": flavour.builder}
    target = ANY_TARGET
    if not flavour.builds_for_others:
        there = find_device()
        target = flavour.targets_of(there.name, there.capability)[0]
    cache = EngineCache(default_cache())
    for entry in setting.entries():
        started = time.monotonic()
        directory = entry.manifest_path.parent / "1"
        manifest = parse_manifest(entry.manifest, str(entry.manifest_path))
        network = Network(flavour, directory / "model.onnx", manifest.precision)
        resolved = resolve(manifest, network.signature, entry.name, "1")
        profile = profile_of(resolved, network.signature, manifest.warmup)
        recipe = EngineRecipe(
            model_sha256=version_sha256(directory),
            builder=flavour.builder,
            target=target,
            precision=manifest.precision,
            profile=profile,
        )
        made = network.build(profile, (), cache.timings(recipe), lambda _, __: None, lambda: True)
        kept = cache.add(recipe, made.engine, made.timings, {"model": entry.name, "version": "1"})
        found[entry.name] = {
            "seconds": round(time.monotonic() - started, 2),
            "bytes": kept.bytes,
        }
        if setting.on_gpu:
            with _opened(setting):
                runtime = flavour.api.Runtime(flavour.api.Logger())
                found[entry.name]["problem"] = flavour.problem_of(runtime, made.engine)
    return found


def outputs(setting: Setting, *, graphs: bool) -> Result:
    """Every model and batch size beside ONNX Runtime."""
    found: Result = {}
    bad: list[str] = []
    with _opened(setting) as opened:
        for entry in setting.entries():
            said = "" if graphs else "cuda_graphs = false\n"
            path = worker_pb2.ModelPath(
                name=entry.name,
                version="1",
                manifest=said + entry.manifest,
                manifest_path=str(entry.manifest_path),
                directory=str(entry.manifest_path.parent / "1"),
            )
            rounds = 1 if entry.name == "resnet" else 3
            try:
                verdict = verification.verify(
                    path,
                    rounds=rounds,
                    seed=int(time.time()),
                    recorded=None,
                    on_step=lambda _: None,
                    device=opened,
                )
            except ApplianceError as error:
                found[entry.name], bad = {"error": str(error)}, [*bad, entry.name]
                continue
            found[entry.name] = {
                "batches": verdict.batches,
                "warm_up_us": {size: ns // 1000 for size, ns in verdict.times_ns.items()},
                "worst": {each.name: each.worst for each in verdict.outputs},
                "allowed": {each.name: each.tolerance for each in verdict.outputs},
            }
            if not verdict.is_good:
                bad.append(entry.name)
    if bad:
        raise NotGood(f"not as ONNX Runtime: {', '.join(bad)}", found)
    return found


def in_flight(setting: Setting) -> Result:
    """Two batches of other rows at a time, each answer its own, with nothing of the one before."""
    random = np.random.default_rng()
    directory = setting.root / "policy" / "1"
    reference = OnnxRuntimeEngine(directory, optimised=False)
    worst, batches = 0.0, 0
    with _client(setting, ["policy"]) as client:
        output_at = [client.place(client.output_bytes("policy", 16)) for _ in range(3)]
        flying: deque[tuple[int, NDArray[Any]]] = deque()
        for number in range(400):
            count = int(random.integers(1, 17))
            state = random.standard_normal((count, 14)).astype(np.float32)
            rows = client.rows("policy", {"state": state})
            batch = client.stage("policy", rows, output_at[number % 3], go=number % 2 == 0)
            if number % 2:
                client.go(batch)
            flying.append((batch, state))
            while len(flying) > (1 if number < 399 else 0):
                batch, asked = flying.popleft()
                done, _ = client.done()
                if done.batch_id != batch:
                    raise WorkerFailed(f"batch {done.batch_id} was done before {batch}")
                got = client.outputs(done, len(asked))["action"]
                wanted = reference.run({"state": asked})["action"]
                worst = max(worst, float(np.abs(got - wanted).max() / np.abs(wanted).max()))
                batches += 1
    found = {"batches": batches, "worst": worst, "allowed": 1e-3}
    if worst > 1e-3:
        raise NotGood("outputs are not those of their batch", found)
    return found


def speed(setting: Setting, *, model: str, size: int, runs: int) -> Result:
    """A worker beside a bare loop of the same engine; medians of rounds that take turns."""
    random = np.random.default_rng()
    found: Result = {"model": model, "batch": size, "runs": runs}
    bare = _bare(setting, model, size, runs)
    found["bare_us"] = bare
    with _client(setting, [model]) as client:
        shapes = {item.name: (size, *item.shape) for item in client.specs[model].inputs}
        sets = [client.rows(model, _noises(random, shapes)) for _ in range(4)]
        output_at = [client.place(client.output_bytes(model, size)) for _ in range(3)]
        for each in sets:
            client.stage(model, each, output_at[0], go=True)
            client.done()
        alone: list[int] = []
        inside: list[int] = []
        for number in range(runs):
            sent = time.monotonic_ns()
            client.stage(model, sets[number % 4], output_at[0], go=True)
            done, came = client.done()
            alone.append(came - sent)
            inside.append(done.finished_ns - done.execute_started_ns)
        found["round_trip_us"] = _summary(alone)
        found["worker_execute_us"] = _summary(inside)
        started = time.monotonic_ns()
        flying = 0
        for number in range(runs):
            client.stage(model, sets[number % 4], output_at[number % 3], go=True)
            flying += 1
            if flying == 2:
                client.done()
                flying -= 1
        while flying:
            client.done()
            flying -= 1
        each_ns = (time.monotonic_ns() - started) / runs
    found["two_in_flight_us_each"] = round(each_ns / 1000, 1)
    compared = bare.get("graph_and_wait") or bare["run"]
    found["overhead_p50_us"] = round(found["worker_execute_us"]["p50"] - compared["p50"], 1)
    found["overhead_p99_times"] = round(found["worker_execute_us"]["p99"] / compared["p99"], 3)
    if "kept_busy_each" in bare:
        found["throughput_part_of_bare"] = round(bare["kept_busy_each"] * 1000 / each_ns, 3)
    if "copies_graph_and_wait" in bare:
        found["times_bare_with_copies"] = round(
            found["round_trip_us"]["p50"] / bare["copies_graph_and_wait"]["p50"], 3
        )
    return found


def faults(setting: Setting) -> Result:
    """What goes wrong is said, and ends what it should."""
    found: Result = {}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    probe = subprocess.run(
        [sys.executable, "-m", "appliance.engines", "--probe", "cuda:0"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    found["hidden_gpu"] = {"status": probe.returncode, "said": probe.stderr.strip()[-300:]}
    good = probe.returncode == 1 and "GPU" in probe.stderr
    with _client(setting, ["policy"]) as client:
        rows = client.rows("policy", {"state": np.zeros((16, 14), np.float32)})
        output_at = client.place(client.output_bytes("policy", 16))
        for _ in range(20):
            client.stage("policy", rows, output_at, go=True)
        client.process.kill()  # some are running
        client.process.wait(20)
        found["killed"] = client.process.returncode
    started = time.monotonic()
    with _client(setting, ["policy"]) as client:  # the GPU is fit for the next one
        client.stage(
            "policy",
            client.rows("policy", {"state": np.zeros((1, 14), np.float32)}),
            client.place(4096),
            go=True,
        )
        client.done()
    found["next_one_after_s"] = round(time.monotonic() - started, 2)
    if setting.on_gpu:
        found["damaged"] = _damaged(setting)
        good = good and "damaged" in found["damaged"] and "models build" in found["damaged"]
    if not good:
        raise NotGood("a fault was not told as it should be", found)
    return found


SECTIONS: Mapping[str, tuple[float, Callable[[Setting], Result]]] = {
    "device": (30, device),
    "build": (120, build),
    "outputs, graphs on": (90, lambda setting: outputs(setting, graphs=True)),
    "outputs, graphs off": (90, lambda setting: outputs(setting, graphs=False)),
    "in flight": (40, in_flight),
    "faults": (60, faults),
    "speed of policy, 1": (40, lambda it: speed(it, model="policy", size=1, runs=3000)),
    "speed of policy, 16": (40, lambda it: speed(it, model="policy", size=16, runs=3000)),
    "speed of camera, 4": (40, lambda it: speed(it, model="camera", size=4, runs=500)),
    "speed of resnet, 16": (60, lambda it: speed(it, model="resnet", size=16, runs=200)),
}
"""By name: most seconds, and what it does. What matters most comes first."""


# -------------------------------------------------------------------------------- helpers


@contextmanager
def _opened(setting: Setting) -> Generator[Device, None, None]:
    opened = open_named(setting.device)
    try:
        yield opened
    finally:
        opened.close()


def _client(setting: Setting, names: list[str]) -> Client:
    """Start a worker with some of the models, which is how many it takes to be ready soon."""
    root = Path(tempfile.mkdtemp(prefix="models-", dir=setting.work))
    for name in names:
        (root / name).symlink_to(setting.root.resolve() / name)
    return Client(root, setting.device, arena_bytes=ARENA_BYTES, log=setting.work / "worker.log")


def _bare(setting: Setting, model: str, size: int, runs: int) -> Result:
    """Time the engine by itself, in this process."""
    entry = next(entry for entry in setting.entries() if entry.name == model)
    directory = entry.manifest_path.parent / "1"
    random = np.random.default_rng()
    if not setting.on_gpu:
        cpu = OnnxRuntimeEngine(directory)
        shapes = {each.name: (size, *each.shape[1:]) for each in cpu.signature.inputs or ()}
        given = _noises(random, shapes)
        return {"run": _summary(_timed(lambda: cpu.run(given), runs))}
    with _opened(setting) as opened:
        assert opened.cuda is not None
        path = worker_pb2.ModelPath(name=model, version="1", directory=str(directory))
        manifest = parse_manifest(entry.manifest, str(entry.manifest_path))
        engine = load_tensorrt(manifest, path, opened.cuda)
        engine.prepare((size,))
        buffers = engine.buffers()
        assert buffers is not None
        graph, stream = buffers.graphs.get(size), engine.compute

        def run() -> None:
            if graph is not None:
                graph.launch(stream)
            else:
                engine.enqueue(buffers, size)

        def run_and_wait() -> None:
            run()
            stream.wait()

        def copy_run_and_wait() -> None:
            for place in buffers.inputs.values():
                opened.cuda.copy_in(  # pyright: ignore[reportOptionalMemberAccess]
                    place.device.address,
                    int(place.host.ctypes.data),
                    place.tensor.bytes_of(size),
                    stream,
                )
            run()
            for place in buffers.outputs_.values():
                opened.cuda.copy_out(  # pyright: ignore[reportOptionalMemberAccess]
                    int(place.host.ctypes.data),
                    place.device.address,
                    place.tensor.bytes_of(size),
                    stream,
                )
            stream.wait()

        found: Result = {
            "without_graphs": engine.without_graphs,
            "graph_and_wait": _summary(_timed(run_and_wait, runs)),
            "copies_graph_and_wait": _summary(_timed(copy_run_and_wait, runs)),
        }
        started = time.monotonic_ns()
        for _ in range(runs):
            run()
        stream.wait()
        found["kept_busy_each"] = round((time.monotonic_ns() - started) / runs / 1000, 2)
        buffers.release()
        engine.close()
    return found


def _timed(work: Callable[[], object], runs: int) -> list[int]:
    for _ in range(max(3, runs // 20)):
        work()
    taken: list[int] = []
    for _ in range(runs):
        started = time.monotonic_ns()
        work()
        taken.append(time.monotonic_ns() - started)
    return taken


def _noises(
    random: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Return inputs: pictures are bytes, all else is normally distributed."""
    return {
        name: random.integers(0, 256, shape, dtype=np.uint8)
        if name == "camera"
        else random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }


def _summary(taken_ns: list[int]) -> dict[str, float]:
    at = np.percentile(np.array(taken_ns) / 1000, [50, 99])
    return {"p50": round(float(at[0]), 2), "p99": round(float(at[1]), 2)}


def _damaged(setting: Setting) -> str:
    """Cut an engine in the cache short; return what a worker says of it."""
    cache = EngineCache(default_cache())
    key = next(key for key, about in cache.labels() if about["model"] == "policy")
    path = cache.directory / key / ENGINE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with _client(setting, ["policy"]):
            return "it was loaded"
    except WorkerFailed as error:
        return str(error)
    finally:
        path.write_bytes(whole)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _nvidia_smi() -> str:
    query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu"
    try:
        return subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none: {error}"


# ----------------------------------------------------------------------------------- main


def _run_section(name: str, setting: Setting) -> Result:
    """Run a section here; return its line of the results."""
    try:
        ordinal = ordinal_of(setting.device)
        if ordinal is not None:
            find_device(ordinal)
        return {"state": "good", "found": SECTIONS[name][1](setting)}
    except DeviceMissing as error:
        return {"state": f"no GPU: {error}"}
    except NotGood as error:
        return {"state": f"not good: {error}", "found": error.result}
    except (ApplianceError, WorkerFailed) as error:
        return {"state": f"failed: {error}"}


def _in_process_of_its_own(name: str, arguments: list[str], most_s: float, log: Path) -> Result:
    """Run a section by itself; return its line of the results."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tools.gpu_check", "--section", name, *arguments]
    with log.open("ab") as said:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=said, check=False, timeout=most_s
            )
        except subprocess.TimeoutExpired:
            return {"state": f"stopped after {most_s:.0f} s", "seconds": round(most_s, 1)}
    try:
        line: Result = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = log.read_text(errors="replace").strip().splitlines()
        line = {"state": f"ended with status {done.returncode}: {last[-1] if last else ''}"}
    line["seconds"] = round(time.monotonic() - started, 1)
    return line


def main() -> int:
    """Check; 0 if all is good."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, metavar="RESULTS.json", nargs="?")
    parser.add_argument("--engine", choices=("tensorrt", "onnxruntime"), default="tensorrt")
    parser.add_argument("--device", default="cuda:0", metavar="NAME", help="(cuda:0)")
    parser.add_argument("--only", action="append", metavar="WORD", help="sections with this word")
    parser.add_argument("--models", action="append", choices=sorted(MODELS), help="(all)")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    target = arguments.device if arguments.engine == "tensorrt" else "cpu"
    if arguments.section is not None:
        setting = Setting(arguments.work / "models", target, arguments.work)
        print(json.dumps(_run_section(arguments.section, setting), default=str))
        return 0
    if arguments.results is None:
        parser.error("the following arguments are required: RESULTS.json")
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    results: Result = {"began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "sections": {}}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        work = Path(name)
        os.environ[CACHE_VARIABLE] = str(work / "engines")
        names: list[str] = arguments.models or sorted(MODELS)
        make(work / "models", names)
        passed = ["--engine", arguments.engine, "--device", arguments.device, "--work", name]
        for section, (most_s, _) in SECTIONS.items():
            words: list[str] = arguments.only or [""]
            needed = section.rpartition("of ")[2].partition(",")[0] if " of " in section else ""
            if not any(word in section for word in words) or (needed and needed not in names):
                continue
            left_s = BUDGET_S - (time.monotonic() - begun)
            if left_s < 5:
                line: Result = {"state": "not run: no time was left"}
            else:
                line = _in_process_of_its_own(
                    section, passed, min(most_s, left_s), work / "log.txt"
                )
            results["sections"][section] = line
            results["seconds"] = round(time.monotonic() - begun, 1)
            results["log"] = _tail(work / "log.txt")
            arguments.results.write_text(json.dumps(results, indent=2) + "\n")
            print(f"{section}: {line['state']} ({line.get('seconds', 0)} s)", flush=True)
    good = all(line["state"] == "good" for line in results["sections"].values())
    return 0 if good and results["sections"] else 1


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-100:] if log.exists() else []


if __name__ == "__main__":
    sys.exit(main())
