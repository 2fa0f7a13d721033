"""The robots of a fleet, each with its phase, clock and obedience drawn."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from appliance.simulation.cadence import Cadence
from appliance.simulation.chunked import ChunkedRobot
from appliance.simulation.fleet import Fleet, RobotClass
from appliance.simulation.robots import FloodingRobot, PeriodicRobot, Robot


def population(fleet: Fleet, random: Random) -> list[Robot]:
    """Make every robot of a fleet, class by class."""
    return [robot for kind in fleet.robots for robot in _robots(fleet, kind, random)]


def _robots(fleet: Fleet, kind: RobotClass, random: Random) -> Iterator[Robot]:
    for number in range(kind.count):
        client = f"{kind.name}-{number}"
        if kind.burst is not None:
            yield FloodingRobot(client=client, kind=kind)
            continue
        cadence = Cadence.begin(kind, random)
        obeys = random.random() < kind.obedience
        if kind.chunks is None:
            yield PeriodicRobot(client=client, kind=kind, obeys=obeys, cadence=cadence)
        else:
            yield ChunkedRobot(
                client=client,
                kind=kind,
                chunks=kind.chunks,
                obeys=obeys,
                cadence=cadence,
                least_ns=fleet.engine(kind.model).mean_ns(1),
            )
