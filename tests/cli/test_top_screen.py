"""`appliance top` on Textual's own fake terminal, against a process that answers as a box does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cli_documents import client, status
from support.terminal import terminal
from textual.pilot import Pilot

from appliance.cli import main
from appliance.cli.top import look as asking
from appliance.cli.top.screen import Lines, Top

Serve = Callable[[dict[str, list[Any]]], str]
PATIENCE_S = 20.0
CROWD = [client(f"arm-{n:03}", session=str(n)) for n in range(500)]


def play(
    path: str, scene: Callable[[Stage], Awaitable[None]], *, size: tuple[int, int] = (80, 24)
) -> None:
    async def run() -> None:
        top = Top(lambda: path, period_s=0.05)
        async with top.run_test(size=size) as pilot:
            await scene(Stage(top, pilot))

    asyncio.run(run())


class Stage:
    def __init__(self, top: Top, pilot: Pilot[None]) -> None:
        self.top = top
        self.pilot = pilot

    @property
    def text(self) -> str:
        """What stands on the screen, with one blank where there are several."""
        lines = self.top.query_one("#lines", Lines)
        painted = "\n".join(lines.render_line(y).text for y in range(lines.size.height))
        return " ".join(painted.split())

    async def sees(self, *words: str) -> None:
        async def look() -> None:
            while not all(word in self.text for word in words):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        try:
            await asyncio.wait_for(look(), PATIENCE_S)
        except asyncio.TimeoutError:
            pytest.fail(f"{words} in vain:\n{self.text}")


def documents(*clients: Any, **changes: Any) -> dict[str, list[Any]]:
    return {
        "GET /v1/status": [status(**changes)],
        "GET /v1/clients": [{"clients": list(clients)}],
    }


def test_keys(serve_admin: Serve) -> None:
    async def scene(stage: Stage) -> None:
        await stage.sees("● ready", "500 robots", "arm-000", "by state ▼")
        await stage.pilot.press("s")
        await stage.sees("by client ▲")
        await stage.pilot.press("r")
        await stage.sees("by client ▼", "arm-499")
        await stage.pilot.press("slash", *"arm-12")
        await stage.sees("filter: arm-12", "10 of 500 robots")
        await stage.pilot.press("slash", "s", "backspace", "backspace", "enter")
        await stage.sees("filter: arm-12", "10 of 500 robots")
        await stage.pilot.press("down", "down", "enter")
        await stage.sees("client arm-128", "cadence")
        await stage.pilot.press("escape", "escape")
        await stage.sees("500 robots", "rows")
        await stage.pilot.press("tab", "tab")
        await stage.sees("latencies are", "policy")
        await stage.pilot.press("q")

    play(serve_admin(documents(*CROWD)), scene)


def test_the_selected_robot_stays_in_sight_while_documents_come(serve_admin: Serve) -> None:
    script = documents(*CROWD)
    script["GET /v1/status"] = [*([status()] * 20), status(version="0.2.0")]

    async def scene(stage: Stage) -> None:
        await stage.sees("arm-000")
        await stage.pilot.press("end", "up")
        await stage.sees("arm-498")
        await stage.sees("0.2.0", "arm-498")
        assert stage.top.page.viewport.selected == "498"

    play(serve_admin(script), scene)


def test_paused_it_asks_no_more(serve_admin: Serve) -> None:
    script = documents(client())
    script["GET /v1/status"] = [*([status()] * 2), status(version="0.2.0")]

    async def scene(stage: Stage) -> None:
        stage.top.page.paused = True
        await stage.pilot.pause(0.1)
        assert stage.text == "asking"
        await stage.pilot.press("p")
        await stage.sees("0.2.0")
        await stage.pilot.press("p")
        await stage.sees("paused")

    play(serve_admin(script), scene)


def test_a_box_that_comes_late_or_answers_in_another_form_or_goes(
    serve_admin: Serve, tmp_path: Path
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.sees("● unreachable", "no such socket")
        script = documents(client())
        script["GET /v1/clients"] = [{"clients": [client()]}, {"clients": [{}]}] * 2 + [{"no": 1}]
        script["GET /v1/status"] = [*[status()] * 5, None]
        serve_admin(script)
        await stage.sees("● ready", "arm-1")
        await stage.sees("in a form this command does not know", "still trying", "arm-1")
        await stage.sees("nobody listens")

    play(str(tmp_path / "admin.sock"), scene)


def test_leaving_does_not_wait_for_a_box_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(path)
        stuck.listen()

        async def scene(stage: Stage) -> None:
            await stage.sees("asking")
            await stage.pilot.press("s", "q")

        began = time.monotonic()
        play(path, scene)
        assert time.monotonic() - began < asking.TIMEOUT_S
        monkeypatch.setattr(asking, "TIMEOUT_S", 0.05)

        async def patient(stage: Stage) -> None:
            await stage.sees("the appliance is stuck or stopped")

        play(path, patient)


@pytest.mark.parametrize("size", [(80, 24), (20, 3), (2, 2), (300, 100)])
def test_any_size_will_do(serve_admin: Serve, size: tuple[int, int]) -> None:
    evil = client("\x1b[2J[red]\u202e日本", session="evil")

    async def scene(stage: Stage) -> None:
        await stage.sees("●")
        await stage.pilot.press("down", "enter", "escape", "tab")
        await stage.pilot.resize_terminal(1, 1)
        await stage.pilot.resize_terminal(*size)
        await stage.sees("●")

    play(serve_admin(documents(evil, *CROWD)), scene, size=size)


def test_without_a_terminal_it_says_what_to_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["top"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("appliance: error: `appliance top` needs a terminal, and standard input")
    assert "`appliance status --watch`, or --json" in err


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_has_only_lines_is_told_so(term: str, tmp_path: Path) -> None:
    with terminal("top", "--socket", str(tmp_path / "a.sock"), term=term, columns=200) as shown:
        assert shown.wait_ended() == 2
        assert f"TERM is {term!r}: use `appliance status --watch`" in shown.text


@pytest.mark.parametrize("period", ["0", "-1", "inf", "nan", "0.01"])
def test_a_period_that_would_be_a_burden_is_refused(
    period: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--period", period]) == 2
    assert "a number from 0.1 is expected" in capsys.readouterr().err
