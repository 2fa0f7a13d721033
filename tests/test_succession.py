"""An instance that serves robots goes on doing so, whatever becomes of its admin socket."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.box import box
from support.repository import add_onnx_mlp
from trio.testing import MockClock

from appliance.config import Admin
from appliance.errors import ConfigError
from appliance.succession import keep_admin, take_admin


class Door:
    """Starts as often as it is let, and makes the socket's file then."""

    def __init__(self, socket: Path, *failures: str) -> None:
        self.socket = socket
        self.failures = list(failures)
        self.started: list[tuple[str, trio.CancelScope]] = []
        self.tried = 0

    async def start(self, socket: str, listen: str) -> trio.CancelScope:
        await trio.lowlevel.checkpoint()
        self.tried += 1
        if self.failures:
            raise ConfigError(self.failures.pop(0))
        assert socket == str(self.socket)
        self.socket.touch()
        self.started.append((listen, trio.CancelScope()))
        return self.started[-1][1]


async def test_taking_the_socket_is_tried_until_it_can_be_done(
    tmp_path: Path, autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    door = Door(tmp_path / "a.sock", *["there is no directory"] * 7)
    beside = trio.CancelScope()
    admin = Admin(socket=str(door.socket), listen="127.0.0.1:9464")
    scope = await take_admin(admin, door.start, beside)
    assert autojump_clock.current_time() >= 3
    assert door.started == [("", scope)]
    assert (beside.cancel_called, scope.cancel_called) == (True, False)
    assert capsys.readouterr().out.count("there is no directory") == 1


async def test_a_socket_that_somebody_took_away_is_made_again(
    tmp_path: Path,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    door = Door(tmp_path / "a.sock")
    admin = Admin(socket=str(door.socket), listen="127.0.0.1:9464")
    first = await door.start(str(door.socket), "")
    nursery.start_soon(keep_admin, admin, door.start, first)
    await trio.sleep(10)
    assert door.tried == 1
    door.socket.unlink()
    await trio.sleep(10)
    assert first.cancel_called
    assert [listen for listen, _ in door.started] == ["", "127.0.0.1:9464"]
    nursery.cancel_scope.cancel()


async def test_a_fault_of_ours_is_not_hidden(tmp_path: Path) -> None:
    async def broken(_socket: str, _listen: str) -> trio.CancelScope:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await take_admin(Admin(socket=str(tmp_path / "a")), broken, trio.CancelScope())


def test_it_answers_again_at_the_same_place(tmp_path: Path) -> None:
    add_onnx_mlp(tmp_path / "models", "mlp")
    with box(tmp_path / "models") as running:
        before = running.status()["instance"]
        Path(running.socket).unlink()
        after = running.wait_until(lambda status: status["state"] == "ready")
        assert after["instance"] == before
        assert running.stop() == 0
