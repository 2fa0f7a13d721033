"""How a replay comes in: the address, the keys of who was recorded, and why it is turned away."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import zmq

from appliance.cli.replay.survey import Survey
from appliance.client.curve import check_pair, use_keys
from appliance.client.watch import CUT_WITHOUT_KEY, LOST, NO_APPLIANCE, NO_KEY, NOBODY, Watch
from appliance.errors import ConfigError, KeyFileError, Outcome, PeerGone
from appliance.keys.files import NAME, ClientKeys
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import PROTOCOL_VERSION, Kind, Observation

ANSWER_FRAMES = 3
GREETING_S = 5.0

SAID_HERE = {
    NO_KEY: "the appliance asks for a key: name it with --keys",
    CUT_WITHOUT_KEY: "it ended the handshake: it may ask for a key (--keys), or be starting",
}
"""What the SDK says, in words of the command line."""

Keys = dict[bytes, "ClientKeys | None"]
"""Of each recorded connection; None: it comes without."""


def check_address(server: str) -> None:
    """Check an address before anything else is done.

    Raises:
        ConfigError: It is none that ZeroMQ could connect to.
    """
    known = server.startswith(("tcp://", "ipc://"))
    with zmq.Context() as context, context.socket(zmq.DEALER) as probe:
        probe.set(zmq.LINGER, 0)
        try:
            if known:
                probe.connect(server)
        except zmq.ZMQError:
            known = False
    if not known:
        raise ConfigError(f"--server: found {server!r}; allowed: tcp://HOST:PORT or ipc://PATH")


def keys_of(found: Survey, where: Path | None) -> Keys:
    """Return the keys that the recorded connections are to have.

    Args:
        where: A key file, for all of them, or a directory with a `NAME.key` for each client.

    Raises:
        KeyFileError: One cannot be used, is missing, or is another client's.
    """
    if where is None:
        return dict.fromkeys(found.sessions)
    clients = {session: each.client for session, each in found.sessions.items()}
    if os.path.isdir(where):  # noqa: PTH112  where we may not look, reading it says so
        by_client = {client: _read(where, client) for client in set(clients.values())}
        return {session: by_client[client] for session, client in clients.items()}
    own = ClientKeys.read(where)
    check_pair(own)
    others = sorted({*clients.values()} - {"", own.client})
    if own.client and others:
        raise KeyFileError(
            f"{where}: is the key of {own.client!r}, and {others[0]!r} was recorded, too; name a "
            "directory that has a NAME.key for each client"
        )
    return dict.fromkeys(found.sessions, own)


def _read(directory: Path, client: str) -> ClientKeys:
    if NAME.fullmatch(client) is None:
        raise KeyFileError(
            f"{directory}: no client that has a key is called {client!r}, as one that was recorded"
        )
    keys = ClientKeys.read(directory / f"{client}.key")
    check_pair(keys)
    return keys


def greet(context: zmq.Context[zmq.Socket[bytes]], server: str, keys: Keys) -> None:
    """Find out whether somebody is there, and lets everybody in.

    Raises:
        PeerGone: Nobody is, or not everybody; says why.
    """
    for each in dict.fromkeys(keys.values()):
        _greet(context, server, each)


def _greet(context: zmq.Context[zmq.Socket[bytes]], server: str, keys: ClientKeys | None) -> None:
    client = "" if keys is None else keys.client
    beat = Observation(
        kind=Kind.HEARTBEAT,
        protocol_version=PROTOCOL_VERSION,
        client_id=client,
        wants_status=True,
    )
    with context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        use_keys(socket, keys)
        name = f"greeting-{id(socket)}"
        with closing(Watch(socket, context, name, keyed=keys is not None)) as watch:
            socket.connect(server)
            socket.send_multipart([b"", encode_observation(beat), b""])
            why = _wait(socket, watch)
        if why is not None:
            who = f" for client {client!r}" if client else ""
            raise PeerGone(
                f"{server}: no appliance answers there{who} within {GREETING_S:g} s"
                + (f": {why}" if why else "")
            )
        parts = socket.recv_multipart()
        if len(parts) != ANSWER_FRAMES:
            raise PeerGone(f"{server}: {NO_APPLIANCE}")
        response = decode_response(parts[1], len(parts[2]))
        if response.outcome in (Outcome.UNAUTHENTICATED, Outcome.FORBIDDEN):
            raise PeerGone(f"{server}: {response.outcome.name}: {response.message}")


def _wait(socket: zmq.Socket[bytes], watch: Watch) -> str | None:
    """Wait for an answer; return None if one came, else why not, as far as that is known."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(watch.descriptor, zmq.POLLIN)
    why, until = "", time.monotonic() + GREETING_S
    while not socket.poll(0):
        left_s = until - time.monotonic()
        if left_s <= 0:
            return SAID_HERE.get(why, why)
        poller.poll(round(left_s * 1000) + 1)
        for _ in watch.news():
            if watch.error not in ("", LOST, NOBODY):  # it tries again by itself
                why = watch.error
            watch.begin()
    return None
