"""What the SDK promises, against a real appliance."""

from __future__ import annotations

import numpy as np
from support.box import Box

from appliance import Outcome


def test_answers_are_read_after_the_appliance_has_gone(two_workers: Box) -> None:
    with two_workers.connect("arm") as connection:
        model = connection.model("mlp", keep="all", latency_budget_ms=5000)
        asked = [model.observe(x=np.zeros(8, np.float32)) for _ in range(30)]
        while connection.statistics().sent < len(asked):
            connection.wait_settled(1)
        two_workers.wait_until(lambda status: status["outcomes"].get("OK") == len(asked))
        assert two_workers.stop() == 0
        results = list(model.results(0))
        assert sorted(result.sequence for result in results) == asked
        assert {result.status for result in results} == {Outcome.OK}
