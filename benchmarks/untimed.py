"""`python -m benchmarks.untimed`: an appliance; at SIGUSR1 without its timeline, until SIGUSR2."""

from __future__ import annotations

import signal
import sys
from typing import Any

from appliance.cli import main
from appliance.dispatch.timeline import Timeline

TOLD = ("staged", "finished", "revoked", "lost", "ended")
KEPT = {name: getattr(Timeline, name) for name in TOLD}


def _nothing(*_: Any) -> None:
    """Take nothing down."""


def _switch(number: int, _: object) -> None:
    for name in TOLD:
        setattr(Timeline, name, _nothing if number == signal.SIGUSR1 else KEPT[name])


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _switch)
    signal.signal(signal.SIGUSR2, _switch)
    sys.exit(main(sys.argv[1:]))
