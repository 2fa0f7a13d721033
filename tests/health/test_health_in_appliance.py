"""What a reader says reaches the scheduler and the documents of a whole appliance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from support.fake_driver import SW_THERMAL, FakeDriver, needs_stand_ins
from support.repository import add_echo

from appliance.app import Appliance
from appliance.config import load
from appliance.scheduling.events import ModelRef, WorkerReady, WorkerRef

MS = 1_000_000
ARM = ModelRef("arm", "1")


@needs_stand_ins
async def test_planned_times_follow_the_clocks_of_the_workers_gpu(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in driver.environment.items():
        monkeypatch.setenv(name, value)
    add_echo(tmp_path / "models", "arm")
    file = tmp_path / "appliance.toml"
    file.write_text(
        f'models.directory = "{tmp_path}/models"\n'
        f'transport.bind = ["ipc://{tmp_path}/door"]\nadmin.socket = "{tmp_path}/admin"\n'
        '[[workers]]\nname = "gpu"\ndevice = "cuda:0"\n'
    )
    app = Appliance(load(file))
    tell, changed = app.health.on_clocks, [trio.Event()]

    def told(slowdowns: Mapping[str, float]) -> None:
        tell(slowdowns)
        changed[0].set()
        changed[0] = trio.Event()

    async def until_planned(planned_ns: object) -> None:
        with trio.fail_after(60):
            while app.dispatcher.scheduler.planned_ns(ARM, 1) != planned_ns:
                await changed[0].wait()

    app.health.on_clocks = told
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        # Its worker cannot come up, on a GPU that computes nothing: one that has is made believe.
        up = WorkerReady(WorkerRef("gpu-0", 1000), {ARM: {1: 10 * MS}}, {ARM: 1})
        app.dispatcher.post(up)
        app.dispatcher.turn()
        usual_ns = app.dispatcher.scheduler.planned_ns(ARM, 1)
        with trio.fail_after(60):
            while app.documents.status()["devices"][0]["error"]:
                await changed[0].wait()
        driver.says(sm=1170, reasons=SW_THERMAL)
        await until_planned(pytest.approx(1.5 * usual_ns, rel=1e-6))
        [device] = app.documents.status()["devices"]
        assert (device["workers"], device["holds"]) == (["gpu-0"], ["thermal"])
        driver.says()
        await until_planned(usual_ns)
        app.drain()
    app.arena.close()
