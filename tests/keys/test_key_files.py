"""Key files: what they hold, and who may be able to read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.keys import belong_to_another, new_pair

from appliance.errors import KeyFileError
from appliance.keys.files import ClientKeys, KeyPair, parse, read_public, write_public


@pytest.fixture
def keys() -> ClientKeys:
    pair, server = new_pair(), new_pair()
    return ClientKeys(
        client="arm-3",
        public_key=pair.public_key,
        secret_key=pair.secret_key,
        server_key=server.public_key,
    )


def test_what_was_written_is_read(keys: ClientKeys, tmp_path: Path) -> None:
    keys.write(tmp_path / "arm-3.key")
    assert ClientKeys.read(tmp_path / "arm-3.key") == keys
    pair = new_pair()
    pair.write(tmp_path / "main.key")
    assert KeyPair.read(tmp_path / "main.key") == pair
    write_public(tmp_path / "arm-3.pub", "arm-3", keys.public_key)
    assert read_public(tmp_path / "arm-3.pub") == keys.public_key
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "arm-3.key",
        "arm-3.pub",
        "main.key",
    ]


def test_secrets_are_for_their_owner_whatever_the_umask(keys: ClientKeys, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.write(tmp_path / "a.key")
        os.umask(0o277)
        new_pair().write(tmp_path / "b.key")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o7777 for name in ("a.key", "b.key")} == {0o600}


def test_no_file_is_written_over(keys: ClientKeys, tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text("precious")
    with pytest.raises(KeyFileError, match="is there already"):
        keys.write(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_text() == "precious"
    with pytest.raises(KeyFileError, match="cannot be written: No such file"):
        keys.write(tmp_path / "no" / "a.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o620, 0o700])
def test_a_secret_that_others_could_know_is_refused(
    keys: ClientKeys, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "arm-3.key"
    keys.write(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"its mode is {mode:04o}; chmod 600 it"):
        ClientKeys.read(path)
    path.chmod(0o400)
    assert ClientKeys.read(path) == keys


def test_a_secret_of_another_user_is_refused(
    keys: ClientKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arm-3.key"
    keys.write(path)
    owner = belong_to_another(path, monkeypatch)
    with pytest.raises(KeyFileError, match=f"belongs to user {owner}, not to us"):
        ClientKeys.read(path)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert ClientKeys.read(path) == keys


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_a_public_key_that_others_could_change_is_refused(
    keys: ClientKeys, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "arm-3.pub"
    write_public(path, "arm-3", keys.public_key)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"its mode is {mode:04o}\), .*; chmod go-w it"):
        read_public(path)
    path.chmod(0o444)
    assert read_public(path) == keys.public_key


def test_a_public_key_of_another_user_is_refused(
    keys: ClientKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arm-3.pub"
    write_public(path, "arm-3", keys.public_key)
    belong_to_another(path, monkeypatch)
    with pytest.raises(KeyFileError, match=r"belongs to user .*; chown it"):
        read_public(path)


def test_a_key_is_on_the_disk_before_it_has_its_name(
    keys: ClientKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.key", list[bool]()
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    keys.write(path)
    assert synced == [False]
    assert path.exists()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, why in (("pipe", "is no file"), (".", "is no file"), ("no", "No such file")):
        with pytest.raises(KeyFileError, match=why):
            ClientKeys.read(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "public_key is missing"),
        ("public_key = 'a'", "line 1: expected name"),
        ("# x\n\nnonsense", "line 3: expected name"),
        ('public_key = "short"', "public_key is no key"),
        ("\xe9", "is no text"),
        ("#" * 5000, "longer than 4096 bytes"),
    ],
)
def test_what_holds_no_key_says_why(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "a.pub"
    path.write_text(text, "latin-1")
    with pytest.raises(KeyFileError, match=why):
        read_public(path)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse(text, "x", ())
    except KeyFileError:
        return
    assert all('"' not in value for value in values.values())


def test_keys_that_are_none_are_refused_and_secrets_are_not_shown(keys: ClientKeys) -> None:
    with pytest.raises(KeyFileError, match="server_key"):
        ClientKeys(public_key=keys.public_key, secret_key=keys.secret_key, server_key="x")
    assert keys.secret_key not in repr(keys)
    assert keys.secret_key not in repr(
        KeyPair(public_key=keys.public_key, secret_key=keys.secret_key)
    )
