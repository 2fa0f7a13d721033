"""One run of perf_analyzer, and what it found."""

from __future__ import annotations

import csv
import subprocess
import tempfile
from pathlib import Path

from attrs import frozen

from benchmarks.inference.servers import Server
from benchmarks.inference.tools import analyzer

WINDOW_MS = 2000
STABLE_PERCENT = 60
"""It looks at three windows, and calls them stable within that: this machine has other guests, and
rounds are compared here."""
TIMEOUT_S = 120


@frozen
class Reading:
    """What one run found.

    Attributes:
        per_second: Answers.
        p50_us: Of the latency that its client saw.
        cpu_us: Processor time of the server for each answer, all processes, starting up excluded.
        queue_us, compute_us: By the server's own statistics, on average.
    """

    per_second: float
    p50_us: float
    cpu_us: float
    queue_us: float
    compute_us: float


def analyze(server: Server, model: str, *flags: str) -> Reading:
    """Run it.

    Raises:
        RuntimeError: It does not come to an end, or found an error.
    """
    program, environment = analyzer()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        table = Path(directory, "found.csv")
        command = [
            *(str(program), "-m", model, "-i", "grpc", "-u", server.address),
            *("-p", str(WINDOW_MS), "-r", "5", "-s", str(STABLE_PERCENT)),
            *("-f", str(table), *flags),
        ]
        answered, cpu_s = server.answered(model), server.cpu_s()
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        answered, cpu_s = server.answered(model) - answered, server.cpu_s() - cpu_s
        if ran.returncode or not table.exists():
            said = (ran.stdout + ran.stderr)[-2000:]
            raise RuntimeError(f"perf_analyzer {' '.join(flags)} at {server.name}: {said}")
        (row, *_) = csv.DictReader(table.read_text().splitlines())
    parts = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")
    return Reading(
        float(row["Inferences/Second"]),
        float(row["p50 latency"]),
        cpu_s / max(1, answered) * 1e6,
        float(row.get("Server Queue") or 0),
        sum(float(row.get(part) or 0) for part in parts),
    )
