"""The commands that ask a running appliance over its admin socket."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from appliance.admin import client as admin
from appliance.cli import NOT_QUITE, OK
from appliance.cli.documents import TIMEOUT_S, exit_code, fetch, fetch_status, readable
from appliance.cli.socket_path import default_socket_path
from appliance.errors import AdminUnreachable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from appliance.metrics.status import ClientList

POLL_S = 0.2
CHANGE_TIMEOUT_S = 600.0
"""For a model to be loaded and warmed up, and the former one to finish."""


def status(arguments: argparse.Namespace) -> int:
    """Show `/v1/status`; 0 if ready, else 1."""
    path = _socket(arguments)
    if arguments.watch:
        return _watch(path, as_json=arguments.json)
    document = fetch_status(path)
    if arguments.json:
        _print_json(document)
    else:
        from appliance.cli.status_view import status_view

        _print_view(lambda width: status_view(document, width))
    return exit_code(document)


def clients(arguments: argparse.Namespace) -> int:
    """Show `/v1/clients`."""
    document = cast("ClientList", fetch(_socket(arguments), "/v1/clients"))
    if arguments.json:
        _print_json(document)
    else:
        from appliance.cli.tables import clients_view

        _print_view(lambda width: clients_view(document["clients"], width))
    return OK


def models(arguments: argparse.Namespace) -> int:
    """Show the models of `/v1/status`, or have one loaded or unloaded."""
    if arguments.action != "list":
        return _change_model(_socket(arguments), arguments.action, arguments.model)
    document = fetch_status(_socket(arguments))
    if arguments.json:
        with readable():
            _print_json({"models": document["models"]})
    else:
        from appliance.cli.tables import models_view

        _print_view(lambda width: models_view(document["models"], width))
    return OK


def _change_model(path: str, action: str, model: str) -> int:
    answer = admin.post(path, f"/v1/models/{action}", CHANGE_TIMEOUT_S, {"name": model})
    with readable():
        version = cast("dict[str, Any]", answer).get("version")
    print(f"{model}: version {version} is served" if version else f"{model} is served no more")
    return OK


def drain(arguments: argparse.Namespace) -> int:
    """Ask it to finish and stop; with `--wait`, return when it has."""
    path = _socket(arguments)
    before = fetch_status(path)
    admin.post(path, "/v1/drain", TIMEOUT_S)
    if arguments.wait:
        _wait_until_gone(path, before["instance"])
        print("stopped")
    else:
        print(f"draining: {before['requests']['in_flight']} in flight")
    return OK


def reload(arguments: argparse.Namespace) -> int:
    """Have it read its configuration again; 1 if that cannot be used."""
    answer = admin.post(_socket(arguments), "/v1/reload", TIMEOUT_S)
    with readable():
        document = cast("dict[str, Any]", answer)
        error, changed = document["error"], document["changed"]
        pending = document.get("pending", [])
    if error:
        print(f"not applied: {error}")
        return NOT_QUITE
    print(f"applied: {', '.join(changed) or 'nothing has changed'}")
    for change in pending:
        print(f"not served yet: {change}")
    if pending:
        print("start another instance with `appliance serve --standby`, and drain this one")
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": status,
    "clients": clients,
    "models": models,
    "drain": drain,
    "reload": reload,
}


def _watch(path: str, *, as_json: bool) -> int:
    from appliance.cli.watch import watch_json, watch_view

    fetch_again = partial(fetch_status, path)
    with readable():
        if as_json:
            return watch_json(fetch_again, time.sleep)
        return watch_view(fetch_again, time.sleep, _console())


def _wait_until_gone(path: str, instance: str) -> None:
    """Return when nobody answers, or another instance does: a service manager is quick."""
    try:
        while fetch_status(path)["instance"] == instance:
            time.sleep(POLL_S)
    except AdminUnreachable:
        return


def _socket(arguments: argparse.Namespace) -> str:
    return arguments.socket or default_socket_path(existing=True)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _print_view(view: Callable[[int], RenderableType]) -> None:
    console = _console()
    with readable():
        console.print(view(console.width))
