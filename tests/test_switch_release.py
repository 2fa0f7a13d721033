"""From one deployment to another on a robot, in virtual time; any step may be the last, or fail."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from tools.switch_release import NEXT_UNIT, UNIT, Box, Failed, Health, Paths, Patience, Switch

LOADING_S = 2.0
DIES_S = 2.5  # later than another one has loaded, and within the hold
STARTS = 5
"""So often systemd starts a unit, until it is told `reset-failed`."""
SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "models by name while it stands by": lambda status: {**status, "models": {"m": {}}},
    "a list while it stands by": lambda status: [status],
    "no reasons while it serves": lambda status: {**status, "reasons": None},
}
"""What a release may take the status for that is not this one's."""
KILLED = """
import os, pathlib, signal, sys
from tools.switch_release import Box, Paths, Patience, Switch

unlink, left = os.unlink, [2]

def unlink_or_end(*arguments, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    unlink(*arguments, **options)

os.unlink = unlink_or_end
Switch(Box(Paths(pathlib.Path(sys.argv[1]))), Patience()).prune(2)
"""
"""A program that prunes a box, and is killed when it has removed one file and would another."""
ROOT = Path(__file__).parents[1]
PATIENCE = Patience(load=20.0, hand_over=10.0, hold=3.0)


class PowerCut(BaseException):
    """The machine went down."""


@define
class Process:
    """An appliance that runs under a unit."""

    deployment: str
    since_s: float
    standby: bool
    models: dict[str, str]
    served_s: float | None = None


@define(eq=False)
class FakeBox(Box):
    """A robot whose deployments behave as told.

    Attributes:
        kinds: How each behaves: good; "crashes" at once; "hangs" while loading; "breaks" 1 s after
            it began to serve; "dies" a little later; "broken model"; "old version", it says another
            one than it is; one of `SHAPES`, whose status is of another shape, "while it serves" or
            "stands by"; "crashes beside another" that runs, or "fails beside another" to load.
        models: Those of the repository, which a process loads when it starts.
        fails: Deployments that cannot load a model, by its name.
        cut_at: The step that is not done any more, but ends with `fault`.
        silent_until_s: Until when whoever serves answers nobody who asks for its status.
        starts: How often each unit was started since it was told `reset-failed`.
        started: What was started, each time.
        synced: What was written, when the disk had all of it.
        gaps: When nobody served, as seen by whoever looked.
    """

    paths: Paths
    kinds: dict[str, str]
    models: list[str] = field(factory=lambda: ["clock"])
    fails: dict[str, list[str]] = field(factory=dict)
    processes: dict[str, Process] = field(factory=dict)
    starts: dict[str, int] = field(factory=dict)
    started: list[str] = field(factory=list)
    enabled: set[str] = field(factory=set)
    time_s: float = 0.0
    cut_at: int = -1
    fault: BaseException = field(factory=PowerCut)
    silent_until_s: float = 0.0
    steps: int = 0
    synced: dict[str, str] = field(factory=dict)
    gaps: list[tuple[float, float]] = field(factory=list)
    _dark_since_s: float | None = 0.0

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.cut_at:
            raise self.fault

    # ------------------------------------------------------------------------------ what it does

    def systemctl(self, *words: str) -> bool:
        self._step()
        verb, unit = words[0], words[-1]
        if verb in ("start", "restart"):
            if verb == "restart":
                self.processes.pop(unit, None)
            self._start(unit)
        elif verb == "stop":
            self.processes.pop(unit, None)
        elif verb == "reset-failed":
            self.starts.pop(unit, None)
        elif verb == "enable":
            self.enabled.add(unit)
        elif verb == "disable":
            self.enabled.discard(unit)
        self._settle()
        return True

    def _start(self, unit: str) -> None:
        """Start a unit if it is not up, and has not been started too often."""
        if unit in self.processes or self.starts.get(unit, 0) >= STARTS:
            return
        made = self.paths.named_by("next" if unit == NEXT_UNIT else "current")
        kind, is_beside = self.kinds[made], bool(self.processes)
        self.starts[unit] = self.starts.get(unit, 0) + 1
        self.started.append(made)
        models = {name: self._loads(made, name) for name in self.models}
        if kind == "fails beside another" and is_beside:
            models = dict.fromkeys(models, "failed")
        self.processes[unit] = Process(made, self.time_s, is_beside, models)
        if kind == "crashes" or (kind == "crashes beside another" and is_beside):
            self._end(unit)

    def _end(self, unit: str) -> None:
        """Let a process end of itself; systemd starts it again, if its unit does not say no."""
        del self.processes[unit]
        drop_in = self.paths.transient_units / f"{NEXT_UNIT}.d" / "zz-next.conf"
        if unit == UNIT or "\nRestart=no\n" not in drop_in.read_text():
            self._start(unit)

    def _loads(self, deployment: str, model: str) -> str:
        return "failed" if deployment in self.fails.get(model, ()) else "ready"

    def _settle(self) -> None:
        """Let who is loaded serve, if nobody does; note while nobody does."""
        for unit, process in list(self.processes.items()):
            serves = process.served_s is not None and self.kinds[process.deployment] == "dies"
            if serves and self.time_s - (process.served_s or 0.0) >= DIES_S:
                self._end(unit)
        loaded = [p for p in self.processes.values() if self._is_loaded(p)]
        if loaded and not any(p.served_s is not None for p in loaded):
            loaded[0].served_s = self.time_s
        is_dark = not any(p.served_s is not None for p in self.processes.values())
        if is_dark and self._dark_since_s is None:
            self._dark_since_s = self.time_s
        elif not is_dark and self._dark_since_s is not None:
            self.gaps.append((self._dark_since_s, self.time_s))
            self._dark_since_s = None

    def _is_loaded(self, process: Process) -> bool:
        hangs = self.kinds[process.deployment] == "hangs"
        return not hangs and self.time_s - process.since_s >= LOADING_S

    def is_up(self, unit: str) -> bool:
        return unit in self.processes

    def main_pid(self, unit: str) -> int:
        return id(self.processes[unit]) if unit in self.processes else 0

    def _ask(self, *, standby: bool) -> bytes:
        return json.dumps(self._told(standby=standby)).encode()

    def _told(self, *, standby: bool) -> Any:
        if self.time_s < self.silent_until_s:
            return None
        for process in self.processes.values():
            kind, serves = self.kinds[process.deployment], process.served_s
            if standby == (serves is None):
                version = process.deployment.partition("-")[0]
                models = dict(process.models)
                if kind == "broken model":
                    models["clock"] = "failed"
                reasons = [f"model {name} failed" for name in models if models[name] == "failed"]
                state = "standby" if self._is_loaded(process) else "starting"
                if serves is not None:
                    broke = kind == "breaks" and self.time_s - serves >= 1.0
                    reasons += ["it broke"] if broke else []
                    state = "degraded" if reasons else "ready"
                if kind == "old version":
                    version = "0"
                status = {
                    "state": state,
                    "version": version,
                    "pid": id(process),
                    "models": [{"name": name, "state": models[name]} for name in models],
                    "reasons": reasons,
                }
                when = "stands by" if standby else "serves"
                return SHAPES[kind](status) if kind in SHAPES and kind.endswith(when) else status
        return None

    def lay_units(self, deployment: str) -> None:
        self._step()
        super().lay_units(deployment)

    def link(self, name: str, deployment: str) -> None:
        self._step()
        super().link(name, deployment)

    def begin_trial(self, back_to: str, *, is_rollback: bool) -> None:
        self._step()
        super().begin_trial(back_to, is_rollback=is_rollback)

    def end_trial(self) -> None:
        self._step()
        super().end_trial()

    def go_back(self, deployment: str) -> bool:
        self._step()
        return super().go_back(deployment)

    def last_words(self, unit: str) -> str:
        return f"the last words of {unit}"

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self._settle()

    def _sync(self) -> None:
        self.synced = self.written()

    # ------------------------------------------------------------------------------ for the tests

    def written(self) -> dict[str, str]:
        """Return where each link leads, and what each file says."""
        there = [*self.paths.root.iterdir(), *self.paths.units.rglob("*")]
        links = {str(each): str(each.readlink()) for each in there if each.is_symlink()}
        files = [each for each in there if each.is_file()]
        return links | {str(each): each.read_text(errors="replace") for each in files}

    def boot(self) -> None:
        """Lose what does not last, and start what is enabled."""
        self.processes.clear()
        self.starts.clear()
        self.cut_at = -1
        Switch(self, PATIENCE).revert()
        if UNIT in self.enabled:
            self.systemctl("start", UNIT)
        self.sleep(LOADING_S)

    @property
    def serving(self) -> str:
        return next((p.deployment for p in self.processes.values() if p.served_s is not None), "")


def box(tmp_path: Path, **kinds: str) -> FakeBox:
    paths = Paths(tmp_path, tmp_path / "etc", tmp_path / "run", tmp_path / "socket")
    paths.units.mkdir()
    names = {f"{version[1:]}-x": kind for version, kind in kinds.items()}
    for name in names:
        units = paths.deployments / name / "units"
        units.mkdir(parents=True)
        (units / UNIT).write_text(name)
        (units.parent / "appliance.toml").touch()
        release = tmp_path / "releases" / name.partition("-")[0]
        (release / "bin").mkdir(parents=True)
        (release / "bin" / "appliance").touch()
        (units.parent / "release").symlink_to(release)
    return FakeBox(paths, names)


def switch(robot: FakeBox, name: str) -> bool:
    return Switch(robot, PATIENCE).to(name)


def attempt(robot: FakeBox, name: str) -> str:
    """Return how a switch fails; empty: it does not."""
    try:
        switch(robot, name)
    except Failed as failed:
        return str(failed)
    return ""


BAD = ["crashes", "hangs", "breaks", "dies", "broken model", "old version", *SHAPES]
BAD_ALONE = [kind for kind in BAD if not kind.endswith("stands by")]
"""Those that are bad where nobody serves, so that there is nobody to stand by for."""


def test_the_first_deployment(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good")
    assert switch(robot, "1-x")
    assert robot.serving == "1-x"
    assert robot.enabled == {UNIT}
    assert (robot.paths.units / UNIT).read_text() == "1-x"
    assert not switch(robot, "1-x")


@pytest.mark.parametrize("kind", BAD_ALONE)
def test_a_first_deployment_that_is_bad(tmp_path: Path, kind: str) -> None:
    robot = box(tmp_path, v1=kind, v2="good")
    with pytest.raises(Failed, match="nothing served before, and it is stopped"):
        switch(robot, "1-x")
    assert robot.enabled == set()
    assert not robot.processes
    assert switch(robot, "2-x")
    assert robot.serving == "2-x"


def test_an_upgrade_and_back(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    switch(robot, "1-x")
    robot.gaps.clear()
    assert switch(robot, "2-x")
    assert list(robot.processes) == [UNIT]
    assert robot.serving == "2-x"
    assert robot.gaps == []  # nobody ever saw it dark
    assert robot.paths.named_by("previous") == "1-x"
    assert not robot.paths.trial.exists()
    assert (robot.paths.units / UNIT).read_text() == "2-x"
    assert not list(robot.paths.transient_units.iterdir())
    assert not switch(robot, "2-x")
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == "1-x"


def test_from_a_release_to_the_same_that_sees_the_system(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good")
    switch(robot, "1-x")
    named = "1-system-x"
    shutil.copytree(robot.paths.deployments / "1-x", robot.paths.deployments / named, symlinks=True)
    shutil.copytree(tmp_path / "releases/1", tmp_path / "releases/1-system")
    (robot.paths.deployments / named / "release").unlink()
    (robot.paths.deployments / named / "release").symlink_to(tmp_path / "releases/1-system")
    robot.kinds[named] = "good"
    assert switch(robot, named)
    assert robot.serving == named


def test_a_second_rollback_touches_nothing(tmp_path: Path) -> None:
    robot = box(tmp_path, v0="good", v1="good", v2="good", v3="good")
    for name in ("0-x", "1-x", "2-x"):
        switch(robot, name)
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == "1-x"
    steps = robot.steps
    with pytest.raises(Failed, match="already rolled back to 1-x, and nothing older is proven"):
        Switch(robot, PATIENCE).back()
    assert (robot.serving, robot.steps) == ("1-x", steps)
    switch(robot, "3-x")
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == "1-x"


def test_an_older_one_that_is_deployed_is_no_rollback(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x", "1-x"):
        switch(robot, name)
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == "2-x"


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("is_dark", [True, False])
def test_a_rollback_that_ends_at_any_step_and_is_asked_for_again(
    tmp_path: Path, *, serves: bool, is_dark: bool
) -> None:
    """Its process was killed, or the machine went down."""
    for step in range(1, 200):
        (place := tmp_path / str(step)).mkdir()
        robot = box(place, v1="good", v2="good")
        for name in ("1-x", "2-x"):
            switch(robot, name)
        if not serves:
            robot.processes.clear()
        robot.steps, robot.cut_at = 0, step
        try:
            assert Switch(robot, PATIENCE).back()
        except PowerCut:
            robot.cut_at = -1
        else:
            break
        if is_dark:
            robot.boot()
        if robot.paths.trial.exists() or robot.paths.named_by("current") == "2-x":
            assert Switch(robot, PATIENCE).back(), step
        assert robot.serving == robot.paths.named_by("current") == "1-x", step
        assert robot.paths.named_by("previous") == "1-x"
        assert not robot.paths.trial.exists()
        with pytest.raises(Failed, match="already rolled back"):
            Switch(robot, PATIENCE).back()
    assert 5 < step < 199


@pytest.mark.parametrize("kind", BAD)
def test_a_rollback_to_what_is_bad_can_be_tried_again(tmp_path: Path, kind: str) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x"):
        switch(robot, name)
    robot.kinds["1-x"] = kind
    with pytest.raises(Failed, match="1-x"):
        Switch(robot, PATIENCE).back()
    assert robot.serving == "2-x"
    robot.kinds["1-x"] = "good"
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == "1-x"


@pytest.mark.parametrize("kind", BAD)
def test_an_upgrade_that_is_bad(tmp_path: Path, kind: str) -> None:
    robot = box(tmp_path, v1="good", v2=kind)
    switch(robot, "1-x")
    robot.gaps.clear()
    with pytest.raises(Failed, match="2-x") as failed:
        switch(robot, "2-x")
    assert robot.serving == "1-x"
    assert list(robot.processes) == [UNIT]
    assert robot.paths.named_by("current") == "1-x"
    assert (robot.paths.units / UNIT).read_text() == "1-x"
    assert not robot.paths.trial.exists()
    assert robot.gaps == []
    assert robot.started.count("2-x") == 1
    before = kind in ("crashes", "hangs", "broken model") or kind.endswith("stands by")
    assert ("1-x has served all the while" in str(failed.value)) == before
    assert ("1-x serves again, and is healthy" in str(failed.value)) != before


@pytest.mark.parametrize("kind", ["crashes beside another", "fails beside another"])
@pytest.mark.parametrize("bad", ["breaks", "dies"])
def test_a_former_one_that_has_no_room_beside_the_other_is_started_alone(
    tmp_path: Path, kind: str, bad: str
) -> None:
    robot = box(tmp_path, v1=kind, v2=bad)
    switch(robot, "1-x")
    assert "1-x serves again, and is healthy" in attempt(robot, "2-x")
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert robot.status()["state"] == "ready"
    assert list(robot.processes) == [UNIT]
    assert not robot.paths.trial.exists()


def test_a_former_one_that_still_loads_when_it_is_alone_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = box(tmp_path, v1="good", v2="dies")
    switch(robot, "1-x")
    robot.started.clear()
    monkeypatch.setattr(sys.modules[__name__], "LOADING_S", PATIENCE.hand_over + 5.0)
    assert "1-x serves again, and is healthy" in attempt(robot, "2-x")
    assert robot.started == ["2-x", "1-x"]


def test_a_former_one_that_serves_all_its_models_is_not_interrupted(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="breaks")
    switch(robot, "1-x")
    robot.kinds["1-x"] = "breaks"
    robot.processes[UNIT].served_s = robot.time_s + 1e9
    robot.started.clear()
    robot.gaps.clear()
    assert "AND 1-x IS NOT HEALTHY AGAIN" in attempt(robot, "2-x")
    assert robot.serving == "1-x"
    assert (robot.started, robot.gaps) == (["2-x", "1-x"], [])


def with_a_new_model(tmp_path: Path, kind: str) -> FakeBox:
    """Return a box that serves 1-x, with a model that came since and that only 2-x can load."""
    robot = box(tmp_path, v1="good", v2=kind)
    switch(robot, "1-x")
    robot.models.append("new")
    robot.fails["new"] = ["1-x"]
    robot.gaps.clear()
    return robot


@pytest.mark.parametrize("kind", BAD)
def test_a_former_one_is_not_asked_for_a_model_that_came_since(tmp_path: Path, kind: str) -> None:
    robot = with_a_new_model(tmp_path, kind)
    failed = attempt(robot, "2-x")
    assert "NOT" not in failed
    assert failed
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert list(robot.processes) == [UNIT]
    assert not robot.paths.trial.exists()
    assert robot.gaps == []
    robot.kinds["2-x"] = "good"
    assert not attempt(robot, "2-x")


def test_a_rollback_leaves_a_model_that_came_since(tmp_path: Path) -> None:
    robot = with_a_new_model(tmp_path, "good")
    switch(robot, "2-x")
    assert Switch(robot, PATIENCE).back()
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert list(robot.processes) == [UNIT]
    assert not robot.paths.trial.exists()
    assert robot.gaps == []
    assert "1-x does not become healthy" in attempt(robot, "1-x")  # a deploy asks for all


@pytest.mark.parametrize("kind", BAD)
def test_a_former_one_that_was_degraded_is_so_again(tmp_path: Path, kind: str) -> None:
    robot = with_a_new_model(tmp_path, kind)
    robot.systemctl("restart", UNIT)
    robot.sleep(LOADING_S)
    assert robot.status()["state"] == "degraded"
    failed = attempt(robot, "2-x")
    assert failed
    assert "NOT" not in failed
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert not robot.paths.trial.exists()


@pytest.mark.parametrize(("model", "kind"), [("clock", "good"), ("", "breaks")])
def test_a_former_one_that_is_worse_than_it_was_is_not_healthy(
    tmp_path: Path, model: str, kind: str
) -> None:
    robot = with_a_new_model(tmp_path, "breaks")
    robot.fails[model] = ["1-x"]
    robot.kinds["1-x"] = kind
    robot.processes[UNIT].served_s = robot.time_s if kind == "good" else robot.time_s + 1e9
    assert "AND 1-x IS NOT HEALTHY AGAIN" in attempt(robot, "2-x")
    assert robot.paths.trial.exists()


@pytest.mark.parametrize("kind", ["good", "breaks"])
def test_a_process_that_dies_at_any_step_with_a_model_that_came_since(
    tmp_path: Path, kind: str
) -> None:
    for step in range(1, 200):
        (place := tmp_path / str(step)).mkdir()
        robot = with_a_new_model(place, kind)
        robot.steps, robot.cut_at = 0, step
        try:
            attempt(robot, "2-x")
        except PowerCut:
            robot.cut_at = -1
        else:
            break
        if robot.paths.trial.exists() or robot.paths.named_by("current") == "2-x":
            assert Switch(robot, PATIENCE).back(), step
        assert robot.serving == robot.paths.named_by("current") == "1-x", step
        assert not robot.paths.trial.exists()
    assert 5 < step < 199


@pytest.mark.parametrize("text", ["", "[]", '{"1-x": 1}', '{"1-x": [1, 2]}', "\xff", "[" * 99_999])
def test_notes_of_how_it_served_that_are_damaged_are_none(tmp_path: Path, text: str) -> None:
    robot = with_a_new_model(tmp_path, "good")
    robot.paths.served.write_text(text, encoding="latin-1")
    switch(robot, "2-x")
    assert robot.noted() == {"1-x": Health(is_ready=True, models=frozenset({"clock"}))}


def test_the_disk_has_what_a_step_has_written_when_it_is_over(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    steps: list[Callable[[], object]] = [
        lambda: robot.link("current", "1-x"),
        lambda: robot.lay_units("1-x"),
        lambda: robot.begin_trial("1-x", is_rollback=False),
        lambda: robot.link("current", "2-x"),
        lambda: robot.lay_units("2-x"),
        lambda: robot.go_back("1-x"),
        robot.end_trial,
    ]
    for step in steps:
        before = robot.written()
        step()
        assert before != robot.written() == robot.synced
    assert robot.paths.named_by("current") == "1-x"


def test_what_has_its_name_says_already_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a power cut leaves it empty: an empty trial goes back to something else."""
    robot = box(tmp_path, v1="good", v2="good")
    named: list[str] = []
    rename = Path.rename

    def see(path: Path, target: Path) -> Path:
        if path.is_file():
            assert robot.synced[str(path)] == path.read_text()
            named.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", see)
    for name in ("1-x", "2-x"):
        switch(robot, name)
    assert {*named} == {"trial", "served.json", UNIT}


@pytest.mark.parametrize("kind", ["good", *BAD])
def test_a_power_cut_at_any_step(tmp_path: Path, kind: str) -> None:
    for cut_at in range(1, 200):
        place = tmp_path / str(cut_at)
        place.mkdir()
        robot = box(place, v1="good", v2=kind)
        switch(robot, "1-x")
        robot.steps, robot.cut_at = 0, cut_at
        try:
            switch(robot, "2-x")
        except Failed:
            break
        except PowerCut:
            pass
        else:
            break
        robot.boot()
        assert robot.serving == "1-x" or (kind == "good" and robot.serving == "2-x"), cut_at
        assert (robot.paths.units / UNIT).read_text() == robot.serving
        if kind == "good":
            switch(robot, "2-x")  # again, and nothing is in its way
            assert robot.serving == "2-x"
            assert list(robot.processes) == [UNIT]
    assert 3 < cut_at < 199


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (["deployments/1-x"], "0-x"),
        (["releases/1"], "0-x"),
        (["deployments/1-x/units/appliance.service"], "0-x"),
        (["deployments/1-x", "deployments/0-x"], "2-x"),
        (["deployments/1-x", "deployments/0-x", "releases/2"], "9-x"),
    ],
)
def test_a_boot_without_what_was_proven(
    tmp_path: Path, gone: list[str], left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """1-x was, and 2-x is on trial."""
    robot = box(tmp_path, v9="good", v0="good", v1="good", v2="good")
    for name in ("0-x", "1-x", "2-x"):
        switch(robot, name)
    robot.begin_trial("1-x", is_rollback=False)
    robot.link("previous", "0-x")
    for each in gone:
        (tmp_path / each).rename(tmp_path / each.replace("/", "-"))
    robot.boot()
    assert robot.serving == robot.paths.named_by("current") == left
    assert (robot.paths.units / UNIT).read_text() == left
    assert not robot.paths.trial.exists()
    said = capsys.readouterr().err
    assert "cannot go back to 1-x: " in said
    assert f"before its deployment was proven: it runs {left}" in said


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\0", b"../deployments\n", b"..", b"\0" * 512])
def test_a_boot_with_a_trial_that_is_damaged(tmp_path: Path, text: bytes) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x"):
        switch(robot, name)
    robot.paths.trial.write_bytes(text)
    robot.boot()
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert not robot.paths.trial.exists()


def test_a_rollback_to_what_is_gone_touches_nothing(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x"):
        switch(robot, name)
    shutil.rmtree(robot.paths.deployments / "1-x")
    steps = robot.steps
    with pytest.raises(Failed, match="1-x: no such deployment; there are: 2-x; deploy it again"):
        Switch(robot, PATIENCE).back()
    assert (robot.serving, robot.steps) == ("2-x", steps)


def test_a_boot_without_any_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = box(tmp_path, v1="good")
    switch(robot, "1-x")
    robot.begin_trial("0-x", is_rollback=False)
    shutil.rmtree(robot.paths.deployments)
    assert Switch(robot, PATIENCE).revert()
    assert "there is no deployment that could be run; deploy one" in capsys.readouterr().err
    assert not robot.paths.trial.exists()


FAULTS = [
    OSError(errno.ENOSPC, "disk full"),
    subprocess.TimeoutExpired("systemctl", 30),
    TypeError("a mistake"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["disk full", "does not end", "mistake"])
def test_an_upgrade_of_which_any_step_fails(tmp_path: Path, fault: Exception) -> None:
    for cut_at in range(1, 200):
        (place := tmp_path / str(cut_at)).mkdir()
        robot = box(place, v1="good", v2="good")
        switch(robot, "1-x")
        robot.gaps.clear()
        robot.steps, robot.cut_at, robot.fault = 0, cut_at, fault
        if not (failed := attempt(robot, "2-x")):
            break
        assert str(fault) in failed
        assert robot.serving == robot.paths.named_by("current") == "1-x", cut_at
        assert list(robot.processes) == [UNIT]
        assert (robot.paths.units / UNIT).read_text() == "1-x"
        assert not robot.paths.trial.exists()
        switch(robot, "2-x")
        assert robot.serving == "2-x"
        assert robot.paths.named_by("previous") == "1-x"
    assert 10 < cut_at < 199


def test_a_cold_start_of_which_any_step_fails(tmp_path: Path) -> None:
    for cut_at in range(1, 200):
        (place := tmp_path / str(cut_at)).mkdir()
        robot = box(place, v1="good", v2="good")
        switch(robot, "1-x")
        robot.processes.clear()
        robot.steps, robot.cut_at, robot.fault = 0, cut_at, FAULTS[0]
        if not (failed := attempt(robot, "2-x")):
            break
        assert "disk full; 1-x did not serve before, and is started" in failed
        robot.sleep(LOADING_S)
        assert robot.serving == robot.paths.named_by("current") == "1-x", cut_at
        assert (robot.paths.units / UNIT).read_text() == "1-x"
        assert not robot.paths.trial.exists()
    assert 5 < cut_at < 199


def test_a_disk_that_is_full_while_a_unit_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x"):
        beside = robot.paths.deployments / name / "units" / f"{UNIT}.d"
        beside.mkdir()
        (beside / "drop-in.conf").write_text(name)
    switch(robot, "1-x")
    copy = shutil.copyfile

    def fills(source: Path, target: Path, *, follow_symlinks: bool = True) -> None:
        if Path(target).parent == robot.paths.units and "2-x" in Path(source).parts:
            target.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(shutil, "copyfile", fills)
    with pytest.raises(Failed, match="No space left on device; 1-x serves again"):
        switch(robot, "2-x")
    laid = [robot.paths.units / UNIT, robot.paths.units / f"{UNIT}.d" / "drop-in.conf"]
    assert [each.read_text() for each in laid] == ["1-x", "1-x"]
    monkeypatch.undo()
    switch(robot, "2-x")
    assert [each.read_text() for each in laid] == ["2-x", "2-x"]
    assert {each.name for each in robot.paths.units.iterdir()} == {UNIT, f"{UNIT}.d"}


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk take nothing new."""

    def is_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place, name in ((shutil, "copyfile"), (Path, "symlink_to"), (Path, "mkdir"), (os, "mkdir")):
        monkeypatch.setattr(place, name, is_full)
    monkeypatch.setattr(Path, "write_text", is_full)


def on_trial(place: Path) -> FakeBox:
    """Return a box that has moved from 1-x to 2-x, which is not proven yet."""
    robot = box(place, v1="good", v2="good")
    for version in ("1", "2"):
        drop_ins(robot, version, "realtime")
    switch(robot, "1-x")
    robot.begin_trial("1-x", is_rollback=False)
    robot.link("current", "2-x")
    robot.lay_units("2-x")
    return robot


def cut_renames(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Let the power go instead of one rename; return how many are to come, and that one."""
    rename, left = Path.rename, [at]

    def cut(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise PowerCut
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", cut)
    return left


def test_a_boot_with_a_full_disk_goes_back_wherever_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut_at in range(1, 20):
        (place := tmp_path / str(cut_at)).mkdir()
        robot = on_trial(place)
        assert (robot.paths.units / UNIT).read_text() == "2-x"
        fill(monkeypatch)
        left = cut_renames(monkeypatch, cut_at)
        try:
            robot.boot()
        except PowerCut:
            robot.boot()
        monkeypatch.undo()
        assert robot.serving == robot.paths.named_by("current") == "1-x", cut_at
        assert (robot.paths.units / UNIT).read_text() == "1-x"
        assert laid(robot.paths.units / f"{UNIT}.d") == {"realtime": "1"}
        assert {each.name for each in robot.paths.units.iterdir()} == {UNIT, f"{UNIT}.d"}
        assert not robot.paths.trial.exists()
        if left[0] > 0:
            break
    assert 3 < cut_at < 19


def test_going_back_that_was_killed_is_brought_to_its_end_by_the_next_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for killed_at in range(1, 20):
        (place := tmp_path / str(killed_at)).mkdir()
        robot = on_trial(place)
        robot.kinds["2-x"] = "breaks"
        left = cut_renames(monkeypatch, killed_at)
        with contextlib.suppress(PowerCut):
            robot.go_back("1-x")
        monkeypatch.undo()
        assert attempt(robot, "1-x") == ""
        assert robot.serving == robot.paths.named_by("current") == "1-x", killed_at
        assert (robot.paths.units / UNIT).read_text() == "1-x"
        assert laid(robot.paths.units / f"{UNIT}.d") == {"realtime": "1"}
        assert not robot.paths.trial.exists()
        if left[0] > 0:
            break
    assert 3 < killed_at < 19


def test_a_boot_that_cannot_go_back_says_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = on_trial(tmp_path)
    (robot.paths.root / ".current.back").unlink()
    fill(monkeypatch)
    with pytest.raises(Failed, match=r"cannot go back to 1-x, 2-x runs: .*No space left on device"):
        Switch(robot, PATIENCE).revert()
    assert robot.paths.trial.exists()
    monkeypatch.undo()
    robot.boot()
    assert robot.serving == "1-x"


def test_a_boot_with_a_full_disk_leaves_what_was_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = on_trial(tmp_path)
    robot.go_back("1-x")
    fill(monkeypatch)
    robot.boot()
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert not robot.paths.trial.exists()


def test_a_switch_that_finds_what_was_gone_back_to_leaves_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a power cut between two renames leaves them half laid, and no boot mends that."""
    robot = on_trial(tmp_path)
    robot.go_back("1-x")
    cut_renames(monkeypatch, 1)
    assert switch(robot, "1-x")
    assert laid(robot.paths.units / f"{UNIT}.d") == {"realtime": "1"}
    assert not robot.paths.trial.exists()


def test_a_cold_start_with_a_full_disk_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    switch(robot, "1-x")
    robot.processes.clear()
    fill(monkeypatch)
    failed = attempt(robot, "2-x")
    assert "No space left on device; 1-x did not serve before, and is started" in failed
    robot.sleep(LOADING_S)
    assert robot.serving == "1-x"


def test_a_deployment_that_breaks_when_the_disk_is_full_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    switch(robot, "1-x")
    lay = robot.lay_units

    def lay_and_fill(deployment: str) -> None:
        lay(deployment)
        fill(monkeypatch)
        robot.kinds["2-x"] = "breaks"

    monkeypatch.setattr(robot, "lay_units", lay_and_fill)
    assert "1-x serves again, and is healthy" in attempt(robot, "2-x")
    assert robot.serving == robot.paths.named_by("current") == "1-x"
    assert (robot.paths.units / UNIT).read_text() == "1-x"
    assert not robot.paths.trial.exists()


def drop_ins(robot: FakeBox, version: str, *names: str) -> None:
    """Give a deployment these drop-ins."""
    folder = robot.paths.deployments / f"{version}-x" / "units" / f"{UNIT}.d"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.conf").write_text(version)


def laid(folder: Path) -> dict[str, str]:
    return {each.stem: each.read_text() for each in folder.iterdir()}


def test_a_sites_own_drop_ins_stay_and_hold_for_one_on_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    drop_ins(robot, "1", "gpu", "realtime")
    drop_ins(robot, "2", "gpu", "credentials")
    there = robot.paths.units / f"{UNIT}.d"
    there.mkdir()
    (there / "override.conf").write_text("own")
    (there / "off.conf").symlink_to("/dev/null")
    own = {"override": "own", "off": ""}
    switch(robot, "1-x")
    assert laid(there) == {**own, "gpu": "1", "realtime": "1"}

    on_trial: list[dict[str, str]] = []

    def see(deployment: str) -> None:
        Box.lay_next_unit(robot, deployment)
        on_trial.append(laid(robot.paths.transient_units / f"{NEXT_UNIT}.d"))

    monkeypatch.setattr(robot, "lay_next_unit", see)
    switch(robot, "2-x")
    assert laid(there) == {**own, "gpu": "2", "credentials": "2"}
    assert (there / "off.conf").is_symlink()
    ((name, text),) = on_trial[0].items() - laid(there).items()
    assert name == "zz-next"
    assert "OOMScoreAdjust=" in text
    assert {**on_trial[0], name: ""} == {**laid(there), name: ""}
    assert Switch(robot, PATIENCE).back()
    assert laid(there) == {**own, "gpu": "1", "realtime": "1"}


def test_a_sites_own_drop_ins_stay_wherever_laying_them_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut_at in range(1, 20):
        (place := tmp_path / str(cut_at)).mkdir()
        robot = box(place, v1="good", v2="good")
        drop_ins(robot, "1", "realtime")
        switch(robot, "1-x")
        there = robot.paths.units / f"{UNIT}.d"
        (there / "override.conf").write_text("own")
        cut_renames(monkeypatch, cut_at)
        try:
            robot.lay_units("2-x")
        except PowerCut:
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        robot.lay_units("2-x")
        assert laid(there) == {"override": "own"}
        assert {each.name for each in robot.paths.units.iterdir()} == {UNIT, f"{UNIT}.d"}
    assert 3 < cut_at < 19


def killed_at(place: Path, kind: str, step: int) -> FakeBox | None:
    """Return a box whose switch from 1-x to 2-x was killed, and nothing else; None: it was over."""
    place.mkdir()
    robot = box(place, v0="good", v1="good", v2=kind, v3="good")
    switch(robot, "0-x")
    switch(robot, "1-x")
    robot.gaps.clear()
    robot.steps, robot.cut_at = 0, step
    try:
        attempt(robot, "2-x")
    except PowerCut:
        robot.cut_at = -1
        return robot
    return None


@pytest.mark.parametrize("kind", ["good", *BAD])
@pytest.mark.parametrize("name", ["1-x", "2-x", "3-x"])
def test_a_process_that_dies_at_any_step_and_runs_again(
    tmp_path: Path, kind: str, name: str
) -> None:
    step = 1
    while robot := killed_at(tmp_path / str(step), kind, step):
        is_bad = name == "2-x" and kind != "good"
        assert bool(attempt(robot, name)) == is_bad, step
        assert robot.serving == robot.paths.named_by("current") == ("1-x" if is_bad else name)
        assert list(robot.processes) == [UNIT]
        assert (robot.paths.units / UNIT).read_text() == robot.serving
        assert not robot.paths.trial.exists()
        assert robot.gaps == []  # nobody ever saw it dark
        if name == "2-x" and not is_bad:
            assert robot.paths.named_by("previous") == "1-x"
        step += 1
    assert 3 < step < 200


@pytest.mark.parametrize("kind", ["good", *BAD])
def test_a_process_that_dies_at_any_step_and_is_to_go_back(tmp_path: Path, kind: str) -> None:
    step = 1
    while robot := killed_at(tmp_path / str(step), kind, step):
        has_begun = robot.paths.trial.exists()
        assert Switch(robot, PATIENCE).back()
        assert robot.serving == robot.paths.named_by("current") == ("1-x" if has_begun else "0-x")
        assert list(robot.processes) == [UNIT]
        assert robot.gaps == []
        step += 1


@pytest.mark.parametrize("name", ["2-x", "3-x"])
def test_one_that_is_current_and_breaks_after_the_process_died(tmp_path: Path, name: str) -> None:
    step, looked = 1, 0
    while robot := killed_at(tmp_path / str(step), "good", step):
        if robot.paths.named_by("current") == "2-x" and robot.paths.trial.exists():
            looked += 1
            robot.kinds["2-x"] = "broken model"
            failed = attempt(robot, name)
            assert bool(failed) == (name == "2-x")
            assert robot.serving == robot.paths.named_by("current") == ("1-x" if failed else "3-x")
            assert failed or robot.paths.named_by("previous") == "1-x"
        step += 1
    assert looked > 3


@pytest.mark.parametrize("former", ["", "1-x"])
@pytest.mark.parametrize("kind", ["good", *BAD_ALONE])
@pytest.mark.parametrize("name", ["2-x", "3-x"])
def test_a_cold_start_whose_process_dies_at_any_step(
    tmp_path: Path, former: str, kind: str, name: str
) -> None:
    for step in range(1, 200):
        (place := tmp_path / str(step)).mkdir()
        robot = box(place, v1="good", v2=kind, v3="good")
        if former:
            switch(robot, former)
            robot.processes.clear()
        robot.steps, robot.cut_at = 0, step
        try:
            attempt(robot, "2-x")
        except PowerCut:
            robot.cut_at = -1
        else:
            break
        failed = attempt(robot, name)
        robot.sleep(LOADING_S)
        if name == "3-x" or kind == "good":
            assert not failed, step
            assert robot.serving == robot.paths.named_by("current") == name
            assert robot.enabled == {UNIT}
        else:
            assert failed
            assert robot.serving == robot.paths.named_by("current") == former
        assert not robot.paths.trial.exists()
    assert 3 < step < 199


def test_a_deployment_that_is_not_there(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good")
    for name in ("7-x", "../1-x", "", ".."):
        with pytest.raises(Failed, match="no such deployment; there are: 1-x"):
            switch(robot, name)
    with pytest.raises(Failed, match="no previous deployment"):
        Switch(robot, PATIENCE).back()
    (robot.paths.deployments / "1-x" / "units" / UNIT).unlink()
    with pytest.raises(Failed, match="is missing; deploy it again"):
        switch(robot, "1-x")


@pytest.mark.parametrize("is_there", ["", "folder", "link", "link to nothing"])
@pytest.mark.parametrize("is_up", [True, False])
def test_what_was_installed_by_hand_is_left_alone(
    tmp_path: Path, is_there: str, *, is_up: bool
) -> None:
    robot = box(tmp_path, v1="good")
    robot.kinds["by hand"] = "good"
    robot.enabled.add(UNIT)
    manual, current = tmp_path / "manual", tmp_path / "current"
    if is_there != "link to nothing":
        manual.mkdir()
    if is_there == "folder":
        manual.rename(current)
    elif is_there:
        current.symlink_to(manual.name)
    if is_up:
        robot.processes[UNIT] = Process(
            "by hand", since_s=0.0, standby=False, models={"clock": "ready"}, served_s=0.0
        )
    before = robot.written()
    failed = attempt(robot, "1-x")
    assert ("installed by hand" in failed) == bool(is_there or is_up)
    assert robot.serving == ("by hand" if is_up else "" if is_there else "1-x")
    assert robot.enabled == {UNIT}
    assert (robot.written() == before) == bool(failed)
    assert robot.paths.named_by("current") == ("" if failed else "1-x")


def test_where_the_former_one_does_not_serve(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="crashes")
    switch(robot, "1-x")
    robot.processes.clear()
    assert switch(robot, "2-x")
    assert robot.serving == "2-x"
    assert robot.paths.named_by("previous") == "1-x"
    robot.processes.clear()
    with pytest.raises(Failed, match="2-x did not serve before, and is started"):
        switch(robot, "3-x")
    robot.sleep(LOADING_S)
    assert robot.serving == "2-x"


@pytest.mark.parametrize("kind", ["good", *BAD])
def test_a_former_one_that_is_slow_to_answer_serves_on(tmp_path: Path, kind: str) -> None:
    robot = box(tmp_path, v1="good", v2=kind)
    switch(robot, "1-x")
    robot.gaps.clear()
    robot.silent_until_s = robot.time_s + PATIENCE.hand_over / 2
    assert bool(attempt(robot, "2-x")) == (kind != "good")
    assert robot.serving == ("2-x" if kind == "good" else "1-x")
    assert robot.gaps == []


@pytest.mark.parametrize("name", ["1-x", "2-x"])
def test_a_former_one_that_still_loads_is_waited_for(tmp_path: Path, name: str) -> None:
    robot = box(tmp_path, v1="good", v2="hangs")
    switch(robot, "1-x")
    robot.processes.clear()
    robot.systemctl("start", UNIT)
    robot.gaps.clear()
    began_s = robot.time_s
    failed = attempt(robot, name)
    assert ("1-x has served all the while" in failed) == (name == "2-x")
    assert robot.serving == "1-x"
    assert robot.gaps == [(began_s, pytest.approx(began_s + LOADING_S, abs=0.2))]


def test_a_former_one_that_never_serves_is_replaced(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="good")
    switch(robot, "1-x")
    robot.silent_until_s = robot.time_s + PATIENCE.hand_over
    switch(robot, "2-x")
    assert robot.serving == "2-x"
    robot.kinds["2-x"] = "hangs"
    robot.processes[UNIT].served_s = None
    began_s = robot.time_s
    switch(robot, "3-x")
    assert robot.serving == "3-x"
    assert robot.time_s - began_s >= PATIENCE.load  # it had the time that loading may take


def test_what_is_not_used_is_removed(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="good", v4="good")
    for name in ("1-x", "2-x"):
        switch(robot, name)
    assert Switch(robot, PATIENCE).prune(1)
    there = {each.name for each in robot.paths.deployments.iterdir()}
    assert there >= {"1-x", "2-x"}
    assert len(there) <= 3
    assert {each.name for each in (tmp_path / "releases").iterdir()} == {n[0] for n in there}
    assert not Switch(robot, PATIENCE).prune(1)


def test_what_another_deploy_has_just_made_is_not_removed(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good")
    for name in ("1-x", "2-x"):
        switch(robot, name)
    half_made = robot.paths.deployments / ".3-x"
    half_made.mkdir()
    release, abandoned = tmp_path / "releases/3", tmp_path / "releases/0"
    for made in (release, abandoned):
        made.mkdir()
    os.utime(abandoned, (1, 1))
    assert Switch(robot, PATIENCE).prune(2)
    assert {each.name for each in robot.paths.deployments.iterdir()} == {"1-x", "2-x", ".3-x"}
    assert {each.name for each in (tmp_path / "releases").iterdir()} == {"1", "2", "3"}


def test_what_a_prune_leaves_that_is_killed_has_another_name(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="good")
    for number, name in enumerate(("1-x", "2-x", "3-x")):
        switch(robot, name)
        for each in (robot.paths.deployments / name, robot.paths.releases / name[0]):
            os.utime(each, (number, number))
    places = (robot.paths.deployments, robot.paths.releases)
    whole = contents(*places)
    ended: list[int] = []
    while ended[-1:] != [0] and len(ended) < 20:
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        ended.append(subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode)
        left = contents(*(each for place in places for each in place.glob("[!.]*")))
        for each in {path.relative_to(tmp_path).parts[1] for path in left}:
            is_of = [path for path in whole if path.relative_to(tmp_path).parts[1] == each]
            assert all(path in left for path in is_of)
    assert ended[:-1]
    assert {*ended[:-1]} == {-signal.SIGKILL}
    assert {each.name for place in places for each in place.iterdir()} == {"2-x", "3-x", "2", "3"}


def contents(*folders: Path) -> set[Path]:
    return {each for folder in folders for each in folder.rglob("*") if not each.is_dir()}


def test_half_made_ones_do_not_count(tmp_path: Path) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="good")
    for number, name in enumerate(("1-x", "2-x", "3-x")):
        switch(robot, name)
        os.utime(robot.paths.deployments / name, (number, number))
    for name in (".4-x", ".5-x", ".6-x"):
        (robot.paths.deployments / name).mkdir()
    assert not Switch(robot, PATIENCE).prune(3)


def test_what_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = box(tmp_path, v1="good", v2="good", v3="good")
    for number, name in enumerate(("1-x", "2-x", "3-x")):
        switch(robot, name)
        os.utime(robot.paths.deployments / name, (number, number))
    remove = shutil.rmtree

    def refuse(folder: Path) -> None:
        if folder.name == ".removed-1-x":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove(folder)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    left = robot.paths.deployments / ".removed-1-x"
    for changed in (True, False):
        assert Switch(robot, PATIENCE).prune(2) == changed
        assert f"{left} is not needed, and cannot be removed" in capsys.readouterr().err
    monkeypatch.undo()
    assert not Switch(robot, PATIENCE).prune(2)
    assert not left.exists()
    assert {each.name for each in (tmp_path / "releases").iterdir()} == {"2", "3"}
