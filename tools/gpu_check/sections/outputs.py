"""Every model in batches of every size beside ONNX Runtime, row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from appliance.engines import verification
from appliance.engines.device import Device
from appliance.engines.samples import Sample
from appliance.engines.tensorrt.engine import SWITCHED_OFF
from appliance.errors import ApplianceError
from appliance.models.manifest import Precision, parse_manifest
from appliance.models.repository import ModelEntry
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import NUMPY_DTYPES, Encoding
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting

SLOW = ("resnet", "resnet_light", "text_finder")
TAKES_BYTES = ("file_type",)
"""Whole numbers are made up as 0 and 1; of nothing but these, this one divides by almost nothing,
and ONNX Runtime differs from itself by 2 % between a batch and its rows."""
BYTE_ROWS = 64
TAKES_PAGES = ("text_finder",)
"""It finds no text in noise: what it gives there is next to nothing, and rounding shows."""
EDGES = 3.0
"""Times the tolerance that it is given in half precision: of a page's hundred thousand pixels, some
thirty at words' edges are off by up to 0.08 on the CPU, whichever half of it stays float32."""
PAGES, MARKS = 8, 14
PAPER, INK, GRAIN = 2.2, -2.0, 0.02


def check(
    setting: Setting, finding: Finding, *, precision: Precision = "fp32", graphs: bool = True
) -> None:
    """Compare engines of one precision; with CUDA graphs, or without."""
    lines = f'precision = "{precision}"\n'
    if not graphs:
        lines += "cuda_graphs = false\n"
    with setting.opened() as device:
        for entry in setting.entries():
            ran = compare(finding, entry, device, lines + fewer_sizes(entry, precision))
            if ran is not None and graphs:
                finding.expect_graphs(entry.name, ran.without_graphs)
            elif ran is not None:
                is_off = ran.without_graphs == SWITCHED_OFF
                finding.expect(is_off, f"{entry.name}: graphs are not switched off")


def fewer_sizes(entry: ModelEntry, precision: Precision) -> str:
    """Return the line of a manifest that has a large model run in full batches only.

    What other sizes do was seen in float32, and its rows take their time in the reference.
    """
    if precision == "fp32" or entry.name not in SLOW:
        return ""
    return f"buckets = [{parse_manifest(entry.manifest, str(entry.manifest_path)).max_batch}]\n"


def compare(
    finding: Finding, entry: ModelEntry, device: Device, lines: str
) -> verification.Verification | None:
    """Compare one model.

    Args:
        lines: Of the manifest, before its own.

    Returns:
        None: it could not be run, which was found.
    """
    path = worker_pb2.ModelPath(
        name=entry.name,
        version=entry.version,
        manifest=lines + entry.manifest,
        manifest_path=str(entry.manifest_path),
        directory=str(entry.directory),
    )
    said: list[str] = []
    try:
        verdict = verification.verify(
            path,
            rounds=1 if entry.name in SLOW else 3,
            seed=int(time.time()),
            recorded=ROWS.get(entry.name),
            on_step=said.append,
            device=device,
        )
    except ApplianceError as error:
        finding.problems.append(f"{entry.name}: {error}")
        return None
    is_edgy = entry.name in TAKES_PAGES and verdict.precision in ("fp16", "bf16")
    for each in verdict.outputs:
        limit = Limit("<=", each.tolerance * (EDGES if is_edgy else 1))
        finding.add(f"{entry.name}: {each.name} is off by", each.worst, "of its largest", limit)
    finding.details[entry.name] = {
        "computes in": verdict.precision,
        "problem": verdict.problem,
        "batches": verdict.batches,
        "rows": {each.name: each.rows for each in verdict.outputs},
        "warm_up_us": {size: ns // 1000 for size, ns in verdict.times_ns.items()},
    }
    return verdict


def _byte_rows(spec: ModelSpec) -> list[list[Sample]]:
    """Make up rows of bytes, as whole numbers of the model's type."""
    random = np.random.default_rng()

    def made(item: InputSpec) -> Sample:
        values = random.integers(0, 256, item.row_shape).astype(NUMPY_DTYPES[item.dtype])
        return Sample(values.tobytes(), item.dtype, Encoding.RAW, item.row_shape)

    return [[made(item) for item in spec.inputs] for _ in range(BYTE_ROWS)]


def _pages(spec: ModelSpec) -> list[list[Sample]]:
    """Draw pages with marks that look like words, always the same ones."""
    random = np.random.default_rng(1)

    def drawn(item: InputSpec) -> Sample:
        _, high, wide = item.row_shape
        page = np.full(item.row_shape, PAPER)
        for _ in range(MARKS):
            height, width = random.integers(8, 20), random.integers(40, 110)
            top, left = random.integers(0, high - height), random.integers(0, wide - width)
            word = page[:, top : top + height, left : left + width]
            word[:, height // 2] = INK
            pitch = height // 3 + 1
            word[:, :, ::pitch] = word[:, :, 1::pitch] = INK
        page += random.normal(0, GRAIN, page.shape)
        values = page.astype(NUMPY_DTYPES[item.dtype])
        return Sample(values.tobytes(), item.dtype, Encoding.RAW, item.row_shape)

    return [[drawn(item) for item in spec.inputs] for _ in range(PAGES)]


ROWS: Mapping[str, Callable[[ModelSpec], list[list[Sample]]]] = {
    **dict.fromkeys(TAKES_BYTES, _byte_rows),
    **dict.fromkeys(TAKES_PAGES, _pages),
}
"""What is not made up by verification, by model."""
