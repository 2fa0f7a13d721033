"""Keys come and go, and whoever looks sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.keys import KeyMaker, belong_to_another, new_pair

from appliance.errors import KeyFileError
from appliance.keys.directory import SETTLED_NS, KeyDirectory


@pytest.fixture
def made(tmp_path: Path) -> KeyMaker:
    return KeyMaker(tmp_path / "keys")


def states(directory: KeyDirectory) -> list[tuple[str, str]]:
    return [(each.client, each.state) for each in directory.clients()]


def test_a_client_is_authorised_then_revoked_then_has_another_key(made: KeyMaker) -> None:
    first = made.client("arm-3")
    directory = made.directory
    assert directory.read().client_of(first.public_key) == "arm-3"
    with pytest.raises(KeyFileError, match="arm-3 has a key already"):
        made.client("arm-3")
    assert directory.revoke("arm-3").name == "arm-3~1.pub"
    second = made.client("arm-3")
    keyring = directory.read()
    assert keyring.client_of(first.public_key) is None
    assert keyring.name_of(first.public_key) == "arm-3"
    assert keyring.client_of(second.public_key) == "arm-3"
    assert directory.revoke("arm-3").name == "arm-3~2.pub"
    assert states(directory) == [("arm-3", "revoked")] * 2
    with pytest.raises(KeyFileError, match="arm-3 has no key"):
        directory.revoke("arm-3")


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a~1", "a b", "é", "a" * 65])
def test_a_name_that_could_be_no_file_is_refused(made: KeyMaker, name: str) -> None:
    for act in (
        lambda: made.directory.authorise(name, new_pair().public_key),
        lambda: made.directory.revoke(name),
        lambda: made.directory.add_server(name, new_pair()),
        lambda: made.directory.server_pair(name),
    ):
        with pytest.raises(KeyFileError, match="cannot be the name of a key"):
            act()


def test_the_appliances_own_keys_are_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = KeyMaker(tmp_path / "keys")
    finally:
        os.umask(before)
    assert (made.directory.path / "server").stat().st_mode & 0o777 == 0o700
    assert (made.directory.path / "server" / "main.key").stat().st_mode & 0o777 == 0o600


def test_a_server_key_is_made_once_and_asked_for_by_name(made: KeyMaker) -> None:
    assert made.directory.server_pair("main") == made.servers["main"]
    assert made.directory.server_names() == ["main"]
    with pytest.raises(KeyFileError, match="is there already"):
        made.directory.add_server("main", new_pair())
    with pytest.raises(KeyFileError, match="appliance keys new-server next"):
        made.directory.server_pair("next")


def test_every_change_is_seen(made: KeyMaker) -> None:
    directory, now_ns = made.directory, 0
    assert directory.is_stale(now_ns)
    directory.read()
    for change in (
        lambda: made.client("a"),
        lambda: made.client("b"),
        lambda: directory.revoke("a"),
        (directory.path / "authorised" / "b.pub").unlink,
    ):
        before = directory.keyring
        change()
        # What came within the grain of the file system's clock is seen a moment later.
        now_ns += SETTLED_NS + 1
        assert directory.is_stale(now_ns)
        assert directory.read() != before
        now_ns += SETTLED_NS + 1
        while directory.is_stale(now_ns):
            directory.read()
        now_ns += 100 * SETTLED_NS
        assert not directory.is_stale(now_ns)


def test_what_was_read_right_after_a_change_is_read_once_more(made: KeyMaker) -> None:
    directory = made.directory
    made.client("a")
    assert directory.is_stale(0)
    assert not directory.is_stale(SETTLED_NS)
    assert directory.is_stale(SETTLED_NS + 1)
    assert not directory.is_stale(10 * SETTLED_NS)


def test_one_bad_file_keeps_nobody_else_out(made: KeyMaker) -> None:
    keys = made.client("arm")
    directory = made.directory.path / "authorised"
    (directory / "bad.pub").write_text("nonsense")
    (directory / "twin.pub").write_text((directory / "arm.pub").read_text())
    (directory / "notes.txt").write_text("what others put there")
    (directory / ".hidden.pub").write_text("half a file")
    keyring = made.directory.read()
    assert dict(keyring.authorised) == {keys.public_key: "arm"}
    assert len(keyring.problems) == 2
    assert "bad.pub" in keyring.problems[0]
    assert "twin.pub: is the key of arm too" in keyring.problems[1]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.pub", "café.pub".encode(), b"arm~1.pub", b"\x1b[2J.pub"]
)
def test_a_name_that_is_no_clients_is_said_in_ascii(made: KeyMaker, name: bytes) -> None:
    keys = made.client("arm")
    authorised = made.directory.path / "authorised"
    Path(os.fsdecode(os.fsencode(authorised) + b"/" + name)).write_text(
        f'public_key = "{new_pair().public_key}"'
    )
    keyring = made.directory.read()
    assert dict(keyring.authorised) == {keys.public_key: "arm"}
    (problem,) = keyring.problems
    assert problem.startswith(f"{authorised}/")
    assert problem.endswith(": no client can have that name; move it elsewhere")
    assert problem.isascii()
    assert problem.isprintable()
    found = {each.client: each for each in made.directory.clients()}
    (shown,) = found.keys() - {"arm"}
    assert (found[shown].state, found[shown].problem) == ("left out", problem)


def test_where_files_are_missing_or_none_it_is_said(made: KeyMaker) -> None:
    made.client("arm")
    directory = made.directory
    (directory.path / "authorised" / "gone.pub").symlink_to(directory.path / "nowhere")
    found = {each.client: each for each in directory.clients()}
    assert found["arm"].state == "authorised"
    assert found["gone"].state == "left out"
    assert "cannot be read: No such file" in found["gone"].problem
    assert len(directory.read().problems) == 1
    for name, look in (
        ("authorised", lambda: list(directory.clients())),
        ("server", directory.server_names),
        ("server", lambda: directory.server_pair("main")),
    ):
        kept = (directory.path / name).rename(directory.path / "kept")
        (directory.path / name).write_text("no directory")
        with pytest.raises(KeyFileError, match="cannot be read: Not a directory"):
            look()
        (directory.path / name).unlink()
        kept.rename(directory.path / name)


def test_who_looks_need_not_be_who_serves(made: KeyMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    made.client("arm")
    belong_to_another(made.directory.path, monkeypatch)
    belong_to_another(made.directory.path / "authorised" / "arm.pub", monkeypatch)
    assert states(made.directory) == [("arm", "authorised")]


def test_files_that_did_not_change_are_not_opened_again(
    made: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        made.client(name)
    made.directory.read()
    opened: list[Path] = []
    monkeypatch.setattr(
        "appliance.keys.directory.read_public",
        lambda path: opened.append(path) or new_pair().public_key,
    )
    made.client("c")
    made.directory.read()
    assert [path.name for path in opened] == ["c.pub"]


def test_a_file_that_others_may_write_to_by_now_is_left_out(made: KeyMaker) -> None:
    made.client("arm")
    assert made.directory.read().authorised
    (made.directory.path / "authorised" / "arm.pub").chmod(0o666)
    assert not made.directory.read().authorised
    (made.directory.path / "authorised" / "arm.pub").chmod(0o644)
    assert made.directory.read().authorised


def come_back(made: KeyMaker) -> tuple[str, Path]:
    """Revoke a key, and have it lie with those that are authorised again; return both."""
    keys = made.client("arm")
    text = (made.directory.path / "authorised" / "arm.pub").read_text()
    revoked = made.directory.revoke("arm")
    (made.directory.path / "authorised" / "arm.pub").write_text(text)
    assert made.directory.read().client_of(keys.public_key) is None
    return keys.public_key, revoked


def nonsense(revoked: Path) -> None:
    revoked.write_text("nonsense")


def rename(revoked: Path) -> None:
    revoked.rename(revoked.with_name("caf\udce9.pub"))


@pytest.mark.parametrize("spoil", [nonsense, rename])
def test_a_revoked_key_stays_revoked_whatever_becomes_of_its_file(
    made: KeyMaker, spoil: Callable[[Path], None]
) -> None:
    key, revoked = come_back(made)
    spoil(revoked)
    keyring = made.directory.read()
    assert len(keyring.problems) == 1
    assert keyring.client_of(key) is None
    # Whoever never saw it as it was does not let its client in, either.
    keyring = KeyDirectory(made.directory.path).read()
    assert len(keyring.problems) == 1
    assert keyring.client_of(key) is None


def test_another_key_of_a_client_outlives_the_file_of_its_revoked_one(made: KeyMaker) -> None:
    _, revoked = come_back(made)
    (made.directory.path / "authorised" / "arm.pub").unlink()
    second = made.client("arm")
    assert made.directory.read().client_of(second.public_key) == "arm"
    nonsense(revoked)
    assert made.directory.read().client_of(second.public_key) == "arm"
    assert KeyDirectory(made.directory.path).read().client_of(second.public_key) is None


def test_revoked_keys_that_have_gone_are_revoked_still(made: KeyMaker) -> None:
    key, revoked = come_back(made)
    revoked.parent.rename(made.directory.path / "elsewhere")
    with pytest.raises(KeyFileError, match="revoked: has gone; the keys read before hold on"):
        made.directory.read()
    assert made.directory.keyring.client_of(key) is None
    (made.directory.path / "elsewhere").rename(revoked.parent)
    assert made.directory.read().client_of(key) is None


def test_a_directory_that_has_gone_lets_nobody_out(made: KeyMaker) -> None:
    made.client("arm")
    before = made.directory.read()
    (made.directory.path / "authorised").rename(made.directory.path / "elsewhere")
    with pytest.raises(KeyFileError, match="has gone; the keys read before hold on"):
        made.directory.read()
    assert made.directory.keyring == before


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("name", [".", "authorised", "revoked"])
def test_where_others_may_write_nobody_is_known(made: KeyMaker, name: str, mode: int) -> None:
    made.client("arm")
    made.directory.revoke("arm")
    (made.directory.path / name).chmod(mode)
    with pytest.raises(KeyFileError, match="others than its owner may write there"):
        made.directory.read()


def test_of_no_directory_nothing_is_listed(tmp_path: Path) -> None:
    directory = KeyDirectory(tmp_path / "none")
    assert list(directory.clients()) == directory.server_names() == []
    assert not directory.read().authorised


@pytest.mark.parametrize("name", [".", "authorised", "revoked"])
def test_where_another_user_may_write_nobody_is_known(
    made: KeyMaker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.client("arm")
    made.directory.revoke("arm")
    belong_to_another(made.directory.path / name, monkeypatch)
    with pytest.raises(KeyFileError, match="belongs to user"):
        made.directory.read()


def test_the_appliances_own_keys_may_lie_elsewhere(made: KeyMaker, tmp_path: Path) -> None:
    pair, elsewhere = new_pair(), tmp_path / "credentials"
    elsewhere.mkdir()
    pair.write(elsewhere / "main.key")
    assert KeyDirectory(made.directory.path, elsewhere).server_pair("main") == pair
    with pytest.raises(KeyFileError, match=f"{elsewhere}/next.key: the appliance has no key"):
        KeyDirectory(made.directory.path, elsewhere).server_pair("next")
