"""Traces served by a strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.scheduling import Scheduler
from appliance.scheduling.choice import Strategy
from appliance.scheduling.events import Request
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies import Said, load_strategy
from appliance.scheduling.strategies.scored import Policy, Scored
from support.simulation import MS, Ask, Model, Record, Simulation, Trace

FOUR = Model(name="policy", max_batch=4, base_ns=4 * MS, row_ns=MS)
ONE = Model(name="policy", row_ns=10 * MS)
VISION = Model(name="vision", max_batch=4, base_ns=4 * MS, row_ns=MS)
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


def ask(session: str, at: float = 1.0, budget: float = 1000, **different: object) -> Ask:
    """An observation; milliseconds."""
    return Ask(at_ns=round(at * MS), session=session, budget_ns=round(budget * MS), **different)


def trace(*asks: Ask, models: tuple[Model, ...] = (FOUR,)) -> Trace:
    """All of them, and a worker that has these models."""
    return Trace(models=models, slots=(("cpu-0", tuple(m.name for m in models)),), asks=asks)


def batches(record: Record) -> list[tuple[float, list[str]]]:
    """When each batch was started, milliseconds, and of whom."""
    return [
        (start.now_ns / MS, [request.session for request in start.batch.requests])
        for start in record.starts
    ]


def by_policy(
    policy: Policy, said: dict[str, Said] | None = None, *, name: str = "policy"
) -> StrategyMaker:
    """Return what lets a scheduler use a policy; clients say what `said` has."""

    def says(request: Request) -> Said:
        return (said or {}).get(request.client, Said())

    return StrategyMaker(name, lambda streams: Scored(policy, streams, says))
