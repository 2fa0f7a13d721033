"""Addresses: bound by the door, and tried before there is one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import zmq

from appliance.errors import ConfigError
from appliance.io.unix_listener import somebody_listens

IPV4 = re.compile(r"tcp://[0-9.]+:")


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind one address and return it as bound: with the port, where any would do.

    Raises:
        ConfigError: It cannot be bound.
    """
    if address.startswith("ipc://"):
        _check_path(address, Path(address.removeprefix("ipc://")))
    # With IPv6 on, an IPv4 address would be shown as [::ffff:127.0.0.1].
    socket.set(zmq.IPV6, not IPV4.match(address))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno or 0)
        raise ConfigError(
            f"transport.bind: {address}: {why}; name another address, or end whoever uses it"
        ) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def _check_path(address: str, path: Path) -> None:
    """Refuse what libzmq would simply delete: any file, and the socket of somebody who listens."""
    if path.exists() and not path.is_socket():
        raise ConfigError(
            f"transport.bind: {address}: there is a file that is no socket; remove it, or name "
            "another address"
        )
    if somebody_listens(path):
        raise ConfigError(
            f"transport.bind: {address}: another instance is listening there; stop it, or name "
            "another address"
        )


def try_binds(addresses: Iterable[str]) -> None:
    """Bind each address and let it go again, so that what is wrong shows before models load.

    Robots that wait for the appliance may connect meanwhile. They are turned away in the
    handshake, as it asks for an authentication that nobody does: an observation taken in here
    would be lost without being counted.

    Raises:
        ConfigError: An address cannot be bound.
    """
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        probe.set(zmq.ZAP_DOMAIN, b"nobody")
        probe.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        for address in addresses:
            bind(probe, address)
