"""What somebody on the network sees of a session: with keys, nothing of what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.box import box
from support.keys import KeyMaker
from support.relay import relay
from support.repository import add_echo

from appliance import Connection, Outcome

SECRET = b"the cup is on the left, behind the kettle"


@pytest.mark.parametrize("keyed", [True, False])
def test_the_bytes_on_the_wire(tmp_path: Path, keyed: bool) -> None:  # noqa: FBT001
    models = tmp_path / "models"
    models.mkdir()
    add_echo(models, "whisperer")
    keys = KeyMaker(tmp_path / "keys")
    arm = keys.client("arm-of-the-left")
    config = (
        '[transport]\nbind = ["tcp://127.0.0.1:*"]\n'
        f'[keys]\nrequired = {str(keyed).lower()}\ndirectory = "{keys.directory.path}"\n'
    )
    with box(models, config=config) as running:
        (address,) = running.status()["binds"]
        with relay(int(address.rpartition(":")[2])) as between:
            with Connection(
                between.address, "arm-of-the-left", keys=arm if keyed else None
            ) as connection:
                model = connection.model("whisperer", latency_budget_ms=5000)
                spec = model.describe(10_000)
                assert spec is not None
                for _ in range(3):  # the fast path too
                    sent = np.frombuffer(SECRET.ljust(64), np.float32)
                    model.observe_at({spec.inputs[0].source: sent[: spec.inputs[0].shape[0]]})
                    result = model.wait(10_000)
                    assert result is not None
                    assert result.status is Outcome.OK, result.message
            seen = bytes(between.seen)
    assert len(seen) > 1000
    found = {word for word in (b"whisperer", b"arm-of-the-left", SECRET[:16]) if word in seen}
    assert found == (set() if keyed else {b"whisperer", b"arm-of-the-left", SECRET[:16]})
