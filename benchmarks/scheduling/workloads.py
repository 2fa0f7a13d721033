"""The fleets in which schedulers are judged."""

from __future__ import annotations

from attrs import evolve, frozen

from appliance.simulation import (
    Burst,
    Chunks,
    Fleet,
    LinearEngine,
    RobotClass,
    WorkerSlot,
    apportion,
)

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SWITCH_NS = 200 * MICROSECOND_NS


@frozen
class Share:
    """A class of robots and what share of the fleet it is; its count is not looked at."""

    share: float
    kind: RobotClass


@frozen(kw_only=True)
class Workload:
    """Engines, and robots in proportion.

    Attributes:
        full_batch: Load 1.0 is the accelerator busy all the time with batches of this size.
    """

    engines: tuple[LinearEngine, ...]
    shares: tuple[Share, ...]
    full_batch: int


@frozen(kw_only=True)
class Variation:
    """How a fleet differs from the workload as it is described.

    Attributes:
        obedience: Share of robots that follow phase advice.
        flood: With one robot more, that declares 10 Hz and sends 400 Hz in bursts.
        in_phase: All robots observe at the same instants at first.
        jitter: Factor of all that is random in when observations are made and arrive.
        sigma: Standard deviation of the logarithm of execution times.
        spike_share: Share of batches that take half as long again.
    """

    obedience: float = 0.0
    flood: bool = False
    in_phase: bool = False
    jitter: float = 1.0
    sigma: float = 0.03
    spike_share: float = 0.003


def robots(
    name: str, model: str, rate_hz: float, budget_ms: float | None, tier: int = 1
) -> RobotClass:
    """Return a class of robots."""
    budget_ns = None if budget_ms is None else round(budget_ms * MILLISECOND_NS)
    return RobotClass(
        name=name, model=model, rate_hz=rate_hz, budget_ns=budget_ns, tier=tier, count=0
    )


def engine(name: str, base_ms: float, row_ms: float, max_batch: int) -> LinearEngine:
    """Return an engine."""
    return LinearEngine(
        name=name,
        base_ns=round(base_ms * MILLISECOND_NS),
        row_ns=round(row_ms * MILLISECOND_NS),
        max_batch=max_batch,
    )


SLOW_VISION = (
    Share(0.30, robots("camera", "vision", 15, 66)),
    Share(0.10, robots("critical", "vision", 20, 50, tier=0)),
)


def chunked(name: str, rate_hz: float, step_ms: float) -> RobotClass:
    """Return robots of the policy that get 16 steps at once, and begin an episode every 20 s."""
    chunks = Chunks(
        steps=16,
        step_period_ns=round(step_ms * MILLISECOND_NS),
        episode_ns=20_000 * MILLISECOND_NS,
    )
    return evolve(robots(name, "policy", rate_hz, None), chunks=chunks)


FAST_ENGINES = (engine("policy", 6.0, 0.75, 16), engine("vision", 1.5, 0.35, 16))
FAST_VISION = (
    Share(0.25, robots("camera", "vision", 30, 33)),
    Share(0.10, robots("critical", "vision", 50, 20, tier=0)),
)

WORKLOADS: dict[str, Workload] = {
    "w1": Workload(
        engines=FAST_ENGINES,
        shares=(
            Share(0.40, robots("arm", "policy", 5, 100)),
            Share(0.25, robots("base", "policy", 10, 60)),
            *FAST_VISION,
        ),
        full_batch=8,
    ),
    "w2": Workload(
        engines=(engine("policy", 20.0, 3.0, 8), engine("vision", 3.0, 0.8, 8)),
        shares=(
            Share(0.35, robots("arm", "policy", 2, 400)),
            Share(0.25, robots("fast", "policy", 4, 200)),
            *SLOW_VISION,
        ),
        full_batch=4,
    ),
    "w3": Workload(
        engines=FAST_ENGINES,
        shares=(
            Share(0.40, chunked("arm", 5, 20)),
            Share(0.25, chunked("base", 10, 10)),
            *FAST_VISION,
        ),
        full_batch=8,
    ),
}

FLOOD = evolve(
    robots("flood", "policy", 10, 100),
    count=1,
    burst=Burst(rate_hz=400, on_ns=500 * MILLISECOND_NS, cycle_ns=1000 * MILLISECOND_NS),
    counted=False,
)


def with_engines(workload: Workload, engines: tuple[LinearEngine, ...]) -> Workload:
    """Return a workload on other engines, of the same names; none: on its own."""
    return evolve(workload, engines=engines) if engines else workload


def fleet_of(workload: Workload, load: float, variation: Variation) -> Fleet:
    """Return the fleet that a workload is at a load."""
    costs_ms = {
        each.name: (each.base_ns / workload.full_batch + each.row_ns) / MILLISECOND_NS
        for each in workload.engines
    }
    busy = sum(
        each.share * each.kind.rate_hz / 1000 * costs_ms[each.kind.model]
        for each in workload.shares
    )
    counts = apportion(round(load / busy), [each.share for each in workload.shares])
    classes = [
        varied(evolve(each.kind, count=count), variation)
        for each, count in zip(workload.shares, counts, strict=True)
    ]
    if variation.flood:
        classes.append(varied(FLOOD, variation))
    engines = tuple(
        evolve(each, sigma=variation.sigma, spike_share=variation.spike_share)
        for each in workload.engines
    )
    return Fleet(
        engines=engines,
        workers=(WorkerSlot("accelerator-0", tuple(each.name for each in engines)),),
        robots=tuple(classes),
        switch_ns=SWITCH_NS,
    )


def varied(kind: RobotClass, variation: Variation) -> RobotClass:
    """Return a class of robots as a variation has it."""
    network, jitter = kind.network, variation.jitter
    return evolve(
        kind,
        jitter_ns=round(kind.jitter_ns * jitter),
        network=evolve(
            network,
            spread_ns=round(network.spread_ns * jitter),
            straggler_share=network.straggler_share * jitter,
        ),
        in_phase=variation.in_phase,
        obedience=variation.obedience,
    )


def slowed(fleet: Fleet, factor: float) -> Fleet:
    """Return a fleet in slow motion: whatever takes time takes `factor` times as long."""
    return evolve(
        fleet,
        engines=tuple(
            evolve(each, base_ns=round(each.base_ns * factor), row_ns=round(each.row_ns * factor))
            for each in fleet.engines
            if isinstance(each, LinearEngine)
        ),
        robots=tuple(_slowed(kind, factor) for kind in fleet.robots),
        switch_ns=round(fleet.switch_ns * factor),
    )


def _slowed(kind: RobotClass, factor: float) -> RobotClass:
    network = kind.network
    return evolve(
        kind,
        rate_hz=kind.rate_hz / factor,
        budget_ns=None if kind.budget_ns is None else round(kind.budget_ns * factor),
        jitter_ns=round(kind.jitter_ns * factor),
        network=evolve(
            network,
            least_ns=round(network.least_ns * factor),
            spread_ns=round(network.spread_ns * factor),
            straggler_ns=round(network.straggler_ns * factor),
            return_ns=round(network.return_ns * factor),
        ),
    )
