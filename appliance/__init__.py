"""An inference appliance for robot fleets: actions before each robot needs them.

On a robot controller:

    from appliance import Connection

    with Connection("box.local:5555", client_id="arm-3") as connection:
        policy = connection.model("pick", latency_budget_ms=50)
        policy.observe(camera=image, state=joints, prompt="pick up the cup")
        result = policy.get_result(timeout_ms=40)

The names below are loaded when they are first used, so that the command line stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.client.aio import AsyncConnection, AsyncModel
    from appliance.client.chunks import Blend
    from appliance.client.connection import Connection, Model
    from appliance.client.episode import Episode, Step
    from appliance.client.images import JpegImages
    from appliance.client.result import Encoded, Result
    from appliance.client.statistics import Statistics
    from appliance.client.ticks import Tick
    from appliance.client.trio import TrioConnection
    from appliance.errors import (
        ApplianceError,
        ExtraMissing,
        KeyFileError,
        Outcome,
        WindowFull,
    )
    from appliance.keys.files import ClientKeys

__version__ = "0.1.0"

__all__ = [
    "ApplianceError",
    "AsyncConnection",
    "AsyncModel",
    "Blend",
    "ClientKeys",
    "Connection",
    "Encoded",
    "Episode",
    "ExtraMissing",
    "JpegImages",
    "KeyFileError",
    "Model",
    "Outcome",
    "Result",
    "Statistics",
    "Step",
    "Tick",
    "TrioConnection",
    "WindowFull",
]

_HOMES = {
    "ApplianceError": "appliance.errors",
    "AsyncConnection": "appliance.client.aio",
    "AsyncModel": "appliance.client.aio",
    "Blend": "appliance.client.chunks",
    "ClientKeys": "appliance.keys.files",
    "Connection": "appliance.client.connection",
    "Encoded": "appliance.client.result",
    "Episode": "appliance.client.episode",
    "ExtraMissing": "appliance.errors",
    "JpegImages": "appliance.client.images",
    "KeyFileError": "appliance.errors",
    "Model": "appliance.client.connection",
    "Outcome": "appliance.errors",
    "Result": "appliance.client.result",
    "Statistics": "appliance.client.statistics",
    "Step": "appliance.client.episode",
    "Tick": "appliance.client.ticks",
    "TrioConnection": "appliance.client.trio",
    "WindowFull": "appliance.errors",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
