"""Two batches of other rows at a time: each answer is its own, with nothing of the one before."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engines.onnxruntime import OnnxRuntimeEngine
from appliance.engines.verification import distance
from tools.gpu_check.finding import Finding, Limit
from tools.gpu_check.setting import Setting
from tools.worker_client import WorkerClient

BATCHES = 400
LEAST = 20
MOST_ROWS = 16


def check(setting: Setting, finding: Finding) -> None:
    """Compare each answer with ONNX Runtime's."""
    random = np.random.default_rng()
    reference = OnnxRuntimeEngine(setting.root / "policy" / "1", optimised=False)
    worst, batches = 0.0, setting.runs(BATCHES, least=LEAST)
    flying: deque[tuple[int, NDArray[Any]]] = deque()

    def collect(worker: WorkerClient, most: int) -> None:
        nonlocal worst
        while len(flying) > most:
            batch, asked = flying.popleft()
            done = worker.done()
            finding.expect(done.batch_id == batch, f"{done.batch_id} was done before {batch}")
            got = worker.output(done, "action", len(asked))
            wanted = reference.run({"state": asked})["action"]
            rows = zip(got, wanted, strict=True)
            worst = max(worst, *(distance(*row) for row in rows))

    with setting.worker(setting.with_models(["policy"])) as worker:
        ready = worker.ready["policy"]
        finding.expect_graphs("policy", ready.without_graphs)
        finding.expect_quick_way("policy", ready.images_on_cpu, unpinned=worker.unpinned)
        outputs = [worker.output_block("policy", MOST_ROWS) for _ in range(3)]
        for number in range(batches):
            count = int(random.integers(1, MOST_ROWS + 1))
            state = random.standard_normal((count, 14)).astype(np.float32)
            rows = worker.rows("policy", {"state": state})
            batch = worker.stage("policy", rows, output=outputs[number % 3], go=number % 2 == 0)
            if number % 2:
                worker.go(batch)
            flying.append((batch, state))
            collect(worker, 1)
        collect(worker, 0)
    finding.add(
        f"answers of {batches} batches are off by", worst, "of the largest", Limit("<=", 1e-3)
    )
