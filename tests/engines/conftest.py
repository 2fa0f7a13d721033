from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker_process import Start, WorkerProcess


@pytest.fixture
def start() -> Iterator[Start]:
    """Start worker processes; all are gone when the test is."""
    workers: list[WorkerProcess] = []

    def starts(root: Path | None = None) -> WorkerProcess:
        worker = WorkerProcess(stderr=subprocess.DEVNULL)
        workers.append(worker)
        if root is not None:
            worker.load(root)
        return worker

    yield starts
    for worker in workers:
        worker.__exit__(None, None, None)
