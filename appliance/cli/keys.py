"""`appliance keys`: who may come. A running appliance sees what changes by itself."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import attrs
import zmq

from appliance.cli import NOT_QUITE, OK
from appliance.cli.text import plain
from appliance.config import GrpcTls, Keys, load
from appliance.errors import KeyFileError
from appliance.keys.directory import KeyDirectory, Listed, check_name
from appliance.keys.files import ClientKeys, KeyPair
from appliance.keys.tokens import Tokens


def new(arguments: argparse.Namespace) -> int:
    """Make a client's key pair: its secret for the robot, its public key for the appliance."""
    config, directory = _where(arguments)
    name: str = arguments.name
    check_name(name)  # before anything is made under it
    server_key: str = arguments.server_key or config.server_key
    if server_key == config.server_key and server_key not in directory.server_names():
        _make_server_key(directory, server_key)  # the first of all keys
    server = directory.server_pair(server_key)
    out = Path(arguments.out or f"{name}.key")
    pair = _new_pair()
    keys = ClientKeys(
        client=name,
        public_key=pair.public_key,
        secret_key=pair.secret_key,
        server_key=server.public_key,
    )
    keys.write(out)
    try:
        authorised = directory.authorise(name, pair.public_key)
    except KeyFileError:
        out.unlink()  # it would open nothing
        raise
    print(f"{name} may come: {authorised}")
    print(f"its secret:  {out} (mode 0600)")
    print(f"Copy {out} to the robot, mode 0600, and remove it here:")
    print(f"  scp -p {out} ROBOT:{out.name} && rm {out}")
    print(f'There: Connection("BOX:5555", keys="{out.name}")')
    return OK


def new_server(arguments: argparse.Namespace) -> int:
    """Make another key pair of the appliance's own."""
    _, directory = _where(arguments)
    _make_server_key(directory, arguments.name)
    return OK


def list_(arguments: argparse.Namespace) -> int:
    """Show every client's key."""
    _, directory = _where(arguments)
    found = list(directory.clients())
    if arguments.json:
        print(json.dumps([attrs.asdict(each) for each in found], indent=2))
        return OK
    for each in found:
        print(_line(each))
    if not found:
        print(f"no keys in {directory.path}; `appliance keys new NAME` makes one")
    return OK


def revoke(arguments: argparse.Namespace) -> int:
    """Let a client come no more."""
    _, directory = _where(arguments)
    kept = directory.revoke(arguments.name)
    print(f"{arguments.name} is revoked: {kept}")
    print("An appliance that runs ends its sessions within a second.")
    return OK


def show(arguments: argparse.Namespace) -> int:
    """Show a client's public key, or those of the appliance."""
    config, directory = _where(arguments)
    if arguments.name is not None:
        found = [each for each in directory.clients() if each.client == arguments.name]
        for each in found:
            print(_line(each))
        if not found:
            raise KeyFileError(f"{arguments.name} has no key in {directory.path}")
        return OK if any(each.state == "authorised" for each in found) else NOT_QUITE
    names = directory.server_names()
    for name in names:
        use = "  (keys.server_key)" if name == config.server_key else ""
        print(f'{name:<16} server_key = "{directory.server_pair(name).public_key}"{use}')
    if not names:
        raise KeyFileError(
            f"{directory.path}: the appliance has no key yet; `appliance keys new NAME` makes one "
            "with the first client's"
        )
    return OK


def new_token(arguments: argparse.Namespace) -> int:
    """Make a client's API token, and show it once."""
    _, directory = _where(arguments)
    tokens = Tokens(directory.path)
    token = tokens.add(arguments.name)
    print(token)
    print(
        f"This is the token of {arguments.name}; nobody can see it again. Calls carry it as\n"
        f"metadata: authorization: Bearer TOKEN. Only its hash is kept, in {tokens.directory}.",
        file=sys.stderr,
    )
    return OK


def revoke_token(arguments: argparse.Namespace) -> int:
    """Let a client's API token hold no more."""
    _, directory = _where(arguments)
    removed = Tokens(directory.path).revoke(arguments.name)
    print(f"the token of {arguments.name} is revoked: {removed} is removed")
    print("An appliance that runs refuses its calls within a second or two.")
    return OK


def tokens(arguments: argparse.Namespace) -> int:
    """Show who has an API token."""
    _, directory = _where(arguments)
    found = Tokens(directory.path)
    found.look()
    for client in found.clients():
        print(client)
    for problem in found.problems:
        print(plain(problem), file=sys.stderr)
    return NOT_QUITE if found.problems else OK


def check_certificate(arguments: argparse.Namespace) -> int:
    """Say whether clients of the gRPC door could take a certificate, today."""
    from appliance.ingest.certificates import check

    check(
        GrpcTls(
            certificate=arguments.certificate,
            key=arguments.key,
            client_ca=arguments.client_ca or "",
        )
    )
    print(f"{arguments.certificate}: good")
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "new": new,
    "new-server": new_server,
    "list": list_,
    "revoke": revoke,
    "show": show,
    "new-token": new_token,
    "revoke-token": revoke_token,
    "tokens": tokens,
    "check-certificate": check_certificate,
}


def _where(arguments: argparse.Namespace) -> tuple[Keys, KeyDirectory]:
    config = load(Path(arguments.config)).keys if arguments.config else Keys()
    return config, KeyDirectory(Path(arguments.directory or config.directory))


def _make_server_key(directory: KeyDirectory, name: str) -> None:
    path = directory.add_server(name, _new_pair())
    print(f"the appliance's own key: {path} (mode 0600; it stays there)")


def _new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public_key=public.decode(), secret_key=secret.decode())


def _line(listed: Listed) -> str:
    since = datetime.fromtimestamp(listed.since_s).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{listed.client:<20} {listed.state:<11} {since}  {listed.key}{plain(listed.problem)}"
