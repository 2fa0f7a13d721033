"""`appliance top` in a real terminal, of a real appliance with real robots."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box, box, end, start
from support.robots import Plan, robots
from support.terminal import terminal

ARMS = tuple(Plan(f"arm-{n}", "sleeper", 5, steps=10) for n in range(3))
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
        shown.wait_until(lambda: shown.shows("! hasty   misses +", "- leaver  gone"))
        shown.wait_until(lambda: shown.shows("5 robots · by state ▼", "  cpu-0   ready"))
        shown.send("/arm")
        shown.wait_until(lambda: shown.shows("3 of 5 robots"))
        shown.send(ENTER)
        shown.wait_until(lambda: "details" in shown.lines[-1])
        shown.send("s" + DOWN + DOWN)
        shown.wait_until(lambda: shown.shows("by client ▲"))
        shown.send(ENTER)
        shown.wait_until(lambda: shown.shows("client        arm-1", "Hz   ", "runs dry in"))
        shown.resize(120, 40)
        shown.wait_until(lambda: "esc" in shown.lines[39])
        shown.send(TAB)
        shown.wait_until(lambda: shown.shows("arm-0") and not shown.shows("cpu-0"))
        shown.send("q")
        assert shown.wait_ended() == 0
        assert shown.is_restored()


def test_a_box_that_is_killed_and_comes_back(running: Box, models: Path) -> None:
    with terminal("top", "--socket", running.socket, "--period", "0.2") as shown:
        shown.wait_until(lambda: shown.shows("ready  appliance", "arm-0"))
        end(running.process)
        shown.wait_until(lambda: shown.shows("unreachable  still", "nobody listens", "arm-0"))
        again = start(running.directory, "--models", str(models), "--bind", running.address)
        try:
            shown.wait_until(lambda: shown.shows("ready  appliance", "arm-0"))
            shown.wait_until(lambda: not shown.shows("nobody listens"))
        finally:
            end(again)


@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM, signal.SIGHUP])
def test_however_it_ends_the_terminal_is_as_it_was(running: Box, how: str | int) -> None:
    with terminal("top", "--socket", running.socket) as shown:
        shown.wait_until(lambda: shown.shows("ready  appliance"))
        if isinstance(how, str):
            shown.send(how)
        else:
            shown.process.send_signal(how)
        assert shown.wait_ended() == 0
        assert shown.is_restored()


def test_it_ends_with_its_window(running: Box) -> None:
    with terminal("top", "--socket", running.socket) as shown:
        shown.wait_until(lambda: shown.shows("ready  appliance"))
        shown.hang_up()
        assert shown.process.wait(20) == 0
