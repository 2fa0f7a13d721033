from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker_process import Start, WorkerProcess


@pytest.fixture
def start() -> Iterator[Start]:
    """Start worker processes; all are gone when the test is."""
    workers: list[WorkerProcess] = []

    def starts(root: Path | None = None) -> WorkerProcess:
        worker = WorkerProcess()
        workers.append(worker)
        if root is not None:
            worker.load(root)
        return worker

    yield starts
    for worker in workers:
        worker.kill()
