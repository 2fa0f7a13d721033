"""A socket and its keys."""

from __future__ import annotations

import zmq

from appliance.errors import KeyFileError
from appliance.keys.files import ClientKeys


def check_pair(keys: ClientKeys) -> None:
    """Check what only ZeroMQ can tell: whether a client's two keys are of one pair.

    Without this, who connects would hear that the appliance has another key than expected.

    Raises:
        KeyFileError: They are not, or this ZeroMQ has no keys.
    """
    if not zmq.has("curve"):
        raise KeyFileError("this pyzmq was built without CURVE: keys cannot be used with it")
    if zmq.curve_public(keys.secret_key.encode()) != keys.public_key.encode():
        raise KeyFileError(
            f"the keys of client {keys.client!r}: secret_key and public_key are not of one pair; "
            "copy the file that `appliance keys new` wrote again, or make a new key"
        )


def use_keys(socket: zmq.Socket[bytes], keys: ClientKeys | None) -> None:
    """Have a socket speak CURVE from its next connection on, as whoever `keys` are of."""
    if keys is None:
        return
    for option, key in (
        (zmq.CURVE_SERVERKEY, keys.server_key),
        (zmq.CURVE_PUBLICKEY, keys.public_key),
        (zmq.CURVE_SECRETKEY, keys.secret_key),
    ):
        socket.setsockopt(option, key.encode())
