"""Recordings are started, bounded, stopped; what goes wrong with one is nobody else's affair."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from support.writers import writer_of

from appliance.config import Recording as RecordingConfig
from appliance.dispatch.endings import Endings
from appliance.errors import ConfigError, RecordingError
from appliance.recording import recorder as module
from appliance.recording import writer as writing
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.recording.recorder import Recorder
from appliance.wire.pb import recording_pb2
from appliance.wire.session import encode_observation
from appliance.wire.types import Observation

ENVELOPE = encode_observation(Observation(client_id="arm", protocol_version=1))


class Desk:
    """A recorder that runs, without an appliance, on a clock of its own."""

    def __init__(self, config: RecordingConfig) -> None:
        nothing: Any = None
        self.now_ns = 1_000_000_000
        self.endings = Endings(nothing, nothing, nothing)
        self.recorder = Recorder(config, self.endings, lambda: {"a": "b"}, lambda: self.now_ns)

    def observe(self, payload: bytes = b"", times: int = 1) -> None:
        witness = self.endings.witness
        for _ in range(times):
            if witness is not None:
                witness.arrived(b"one", ENVELOPE, payload, self.now_ns)

    def miss(self) -> None:
        self.recorder._capture.on_miss(self.now_ns)

    async def over(self, number: int) -> dict[str, Any]:
        return await self.until(
            lambda: next(
                (d for d in self.documents() if d["id"] == number and d["state"] in _OVER), None
            )
        )

    def documents(self) -> list[dict[str, Any]]:
        return [dict(each) for each in self.recorder.documents()]

    async def until(self, condition: Callable[[], Any]) -> Any:
        with trio.fail_after(20):
            while not (found := condition()):  # noqa: ASYNC110  files have no event
                await trio.sleep(0.01)
        return found


_OVER = ("done", "failed")


def observations(path: Path) -> int:
    return sum(e.topic is Topic.OBSERVATIONS for e in RecordingReader(path).entries())


@pytest.fixture
def config() -> RecordingConfig:
    return RecordingConfig()


@pytest.fixture
async def desk(config: RecordingConfig, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    desk = Desk(config)
    await nursery.start(desk.recorder.run)
    yield desk
    await desk.recorder.close()
    nursery.cancel_scope.cancel()


async def test_nobody_looks_on_unless_something_is_recorded(desk: Desk, tmp_path: Path) -> None:
    assert desk.endings.witness is None
    begun = await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "seconds": 5})
    await desk.until(lambda: desk.endings.witness)
    desk.observe(times=3)
    desk.now_ns += 5_000_000_000
    done = await desk.over(begun["id"])
    assert (done["state"], done["messages"], done["error"]) == ("done", 3, None)
    assert desk.endings.witness is None
    assert observations(tmp_path / "a.mcap") == 3


async def test_it_ends_when_told_to_or_when_it_is_large_enough(desk: Desk, tmp_path: Path) -> None:
    begun = await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "bytes": 1_000_000})
    told = await desk.recorder.start({"path": str(tmp_path / "b.mcap"), "seconds": 100})
    await desk.until(lambda: len(desk.recorder._capture.sinks) == 2)
    desk.observe(os.urandom(600_000), times=2)
    done = await desk.over(begun["id"])
    assert done["bytes"] > 1_000_000
    desk.recorder.stop({"id": told["id"]})
    assert (await desk.over(told["id"]))["messages"] == 2


async def test_it_ends_when_its_asker_is_gone(desk: Desk, tmp_path: Path) -> None:
    kept = await desk.recorder.start({"path": str(tmp_path / "kept.mcap"), "lease_s": 10})
    left = await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "lease_s": 10})
    for _ in range(3):
        desk.now_ns += 4_000_000_000
        assert desk.recorder.renew({"id": kept["id"]})["state"] == "recording"
        desk.documents()  # looking is not asking for more
    assert (await desk.over(left["id"]))["state"] == "done"
    assert desk.recorder.renew({"id": kept["id"]})["state"] == "recording"
    with pytest.raises(RecordingError, match="there is no recording 99"):
        desk.recorder.renew({"id": 99})


async def test_what_does_not_fit_is_dropped_counted_and_said(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKLOG_BYTES", 10_000)
    begun = await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "seconds": 1})
    await desk.until(lambda: desk.endings.witness)
    desk.observe(bytes(1000), times=20)
    desk.now_ns += 1_000_000_000
    done = await desk.over(begun["id"])
    assert 0 < done["dropped"] < 20
    entries = list(RecordingReader(tmp_path / "a.mcap").entries())
    (dropped,) = [e.read(recording_pb2.Dropped) for e in entries if e.topic is Topic.DROPPED]
    assert dropped.messages == done["dropped"]
    assert observations(tmp_path / "a.mcap") + done["dropped"] == 20


async def test_a_full_disk_ends_the_recording_and_nothing_else(desk: Desk, tmp_path: Path) -> None:
    good = await desk.recorder.start({"path": str(tmp_path / "good.mcap"), "seconds": 1})
    begun = await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "seconds": 100})
    await desk.until(lambda: len(desk.recorder._capture.sinks) == 2)
    writer = writer_of(os.getpid(), tmp_path / "a.mcap")
    resource.prlimit(writer, resource.RLIMIT_FSIZE, (100_000, 100_000))
    desk.observe(os.urandom(400_000))
    desk.now_ns += module.FLUSH_NS
    failed = await desk.over(begun["id"])
    assert failed["state"] == "failed"
    assert "File too large" in failed["error"]
    desk.now_ns += 1_000_000_000
    assert (await desk.over(good["id"]))["state"] == "done"
    assert desk.endings.witness is None
    assert observations(tmp_path / "good.mcap") == 1


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ({}, "path: is missing"),
        ({"path": "a.mcap", "seconds": 1}, "an absolute path is expected"),
        ({"path": "/tmp/a\0.mcap", "seconds": 1}, "an absolute path is expected"),
        ({"path": "/tmp/a\udce9.mcap", "seconds": 1}, "an absolute path is expected"),
        ({"path": "/a/b/c.mcap", "seconds": 1}, "cannot be written: No such file"),
        ({"path": "/tmp/a.mcap"}, "it would never end"),
        ({"path": "/tmp/a.mcap", "seconds": -1}, "seconds: found -1"),
        ({"path": "/tmp/a.mcap", "seconds": float("nan")}, "seconds: found nan"),
        ({"path": "/tmp/a.mcap", "bytes": 1, "trigger": "miss"}, "do not go together"),
        ({"path": "/tmp/a.mcap", "trigger": "noon", "seconds": 1}, "trigger: found"),
        ({"path": "/tmp/a.mcap", "seconds": 1, "colour": True}, "unknown key"),
    ],
)
async def test_what_cannot_be_done_is_refused(desk: Desk, order: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordingError, match=why):
        await desk.recorder.start(order)
    assert desk.documents() == []


async def test_so_many_at_once_and_one_for_each_path(desk: Desk, tmp_path: Path) -> None:
    order = {"path": str(tmp_path / "0.mcap"), "seconds": 100}
    await desk.recorder.start(order)
    with pytest.raises(RecordingError, match="is being recorded already"):
        await desk.recorder.start(order)
    for number in range(1, module.MOST_AT_ONCE):
        await desk.recorder.start({"path": str(tmp_path / f"{number}.mcap"), "seconds": 100})
    with pytest.raises(RecordingError, match="recordings run already"):
        await desk.recorder.start({"path": str(tmp_path / "more.mcap"), "seconds": 100})
    with pytest.raises(RecordingError, match="there is no recording 99"):
        desk.recorder.stop({"id": 99})
    with pytest.raises(RecordingError, match="there is no recording"):
        desk.recorder.stop({"id": ["99"]})


async def test_a_writer_that_is_gone_ends_its_recording_only(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    begun = await desk.recorder.start({"path": str(path), "seconds": 100})
    await desk.until(lambda: desk.endings.witness)
    desk.observe(os.urandom(400_000))
    desk.now_ns += module.FLUSH_NS
    await desk.until(lambda: desk.documents()[0]["bytes"] > 400_000)
    os.kill(writer_of(os.getpid(), path), signal.SIGKILL)
    desk.observe(times=3)
    desk.now_ns += module.FLUSH_NS
    failed = await desk.over(begun["id"])
    assert failed["state"] == "failed"
    assert "the process that wrote it has ended" in failed["error"]
    assert desk.endings.witness is None
    assert observations(path.with_name("a.mcap.partial")) == 1


async def test_a_disk_that_hangs_costs_memory_up_to_the_bound_and_no_time(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINISH_S", 0.2)
    monkeypatch.setattr(writing, "CLOSE_S", 0.2)
    path = tmp_path / "a.mcap"
    begun = await desk.recorder.start({"path": str(path), "seconds": 100})
    await desk.until(lambda: desk.endings.witness)
    writer = psutil.Process(writer_of(os.getpid(), path))
    writer.suspend()  # as it would be in a system call that does not return
    image = bytes(1 << 20)
    desk.observe(image, times=40)
    await desk.until(lambda: not desk.recorder._capture.sinks[0]._records)  # being written
    desk.observe(image, times=40)
    (sink,) = desk.recorder._capture.sinks
    assert sink.bytes <= module.BACKLOG_BYTES
    assert sink.dropped[0] == 80 - sink.bytes // len(image)
    with trio.fail_after(5):
        await desk.recorder.close()
    assert desk.documents()[0]["id"] == begun["id"]


async def test_a_disk_that_hangs_ends_its_recording(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mcap"
    begun = await desk.recorder.start({"path": str(path), "seconds": 100})
    psutil.Process(writer_of(os.getpid(), path)).suspend()
    monkeypatch.setattr(writing, "PATIENCE_S", 0.2)  # not sooner: a busy machine starts it later
    monkeypatch.setattr(writing, "CLOSE_S", 0.2)
    desk.observe()
    desk.recorder.stop({"id": begun["id"]})
    failed = await desk.over(begun["id"])
    assert "the disk took nothing" in failed["error"]


async def test_when_the_appliance_stops_files_are_finished(desk: Desk, tmp_path: Path) -> None:
    await desk.recorder.start({"path": str(tmp_path / "a.mcap"), "seconds": 100})
    await desk.until(lambda: desk.endings.witness)
    desk.observe()
    await desk.recorder.close()
    assert observations(tmp_path / "a.mcap") == 1


async def test_a_trigger_writes_what_was_before_it(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AFTERMATH_S", 0.05)
    path = tmp_path / "a.mcap"
    begun = await desk.recorder.start({"path": str(path), "trigger": "miss", "seconds": 2})
    await desk.until(lambda: desk.endings.witness)
    desk.observe(times=5)
    desk.now_ns += 3_000_000_000
    desk.observe(times=2)
    await trio.sleep(0.3)
    assert desk.documents()[0]["state"] == "waiting"
    desk.miss()
    assert (await desk.over(begun["id"]))["state"] == "done"
    assert observations(path) == 2


async def test_a_trigger_that_never_occurs_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    begun = await desk.recorder.start(
        {"path": str(tmp_path / "a.mcap"), "trigger": "miss", "lease_s": 5}
    )
    desk.recorder.stop({"id": begun["id"]})
    failed = await desk.over(begun["id"])
    assert "before its trigger occurred" in failed["error"]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- incidents


class TestIncidents:
    """With a ring."""

    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingConfig:
        monkeypatch.setattr(module, "AFTERMATH_S", 0.05)
        return RecordingConfig(
            directory=str(tmp_path / "incidents"), misses=3, bytes=1 << 20, total_bytes=1 << 20
        )

    async def test_a_burst_of_misses_is_written_once(self, desk: Desk, tmp_path: Path) -> None:
        desk.observe(times=4)
        for _ in range(9):
            desk.miss()
        directory = tmp_path / "incidents"
        (path,) = await desk.until(lambda: list(directory.glob("*.mcap")))
        assert path.name.startswith("incident-")
        assert path.name.endswith("-misses.mcap")
        reader = RecordingReader(path)
        assert len(list(reader.entries())) == 4
        assert reader.metadata["appliance"] == {"a": "b", "incident": "misses"}
        await trio.sleep(0.2)
        assert len(list(directory.iterdir())) == 1

    async def test_older_files_make_room(self, desk: Desk, tmp_path: Path) -> None:
        directory = tmp_path / "incidents"
        old = directory / "incident-19990101T000000Z-misses.mcap"
        old.write_bytes(bytes(1 << 20))
        (directory / "other").write_bytes(bytes(1 << 20))
        desk.observe()
        desk.recorder._capture.on_worker_lost(desk.now_ns)
        await desk.until(lambda: list(directory.glob("*-worker-lost.mcap")))
        assert not old.exists()
        assert (directory / "other").exists()

    async def test_one_that_cannot_be_written_harms_nobody(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        (tmp_path / "incidents").rmdir()
        (tmp_path / "incidents").write_text("")
        desk.recorder._capture.on_worker_lost(desk.now_ns)
        await desk.until(lambda: "cannot be tidied up" in desk.recorder.problem)
        assert desk.endings.witness is not None
        (tmp_path / "incidents").unlink()
        desk.now_ns += 100_000_000_000
        desk.observe()
        desk.recorder._capture.on_worker_lost(desk.now_ns)
        await desk.until(lambda: list((tmp_path / "incidents").glob("*.mcap")))
        await desk.until(lambda: not desk.recorder.problem)

    async def test_one_just_before_the_end_is_written(
        self, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "AFTERMATH_S", 60)
        desk.observe()
        desk.recorder._capture.on_worker_lost(desk.now_ns)
        with trio.fail_after(20):
            await desk.recorder.close()
        (path,) = (tmp_path / "incidents").glob("*.mcap")
        assert observations(path) == 1

    async def test_what_is_no_file_is_left_alone(self, desk: Desk, tmp_path: Path) -> None:
        (tmp_path / "incidents" / "incident-1-x.mcap").mkdir()
        desk.observe()
        desk.recorder._capture.on_worker_lost(desk.now_ns)
        await desk.until(lambda: list((tmp_path / "incidents").glob("*-worker-lost.mcap")))


async def test_a_ring_without_its_directory_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    desk = Desk(RecordingConfig(directory=str(tmp_path / "file" / "below")))
    with pytest.raises(ConfigError, match=r"recording\.directory"):
        await desk.recorder.run()
