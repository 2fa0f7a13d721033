"""A changed configuration is applied whole and at once, or not at all."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import attrs
import numpy as np
import pytest
import trio
from support.box import box
from support.fleet_models import add_sleeper
from support.repository import add_onnx_mlp

from appliance import Outcome, reload
from appliance.admin import client as admin
from appliance.cli import main
from appliance.config import Config, load
from appliance.errors import ConfigError
from appliance.models.repository import ModelEntry, Repository
from appliance.reload import ModelWatch, Reloader, difference


def configured(text: str, tmp_path: Path) -> Config:
    file = tmp_path / "appliance.toml"
    file.write_text(text)
    return load(file)


def test_what_may_change(tmp_path: Path) -> None:
    after = configured(
        """
        [clients]
        accept_unknown = false
        [[clients.known]]
        id = "arm"
        [clients.defaults]
        tier = 3
        [rate_limits]
        global_hz = 5
        [scheduling]
        max_retries = 2
        [log]
        access_sample = 7
        [drain]
        grace_s = 1
        """,
        tmp_path,
    )
    assert difference(Config(), after) == [
        "clients.defaults.tier",
        "clients.known",
        "clients.accept_unknown",
        "scheduling.max_retries",
        "rate_limits.global_hz",
        "log.access_sample",
        "drain.grace_s",
    ]
    assert difference(after, after) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[transport]\nbind = ['ipc:///x']", "transport.bind"),
        ("[arena]\nbytes = 1048576", "arena.bytes"),
        ("[[workers]]\nname = 'other'", "workers"),
        ("[log]\nlevel = 'debug'", "log.level"),
        ("appliance_id = 'box'", "appliance_id"),
    ],
)
def test_what_may_not_keeps_all_as_it_was(text: str, key: str, tmp_path: Path) -> None:
    after = configured(f"{text}\n[rate_limits]\nglobal_hz = 5\n", tmp_path)
    with pytest.raises(ConfigError, match=rf"^{key}: read at the start only"):
        difference(Config(), after)


class Applied:
    """Takes down what was applied, and reads what it is told."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.next: Config | ConfigError = Config()

    def read(self) -> Config:
        if isinstance(self.next, ConfigError):
            raise self.next
        return self.next


async def test_reload_applies_once_and_tells_what_is_wrong() -> None:
    seen = Applied()
    reloader = Reloader(Config(), seen.read, seen.configs.append)
    assert await reloader.reload() == []
    assert seen.configs == []
    limited = attrs.evolve(Config(), drain=attrs.evolve(Config().drain, grace_s=3.0))
    seen.next = limited
    assert await reloader.reload() == ["drain.grace_s"]
    assert await reloader.reload() == []
    assert seen.configs == [limited]
    seen.next = ConfigError("no")
    assert await reloader.reload() == []
    assert (reloader.error, reloader.current) == ("no", limited)
    seen.next = limited
    await reloader.reload()
    assert reloader.error == ""


async def test_of_two_at_once_the_later_holds() -> None:
    configs = [
        attrs.evolve(Config(), drain=attrs.evolve(Config().drain, grace_s=s)) for s in (1, 2)
    ]
    first_reads, second_has_read = threading.Event(), threading.Event()

    def read() -> Config:
        config = configs.pop(0)
        if configs:
            first_reads.set()
            second_has_read.wait(0.2)
        else:
            second_has_read.set()
        return config

    applied: list[float] = []
    reloader = Reloader(Config(), read, lambda config: applied.append(config.drain.grace_s))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloader.reload)
        await trio.to_thread.run_sync(first_reads.wait)
        nursery.start_soon(reloader.reload)
    assert applied == [1, 2]


async def test_a_fault_of_ours_keeps_what_held() -> None:
    def read() -> Config:
        raise ZeroDivisionError("by zero")

    reloader = Reloader(Config(), read, lambda _: None)
    assert await reloader.reload() == []
    assert (reloader.error, reloader.current) == ("ZeroDivisionError: by zero", Config())


@pytest.mark.parametrize("error", [ConfigError("no"), PermissionError("no")])
async def test_a_repository_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def scan(_: object) -> list[ModelEntry]:
        raise error

    watch = ModelWatch(tmp_path, [])
    monkeypatch.setattr(Repository, "scan", scan)
    await watch.look()
    (pending,) = watch.pending
    assert pending.endswith("no")


async def test_the_file_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK_S", 0.001)
    file = tmp_path / "appliance.toml"
    file.write_text("")
    told, heard = trio.open_memory_channel[Config](10)
    reloader = Reloader(load(file), lambda: load(file), told.send_nowait, file)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(reloader.watch)
            write(file, "[drain]\ngrace_s = 4")
            assert (await heard.receive()).drain.grace_s == 4
            write(file, "[drain]\ngrace_s = 'long'")
            while "drain.grace_s" not in reloader.error:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.001)
            file.unlink()
            await trio.sleep(0.01)
            write(file, "[drain]\ngrace_s = 5")
            assert (await heard.receive()).drain.grace_s == 5
            nursery.cancel_scope.cancel()
    assert reloader.error == ""


def write(file: Path, text: str) -> None:
    """Replace a file at once, as editors and deployments do."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


def test_reloading_under_load_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_onnx_mlp(tmp_path / "models", "mlp")
    text = "[clients.defaults]\ntier = {tier}\n[rate_limits]\nper_client_hz = {hz}\n"
    with box(tmp_path / "models", config=text.format(tier=1, hz=0)) as running:
        config = running.directory / "config.toml"
        with running.connect("arm") as robot:
            model = robot.model("mlp", keep="all", latency_budget_ms=5000)
            spec = model.describe()
            assert spec is not None
            (each,) = spec.inputs
            row = {each.name: np.zeros([max(1, size) for size in each.shape], np.float32)}
            for number in range(50):
                write(config, text.format(tier=number % 5, hz=0))
                model.observe_at(row)
                assert main(["reload", "--socket", running.socket]) == 0
                model.observe_at(row)
                list(model.results(5000))
            assert robot.statistics().answers == {Outcome.OK: 100}
            (client,) = running.clients()
            assert client["tier"] == 4

            write(config, text.format(tier=4, hz=1))
            running.process.send_signal(signal.SIGHUP)
            outcomes = {Outcome.OK}
            while Outcome.RATE_LIMITED not in outcomes:
                model.observe_at(row)
                outcomes.update(result.status for result in model.results(5000))
        capsys.readouterr()
        write(config, text.format(tier=99, hz=0))
        assert main(["reload", "--socket", running.socket]) == 1
        assert "clients.defaults.tier" in capsys.readouterr().out
        assert "clients.defaults.tier" in running.status()["config_error"]
        assert main(["status", "--socket", running.socket]) == 0, "it serves as before"
        assert "configuration not applied" in capsys.readouterr().out
        write(config, text.format(tier=2, hz=0) + "[rate_limits.per_model_hz]\nmpl = 3\n")
        assert main(["reload", "--socket", running.socket]) == 1
        assert "'mpl'" in capsys.readouterr().out
        assert isinstance(admin.post(running.socket, "/v1/reload", 5.0), dict)


@pytest.mark.parametrize(
    "text",
    [
        f"[drain]\ngrace_s = {'1' * 5000}",
        f"[drain]\ngrace_s = 1{'0' * 400}",
        f"x = {'[' * 20000}",
        f"x = '{'y' * (1 << 20)}'",
    ],
)
def test_whatever_is_written_it_goes_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "models").mkdir()
    with box(tmp_path / "models", config="") as running:
        write(running.directory / "config.toml", text)
        status = running.wait_until(lambda status: status["config_error"])
        assert "config.toml" in status["config_error"]
        assert running.stop() == 0


@pytest.mark.parametrize("fast_path", [True, False])
def test_how_long_requests_may_wait_changes_at_once(tmp_path: Path, *, fast_path: bool) -> None:
    add_sleeper(tmp_path / "models", "slow", ms=100)
    text = (
        f"[transport]\nfast_path = {str(fast_path).lower()}\n[scheduling]\nrequest_ttl_ms = {{}}\n"
    )
    with box(tmp_path / "models", config=text.format(5000)) as running:
        config = running.directory / "config.toml"
        with running.connect("arm") as robot:
            model = robot.model("slow", keep="all", latency_budget_ms=5000)
            for _ in range(2):  # the second of a form takes the fast path
                model.observe(state=np.zeros(4, np.float32))
                assert [result.status for result in model.results(10_000)] == [Outcome.OK]
            write(config, text.format(300))
            assert main(["reload", "--socket", running.socket]) == 0
            for _ in range(20):
                model.observe(state=np.zeros(4, np.float32))
            ended = Counter(result.status for result in model.results(10_000))
    assert ended[Outcome.EXPIRED] > 10, ended


def test_models_are_served_as_they_were_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_onnx_mlp(tmp_path / "models", "mlp")
    manifest = tmp_path / "models" / "mlp" / "model.toml"
    with box(tmp_path / "models") as running:
        (served,) = running.status()["models"]
        write(manifest, "max_batch = 'many'")
        running.wait_until(lambda status: any("max_batch" in each for each in status["pending"]))
        assert main(["status", "--socket", running.socket]) == 0, "it serves as before"
        assert "not served yet" in capsys.readouterr().out
        running.kill_worker("cpu-0")
        status = running.wait_until(
            lambda status: status["workers"][0]["generation"] == 2 and status["state"] == "ready"
        )
        assert [model["state"] for model in status["models"]] == [served["state"]]
        with running.connect("arm") as robot:
            model = robot.model("mlp", latency_budget_ms=5000)
            spec = model.describe()
            assert spec is not None
            (each,) = spec.inputs
            model.observe_at({each.name: np.zeros([max(1, n) for n in each.shape], np.float32)})
            answer = model.wait(10_000)
            assert answer is not None
            assert answer.status is Outcome.OK
        write(manifest, "max_batch = 3")
        assert main(["reload", "--socket", running.socket]) == 0
        said = capsys.readouterr().out
        assert "not served yet: model mlp: model.toml has changed" in said
        assert "--standby" in said
        assert "models changed on disk" in running.log()
