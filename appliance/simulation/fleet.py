"""What a fleet is: classes of robots, engines and workers. Plain values."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from appliance.errors import ConfigError
from appliance.simulation.execution import Engine

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


@frozen(kw_only=True)
class Network:
    """The way from a robot to the box: a constant, an exponential part, now and then a straggler.

    Attributes:
        least_ns: What every observation takes.
        spread_ns: Mean of what is added to it, exponentially distributed.
        straggler_share: Share of observations that take another exponential time, of mean
            `straggler_ns`.
        return_ns: What every answer takes.
    """

    least_ns: int = MILLISECOND_NS // 2
    spread_ns: int = MILLISECOND_NS // 2
    straggler_share: float = 0.01
    straggler_ns: int = 4 * MILLISECOND_NS
    return_ns: int = MILLISECOND_NS


@frozen(kw_only=True)
class Chunks:
    """A robot that executes chunks of actions, each row at its instant after the capture.

    Attributes:
        steps: Rows of a chunk.
        step_period_ns: From one row to the next.
        episode_ns: Mean length of an episode, which begins without actions; each lasts between
            half and one and a half of it.
    """

    steps: int
    step_period_ns: int
    episode_ns: int

    @property
    def length_ns(self) -> int:
        """From the capture to the end of the last row."""
        return self.steps * self.step_period_ns


@frozen(kw_only=True)
class Burst:
    """A robot that floods: random observations at `rate_hz` for `on_ns` of every `cycle_ns`."""

    rate_hz: float
    on_ns: int
    cycle_ns: int


@frozen(kw_only=True)
class RobotClass:
    """Robots of one kind.

    Attributes:
        model: What they ask.
        rate_hz: How often they observe; what they declare, if they do.
        budget_ns: From capture to the answer at the robot; None: only what is left of a chunk.
        count: How many there are.
        firm: Refused rather than late.
        declares_period: Whether the box is told the rate.
        jitter_ns: Standard deviation of the instant of capture.
        drift: Largest relative error of their clocks.
        in_phase: All observe at the same instant at first.
        obedience: Share of robots that follow phase advice.
        slew: Largest shift in a cycle, as a share of the period.
        counted: Whether the score looks at them.
    """

    name: str
    model: str
    rate_hz: float
    budget_ns: int | None
    count: int
    tier: int = 1
    firm: bool = True
    declares_period: bool = True
    network: Network = field(factory=Network)
    jitter_ns: int = MILLISECOND_NS // 2
    drift: float = 50e-6
    in_phase: bool = False
    obedience: float = 1.0
    slew: float = 0.1
    chunks: Chunks | None = None
    burst: Burst | None = None
    counted: bool = True

    @property
    def period_ns(self) -> int:
        """From one observation to the next."""
        return round(SECOND_NS / self.rate_hz)


@frozen
class Footprint:
    """What a model takes of a worker's memory, and how long it takes to load it."""

    memory_bytes: int
    load_ns: int


@frozen
class WorkerSlot:
    """One worker and the names of the models it hosts.

    Attributes:
        budget_bytes: What those in memory may take; 0: all are, always.
    """

    slot: str
    models: tuple[str, ...]
    budget_bytes: int = 0


@frozen(kw_only=True)
class Fleet:
    """Everybody.

    Attributes:
        switch_ns: What a batch takes longer if its worker ran another model before.
        footprints: Of the models of workers with a budget, by name.

    Raises:
        ConfigError: A class asks a model that no worker hosts, or a worker hosts one that has no
            engine.
    """

    engines: tuple[Engine, ...]
    workers: tuple[WorkerSlot, ...]
    robots: tuple[RobotClass, ...] = ()
    switch_ns: int = 0
    footprints: Mapping[str, Footprint] = field(factory=dict[str, Footprint])

    def __attrs_post_init__(self) -> None:
        names = {engine.name for engine in self.engines}
        hosted = {model for worker in self.workers for model in worker.models}
        for worker in self.workers:
            for model in worker.models:
                if model not in names:
                    raise ConfigError(
                        f"worker {worker.slot!r} hosts the model {model!r}, which has no engine; "
                        f"there are engines for: {', '.join(sorted(names))}"
                    )
        for kind in self.robots:
            if kind.model not in hosted:
                raise ConfigError(
                    f"robots {kind.name!r} ask the model {kind.model!r}, which no worker hosts; "
                    f"hosted are: {', '.join(sorted(hosted))}"
                )

    def engine(self, name: str) -> Engine:
        """Return the engine of a model."""
        return next(engine for engine in self.engines if engine.name == name)
