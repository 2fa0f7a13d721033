"""What an appliance refuses at its start: before it has loaded anything, and in one line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import zmq
from support.repository import add_echo, add_stalls_at_import

from appliance.app import Appliance
from appliance.config import Config, load
from appliance.errors import ConfigError
from appliance.sessions.binds import try_binds


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where another process, as it were, listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def serve(
    *words: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "appliance", "serve", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# ------------------------------------------------------------------------------------- addresses


def test_a_free_address_is_free_afterwards(tmp_path: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    for _ in range(2):
        try_binds([free, "tcp://127.0.0.1:*", f"ipc://{tmp_path}/door"])
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        door.bind(free)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://192.0.2.1:5555", "Cannot assign requested address"),
        ("tcp://no-such-interface:5555", "No such device"),
        ("ipc:///no/such/directory/door", "No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(address: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"transport.bind: {address}: {why}; name an")):
        try_binds(["tcp://127.0.0.1:*", address])


def test_a_socket_file_that_somebody_listens_on_is_not_taken_over(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as first:
        address = f"ipc://{tmp_path}/door"
        first.bind(address)
        with pytest.raises(ConfigError, match=f"{address}: another instance is listening there"):
            try_binds([address])


def test_what_a_waiting_robot_has_to_send_is_left_for_the_door(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/door"
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as robot,
        context.socket(zmq.ROUTER) as door,
    ):
        robot.set(zmq.LINGER, 0)
        robot.set(zmq.RECONNECT_IVL, 1)
        robot.connect(address)
        robot.send(b"observation")
        for _ in range(50):
            try_binds([address])
        door.bind(address)
        assert door.poll(10_000)
        assert door.recv_multipart()[1:] == [b"observation"]


def test_a_strategy_that_is_not_there_stops_the_start_before_any_model_loads(
    tmp_path: Path,
) -> None:
    add_stalls_at_import(tmp_path / "models")
    words = ("--models", str(tmp_path / "models"), "--socket", str(tmp_path / "admin"))
    with serve(*words, "--set", "scheduling.strategy=robin") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("appliance: error: scheduling.strategy: found 'robin'; allowed: ")
    assert err.count("\n") == 1


def test_a_taken_port_stops_the_start_before_any_model_loads(tmp_path: Path, taken: str) -> None:
    add_stalls_at_import(tmp_path / "models")
    words = ("--models", str(tmp_path / "models"), "--socket", str(tmp_path / "admin"))
    with serve(*words, "--bind", taken) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"appliance: error: transport.bind: {taken}: Address already in use; name another "
        "address, or end whoever uses it\n"
    )


# ---------------------------------------------------------------------------------------- models


def configured(models: Path, *overrides: str) -> Config:
    config = load(None, overrides)
    return attrs.evolve(config, models=attrs.evolve(config.models, directory=str(models)))


def test_a_model_that_no_worker_would_serve_stops_the_start(tmp_path: Path) -> None:
    add_echo(tmp_path, "arm")
    add_echo(tmp_path, "gripper")
    with pytest.raises(ConfigError, match=f"workers: no table names 'gripper', which {tmp_path}"):
        Appliance(configured(tmp_path, 'workers.0.models=["arm"]'))


def test_a_rate_of_a_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    add_echo(tmp_path, "arm")
    with pytest.raises(ConfigError, match=r"rate_limits\.per_model_hz: found 'amr'; .* has arm$"):
        Appliance(configured(tmp_path, "rate_limits.per_model_hz.amr=5"))


# ------------------------------------------------------------------------------- service manager


def test_time_is_asked_for_while_models_load(tmp_path: Path) -> None:
    os.mkfifo(loads := tmp_path / "loads")
    policy = add_echo(tmp_path / "models") / "policy.py"
    policy.write_text(f"open({str(loads)!r}).read()\n{policy.read_text()}")
    words = ("--models", str(tmp_path / "models"), "--socket", str(tmp_path / "admin"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(address := str(tmp_path / "notify"))
        environment = os.environ | {"NOTIFY_SOCKET": address}
        with serve(*words, "--bind", f"ipc://{tmp_path}/door", environment=environment):
            assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
            loads.write_text("loaded")  # returns once it is read
            said = {manager.recv(100)}
            while b"READY=1" not in said:
                said.add(manager.recv(100))
            assert said <= {b"READY=1", b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=60000000"}


# --------------------------------------------------------------------------------------- signals

WAITS = """
import os, signal
os.write(1, b"importing\\n")
while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_ends_it_quietly(tmp_path: Path, number: int) -> None:
    (tmp_path / "structlog.py").write_text(WAITS)
    with serve(environment={"PYTHONPATH": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
