"""`python -m benchmarks.roles NAME OPTIONS`: what a child process of the benchmarks does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from benchmarks import clients, controller, floors, observing, page
from benchmarks.scheduling import robots

ROLES: dict[str, Callable[..., None]] = {
    "ping": clients.ping,
    "pump": clients.pump,
    "pace": clients.pace,
    "beat": clients.beat,
    "crowd": clients.crowd,
    "rain": clients.rain,
    "sdk_ping": clients.sdk_ping,
    "sdk_loop": clients.sdk_loop,
    "controller": controller.controller,
    "bare_loop": controller.bare_loop,
    "observer": observing.observer,
    "echo_router": floors.echo_router,
    "echo_worker": floors.echo_worker,
    "bare_copies": floors.bare_copies,
    "bare_load": floors.bare_load,
    "bare_path": floors.bare_path,
    "bare_timer": floors.bare_timer,
    "open_page": page.open_page,
    "fleet": robots.fleet,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
