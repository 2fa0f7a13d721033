"""`appliance top` in a real terminal, of a real appliance with real robots."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box, box, end, start
from support.robots import Plan, robots
from support.terminal import terminal

ARMS = tuple(Plan(name=f"arm-{n}", model="sleeper", hz=5, steps=10) for n in range(3))
HASTY = Plan(name="hasty", model="sleeper", kind="cart", hz=100)  # more than 20 ms each allow
LEAVER = Plan(name="leaver", model="sleeper", kind="cart", hz=20, leaves_s=1)
DOWN, ENTER, ESCAPE, TAB = "\x1b[B", "\r", "\x1b", "\t"


@pytest.fixture
def running(models: Path) -> Iterator[Box]:
    with (
        box(models, overrides=("transport.disconnect_timeout_s=1.0",)) as made,
        robots(made.address, (*ARMS, HASTY, LEAVER)),
    ):
        yield made


@pytest.mark.parametrize("term", ["xterm-256color", "linux", "screen"])
def test_it_shows_robots_and_takes_keys(running: Box, term: str) -> None:
    with terminal("top", "--socket", running.socket, "--period", "0.2", term=term) as shown:
        shown.wait_until(lambda: "misses +" in shown.line("hasty"))
        shown.wait_until(lambda: "gone" in shown.line("leaver"))
        assert shown.line("hasty").startswith("!")
        assert shown.line("leaver").startswith("-")
        assert "5 robots · by state ▼" in shown.text
        assert len(shown.lines) == 24
        assert shown.line("cpu-0").split()[:2] == ["cpu-0", "ready"]
        shown.send("/arm")
        shown.wait_until(lambda: "3 of 5 robots" in shown.text)
        shown.send(ENTER)
        shown.wait_until(lambda: "details" in shown.lines[-1])
        shown.send("s" + DOWN + DOWN)
        shown.wait_until(lambda: "by client ▲" in shown.text)
        shown.send(ENTER)
        shown.wait_until(lambda: "client        arm-1" in shown.text)
        assert shown.line("cadence").split()[2] == "Hz"
        shown.resize(120, 40)
        shown.wait_until(lambda: "esc" in shown.lines[39])
        shown.send(TAB)
        shown.wait_until(lambda: "arm-0" in shown.text and "cpu-0" not in shown.text)
        shown.send("q")
        assert shown.wait_ended() == 0
        assert shown.is_restored()


def test_a_box_that_is_killed_and_comes_back(running: Box, models: Path) -> None:
    with terminal("top", "--socket", running.socket, "--period", "0.2") as shown:
        shown.wait_until(lambda: "ready" in shown.lines[0] and "arm-0" in shown.text)
        end(running.process)
        shown.wait_until(lambda: "unreachable" in shown.lines[0])
        assert "nobody listens" in shown.text
        assert "arm-0" in shown.text
        again = start(running.directory, "--models", str(models), "--bind", running.address)
        try:
            shown.wait_until(lambda: "ready" in shown.lines[0] and shown.line("arm-0"))
            assert "nobody listens" not in shown.text
        finally:
            end(again)


@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM, signal.SIGHUP])
def test_however_it_ends_the_terminal_is_as_it_was(running: Box, how: str | int) -> None:
    with terminal("top", "--socket", running.socket) as shown:
        shown.wait_until(lambda: "ready" in shown.lines[0])
        if isinstance(how, str):
            shown.send(how)
        else:
            shown.process.send_signal(how)
        assert shown.wait_ended() == 0
        assert shown.is_restored()


def test_it_ends_with_its_window(running: Box) -> None:
    with terminal("top", "--socket", running.socket) as shown:
        shown.wait_until(lambda: "ready" in shown.lines[0])
        shown.hang_up()
        assert shown.process.wait(20) == 0
