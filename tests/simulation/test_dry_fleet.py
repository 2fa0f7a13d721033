"""A whole fleet of robots that execute chunks, near what its accelerator can do."""

from __future__ import annotations

import pytest

from benchmarks.scheduling.cases import Case, document, run


@pytest.mark.parametrize("seed", [104, 111])
def test_robots_that_run_dry_do_not_make_all_the_others_run_dry(seed: int) -> None:
    found = document(run(Case(workload="w3", load=0.95, seed=seed, policy="appliance")))
    assert found["dry_ticks_per_robot_hour"] < 100, "it was thousands once small batches led"
    assert found["miss"] < 0.5
