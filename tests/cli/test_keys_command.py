"""`appliance keys`, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.config import load
from appliance.errors import KeyFileError
from appliance.keys.directory import KeyDirectory
from appliance.keys.files import ClientKeys, KeyPair
from appliance.sessions.gate import gate_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_key_makes_the_appliances_own_too(here: Path, capsys: Capture) -> None:
    assert main(["keys", "new", "robot-3"]) == 0
    said = capsys.readouterr().out
    keys = ClientKeys.read("robot-3.key")
    directory = KeyDirectory(here / "keys")
    assert keys.client == "robot-3"
    assert keys.server_key == directory.server_pair("main").public_key
    assert directory.read().client_of(keys.public_key) == "robot-3"
    assert "scp -p robot-3.key" in said
    for secret in (keys.secret_key, directory.server_pair("main").secret_key):
        assert secret not in said
    assert main(["keys", "new", "robot-4", "--out", "4.key"]) == 0
    assert ClientKeys.read("4.key").server_key == keys.server_key
    gate = gate_of(load(None, ["keys.required=true"]))
    assert gate is not None
    assert gate.keyring.client_of(keys.public_key) == "robot-3"


def test_what_cannot_be_made_leaves_nothing(here: Path, capsys: Capture) -> None:
    assert main(["keys", "new", "robot-3"]) == 0
    before = sorted(here.rglob("*"))
    assert main(["keys", "new", "robot-3", "--out", "other.key"]) == 2
    assert "robot-3 has a key already" in capsys.readouterr().err
    assert main(["keys", "new", "../robot"]) == 2
    Path("robot-5.key").write_text("precious")
    assert main(["keys", "new", "robot-5"]) == 2
    assert "is there already" in capsys.readouterr().err
    Path("robot-5.key").unlink()
    assert main(["keys", "new", "robot-6", "--server-key", "next"]) == 2
    assert "appliance keys new-server next" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil", "é", "a~1", ""])
def test_a_name_that_cannot_be_one_makes_nothing_at_all(
    here: Path, capsys: Capture, name: str
) -> None:
    assert main(["keys", "new", name, "--directory", "inner/keys"]) == 2
    assert "cannot be the name of a key" in capsys.readouterr().err
    assert list(here.iterdir()) == []
    assert not (here.parent / "evil.key").exists()


def test_a_revoked_key_that_was_moved_back_is_left_out(here: Path, capsys: Capture) -> None:
    assert main(["keys", "new", "a"]) == 0
    assert main(["keys", "revoke", "a"]) == 0
    (here / "keys" / "revoked" / "a~1.pub").rename(here / "keys" / "authorised" / "a~1.pub")
    (here / "keys" / "authorised" / "gone.pub").symlink_to("nowhere")
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in rows] == [["a~1", "left", "out"], ["gone", "left", "out"]]
    assert "no client can have that name" in rows[0]
    assert main(["keys", "show", "gone"]) == 1


def test_keys_that_may_not_be_looked_at_are_one_line(here: Path, capsys: Capture) -> None:
    assert main(["keys", "new", "a"]) == 0
    for name, words in (("authorised", ["list"]), ("server", ["show"]), ("server", ["new", "b"])):
        directory = here / "keys" / name
        kept = directory.rename(here / "kept")
        directory.write_text("no directory")
        capsys.readouterr()
        assert main(["keys", *words]) == 2
        assert "cannot be read: Not a directory" in capsys.readouterr().err
        directory.unlink()
        kept.rename(directory)


def test_a_key_is_listed_revoked_and_made_anew(here: Path, capsys: Capture) -> None:
    assert main(["keys", "list"]) == 0
    assert "no keys in keys" in capsys.readouterr().out
    assert main(["keys", "show"]) == 2
    for name in ("b", "a"):
        assert main(["keys", "new", name]) == 0
    assert main(["keys", "revoke", "a"]) == 0
    assert "ends its sessions" in capsys.readouterr().out
    assert main(["keys", "show", "a"]) == 1
    assert "revoked" in capsys.readouterr().out
    Path("a.key").unlink()
    assert main(["keys", "new", "a"]) == 0
    assert main(["keys", "revoke", "nobody"]) == 2
    assert main(["keys", "show", "nobody"]) == 2
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [["a", "revoked"], ["a", "authorised"], ["b", "authorised"]]
    assert main(["keys", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["client"] for each in document] == ["a", "a", "b"]
    assert {*document[0]} == {"client", "state", "key", "since_s", "problem"}


def test_a_second_key_of_the_appliance_is_handed_out_when_asked_for(
    here: Path, capsys: Capture
) -> None:
    assert main(["keys", "new", "a"]) == 0
    assert main(["keys", "new-server", "next"]) == 0
    assert main(["keys", "new-server", "next"]) == 2
    assert main(["keys", "new", "b", "--server-key", "next"]) == 0
    capsys.readouterr()
    assert main(["keys", "show"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert ClientKeys.read("a.key").server_key in shown["main"]
    assert "(keys.server_key)" in shown["main"]
    assert ClientKeys.read("b.key").server_key in shown["next"]


def test_the_configuration_says_where_they_are(here: Path) -> None:
    config = here / "appliance.toml"
    config.write_text('[keys]\ndirectory = "secrets"\nserver_key = "mine"\n')
    assert main(["keys", "new", "a", "--config", str(config)]) == 0
    assert (here / "secrets" / "server" / "mine.key").exists()
    assert main(["keys", "new", "b", "--config", str(config), "--directory", "elsewhere"]) == 0
    assert (here / "elsewhere" / "authorised" / "b.pub").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "not asked for"),
        ("required = true", "asked for at tcp://; ./keys, server key main"),
        ("required = true\nipc = true", "asked for at tcp:// and ipc://; ./keys, server key main"),
    ],
)
def test_check_config_says_where_keys_are_asked_for(
    here: Path, capsys: Capture, text: str, line: str
) -> None:
    config = here / "appliance.toml"
    config.write_text(f"[keys]\n{text}\n")
    assert main(["check-config", str(config)]) == 0
    assert f"  keys     {line}\n" in capsys.readouterr().out


def test_an_own_key_that_is_no_pair_stops_the_start(here: Path) -> None:
    assert main(["keys", "new", "a"]) == 0
    assert main(["keys", "new-server", "next"]) == 0
    public, secret = (KeyDirectory(here / "keys").server_pair(name) for name in ("main", "next"))
    (here / "keys" / "server" / "main.key").unlink()
    mixed = KeyPair(public_key=public.public_key, secret_key=secret.secret_key)
    KeyDirectory(here / "keys").add_server("main", mixed)
    with pytest.raises(KeyFileError, match=r"server key main: .* are not of one pair"):
        gate_of(load(None, ["keys.required=true"]))
