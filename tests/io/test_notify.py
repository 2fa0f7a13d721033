"""Notifier against a datagram socket that stands for systemd."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.io.notify import Notifier

Manager = tuple[socket.socket, str]


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager's socket and the NOTIFY_SOCKET that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        if request.param == "file":
            server.bind(str(tmp_path / "notify"))
            yield server, str(tmp_path / "notify")
        else:
            server.bind("")  # Linux picks an abstract name
            yield server, "@" + server.getsockname()[1:].decode()


def test_tells_the_manager(manager: Manager) -> None:
    server, address = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    for tell, expected in (
        (notifier.ready, b"READY=1"),
        (lambda: notifier.status("2 workers,\nREADY=1"), b"STATUS=2 workers, READY=1"),
        (lambda: notifier.extend_start(2_500_000_000), b"EXTEND_TIMEOUT_USEC=2500000"),
        (notifier.watchdog, b"WATCHDOG=1"),
        (notifier.stopping, b"STOPPING=1"),
    ):
        assert tell()
        assert server.recv(100) == expected
    notifier.close()
    notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_does_nothing_without_a_manager(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ(environ)
    assert not notifier.ready()
    assert notifier.watchdog_interval_ns is None


def test_a_manager_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not notifier.ready()
    notifier.close()


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    _, address = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    assert any(not notifier.watchdog() for _ in range(10_000))
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15_000_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15_000_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_what_is_tolerated(
    environ: dict[str, str], expected: int | None
) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": "/run/none", **environ})
    assert notifier.watchdog_interval_ns == expected
