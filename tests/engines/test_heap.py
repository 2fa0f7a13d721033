"""A worker process keeps the memory that a batch has freed, and no more than it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.repository import add_python_model
from support.worker_process import Start

MEBIBYTE = 1 << 20

TEMPORARIES = """
    import numpy as np

    def Policy(inputs):
        x = inputs["x"]
        larger = [np.ones((1000, 1000), np.float32) for _ in range(4)]
        return {"y": x + sum(array[0, 0] for array in larger)}
"""

LOADS = """
    import numpy as np

    class Policy:
        def __init__(self):
            loading = [bytearray(2**20) for _ in range(64)]
            self.weights = bytearray(loading[-1])

        def __call__(self, inputs):
            return {"y": inputs["x"]}
"""


def page_faults(pid: int) -> int:
    """Return how often a process has touched a page that was not there (minor faults)."""
    return int(Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[7])


def resident_bytes(pid: int) -> int:
    """Return the process's own resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def test_what_a_batch_freed_is_there_for_the_next(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "temporaries", TEMPORARIES)
    worker = start(tmp_path)
    row = {"x": np.zeros(4, np.float32)}
    worker.run("temporaries", row)
    before = page_faults(worker.process.pid)
    for _ in range(20):
        assert not worker.run("temporaries", row).error
    # Each of the arrays is of a thousand pages; their first touch would be a fault for each.
    assert page_faults(worker.process.pid) - before < 1000


def test_what_loading_freed_is_given_back(tmp_path: Path, start: Start) -> None:
    add_python_model(tmp_path, "loads", LOADS)
    worker = start(tmp_path)
    assert worker.failed == {}
    assert resident_bytes(worker.process.pid) < 60 * MEBIBYTE
