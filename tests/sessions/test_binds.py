"""Addresses as operators see them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import zmq

from appliance.errors import ConfigError
from appliance.sessions.binds import bind


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:"),
        ("tcp://[::1]:*", "tcp://[::1]:"),
        ("tcp://*:*", "tcp://[::]:"),
    ],
)
def test_an_address_is_shown_as_it_was_written(address: str, host: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        bound = bind(door, address)
    assert bound.startswith(host)
    assert bound.removeprefix(host).isdigit()


@needs_ipv6
def test_one_socket_binds_addresses_of_both_kinds() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        bound = [bind(door, address) for address in ("tcp://[::1]:*", "tcp://127.0.0.1:*")]
        for address in bound:
            with context.socket(zmq.DEALER) as robot:
                robot.set(zmq.IPV6, 1)
                robot.connect(address)
                robot.send(b"hello")
                assert door.poll(5000)
                assert door.recv_multipart()[1] == b"hello"


def test_a_file_is_not_taken_for_the_socket_of_somebody_dead(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("precious")
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as door,
        pytest.raises(ConfigError, match="no socket"),
    ):
        bind(door, f"ipc://{path}")
    assert path.read_text() == "precious"
