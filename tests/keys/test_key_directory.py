"""Keys come and go, and whoever looks sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.keys import KeyMaker, new_pair

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
    ring = directory.read()
    assert ring.client_of(first.public_key) is None
    assert ring.name_of(first.public_key) == "arm-3"
    assert ring.client_of(second.public_key) == "arm-3"
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
    ):
        with pytest.raises(KeyFileError, match="cannot be the name of a key"):
            act()


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
        before = directory.ring
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
    ring = made.directory.read()
    assert dict(ring.authorised) == {keys.public_key: "arm"}
    assert len(ring.problems) == 2
    assert "bad.pub" in ring.problems[0]
    assert "twin.pub: is the key of arm too" in ring.problems[1]


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


def test_a_directory_that_has_gone_lets_nobody_out(made: KeyMaker) -> None:
    made.client("arm")
    before = made.directory.read()
    (made.directory.path / "authorised").rename(made.directory.path / "elsewhere")
    with pytest.raises(KeyFileError, match="has gone; the keys read before hold on"):
        made.directory.read()
    assert made.directory.ring == before


@pytest.mark.parametrize("name", [".", "authorised", "revoked"])
def test_where_anybody_may_write_nobody_is_known(made: KeyMaker, name: str) -> None:
    made.client("arm")
    made.directory.revoke("arm")
    (made.directory.path / name).chmod(0o777)
    with pytest.raises(KeyFileError, match="anybody may write there"):
        made.directory.read()


def test_of_no_directory_nothing_is_listed(tmp_path: Path) -> None:
    directory = KeyDirectory(tmp_path / "none")
    assert list(directory.clients()) == directory.server_names() == []
    assert not directory.read().authorised
