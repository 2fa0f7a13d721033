"""Keys for tests: a directory of them, and what its clients hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq

from appliance.keys.directory import KeyDirectory
from appliance.keys.files import ClientKeys, KeyPair


def new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public_key=public.decode(), secret_key=secret.decode())


class KeyMaker:
    """Makes keys as `appliance keys` does, without a process for each."""

    def __init__(self, path: Path, *server_names: str) -> None:
        self.directory = KeyDirectory(path)
        self.servers = {name: new_pair() for name in server_names or ("main",)}
        for name, pair in self.servers.items():
            self.directory.add_server(name, pair)

    def stranger(self, client: str = "", server: str = "main") -> ClientKeys:
        """Return keys that nobody authorised."""
        pair = new_pair()
        return ClientKeys(
            client=client,
            public_key=pair.public_key,
            secret_key=pair.secret_key,
            server_key=self.servers[server].public_key,
        )

    def client(self, client: str, server: str = "main") -> ClientKeys:
        """Return keys that are authorised."""
        keys = self.stranger(client, server)
        self.directory.authorise(client, keys.public_key)
        return keys


def belong_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have a file belong to a user who is neither root nor who runs the test; return who it is."""
    owner = path.stat().st_uid
    if owner == 0:
        owner = 12345
        os.chown(path, owner, -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    return owner
