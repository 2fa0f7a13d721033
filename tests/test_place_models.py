"""New versions of models on a robot: what is carried, and what is undone if they are not good.

Any step may be the last one done.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from appliance.models.active import Active
from appliance.models.repository import Repository
from tools import place_models
from tools.place_models import (
    INCOMING,
    INTERRUPTED,
    NOT_KNOWN,
    Asked,
    Placing,
    Refused,
    look,
    missing,
)
from tools.switch_release import Failed, alone

RUN = "run"
STEPS = [
    *((os, name) for name in ("link", "sync")),
    *((Path, name) for name in ("mkdir", "rename", "write_text")),
    *((shutil, name) for name in ("copytree", "rmtree")),
    (place_models, "_exchange"),
]


class PowerCut(BaseException):
    """The machine went down."""


def add(folder: Path, model: str, version: str, text: str = "", manifest: str = "") -> None:
    """Put a version into a folder of models."""
    place = folder / model / version
    place.mkdir(parents=True, exist_ok=True)
    (place / "policy.py").write_text(text or f"# {version}")
    (folder / model / "model.toml").write_text(manifest or "max_batch = 4\n")


@define(eq=False)
class FakeAppliance:
    """Does what its commands say, as far as files go.

    Attributes:
        refuses: The word of a command that fails.
        ends: With what `activate` fails when it has written what is active: nobody knows.
        said: The commands that it was given.
        manifests: `model.toml` as each `activate` found it.
    """

    repository: Path
    refuses: str = ""
    ends: int = 0
    said: list[list[str]] = field(factory=list[list[str]])
    manifests: list[str] = field(factory=list[str])

    def __call__(self, words: Sequence[str]) -> tuple[int, str]:
        self.said.append(list(words))
        verb = words[1]
        if verb == "versions":
            return 0, json.dumps({"models": [self._found(each) for each in self._models()]})
        if verb == "activate":
            model = self.repository / words[2]
            assert (model / words[3]).is_dir()
            self.manifests.append((model / "model.toml").read_text())
            if verb != self.refuses or self.ends:
                (model / "active.toml").write_text(f'version = "{words[3]}"\n')
        if verb != self.refuses:
            return 0, f"{verb} went well"
        return self.ends or 1, f"{verb} has failed"

    def _models(self) -> list[Path]:
        return [each for each in self.repository.iterdir() if each.name[0] != "."]

    def _found(self, model: Path) -> dict[str, object]:
        active = model / "active.toml"
        return {
            "name": model.name,
            "versions": [each.name for each in model.iterdir() if each.is_dir()],
            "active": active.read_text().split('"')[1] if active.exists() else None,
        }

    @property
    def verbs(self) -> list[str]:
        return [each[1] for each in self.said]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The controller's folder."""
    return tmp_path / "here"


@pytest.fixture
def box(tmp_path: Path) -> FakeAppliance:
    """A robot whose repository has the first version, which is active."""
    repository = tmp_path / "repository"
    add(repository, "arm", "1")
    (repository / "arm/notes.txt").write_text("of a site")
    (repository / "arm/active.toml").write_text('version = "1"\n')
    return FakeAppliance(repository)


def carry(here: Path, repository: Path, asked: dict[str, Asked]) -> list[str]:
    """Do what the playbook does between the two ends."""
    carried = missing(repository, asked)
    for each in carried:
        source, place = here / each, incoming(repository) / each
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            place.mkdir(exist_ok=True)
            for file in source.iterdir():
                (place / file.name).write_bytes(file.read_bytes())
        else:
            place.write_bytes(source.read_bytes())
    return carried


def incoming(repository: Path) -> Path:
    """Return where a run carries to."""
    return repository / INCOMING / RUN


def placing(box: FakeAppliance, *verify: str, builds: bool = False) -> Placing:
    return Placing(box.repository, incoming(box.repository), box, verify, builds=builds)


def state(repository: Path) -> dict[str, str]:
    return {
        str(path.relative_to(repository)): path.read_text()
        for path in repository.rglob("*")
        if path.is_file()
    }


def test_a_new_version_is_verified_before_it_is_among_the_others(
    here: Path, box: FakeAppliance
) -> None:
    add(here, "arm", "1")
    add(here, "arm", "9")
    add(here, "arm", "10")
    asked = look(here, [], {})
    assert carry(here, box.repository, asked) == ["arm/10", "arm/model.toml"]
    assert placing(box, "--device=cpu").place(asked)
    where = str(incoming(box.repository))
    assert box.said == [
        ["models", "verify", "arm", "10", "--device=cpu", "--models", where],
        ["models", "activate", "arm", "10", "--unverified", "--models", str(box.repository)],
    ]
    assert (box.repository / "arm/active.toml").read_text() == 'version = "10"\n'
    assert not (incoming(box.repository) / "arm").exists()
    box.said.clear()
    assert carry(here, box.repository, asked) == []
    assert not placing(box).place(asked)
    assert box.verbs == ["versions"]


@pytest.mark.parametrize("refuses", ["build", "verify", "activate"])
@pytest.mark.parametrize("model", ["arm", "new"])
def test_what_is_not_good_leaves_everything_as_it_was(
    here: Path, box: FakeAppliance, refuses: str, model: str
) -> None:
    add(here, model, "2", manifest="max_batch = 8\n")
    before = state(box.repository)
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    box.refuses = refuses
    with pytest.raises(Refused, match=f"has failed; it says:\n{refuses} has failed"):
        placing(box, builds=True).place(asked)
    assert state(box.repository) == before
    assert not (box.repository / "new").exists()
    assert box.verbs[-1] == refuses


@pytest.mark.parametrize("is_carried", [True, False])
def test_nothing_changes_until_all_are_good(
    here: Path,
    box: FakeAppliance,
    is_carried: bool,  # noqa: FBT001
) -> None:
    folders = [here] if is_carried else [here, box.repository]
    for folder in folders:
        add(folder, "arm", "2")
    add(here, "eye", "1")
    before = state(box.repository)
    asked = look(here, [], {})
    carry(here, box.repository, asked)

    def run(words: Sequence[str]) -> tuple[int, str]:
        return (1, "NOT good") if words[1:3] == ["verify", "eye"] else box(words)

    with pytest.raises(Refused, match="NOT good"):
        Placing(box.repository, incoming(box.repository), run, []).place(asked)
    assert "verify" in box.verbs
    assert state(box.repository) == before


def test_what_came_up_before_another_did_not_is_told(here: Path, box: FakeAppliance) -> None:
    for model in ("arm", "eye"):
        add(here, model, "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)

    def run(words: Sequence[str]) -> tuple[int, str]:
        return (1, "no memory") if words[1:3] == ["activate", "eye"] else box(words)

    with pytest.raises(Refused, match=r"(?s)no memory.*Served as asked, and kept: arm$"):
        Placing(box.repository, incoming(box.repository), run, []).place(asked)
    assert served(box.repository) == ("2", "max_batch = 4\n")
    assert not (box.repository / "eye").exists()


@pytest.mark.parametrize("ends", [NOT_KNOWN, INTERRUPTED, -signal.SIGKILL])
def test_what_may_be_served_keeps_its_files(here: Path, box: FakeAppliance, ends: int) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    box.refuses, box.ends = "activate", ends
    with pytest.raises(Refused, match="It is active, and its files stay"):
        placing(box).place(asked)
    assert (box.repository / "arm/2/policy.py").exists()
    assert served(box.repository) == ("2", "max_batch = 4\n")


def test_whoever_waited_may_go(here: Path, box: FakeAppliance) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    command = here.parent / "appliance"
    command.write_text("#!/bin/sh\necho good\n")
    command.chmod(0o755)
    words = ["place", str(box.repository), f"--run={RUN}", f"--asked={json.dumps(asked)}"]
    run = [sys.executable, "-u", place_models.__file__, *words, f"--command={command}"]
    gone, stdout = os.pipe()
    os.close(gone)
    with os.fdopen(stdout, "wb") as nobody:
        done = subprocess.run(run, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert served(box.repository) == ("2", "max_batch = 4\n")


def test_a_manifest_that_has_changed_is_verified_with_the_version_that_is_there(
    here: Path, box: FakeAppliance
) -> None:
    add(here, "arm", "1", manifest="max_batch = 8\n")
    asked = look(here, ["arm"], {})
    assert carry(here, box.repository, asked) == ["arm/model.toml"]
    assert placing(box).place(asked)
    assert box.verbs == ["verify", "activate"]
    assert box.manifests == ["max_batch = 8\n"]
    assert (box.repository / "arm/1/policy.py").read_text() == "# 1"


def test_a_version_that_is_there_is_activated_and_verified(here: Path, box: FakeAppliance) -> None:
    for folder in (here, box.repository):
        add(folder, "arm", "1")
        add(folder, "arm", "2")
    asked = look(here, [], {})
    assert carry(here, box.repository, asked) == []
    assert placing(box).place(asked)
    assert box.verbs == ["versions", "verify", "activate"]
    assert box.said[1][-2:] == ["--models", str(box.repository)]
    back = look(here, [], {"arm": "1"})
    assert placing(box).place(back)
    assert (box.repository / "arm/active.toml").read_text() == 'version = "1"\n'


def test_a_version_is_never_changed_in_place(here: Path, box: FakeAppliance) -> None:
    add(here, "arm", "1", text="# another")
    with pytest.raises(Refused, match="a version is never changed in place"):
        missing(box.repository, look(here, [], {}))


def test_what_python_compiled_does_not_count(here: Path, box: FakeAppliance) -> None:
    add(here, "arm", "1")
    (box.repository / "arm/1/__pycache__").mkdir()
    (box.repository / "arm/1/__pycache__/policy.cpython-311.pyc").write_text("compiled")
    assert missing(box.repository, look(here, [], {})) == []


def test_what_was_not_carried_whole_is_refused(here: Path, box: FakeAppliance) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    (incoming(box.repository) / "arm/2/policy.py").write_text("# ha")
    with pytest.raises(Refused, match="was not carried whole"):
        placing(box).place(asked)
    assert box.said == []
    assert carry(here, box.repository, asked) == ["arm/2", "arm/model.toml"]


def test_a_manifest_that_was_not_carried_is_refused_and_nothing_moves(
    here: Path, box: FakeAppliance
) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    before = {**state(box.repository)}
    (incoming(box.repository) / "arm/model.toml").unlink()
    with pytest.raises(Refused, match=r"arm/model.toml: was not carried whole"):
        placing(box).place(asked)
    assert box.said == []
    assert state(box.repository) == {k: v for k, v in before.items() if INCOMING not in k}


def test_a_command_that_cannot_be_run_leaves_everything_as_it_was(
    here: Path, box: FakeAppliance
) -> None:
    add(here, "arm", "2", manifest="max_batch = 8\n")
    before = state(box.repository)
    asked = look(here, [], {})
    carry(here, box.repository, asked)

    def run(words: Sequence[str]) -> tuple[int, str]:
        if words[1] == "activate":
            raise FileNotFoundError(words[0])
        return box(words)

    with pytest.raises(FileNotFoundError):
        Placing(box.repository, incoming(box.repository), run, []).place(asked)
    assert state(box.repository) == before


@pytest.mark.parametrize("begins_with", ["an active version", "a version", "nothing"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_a_power_cut_at_any_step(
    here: Path,
    box: FakeAppliance,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    begins_with: str,
) -> None:
    """What a boot finds is a version, and the manifest that it was verified with."""
    add(box.repository, "arm", "1", manifest=(one := "[chunk]\nhorizon = 16\n"))
    add(here, "arm", version, manifest=(other := "[chunk]\nhorizon = 8\n"))
    if begins_with != "an active version":
        (box.repository / "arm/active.toml").unlink()
    if begins_with == "nothing":
        shutil.rmtree(box.repository / "arm")
    before = state(box.repository)
    asked = look(here, [], {})
    begins = Path(shutil.copytree(box.repository, here.parent / "begins"))
    cut_at = 0
    for cut_at in range(1, 100):
        shutil.rmtree(box.repository)
        shutil.copytree(begins, box.repository)
        carry(here, box.repository, asked)
        box.said = [["models", "versions"]]
        with monkeypatch.context() as patch:
            cut(patch, cut_at)
            try:
                assert placing(box).place(asked)
            except PowerCut:
                pass
            else:
                break
        assert served(box.repository) in (("1", one) if before else None, (version, other)), cut_at
        was_told = box.verbs[-1] == "activate"
        carry(here, box.repository, asked)
        assert placing(box).place(asked) or was_told
        assert served(box.repository) == (version, other)
        changed = ("arm/model.toml", "arm/active.toml")
        after = state(box.repository)
        assert all(after[name] == text for name, text in before.items() if name not in changed)
    assert 10 < cut_at < 99


def served(repository: Path) -> tuple[str, str] | None:
    """Return which version of the arm the next start serves, and with which manifest."""
    entry = {each.name: each for each in Repository(repository).scan()}.get("arm")
    assert entry is None or entry.error is None
    return entry and (entry.version, entry.manifest)


def cut(patch: pytest.MonkeyPatch, last: int) -> None:
    """Cut the power before a step."""
    steps = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*words: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= last:
                raise PowerCut
            return step(*words, **options)

        return take

    for where, name in STEPS:
        patch.setattr(where, name, counted(getattr(where, name)))


def test_what_is_exchanged_is_on_the_disk_before(
    here: Path, box: FakeAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    done: list[str] = []
    for where, name in STEPS:
        step = getattr(where, name)

        def note(*words: Any, name: str = name, step: Any = step, **options: Any) -> Any:
            done.append(name)
            return step(*words, **options)

        monkeypatch.setattr(where, name, note)
    placing(box).place(asked)
    at = done.index("_exchange")
    assert (done[at - 1], done[at + 1]) == ("sync", "sync")
    assert "write_text" in done[:at]


def test_a_full_disk_keeps_nothing_from_being_undone(
    here: Path, box: FakeAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(here, "arm", "2", manifest="max_batch = 8\n")
    before = state(box.repository)
    asked = look(here, [], {})
    carry(here, box.repository, asked)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def run(words: Sequence[str]) -> tuple[int, str]:
        if words[1] != "activate":
            return box(words)
        monkeypatch.setattr(os, "link", full)
        for name in ("mkdir", "open", "write_bytes", "write_text"):
            monkeypatch.setattr(Path, name, full)
        return 2, "active.toml: cannot be written: No space left on device"

    with pytest.raises(Refused, match="No space left"):
        Placing(box.repository, incoming(box.repository), run, []).place(asked)
    monkeypatch.undo()
    assert state(box.repository) == before


def test_the_version_before_is_known(here: Path, box: FakeAppliance) -> None:
    """As `appliance models activate` writes it: what was served, be it that nobody had said so."""
    (box.repository / "arm/active.toml").unlink()
    add(box.repository, "arm", "9")
    found: list[Active | None] = []

    def run(words: Sequence[str]) -> tuple[int, str]:
        if words[1] == "activate":
            found.append(Repository(box.repository).scan()[0].active)
        return 0, ""

    for version, manifest in (("10", ""), ("10", "max_batch = 8\n"), ("11", "")):
        add(here, "arm", version, manifest=manifest)
        asked = look(here, [], {})
        carry(here, box.repository, asked)
        Placing(box.repository, incoming(box.repository), run, []).place(asked)
    assert [(each.version, each.previous) for each in found if each] == [
        *[("10", "9")] * 2,
        ("11", "10"),
    ]


def test_files_of_another_user_are_not_taken(
    here: Path, box: FakeAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(here, "arm", "2")
    before = state(box.repository)
    asked = look(here, [], {})
    carry(here, box.repository, asked)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Refused, match="has to belong to the user that serves it"):
        placing(box).place(asked)
    assert state(box.repository) == before


def test_what_came_and_is_not_asked_for_is_not_taken_in(here: Path, box: FakeAppliance) -> None:
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    half = incoming(box.repository) / "arm/3"
    half.mkdir()
    (half / "model.onnx").write_text("half of it")
    assert placing(box).place(asked)
    assert not (box.repository / "arm/3").exists()
    assert (box.repository / "arm/2/policy.py").exists()
    assert not half.exists()


def test_what_another_run_carries_stays_until_it_is_old(here: Path, box: FakeAppliance) -> None:
    others = [box.repository / INCOMING / name / "arm/3" for name in ("now", "abandoned")]
    for other in others:
        other.mkdir(parents=True)
        (other / "model.onnx").write_text("half of it")
    ago_s = time.time() - place_models.KEPT_S - 1
    for each in (other := others[1], other / "model.onnx", *other.parents[:2]):
        os.utime(each, (ago_s, ago_s))
    add(here, "arm", "1")
    asked = look(here, [], {})
    words = ["place", str(box.repository), f"--run={RUN}", f"--asked={json.dumps(asked)}"]
    command = here.parent / "appliance"
    found = {"name": "arm", "versions": ["1"], "active": "1"}
    command.write_text(f"#!/bin/sh\necho '{json.dumps({'models': [found]})}'\n")
    command.chmod(0o755)
    run = [sys.executable, place_models.__file__, *words, f"--command={command}"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unchanged\n", "")
    assert [each.name for each in (box.repository / INCOMING).iterdir()] == ["now"]
    assert (others[0] / "model.onnx").exists()


def test_a_deploy_that_is_under_way_is_waited_for_and_waits(here: Path, box: FakeAppliance) -> None:
    """By the lock of `switch_release.py`: what stands by does not look at models again."""
    opt = here.parent / "opt"
    with alone(opt):
        words = ["place", str(box.repository), f"--run={RUN}", "--asked={}"]
        words += [f"--switching={opt / '.switching'}", "--command=/nowhere"]
        run = [sys.executable, place_models.__file__, *words]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "a deploy is under way here; wait until it is over" in done.stderr
    add(here, "arm", "2")
    asked = look(here, [], {})
    carry(here, box.repository, asked)
    tried: list[str] = []

    def deploy_meanwhile(words: Sequence[str]) -> tuple[int, str]:
        with pytest.raises(Failed, match="is under way"), alone(opt):
            pass
        tried.append(words[1])
        return box(words)

    place = Placing(box.repository, incoming(box.repository), deploy_meanwhile, [])
    assert place_models.place_all(place, asked, opt / ".switching")
    assert tried == ["verify", "activate"]
    with alone(opt):
        pass


ASKED = {"version": "1", "files": "", "manifest": ""}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["look", "HERE/nowhere"], "nowhere: is no folder of models, or has none"),
        (["look", "HERE/arm/model.toml"], "model.toml: is no folder of models, or has none"),
        (["look", "HERE", "--only=arm"], "--only: found 'arm'; wanted"),
        (["look", "HERE", "--only=[1]"], "--only: found '[1]'; wanted"),
        (["look", "HERE", '--only={"arm": "1"}'], "--only: found "),
        (["look", "HERE", '--only=["../here/arm"]'], "there is no version"),
        (["look", "HERE", "--versions=[]"], "--versions: found '[]'; wanted"),
        (["look", "HERE", '--versions={"arm": "../.."}'], "there is no version ../.."),
        (["missing", "HERE", "--asked={"], "--asked: found '{'; wanted what `look` said"),
        (["missing", "HERE", '--asked={"arm": {}}'], "--asked: found "),
        (["missing", "HERE", f"--asked={json.dumps({'..': ASKED})}"], "'..' cannot be the name"),
        (
            ["missing", "HERE", f"--asked={json.dumps({'arm': ASKED | {'version': '../..'}})}"],
            "'../..' cannot be the name",
        ),
        (["place", "HERE/nowhere", "--run=1", "--asked={}"], "nowhere"),
        (["place", "HERE", "--run=../1", "--asked={}"], "'../1' cannot be the name"),
        (["place", "HERE", "--run=1", "--asked={}", "--verify=1"], "--verify: found '1'; wanted"),
        (
            [
                *("place", "HERE", "--run=1", f"--asked={json.dumps({'arm': ASKED})}"),
                "--command=/nowhere",
            ],
            "No such file or directory: '/nowhere'",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(here: Path, words: list[str], told: str) -> None:
    add(here, "arm", "1")
    before = state(here)
    run = [sys.executable, place_models.__file__, *(w.replace("HERE", str(here)) for w in words)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert state(here) == before


@pytest.mark.parametrize(("only", "versions"), [(["leg"], {}), (["arm"], {"arm": "7"})])
def test_what_is_named_has_to_be_there(
    here: Path, only: list[str], versions: dict[str, str]
) -> None:
    add(here, "arm", "1")
    with pytest.raises(Refused, match=f"{only[0]}: there is no version"):
        look(here, only, versions)


def test_a_folder_without_models_is_refused(here: Path) -> None:
    for folder in (here / "nowhere", here / "arm"):
        with pytest.raises(Refused, match="is no folder of models"):
            look(folder, [], {})


def test_a_version_of_what_is_not_asked_for_is_refused(here: Path) -> None:
    add(here, "arm", "1")
    with pytest.raises(Refused, match="versions are named of amr"):
        look(here, [], {"amr": "1"})


@pytest.mark.parametrize("name", ["../arm", ".incoming", "a/b", ""])
def test_a_name_is_no_path(box: FakeAppliance, name: str) -> None:
    with pytest.raises(Refused, match="cannot be the name"):
        placing(box).place({name: {"version": "1"}})
    with pytest.raises(Refused, match="cannot be the name"):
        placing(box).place({"arm": {"version": name}})
