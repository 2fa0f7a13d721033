"""`appliance plan`: how many robots a box will carry, by its scheduler in virtual time.

`description` reads FLEET.toml; `trials` simulates fleets, in two processes; `search` (pure) says
which sizes to try and finds the largest that is served well enough; `report` and `plot` show it.
With `--replay`, `recorded` reads a recording and `replayed` has it served anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.cli import NOT_QUITE, OK
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.cli.plan.description import Description
    from appliance.cli.plan.report import Document

NO_MATPLOTLIB = "no plot: matplotlib is not installed: pip install 'appliance[demo]'"


def run(arguments: argparse.Namespace) -> int:
    """Plan; 0 if the fleet is within its target, or nothing says what the target is, else 1.

    Raises:
        ConfigError: A file cannot be used, or the words do not go together.
        RecordingError: The file is no recording, is broken, or holds nothing to be served anew.
    """
    _check(arguments)
    if arguments.replay is not None:
        return _replay(arguments)
    from appliance.cli.plan.description import load
    from appliance.cli.plan.report import show

    path = Path(arguments.fleet)
    description = load(path)
    _check_plot(arguments.plot)
    document = _search(arguments, description)
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
    if arguments.plot is not None:
        _plot(Path(arguments.plot), document)
    return OK if document["within"] else NOT_QUITE


def _check(arguments: argparse.Namespace) -> None:
    if arguments.replay is None and arguments.fleet is None:
        raise ConfigError("plan: name a FLEET.toml, or a recording with --replay")
    if arguments.replay is None and arguments.config is not None:
        raise ConfigError("plan: --config goes with --replay; a fleet is described in its own file")
    if arguments.replay is not None and (arguments.plot or arguments.without_advice):
        raise ConfigError("plan: --plot and --without-advice are of a fleet, not of a recording")


def _check_plot(path: str | None) -> None:
    """Say what stands in the way of the plot before minutes have passed."""
    if path is None:
        return
    from importlib.util import find_spec

    if not Path(path).parent.is_dir():
        raise ConfigError(f"--plot: {path}: there is no directory {Path(path).parent}")
    if find_spec("matplotlib") is None:
        print(NO_MATPLOTLIB, file=sys.stderr)


def _search(arguments: argparse.Namespace, description: Description) -> Document:
    from appliance.cli.plan.report import document
    from appliance.cli.plan.search import find_largest, sizes_around
    from appliance.cli.plan.trials import Trials

    with Trials(description, arguments.processes, obeys=not arguments.without_advice) as trials:
        around = sizes_around(description.size)
        known = trials.judge(around)
        largest = find_largest(
            {robots: found.within for robots, found in known.items()},
            lambda robots: trials.judge([robots])[robots].within,
            description.largest_size,
        )
        return document(arguments.fleet, description, trials, largest, around)


def _plot(path: Path, document: Document) -> None:
    try:
        from appliance.cli.plan.plot import write_plot
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print(NO_MATPLOTLIB, file=sys.stderr)
        return
    try:
        write_plot(path, document)
    except OSError as error:
        raise ConfigError(f"--plot: {path}: cannot be written: {error.strerror}") from error
    print(f"plot: {path}", file=sys.stderr)


def _replay(arguments: argparse.Namespace) -> int:
    from appliance.cli.plan.description import load
    from appliance.cli.plan.recorded import read
    from appliance.cli.plan.replayed import document, serve, show
    from appliance.config import load as load_config

    described = None if arguments.fleet is None else load(Path(arguments.fleet), robots=False)
    config = load_config(None if arguments.config is None else Path(arguments.config))
    found = read(Path(arguments.replay), config)
    workers = None if arguments.config is None else config.workers
    result: dict[str, Any] = document(serve(found, described, workers), described)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return NOT_QUITE if result["within"] is False else OK
