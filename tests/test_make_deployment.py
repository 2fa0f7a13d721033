"""What a playbook asks a robot to make, and what it asks it before."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tools import make_deployment
from tools.expect_server_key import expect
from tools.look_at_box import look
from tools.make_deployment import MAX_BYTES, Refused, make, point

FILES = {
    "appliance.toml": "good\n",
    "units/appliance.service": "[Service]\n",
    "units/appliance.service.d/realtime.conf": "# none\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A robot with a release that takes configurations in which "good" is written."""
    release = tmp_path / "opt/releases/1.0.0"
    command = release / "bin/appliance"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\ngrep -q good "$2" || { echo "$2: is bad" >&2; exit 1; }\n')
    command.chmod(0o755)
    (release / "release.json").write_text(json.dumps({"sha256": "abc"}))
    return tmp_path / "opt"


def test_it_is_made_once_and_whole(root: Path) -> None:
    assert make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    made = root / "deployments/1.0.0-ab"
    assert {str(each.relative_to(made)) for each in made.rglob("*") if each.is_file()} == {*FILES}
    assert (made / "release").resolve() == root / "releases/1.0.0"
    assert stat.S_IMODE((made / "appliance.toml").stat().st_mode) == 0o640
    assert not make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    assert [each.name for each in (root / "deployments").iterdir()] == ["1.0.0-ab"]


@pytest.mark.parametrize("damaged", ["release", "appliance.toml", "units/appliance.service"])
def test_one_that_is_damaged_is_not_there_and_is_made_anew(
    root: Path, tmp_path: Path, damaged: str
) -> None:
    make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    path = root / "deployments/1.0.0-ab" / damaged
    path.unlink()
    assert look(root, tmp_path, tmp_path)["deployments"] == []
    assert make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    assert path.exists()
    assert look(root, tmp_path, tmp_path)["deployments"] == ["1.0.0-ab"]
    assert [each.name for each in (root / "deployments").iterdir()] == ["1.0.0-ab"]


def test_a_release_without_its_command_is_not_there(root: Path, tmp_path: Path) -> None:
    make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    (root / "releases/1.0.0/bin/appliance").unlink()
    found = look(root, tmp_path, tmp_path)
    assert (found["releases"], found["deployments"]) == ({}, [])


@pytest.mark.parametrize(
    ("name", "release", "files", "said"),
    [
        (
            "a",
            "1.0.0",
            FILES | {"appliance.toml": "no"},
            "the configuration cannot be used: .*: is bad",
        ),
        ("a", "2.0.0", FILES, "is missing; deploy the release again"),
        ("../a", "1.0.0", FILES, "cannot be the name"),
        ("a", "1.0.0", FILES | {"../b": ""}, "is no path inside"),
        ("a", "1.0.0", FILES | {"/b": ""}, "is no path inside"),
        ("a", "1.0.0", FILES | {"b\0": ""}, "is no path inside"),
        ("a", "1.0.0", FILES | {"release/bin/appliance": ""}, "leads out of the deployment"),
        ("a", "1.0.0", FILES | {"./release": ""}, "leads out of the deployment"),
        ("a", "1.0.0", FILES | {"b": "\ud800"}, "'b': is no text"),
        ("a", "1.0.0", {"b": ""}, r"wanted appliance.toml and units/appliance.service as well"),
        ("../..", "1.0.0", FILES, "cannot be the name"),
        ("a", "../..", FILES, "cannot be the name"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    root: Path, name: str, release: str, files: dict[str, str], said: str
) -> None:
    before = contents(root / "releases")
    with pytest.raises(Refused, match=said):
        make(name, release, files, root, os.getgid())
    assert not list(root.glob("deployments/*"))
    assert contents(root / "releases") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"{", b"\xff\xfe\xfd", b"null", b"[]", b'"a"', b"[" * 100_000),
        *(
            b'{"release": "1.0.0"}',
            b'{"release": 1, "files": {}}',
            b'{"release": "1", "files": []}',
        ),
        *(b'{"release": "1.0.0", "files": {"a": 1}}', b'{"release": "1.0.0", "files": null}'),
        b'{"release": "1", "files": {"a": "' + b"x" * MAX_BYTES + b'"}}',
    ],
    ids=lambda document: document[:20].decode("latin-1"),
)
def test_a_document_that_is_none_is_told_in_one_line(document: bytes) -> None:
    run = [sys.executable, make_deployment.__file__, "1.0.0-ab"]
    done = subprocess.run(run, input=document, capture_output=True, check=False)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert said.startswith("error: the document is ")
    assert 'wanted {"release": VERSION, "files": {PATH: TEXT}}' in said
    assert said.count("\n") == 1


def test_commands_find_the_configuration_of_what_serves(root: Path) -> None:
    link = root / "appliance.toml"
    assert point(link, root)
    assert link.readlink() == root / "current/appliance.toml"
    assert not point(link, root)


def test_a_configuration_that_somebody_wrote_is_kept(root: Path) -> None:
    link, kept = root / "appliance.toml", root / "appliance.toml.before"
    link.write_text("by hand")
    assert point(link, root)
    assert (link.readlink(), kept.read_text()) == (root / "current/appliance.toml", "by hand")
    assert not point(link, root)
    link.unlink()
    link.hardlink_to(kept)  # as it is cut short
    assert point(link, root)
    link.unlink()
    link.write_text("again")
    with pytest.raises(Refused, match="before; move one away"):
        point(link, root)
    assert (link.read_text(), kept.read_text()) == ("again", "by hand")


def test_a_look_tells_what_was_installed_by_hand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_by_hand() -> bool:
        return look(root, tmp_path, tmp_path)["is_by_hand"]

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    systemctl = tmp_path / "systemctl"

    def say(words: str) -> None:
        systemctl.write_text(f'#!/bin/sh\n[ "$1" = show ] || exit 3\nprintf {words}\n')

    say("'ActiveState=inactive\\n'")
    systemctl.chmod(0o755)
    assert not is_by_hand()
    say("'Running in chroot, ignoring command' >&2")
    assert not is_by_hand()
    for up in ("active", "activating", "inactive\\nJob=7"):
        say(f"'ActiveState={up}\\n'")
        assert is_by_hand()
    (root / "current").symlink_to("deployments/1.0.0-ab")
    assert not is_by_hand()
    say("'ActiveState=failed\\n'")
    for to in (root / "deployments/1.0.0-ab", "manual", "deployments", "../deployments/1.0.0-ab"):
        (root / "current").unlink()
        (root / "current").symlink_to(to)
        assert is_by_hand() == (to != root / "deployments/1.0.0-ab")
    (root / "current").unlink()
    (root / "current").mkdir()
    assert is_by_hand()


def test_a_look_tells_what_is_there(root: Path, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    assert look(tmp_path / "none", etc, etc)["releases"] == {}
    make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    for name in ("server/main.key", "authorised/arm.pub", "outgoing/main/arm.key"):
        path = etc / "keys" / name
        path.parent.mkdir(parents=True)
        path.write_text("secret")
    point(etc / "appliance.toml", root)
    found = look(root, etc, tmp_path)
    assert "secret" not in json.dumps(found)
    assert found["releases"] == {"1.0.0": "abc"}
    assert found["deployments"] == ["1.0.0-ab"]
    assert found["configuration"] == str(root / "current/appliance.toml")
    assert found["held"] == {
        "server": ["main"],
        "authorised": ["arm"],
        "outgoing": ["main/arm"],
        "tls": False,
    }


def test_only_a_release_that_is_up_serves(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("1.0.0-ab", "1.0.0", FILES, root, os.getgid())
    (tmp_path / "systemctl").write_text(
        f'#!/bin/sh\n[ "$2" = appliance.service ] && [ -e {root}/up ] && echo active\n'
    )
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (root / "up").touch()
    assert look(root, tmp_path, tmp_path)["serves"] == ""
    (root / "current").symlink_to("deployments/1.0.0-ab")
    assert look(root, tmp_path, tmp_path)["serves"] == "1.0.0"
    (root / "up").unlink()
    assert look(root, tmp_path, tmp_path)["serves"] == ""


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff"])
def test_a_record_that_is_damaged_is_none(root: Path, tmp_path: Path, text: str) -> None:
    (root / "releases/1.0.0/release.json").write_text(text, encoding="latin-1")
    assert look(root, tmp_path, tmp_path)["releases"] == {"1.0.0": ""}


KEY = "\\1{{ & }}%:?" + "x" * 29


def test_a_robot_expects_the_next_key(tmp_path: Path) -> None:
    file, made = tmp_path / "main.key", tmp_path / "next/arm.key"
    file.write_text('# a\nclient = "arm"\nsecret_key = "s"\nserver_key = "old"\n')
    assert expect(file, made, KEY)
    assert made.read_text() == f'# a\nclient = "arm"\nsecret_key = "s"\nserver_key = "{KEY}"\n'
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert not expect(file, made, KEY)
    assert expect(file, made, "another")
    assert [each.name for each in made.parent.iterdir()] == ["arm.key"]
    file.write_text("nothing")
    with pytest.raises(ValueError, match="is no key file of a robot"):
        expect(file, tmp_path / "other.key", KEY)
