"""API tokens: made, found, revoked; files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import KeyFileError
from appliance.keys.tokens import PREFIX, Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "keys")


def test_a_token_is_its_clients_until_it_is_revoked(tokens: Tokens) -> None:
    token = tokens.add("site-2")
    other = tokens.add("site-3")
    assert token.startswith(PREFIX)
    assert token != other
    tokens.look()
    assert tokens.client_of(token) == "site-2"
    assert tokens.client_of(other) == "site-3"
    assert tokens.client_of(token[:-1]) is None
    assert tokens.client_of("x" * 10_000) is None
    assert tokens.client_of("\udcff") is None
    assert tokens.clients() == ["site-2", "site-3"]
    tokens.revoke("site-2")
    tokens.look()
    assert tokens.client_of(token) is None
    assert tokens.client_of(other) == "site-3"


def test_no_directory_is_no_tokens(tokens: Tokens) -> None:
    tokens.look()
    assert tokens.client_of("anything") is None


def test_a_client_has_one_token(tokens: Tokens) -> None:
    tokens.add("site-2")
    with pytest.raises(KeyFileError, match="is there already"):
        tokens.add("site-2")
    with pytest.raises(KeyFileError, match="has no token"):
        tokens.revoke("site-3")
    with pytest.raises(KeyFileError, match="cannot be the name"):
        tokens.add("../site")


def test_what_cannot_be_used_is_left_out_and_said(tokens: Tokens) -> None:
    token = tokens.add("site-2")
    (tokens.directory / "short.token").write_text('digest = "abc"\n')
    (tokens.directory / "open.token").write_text("")
    (tokens.directory / "open.token").chmod(0o666)
    (tokens.directory / "-.token").write_text("")
    tokens.look()
    assert tokens.clients() == ["site-2"]
    assert tokens.client_of(token) == "site-2"
    assert len(tokens.problems) == 3


def test_where_others_may_write_nobody_comes_in(tokens: Tokens) -> None:
    token = tokens.add("site-2")
    tokens.look()
    tokens.directory.chmod(0o777)
    with pytest.raises(KeyFileError):
        tokens.look()
    assert tokens.client_of(token) is None
    tokens.directory.chmod(0o755)
    tokens.look()
    assert tokens.client_of(token) == "site-2"
