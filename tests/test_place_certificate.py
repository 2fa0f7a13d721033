"""A certificate and its key change at one moment; any step may be the last one done."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.place_certificate import Check, Refused, by, place

RUN = "run"
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
    return tmp_path


def push(tls: Path, version: str, *names: str, run: str = RUN) -> None:
    (tls / "pushed" / run).mkdir(parents=True, exist_ok=True)
    for name in names or PAIR:
        (tls / "pushed" / run / name).write_text(version)


def take(_: Path, __: list[str]) -> None:
    """Take everything, as clients."""


def placed(tls: Path, names: list[str] = PAIR, *, run: str = RUN, check: Check = take) -> bool:
    return place(tls, run, names, os.getuid(), os.getgid(), check)


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
    (tls / "pushed" / RUN / PAIR[1]).unlink()
    with pytest.raises(FileNotFoundError):
        placed(tls)
    assert used(tls) == dict.fromkeys(PAIR, "1")


def test_what_clients_could_not_take_is_not_used(tls: Path) -> None:
    """What is asked about are the files that would be used, also if they are used already."""
    seen: list[dict[str, str]] = []

    def refuse(folder: Path, names: list[str]) -> None:
        assert folder.parent == tls / "sets"
        seen.append({name: (folder / name).read_text() for name in names})
        raise Refused("it has expired")

    push(tls, "1")
    placed(tls)
    for version in ("2", "1"):
        push(tls, version)
        with pytest.raises(Refused, match="it has expired"):
            placed(tls, check=refuse)
        assert used(tls) == dict.fromkeys(PAIR, "1")
    assert seen == [dict.fromkeys(PAIR, "2"), dict.fromkeys(PAIR, "1")]
    assert len(list((tls / "sets").iterdir())) == 1


def test_the_appliance_is_asked_by_its_command(tls: Path) -> None:
    command = tls / "appliance"
    command.write_text('#!/bin/sh\necho "$@"\ntest $# = 4\n')
    command.chmod(0o755)
    check = by(str(command))
    check(tls, PAIR)
    told = f"keys check-certificate {tls}/{PAIR[1]} {tls}/{PAIR[0]} --client-ca={tls}/client-ca.pem"
    with pytest.raises(Refused) as refused:
        check(tls, [*PAIR, "client-ca.pem"])
    assert str(refused.value) == told


def test_runs_at_the_same_time_come_one_after_the_other(tls: Path) -> None:
    push(tls, "1", run="one")
    push(tls, "2", run="other")
    is_asked = threading.Event()

    def note(_: Path, __: list[str]) -> None:
        is_asked.set()

    other = threading.Thread(target=lambda: placed(tls, run="other", check=note))

    def begin_other(_: Path, __: list[str]) -> None:
        other.start()
        assert not is_asked.wait(0.3)

    placed(tls, run="one", check=begin_other)
    other.join(30)
    assert is_asked.is_set()
    assert used(tls) == dict.fromkeys(PAIR, "2")


@pytest.mark.parametrize("left", ["", "1 of"])
def test_a_set_that_is_not_whole_is_made_anew(tls: Path, left: str) -> None:
    push(tls, "1 of it")
    placed(tls)
    if left:
        (tls / "current" / PAIR[0]).write_text(left)
    else:
        (tls / "current" / PAIR[0]).unlink()
    assert placed(tls)
    assert used(tls) == dict.fromkeys(PAIR, "1 of it")
    assert not placed(tls)


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
        def done(*words: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= last:
                raise PowerCut
            return step(*words, **options)

        return done

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
