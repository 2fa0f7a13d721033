"""`appliance demo`: real models, simulated robots, and whether everybody agrees on what happened.

`run.py` tells the story; `server.py` and `robots.py` own the child processes; `robot.py` is what
runs inside a robot's process, through the SDK alone; `ledgers.py` and `report.py` are pure. May
import everything; called by `appliance.cli` only. Nothing heavy is imported until `run`.
"""

from __future__ import annotations

import argparse

MIN_ROBOTS, MAX_ROBOTS = 4, 64
DEFAULT_PLOT = "appliance-demo.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be written after `appliance demo`."""
    parser.add_argument(
        "--seconds", metavar="N", type=_seconds, default=20.0, help="how long robots ask (20)"
    )
    parser.add_argument(
        "--robots",
        metavar="N",
        type=_robots,
        default=8,
        help="arms, cameras, microphones and a noisy neighbour, each a process (8)",
    )
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument(
        "--plot",
        metavar="PATH",
        default=DEFAULT_PLOT,
        help=f"where the percentile plot goes ({DEFAULT_PLOT})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if every model answered and the ledgers are equal, else 1.

    Raises:
        ConfigError: A package that carries a model is not installed.
        ModuleNotFoundError: A package of the `demo` extra is not installed.
    """
    from appliance.cli.demo.run import run_demo

    return run_demo(
        seconds=arguments.seconds,
        robots=arguments.robots,
        as_json=arguments.json,
        plot_path=arguments.plot,
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 86400")
    return seconds


def _robots(text: str) -> int:
    count = int(text)
    if not MIN_ROBOTS <= count <= MAX_ROBOTS:
        raise argparse.ArgumentTypeError(
            f"{text} is not between {MIN_ROBOTS} (one of each kind) and {MAX_ROBOTS}"
        )
    return count
