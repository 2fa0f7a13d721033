"""Traces served by a strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.scheduling import Scheduler
from appliance.scheduling.choice import Strategy
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies import load_strategy
from support.simulation import Record, Simulation, Trace

BUILT_IN = ("deadline_aware", "batch_optimized", "priority_tiered", "round_robin")


def simulation_with(
    trace: Trace,
    maker: StrategyMaker | None,
    *,
    clock_ns: Callable[[], int] | None = None,
    on_answer: Callable[..., None] | None = None,
) -> Simulation:
    """Set a trace up that is served by a strategy."""
    scheduler = Scheduler(trace.max_queue_size, trace.overflow_policy, trace.max_retries, clock_ns)
    scheduler.use_strategy(maker)
    return Simulation(trace, scheduler, on_answer)


def served_by(trace: Trace, name: str, **parameters: Any) -> Record:
    """Run a trace to its end with a strategy that is found by name, and keeps the rules."""
    world = simulation_with(trace, load_strategy(name, parameters))
    record = world.run()
    assert world.scheduler.fault is None
    return record


def made(strategy: Strategy) -> StrategyMaker:
    """Return what lets a scheduler use a strategy."""
    return StrategyMaker("mine", lambda _: strategy)
