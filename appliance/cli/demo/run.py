"""The story of `appliance demo`: start, let robots ask, stop, compare, show."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console

from appliance.admin.client import AdminUnreachable
from appliance.cli.demo.models import build_repository
from appliance.cli.demo.plot import write_plot
from appliance.cli.demo.report import Document, add_problem, make_document, summary
from appliance.cli.demo.reports import RobotReport
from appliance.cli.demo.robots import Fleet, RobotFailed
from appliance.cli.demo.roster import configuration, roster
from appliance.cli.demo.server import Server
from appliance.cli.demo.view import Screen
from appliance.errors import WorkerNotReady
from appliance.metrics.status import Status

LONGEST_DIRECTORY = 60
"""A socket's path has at most 107 characters."""

REFRESH_S = 1.0
TERMINATED = 128 + signal.SIGTERM


def run_demo(*, seconds: float, robots: int, as_json: bool, plot_path: str) -> int:
    """Run the demo, show what came of it, and return the exit code; see `run`."""
    screen = Screen()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        document, reports = _measure(screen, seconds, robots)
    except (RobotFailed, WorkerNotReady, AdminUnreachable) as error:
        screen.say(str(error), "red")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    _plot(document, reports, Path(plot_path))
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        Console(highlight=False, markup=False, emoji=False).print(summary(document), soft_wrap=True)
    for problem in document["problems"]:
        screen.say(f"demo: {problem}", "red")
    return 0 if document["ok"] else 1


def _measure(screen: Screen, seconds: float, count: int) -> tuple[Document, list[RobotReport]]:
    """Run appliance and robots; return the document, still without plot. Nothing is left over."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="appliance-demo-", dir=_short_directory()))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        plans = roster(count)
        screen.say("building the models")
        build_repository(directory / "models")
        bind, socket = f"ipc://{directory}/robots", directory / "admin"
        config = directory / "appliance.toml"
        config.write_text(
            configuration(models=directory / "models", bind=bind, socket=socket, robots=plans)
        )
        screen.say("starting the appliance")
        server = Server.start(config, socket, directory / "appliance.log")
        stack.callback(server.close)
        _wait_ready(screen, server)
        screen.say(f"starting {count} robots, each in a process of its own")
        fleet = Fleet(directory / "robots.log")
        stack.callback(fleet.close)
        fleet.start(plans, bind)
        fleet.wait_ready()
        fleet.go()
        _watch(screen, server, fleet, seconds)
        screen.say("waiting for the last answers")
        reports = fleet.finish()
        document = make_document(seconds=seconds, reports=reports, status=server.settled())
        screen.say("draining the appliance")
        code = server.drain()
        if code:
            add_problem(document, f"the appliance ended its drain with code {code}")
        return document, reports


def _wait_ready(screen: Screen, server: Server) -> None:
    """Wait for the appliance, and say so whenever there is something new to say."""
    said: list[str] = [""]

    def tell(status: Status | None) -> None:
        if status is None:
            return
        models = ", ".join(f"{model['name']} {model['state']}" for model in status["models"])
        if models != said[-1]:
            said.append(models)
            screen.say(f"  {models}")

    began = time.monotonic()
    server.wait_ready(tell)
    screen.say(f"  ready after {time.monotonic() - began:.1f} s")


def _watch(screen: Screen, server: Server, fleet: Fleet, seconds: float) -> None:
    """Show how it goes, each second, until the time is up."""
    began = time.monotonic()
    with screen.live():
        while (elapsed := time.monotonic() - began) < seconds:
            fleet.check()
            screen.show(server.status(), fleet.robots, elapsed, seconds)
            time.sleep(min(REFRESH_S, max(0.0, began + seconds - time.monotonic())))


def _plot(document: Document, reports: list[RobotReport], path: Path) -> None:
    """Write the plot; if that fails, it is a problem among others."""
    title = f"{len(reports)} robots on one appliance, {document['seconds']:g} s"
    try:
        write_plot(path, reports, title)
    except OSError as error:
        add_problem(document, f"the plot cannot be written to {path}: {error.strerror or error}")
    else:
        document["plot"] = str(path.resolve())


def _short_directory() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= LONGEST_DIRECTORY else "/tmp"  # noqa: S108  for mkdtemp


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(TERMINATED)
