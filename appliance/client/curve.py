"""A socket and its keys."""

from __future__ import annotations

import zmq

from appliance.keys.files import ClientKeys


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
