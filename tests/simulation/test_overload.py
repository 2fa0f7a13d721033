"""A fleet twice as large as its accelerator can serve."""

from __future__ import annotations

from benchmarks.scheduling.cases import Case, document, run


def test_nobody_starves_where_there_is_twice_too_much() -> None:
    found = document(run(Case(workload="w1", load=2.0, seed=60607, policy="appliance")))
    assert found["critical_miss"] < 1
    assert max(found["miss_of"].values()) < 85, "all of one model, once its gate opened for good"
    assert found["worst_client"] > 0.1
    assert found["longest_streak"] < 40
