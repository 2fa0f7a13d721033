"""Makes the pictures of `appliance top` in docs/images, and measures what it costs.

`python -m support.pictures_of_top`: a real appliance under load, `top` in a real terminal, its
screen as SVG.
"""

from __future__ import annotations

import io
import re
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from support.box import Box, box
from support.fleet_models import add_sleeper
from support.robots import Plan, robots
from support.terminal import Terminal, terminal

IMAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
SETTLE_S = 12.0
MEASURED_S = 20.0
WANTED_PORT = 5555

CONFIG = """
appliance_id = "cell-4"

[transport]
bind = ["tcp://127.0.0.1:{port}"]
disconnect_timeout_s = 3.0

[[workers]]
name = "policies"
models = ["policy"]

[[workers]]
name = "senses"
models = ["detector"]
"""
PLANS = (
    *(Plan(f"arm-{n}", "policy", 25, steps=12) for n in range(1, 7)),
    *(Plan(f"gripper-{n}", "policy", 50, kind="gripper", steps=6) for n in (1, 2)),
    *(Plan(f"cart-{n}", "policy", 10, kind="cart", steps=10, jitter=0.4) for n in range(1, 5)),
    Plan("humanoid-1", "policy", 30, kind="humanoid", steps=1, step_ms=4),
    Plan("camera-north", "detector", 8, kind="camera", budget_ms=200),
    Plan("camera-south", "detector", 15, kind="camera", budget_ms=70, firm=True),
    Plan("picker-1", "detector", 6, kind="picker", steps=1, step_ms=30),
    Plan("cart-5", "policy", 10, kind="cart", leaves_s=5),
)
CROWD = tuple(Plan(f"robot-{n:03}", "policy", 5, steps=20) for n in range(100))

COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow"}
"""What pyte calls otherwise than rich does."""


def picture(shown: Terminal, name: str) -> None:
    """Write the screen as an SVG that needs nothing from elsewhere."""
    console = Console(record=True, width=shown.screen.columns, file=io.StringIO())
    for y in range(shown.screen.lines):
        line = Text()
        for x in range(shown.screen.columns):
            char = shown.screen.buffer[y][x]
            style = Style(bold=char.bold, color=_colour(char.fg), reverse=char.reverse)
            line.append(char.data, style)
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="appliance top", unique_id=name)
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def _colour(name: str) -> Color | None:
    if name == "default":
        return None
    name = COLOURS.get(name, name)
    return Color.parse(re.sub("^bright(?=[a-z])", "bright_", name))


def running(stack: ExitStack, plans: tuple[Plan, ...]) -> Box:
    models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    add_sleeper(models, "policy", ms=6, max_batch=8)
    add_sleeper(models, "detector", ms=40)
    port = _port()
    made = stack.enter_context(box(models, config=CONFIG.format(port=port)))
    stack.enter_context(robots(f"tcp://127.0.0.1:{port}", plans))
    return made


def _port() -> int:
    for port in (WANTED_PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return found.getsockname()[1]
    raise RuntimeError("no port is free")


def under_load() -> None:
    with ExitStack() as stack:
        made = running(stack, PLANS)
        top = ("top", "--socket", made.socket)
        wide = stack.enter_context(terminal(*top, columns=132, rows=34))
        narrow = stack.enter_context(terminal(*top, columns=80, rows=24))
        for shown in (wide, narrow):
            shown.watch(SETTLE_S)
        picture(wide, "top")
        wide.watch(0.5)
        narrow.send("ssss")
        narrow.wait_until(lambda: "by misses" in narrow.text)
        narrow.watch(1)
        picture(narrow, "top-80x24")
        narrow.send("/camera-s")
        narrow.wait_until(lambda: "1 of " in narrow.text)
        narrow.send("\r")
        narrow.wait_until(lambda: "quit" in narrow.text)
        narrow.send("\r")
        narrow.wait_until(lambda: "cadence" in narrow.text)
        picture(narrow, "top-details")


def cost() -> None:
    with ExitStack() as stack:
        made = running(stack, CROWD)
        shown = stack.enter_context(terminal("top", "--socket", made.socket, columns=132, rows=50))
        top = psutil.Process(shown.process.pid)
        shown.wait_until(lambda: "100 robots connected" in shown.text)
        before = sum(top.cpu_times()[:2])
        shown.watch(MEASURED_S)
        used = (sum(top.cpu_times()[:2]) - before) / MEASURED_S
        print(f"processor time of top at {len(CROWD)} robots: {used:.1%} of a core")


if __name__ == "__main__":
    under_load()
    cost()
