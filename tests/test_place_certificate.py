"""A certificate and its key change at one moment; any step may be the last one done."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.place_certificate import place

PAIR = ["certificate.key", "certificate.pem"]
STEPS = [
    *((os, name) for name in ("open", "fsync", "fchown", "fchmod")),
    *((Path, name) for name in ("mkdir", "rename", "symlink_to", "unlink")),
    (shutil, "rmtree"),
]


class PowerCut(Exception):
    """The machine went down."""


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    (tmp_path / "pushed").mkdir()
    return tmp_path


def push(tls: Path, version: str, *names: str) -> None:
    for name in names or PAIR:
        (tls / "pushed" / name).write_text(version)


def placed(tls: Path, names: list[str] = PAIR) -> bool:
    return place(tls, names, os.getuid(), os.getgid())


def used(tls: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (tls / "current").glob("*")}


def test_a_set_is_placed_once_and_only_its_key_is_secret(tls: Path) -> None:
    push(tls, "1")
    assert placed(tls)
    assert used(tls) == {"certificate.key": "1", "certificate.pem": "1"}
    modes = [stat.S_IMODE((tls / "current" / name).stat().st_mode) for name in PAIR]
    assert modes == [0o600, 0o640]
    assert not placed(tls)


def test_what_is_not_pushed_stays(tls: Path) -> None:
    push(tls, "1", *PAIR, "client-ca.pem")
    placed(tls, [*PAIR, "client-ca.pem"])
    push(tls, "2", *PAIR, "client-ca.pem")
    placed(tls)
    assert used(tls) == dict.fromkeys(PAIR, "2") | {"client-ca.pem": "1"}


def test_what_is_missing_changes_nothing(tls: Path) -> None:
    push(tls, "1")
    placed(tls)
    push(tls, "2")
    (tls / "pushed" / PAIR[1]).unlink()
    with pytest.raises(FileNotFoundError):
        placed(tls)
    assert used(tls) == dict.fromkeys(PAIR, "1")


def test_a_power_cut_at_any_step(tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(tls, "0")
    placed(tls)
    for cut_at in range(1, 100):
        push(tls, str(cut_at))
        with monkeypatch.context() as patch:
            cut(patch, cut_at)
            try:
                assert placed(tls)
            except PowerCut:
                pass
            else:
                break
        assert len(used(tls)) == 2
        assert len({*used(tls).values()}) == 1, cut_at  # they belong together
        placed(tls)
        assert used(tls) == dict.fromkeys(PAIR, str(cut_at))
        assert len(list((tls / "sets").iterdir())) == 1
    assert 10 < cut_at < 99


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


def test_what_is_used_is_on_the_disk_before(tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is given when all that it stands for has been written."""
    push(tls, "1")
    written: list[str] = []
    sync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        written.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def note_rename(path: Path, target: Path) -> Path:
        written.append(f"{path.name} is renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    placed(tls)
    assert written == [
        *(*PAIR, ".partial", ".partial is renamed"),
        *("sets", ".current is renamed", tls.name),
    ]
