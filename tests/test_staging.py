"""What is carried to a box without a network arrives whole, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from support.wheels import write_wheel

import tools.install
from tools.install import CONTENTS, Damaged, NotInstalled, join
from tools.stage import NotPure, build, commit_of, cut
from tools.wheel_files import slim

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def write(directory: Path, contents: list[bytes]) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"file-{index}" for index in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return paths


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 400))
@settings(deadline=None)
def test_whatever_is_cut_is_joined(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], part_bytes: int
) -> None:
    root = tmp_path_factory.mktemp("staged")
    files = write(root / "files", contents)
    cut(files, root / "parts", python="3.12", part_bytes=part_bytes)
    parts = sorted((root / "parts").glob("part-*"))
    sizes = [part.stat().st_size for part in parts]
    assert sizes[:-1] == [part_bytes] * len(sizes[:-1])
    assert sum(sizes) == sum(map(len, contents))
    (root / "joined").mkdir()
    joined = join(root / "parts", root / "joined")
    assert [(path.name, path.read_bytes()) for path in joined] == [
        (path.name, path.read_bytes()) for path in files
    ]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("flip", "part-02: sha256: found"),
        ("cut", "part-02: bytes: found 9, staged 10"),
        ("gone", "part-02: cannot be read: No such file"),
        ("contents", "contents.json: cannot be read"),
        ("swapped", "file-0: sha256: found"),
        ("short", "file-0: the parts end before it does"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, harm: str, told: str) -> None:
    files = write(tmp_path / "files", [b"0123456789abcdefghijklmnop", b"x"])
    parts, joined = tmp_path / "parts", tmp_path / "joined"
    joined.mkdir()
    cut(files, parts, python="3.12", part_bytes=10)
    part, contents = parts / "part-02", parts / CONTENTS
    document = json.loads(contents.read_text())
    if harm == "flip":
        part.write_bytes(b"A" + part.read_bytes()[1:])
    elif harm == "cut":
        part.write_bytes(part.read_bytes()[:-1])
    elif harm == "gone":
        part.unlink()
    elif harm == "contents":
        contents.write_text("{")
    elif harm == "swapped":
        document["parts"].reverse()
    else:
        del document["parts"][1:]
    if harm in ("swapped", "short"):
        contents.write_text(json.dumps(document))
    with pytest.raises(Damaged, match=told):
        join(parts, joined)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {"programs": None},
        {"files": [{}]},
        {"parts": ["part-01"]},
        {"python": 3.12},
        {"files": [{"name": "file-0", "bytes": "10", "sha256": ""}]},
        {"files": [{"name": "file-0", "bytes": -1, "sha256": ""}]},
    ],
)
def test_contents_of_another_form_are_told(tmp_path: Path, wrong: object) -> None:
    cut(write(tmp_path / "files", [b"0123456789"]), tmp_path, python="3.12", part_bytes=10)
    document = json.loads((tmp_path / CONTENTS).read_text())
    if wrong == {}:
        del document["programs"]  # as an older one wrote them
    (tmp_path / CONTENTS).write_text(
        json.dumps({**document, **wrong} if isinstance(wrong, dict) else wrong)
    )
    with pytest.raises(Damaged, match=r"contents.json: is of another form than this install.py"):
        join(tmp_path, tmp_path)


def wheel(directory: Path, name: str, tag: str = "py3-none-any") -> Path:
    """A whole wheel with one module, which says who it is."""
    path = directory / f"{name}-1.0-{tag}.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"WHO = {name!r}\n")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
        )
        archive.writestr(
            f"{about}/RECORD",
            f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n",
        )
    return path


def install(parts: Path, directory: Path, *before: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, str(parts / "install.py"), str(parts), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PIP_INDEX_URL": "http://127.0.0.1:9/"},
    )


def test_it_is_installed_with_nothing_but_python(tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, "arms"), wheel(tmp_path, "legs")]
    cut(wheels, tmp_path / "parts", python=HERE, part_bytes=300)
    done = install(tmp_path / "parts", tmp_path / "env")
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        [str(tmp_path / "env/bin/python"), "-c", "import arms, legs; print(arms.WHO, legs.WHO)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "arms legs\n"


@pytest.mark.parametrize(
    ("python", "told"), [("2.7", f"staged for Python 2.7, this is {HERE}"), (HERE, "part-01")]
)
def test_what_is_not_for_this_box_is_not_installed(tmp_path: Path, python: str, told: str) -> None:
    cut([wheel(tmp_path, "arms")], tmp_path / "parts", python=python, part_bytes=1 << 20)
    if python == HERE:
        (tmp_path / "parts" / "part-01").unlink()
    done = install(tmp_path / "parts", tmp_path / "env")
    assert done.returncode == 1
    assert told in done.stderr
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("harm", ["changed", "gone"])
@pytest.mark.parametrize("name", ["tools/gpu_check/program.py", "benchmarks/__init__.py"])
def test_programs_of_another_version_are_told(tmp_path: Path, name: str, harm: str) -> None:
    cut([wheel(tmp_path, "arms")], tmp_path / "parts", python=HERE, part_bytes=1 << 20)
    program = tmp_path / "parts" / name
    if harm == "changed":
        program.write_text(program.read_text() + "\n")
    else:
        program.unlink()
    done = install(tmp_path / "parts", tmp_path / "env")
    assert done.returncode == 1
    told = "bytes: found" if harm == "changed" else "cannot be read: No such file"
    assert f"{name}: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "env").exists()


def test_where_there_is_no_room_that_is_told(tmp_path: Path) -> None:
    cut(write(tmp_path / "files", [os.urandom(4096)]), tmp_path, python=HERE, part_bytes=1 << 20)
    done = install(tmp_path, tmp_path / "env", "sh", "-c", 'ulimit -f 1; exec "$@"', "sh")
    assert done.returncode == 1
    assert "File too large; set TMPDIR to where 1 MB can be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("below", ["", "env"])
def test_an_environment_that_cannot_be_made_is_told(tmp_path: Path, below: str) -> None:
    cut([wheel(tmp_path, "arms")], tmp_path / "parts", python=HERE, part_bytes=1 << 20)
    (tmp_path / "a file").write_text("")
    done = install(tmp_path / "parts", tmp_path / "a file" / below)
    assert done.returncode == 1
    assert ("no environment: " if below else "a file: is no directory") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_that_makes_no_environments_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut([wheel(tmp_path, "arms")], tmp_path / "parts", python=HERE, part_bytes=1 << 20)
    monkeypatch.setattr(tools.install, "find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match=f"no ensurepip; on Debian: apt install python{HERE}-v"):
        tools.install.install(tmp_path / "parts", tmp_path / "env")
    assert not (tmp_path / "env").exists()


def test_wheels_that_cannot_be_installed_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "arms-1.0-py3-none-any.whl"
    broken.write_bytes(b"no wheel")
    cut([broken], tmp_path / "parts", python=HERE, part_bytes=1 << 20)
    done = install(tmp_path / "parts", tmp_path / "env")
    assert done.returncode == 1
    assert "-m pip --isolated install ... failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commit_is_told_or_nothing(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "First"], check=True)
    commit = commit_of(tmp_path)
    assert len(commit) == 40
    (tmp_path / "a").write_text("")
    subprocess.run([*git, "add", "a"], check=True)
    assert commit_of(tmp_path) == f"{commit}-dirty"
    cut([], tmp_path / "parts", python=HERE, part_bytes=1, commit=commit)
    assert json.loads((tmp_path / "parts" / CONTENTS).read_text())["commit"] == commit


def test_a_wheel_for_this_machine_alone_is_not_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: wheel(tmp_path, "a", "cp312-cp312-linux_x86_64")
    )
    with pytest.raises(NotPure, match="build it for the box by hand"):
        build(["a"], tmp_path)


def test_of_a_wheel_only_its_model_is_staged(tmp_path: Path) -> None:
    whole = write_wheel(
        tmp_path / "whole", "eyes", {"eyes/__init__.py": "import torch", "eyes/m/a.onnx": "a" * 99}
    )
    wheels = [slim(whole, "eyes/m/a.onnx", tmp_path / "slim")]
    cut(wheels, tmp_path / "parts", python=HERE, part_bytes=300)
    assert install(tmp_path / "parts", tmp_path / "env").returncode == 0
    asked = (
        "from tools.gpu_check.wheels import ShippedModel; "
        "print(ShippedModel('eyes', 'eyes', 'm/a.onnx').locate().read_text())"
    )
    said = subprocess.run(
        [str(tmp_path / "env/bin/python"), "-c", asked],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "parts",
    )
    assert said.stdout == "a" * 99 + "\n"
    with pytest.raises(KeyError, match="eyes/m/b"):
        slim(whole, "eyes/m/b.onnx", tmp_path / "none")


def test_a_gpu_box_gets_all_that_the_extra_needs() -> None:
    """But TensorRT and pycuda, which are staged apart, and what only older Pythons need."""
    root = Path(__file__).parent.parent
    made = subprocess.run(
        ["make", "--no-print-directory", "--eval", "show: ; @echo $(GPU_BOX)", "show"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    needed = {
        wanted.name
        for text in requires("appliance") or ()
        for wanted in [Requirement(text)]
        if wanted.marker is None
        or any(
            wanted.marker.evaluate(
                {"extra": extra, "python_version": "3.12", "platform_machine": "x86_64"}
            )
            for extra in ("gpu", "server")
        )
    }
    assert len(needed) > 20
    assert needed - {"appliance", "numpy", "pycuda", "tensorrt-rtx"} <= set(made.stdout.split())
