"""PURE: a fleet of robots and its workers in virtual time, for whatever schedules as we do.

A `Fleet` says which robots ask what and how long engines take; `simulate` lets anything with
`handle(events, now_ns) -> Decision` serve it and returns a `Record` of each request; `score` sums
it up. `replay` does the same for arrivals that were recorded. Time is virtual, in integer
nanoseconds; one seed gives one result. The scheduler is told what the wire, the configuration and
the clock would tell it, and nothing else. Imports `appliance.scheduling`'s vocabulary,
`appliance.errors` and `appliance.values` only.
"""

from appliance.simulation.execution import Engine, LinearEngine, MeasuredEngine, RecordedEngine
from appliance.simulation.fleet import (
    Burst,
    Chunks,
    Fleet,
    Footprint,
    Network,
    RobotClass,
    WorkerSlot,
)
from appliance.simulation.mix import apportion, of_size
from appliance.simulation.record import Asked, Record
from appliance.simulation.robots import Arrival
from appliance.simulation.score import Score, Span, score
from appliance.simulation.world import Schedules, replay, simulate

__all__ = [
    "Arrival",
    "Asked",
    "Burst",
    "Chunks",
    "Engine",
    "Fleet",
    "Footprint",
    "LinearEngine",
    "MeasuredEngine",
    "Network",
    "Record",
    "RecordedEngine",
    "RobotClass",
    "Schedules",
    "Score",
    "Span",
    "WorkerSlot",
    "apportion",
    "of_size",
    "replay",
    "score",
    "simulate",
]
