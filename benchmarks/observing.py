"""What observing takes of a control loop: no image, a raw one, one that is compressed here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance import Connection, JpegImages
from benchmarks.box import Model, box
from benchmarks.children import role
from benchmarks.report import Limit, Line
from benchmarks.stdio import answer

HZ = 50.0
SIZES = ((480, 640), (720, 1280))
KINDS = ("no image", "raw", "JPEG")
ROUNDS = 5
ROUND_S = 5.0

MANIFEST = """
engine = "python"
callable = "policy:run"

[[inputs]]
name = "state"
dtype = "float32"
shape = [7]

[[inputs]]
name = "camera"
dtype = "uint8"
shape = [{height}, {width}, 3]
decode = ["jpeg"]
optional = true
"""
POLICY = """
def run(batch):
    return {"action": batch["state"]}
"""


def measure() -> Iterator[str | Line]:
    """Alternate between the three, in one process, at 50 Hz."""
    for height, width in SIZES:
        manifest = MANIFEST.format(height=height, width=width)
        with ExitStack() as stack:
            appliance = stack.enter_context(box(Model("policy", manifest, POLICY)))
            observer = stack.enter_context(
                role("observer", address=appliance.address, height=height, width=width)
            )
            found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
            for number in range(ROUNDS):
                yield f"{width}x{height}, round {number + 1} of {ROUNDS}"
                for kind in KINDS:
                    found[kind].append(observer.ask(kind=kind, seconds=ROUND_S))
        yield from _lines(f"{width}x{height}", found)


def _lines(size: str, found: dict[str, list[dict[str, Any]]]) -> Iterator[Line]:
    def figures(kind: str, name: str) -> list[float]:
        return [each[name] for each in found[kind]]

    bare = found["no image"]
    for name, limit in (("p50_us", Limit("ratio", "<=", 1.0)), ("p99_us", None)):
        alone = sorted(each[name] for each in bare)[len(bare) // 2]
        yield Line(
            name=f"observing {size}" if limit else "",
            measured=f"{name[:3]} of observe() with an image to be compressed, {HZ:.0f} Hz",
            unit="µs",
            ours=figures("JPEG", name),
            beside=figures("raw", name),
            beside_name="with the raw image",
            limit=limit,
            note=f"without an image {alone:.0f} µs",
        )
    jpeg, raw = found["JPEG"][-1], found["raw"][-1]
    yield Line(
        name="",
        measured="size of the compressed image",
        unit="KiB",
        ours=[jpeg["bytes"] / 1024],
        beside=[raw["bytes"] / 1024],
        beside_name="raw",
        note=f"p99 of ticks late: {jpeg['late_us']:.0f} µs, raw {raw['late_us']:.0f} µs;"
        f" {sum(figures('JPEG', 'superseded')):.0f} replaced before they were compressed",
    )


def observer(*, address: str, height: int, width: int) -> None:
    """Observe for `seconds`, once a tick; answer with what `observe` took."""
    frames = [scene(height, width, seed) for seed in range(4)]
    state = np.zeros(7, np.float32)
    connection = Connection(address, client_id="observer")
    connection.wait_reachable(5000)
    jpeg = JpegImages()
    models = {
        kind: connection.model("policy", latency_budget_ms=1000, images=images)
        for kind, images in zip(KINDS, (None, None, jpeg), strict=True)
    }

    def run(kind: str, seconds: float) -> dict[str, Any]:
        model = models[kind]
        before = connection.statistics()
        took_us: list[float] = []
        late_us: list[float] = []
        for tick in model.ticks(HZ):
            camera = None if kind == "no image" else frames[tick.number % len(frames)]
            began_ns = time.perf_counter_ns()
            model.observe(state=state, camera=camera)
            took_us.append((time.perf_counter_ns() - began_ns) / 1000)
            late_us.append(tick.late_ns / 1000)
            if tick.number >= seconds * HZ:
                break
        connection.wait_settled(5000)
        after = connection.statistics()
        return {
            "p50_us": float(np.percentile(took_us, 50)),
            "p99_us": float(np.percentile(took_us, 99)),
            "late_us": float(np.percentile(late_us, 99)),
            "bytes": _bytes(kind, frames, jpeg),
            "superseded": after.superseded_locally - before.superseded_locally,
        }

    answer(run)


def _bytes(kind: str, frames: list[NDArray[np.uint8]], images: JpegImages) -> int:
    if kind != "JPEG":
        return frames[0].nbytes
    from appliance.client.jpeg import compress  # noqa: PLC0415  to weigh what was sent

    return max(len(compress(frame, images.quality)) for frame in frames)


def scene(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return smooth shapes, edges and some noise, as a camera sees."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 37 + y / 91), np.sin(x / 53 - y / 29), np.cos(y / 41)], -1)
    tiles = np.kron(random.normal(0, 20, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    return np.clip(128 + 60 * waves + tiles + random.normal(0, 3, waves.shape), 0, 255).astype(
        np.uint8
    )
