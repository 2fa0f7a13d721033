"""The timeline of a whole appliance: it agrees with the ledger, and shows what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from support import perfetto
from support.box import Box

from appliance import Outcome
from appliance.admin import client as admin


def timeline(running: Box) -> dict[str, list[Any]]:
    """Read all of it, part by part."""
    found: dict[str, list[Any]] = {"batches": [], "drops": []}
    cursor, more = "", True
    while more:
        document = admin.get(running.socket, f"/v1/timeline?since={cursor}", 5.0)
        assert isinstance(document, dict)
        found["batches"] += document["batches"]
        found["drops"] += document["drops"]
        cursor, more = document["cursor"], any(document["more"].values())
    return found


def test_it_agrees_with_the_ledger_and_goes_into_a_trace(two_workers: Box, tmp_path: Path) -> None:
    state = np.zeros(4, np.float32)
    with two_workers.connect("arm") as connection:
        model = connection.model("sleeper", latency_budget_ms=1000, keep="all")
        sequences = [model.observe(state=state) for _ in range(20)]
        sequences.append(model.observe(state=np.zeros(3, np.float32)))
        for sequence in sequences:
            assert model.wait_for(sequence, 5000) is not None
    status = two_workers.wait_settled()
    found = timeline(two_workers)
    rows = [row for batch in found["batches"] for row in batch["rows"]]
    assert sum(row[3] == "OK" for row in rows) == status["outcomes"]["OK"] == 20
    assert {row[0] for row in rows} == {"arm"}
    (invalid,) = found["drops"]
    assert (invalid["client"], invalid["outcome"], invalid["miss"]) == ("arm", "INVALID", False)
    for batch in found["batches"]:
        assert batch["worker"] == "a-0"
        assert batch["execute_us"] > 19_000
        assert batch["started_us"] <= batch["finished_us"] <= batch["ended_us"]

    out = tmp_path / "last.json"
    words = ["trace", "30", str(out), "--last", "--socket", two_workers.socket]
    subprocess.run([sys.executable, "-m", "appliance", *words], check=True, timeout=30)
    events = perfetto.check(json.loads(out.read_text()))
    assert [each["args"]["name"] for each in events["M"]].count("arm") == 1
    assert len(events["s"]) == 20
    assert [each["name"] for each in events["i"]] == ["INVALID"]


def test_a_worker_that_dies_takes_its_batch_with_it(two_workers: Box) -> None:
    with two_workers.connect("arm") as connection:
        model = connection.model("poisonous", latency_budget_ms=1000, keep="all")
        sequence = model.observe(state=np.full(4, 666, np.float32))
        result = model.wait_for(sequence, 20_000)
        assert result is not None
        assert result.status is Outcome.WORKER_LOST
    two_workers.wait_settled()
    found = timeline(two_workers)
    (lost,) = [batch for batch in found["batches"] if batch["end"] == "lost"]
    assert (lost["worker"], lost["model"], lost["finished_us"]) == ("a-0", "poisonous", 0)
    assert [row[0] for row in lost["rows"]] == ["arm"]
    assert [row[3] for row in lost["rows"]] == [None]
    (drop,) = found["drops"]
    assert (drop["outcome"], drop["miss"]) == ("WORKER_LOST", True)
