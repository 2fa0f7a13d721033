"""Two batches of other rows at a time: each answer is its own, with nothing of the one before.

A batch of `policy` may be done before the next one is there. Those of `resnet` last: most of them
have to begin while the one before runs, or else this was no check of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from attrs import frozen

from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.verification import distance
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting
from tools.worker_client import WorkerClient

MOST_ROWS = 16
OFF_BY = Limit("<=", 1e-3)
APART = Limit(">=", 10 * OFF_BY.value)
"""Answers of different rows, or else a wrong one would look right."""
MEANS = 10.0
"""Rows that are noise alone have much the same answers, where a model takes means of them."""
OVERLAPPING = Limit(">=", 0.5, of_gpu=True)


@frozen(kw_only=True)
class Case:
    """A model, and what it is asked.

    Attributes:
        batches: So many, of rows chosen by chance.
        least: At least so many.
        rows: That there are to choose from; ONNX Runtime answers each once.
        overlapping: Of batches that begin before the one before is done.
    """

    model: str
    batches: int
    least: int
    rows: int
    overlapping: Limit | None


CASES = (
    Case(model="policy", batches=400, least=20, rows=4096, overlapping=None),
    Case(model="resnet", batches=50, least=10, rows=8, overlapping=OVERLAPPING),
)


def check(setting: Setting, finding: Finding) -> None:
    """Compare each answer with ONNX Runtime's."""
    with setting.worker(setting.with_models([case.model for case in CASES])) as worker:
        for case in CASES:
            ready = worker.ready[case.model]
            finding.expect_graphs(case.model, ready.without_graphs)
            finding.expect_quick_way(case.model, ready.images_on_cpu, unpinned=worker.unpinned)
            _ask(setting, finding, worker, case)


def _ask(setting: Setting, finding: Finding, worker: WorkerClient, case: Case) -> None:
    random, model = np.random.default_rng(), case.model
    [given], [made] = worker.specs[model].inputs, worker.specs[model].outputs
    means = MEANS * random.standard_normal((case.rows, given.shape[0], *[1] * len(given.shape[1:])))
    noise = random.standard_normal((case.rows, *given.shape), np.float32)
    asked = means.astype(np.float32) + noise
    reference = OnnxRuntimeEngine(setting.root / model / "1", optimised=False)
    wanted = reference.run({given.name: asked})[made.name]
    apart = min(distance(*pair) for pair in pairwise(wanted))
    stored = worker.rows(model, {given.name: asked})
    outputs = [worker.output_block(model, MOST_ROWS) for _ in range(3)]
    flying: deque[tuple[int, Sequence[int]]] = deque()
    spans: list[tuple[int, int]] = []
    worst, batches = 0.0, setting.runs(case.batches, least=case.least)

    def collect(most: int) -> None:
        nonlocal worst
        while len(flying) > most:
            batch, chosen = flying.popleft()
            done = worker.done()
            finding.expect(done.batch_id == batch, f"{done.batch_id} was done before {batch}")
            spans.append((done.execute_started_ns, done.finished_ns))
            got = worker.output(done, made.name, len(chosen))
            worst = max(worst, *map(distance, got, wanted[chosen]))

    for number in range(batches):
        count = int(random.integers(1, MOST_ROWS + 1))
        chosen: list[int] = random.integers(0, case.rows, count).tolist()
        rows = [stored[index] for index in chosen]
        batch = worker.stage(model, rows, output=outputs[number % 3], go=number % 2 == 0)
        if number % 2:
            worker.go(batch)
        flying.append((batch, chosen))
        collect(1)
    collect(0)
    finding.add(
        f"{model}: answers of {batches} batches are off by", worst, "of the largest", OFF_BY
    )
    finding.add(f"{model}: different answers are apart by", apart, "of the largest", APART)
    finding.add(
        f"{model}: batches that began while one ran", overlapping(spans), "", case.overlapping
    )


def overlapping(spans: Sequence[tuple[int, int]]) -> float:
    """Return the part of batches, but for the first, that began before the one before was done.

    Args:
        spans: When each began and was done, in order.
    """
    return sum(later[0] < earlier[1] for earlier, later in pairwise(spans)) / (len(spans) - 1)
