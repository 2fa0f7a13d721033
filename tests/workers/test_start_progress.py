"""Which starts get on: time is given to them, and to no other."""

from __future__ import annotations

from typing import Any

from appliance.workers.slot import WorkerStatistics
from appliance.workers.start_progress import StartProgress

PATIENCE_NS = 100


def worker(**others: Any) -> WorkerStatistics:
    told: dict[str, Any] = {
        "slot": "cpu-0",
        "device": "cpu",
        "models": ("arm",),
        "generation": 1,
        "state": "loading",
        "pid": 1,
        "restarts": 0,
        "last_cause": "",
        "last_stderr": (),
        "progress": 0.0,
        "step": "",
        "batches": 0,
        "hang_bound_ns": None,
        "busy_since_ns": None,
    }
    return WorkerStatistics(**told | others)


def test_each_step_of_any_worker_gives_time() -> None:
    progress, other = StartProgress(PATIENCE_NS), worker(slot="cpu-1")
    steps = [
        worker(state="starting"),
        worker(),
        worker(step="arm: building 10%"),
        worker(step="arm: building 20%"),
        worker(progress=0.5, step="leg: building 20%"),
        worker(state="ready", progress=1.0),
    ]
    for number, step in enumerate(steps):
        assert progress.gets_on([other, step], number * PATIENCE_NS)
    last_ns = (len(steps) - 1) * PATIENCE_NS
    assert progress.gets_on([other, steps[-1]], last_ns + PATIENCE_NS)
    assert not progress.gets_on([other, steps[-1]], last_ns + PATIENCE_NS + 1)
    assert progress.gets_on([worker(slot="cpu-1", step="arm: warming up"), steps[-1]], 10**6)


def test_a_process_that_is_started_again_and_again_does_not_get_on() -> None:
    progress = StartProgress(PATIENCE_NS)
    lives = [worker(generation=life, restarts=life, pid=life) for life in range(1, 4)]
    assert [progress.gets_on([life], 80 * life.generation) for life in lives] == [True, True, False]


def test_what_never_began_does_not_get_on() -> None:
    progress = StartProgress(PATIENCE_NS)
    assert progress.gets_on([worker(state="starting", pid=None)], 7 * PATIENCE_NS)
    assert not progress.gets_on([worker(state="starting", pid=None)], 9 * PATIENCE_NS)
