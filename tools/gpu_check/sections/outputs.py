"""Every model in batches of every size beside ONNX Runtime, row by row."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from appliance.engines import verification
from appliance.engines.device import Device
from appliance.engines.samples import Sample
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
REFUSED: Mapping[Precision, tuple[str, ...]] = {"fp16": ("text_finder",)}
"""What verification has to refuse: a variance in this model is 9.8e7, and float16 ends at 65504."""


def check(
    setting: Setting, finding: Finding, *, precision: Precision = "fp32", graphs: bool = True
) -> None:
    """Compare engines of one precision; with CUDA graphs, or without."""
    lines = f'precision = "{precision}"\n'
    if not graphs:
        lines += "cuda_graphs = false\n"
    with setting.opened() as device:
        for entry in setting.entries():
            compare(finding, entry, device, lines + fewer_sizes(entry, precision))


def fewer_sizes(entry: ModelEntry, precision: Precision) -> str:
    """Return the line of a manifest that has a large model run in full batches only.

    What other sizes do was seen in float32, and its rows take their time in the reference.
    """
    if precision == "fp32" or entry.name not in SLOW:
        return ""
    return f"buckets = [{parse_manifest(entry.manifest, str(entry.manifest_path)).max_batch}]\n"


def compare(finding: Finding, entry: ModelEntry, device: Device, lines: str) -> None:
    """Compare one model.

    Args:
        lines: Of the manifest, before its own.
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
            recorded=_byte_rows if entry.name in TAKES_BYTES else None,
            on_step=said.append,
            device=device,
        )
    except ApplianceError as error:
        finding.problems.append(f"{entry.name}: {error}")
        return
    is_refused = entry.name in REFUSED.get(verdict.precision, ())
    if is_refused:
        finding.expect(not verdict.is_good, f"{entry.name} is not refused in {verdict.precision}")
    for each in () if is_refused else verdict.outputs:
        limit = Limit("<=", each.tolerance)
        finding.add(f"{entry.name}: {each.name} is off by", each.worst, "of its largest", limit)
    finding.details[entry.name] = {
        "computes in": verdict.precision,
        "problem": verdict.problem,
        "batches": verdict.batches,
        "rows": {each.name: each.rows for each in verdict.outputs},
        "warm_up_us": {size: ns // 1000 for size, ns in verdict.times_ns.items()},
    }


def _byte_rows(spec: ModelSpec) -> list[list[Sample]]:
    """Make up rows of bytes, as whole numbers of the model's type."""
    random = np.random.default_rng()

    def made(item: InputSpec) -> Sample:
        values = random.integers(0, 256, item.row_shape).astype(NUMPY_DTYPES[item.dtype])
        return Sample(values.tobytes(), item.dtype, Encoding.RAW, item.row_shape)

    return [[made(item) for item in spec.inputs] for _ in range(BYTE_ROWS)]
