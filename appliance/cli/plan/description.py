"""FLEET.toml: robots, engine times and workers, as a frozen tree that becomes a simulated fleet.

docs/planning.md has every key. Where the configuration has the same thing, it has the same name,
bounds and default here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from attrs import field, frozen
from attrs.validators import and_, deep_iterable, ge, le, matches_re, optional

from appliance import config
from appliance.config import EVERY_MODEL, NOT_NEGATIVE, POSITIVE, TIER
from appliance.errors import ConfigError
from appliance.keys.files import NAME
from appliance.simulation import (
    Chunks,
    Engine,
    Fleet,
    LinearEngine,
    MeasuredEngine,
    Network,
    RobotClass,
    WorkerSlot,
    apportion,
)
from appliance.structure import read_toml, structure

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
SHARES_SUM_WITHIN = 1e-6
ROWS = re.compile(r"[1-9][0-9]{0,2}")

MOST_OBSERVATIONS = 1_000_000
"""Of one simulation, which keeps them all in memory: some 500 bytes each."""

MOST_ROBOTS = 10_000
MOST_BATCH = 256
LARGEST_SCALE = 2.0
"""Of the fleets around the described one."""

MILLISECONDS = and_(ge(0.0), le(1e6))
PERCENT = and_(ge(0.0), le(100.0))
SHARE = and_(ge(1e-6), le(1.0))


@frozen(kw_only=True)
class Model:
    """How long the batches of a model take, gathering and preprocessing included.

    Attributes:
        base_ms, row_ms: A batch of n rows takes base_ms + n x row_ms; with `max_batch`.
        times_ms: Instead, batch size to time; the largest is `max_batch`.
        noise_percent: Standard deviation of the logarithm of times, in percent.
        spike_percent: So many batches take half as long again.
    """

    base_ms: float | None = field(default=None, validator=optional(MILLISECONDS))
    row_ms: float | None = field(default=None, validator=optional(MILLISECONDS))
    max_batch: int | None = field(default=None, validator=optional(and_(ge(1), le(MOST_BATCH))))
    times_ms: dict[str, float] | None = None
    noise_percent: float = field(default=3.0, validator=PERCENT)
    spike_percent: float = field(default=0.3, validator=PERCENT)

    def __attrs_post_init__(self) -> None:
        """Refuse what is neither of the two forms."""
        linear = (self.base_ms, self.row_ms, self.max_batch)
        if self.times_ms is None:
            if self.base_ms is None or self.row_ms is None or self.max_batch is None:
                raise ValueError(
                    "times_ms: is missing; give it, as {1 = 7.0, ...}, or base_ms, row_ms and "
                    "max_batch"
                )
            if self.base_ms + self.row_ms <= 0:
                raise ValueError("base_ms: found 0, as row_ms; one row takes some time")
        elif any(each is not None for each in linear):
            raise ValueError("times_ms: found beside base_ms, row_ms or max_batch; give either")
        else:
            _check_times(self.times_ms)

    def engine(self, name: str) -> Engine:
        """Return it as the simulation knows it."""
        sigma, spikes = self.noise_percent / 100, self.spike_percent / 100
        if self.times_ms is not None:
            times_ns = {int(rows): _ns(time_ms) for rows, time_ms in self.times_ms.items()}
            return MeasuredEngine(name=name, times_ns=times_ns, sigma=sigma, spike_share=spikes)
        assert self.base_ms is not None
        assert self.row_ms is not None
        assert self.max_batch is not None
        return LinearEngine(
            name=name,
            base_ns=_ns(self.base_ms),
            row_ns=_ns(self.row_ms),
            max_batch=self.max_batch,
            sigma=sigma,
            spike_share=spikes,
        )


def _check_times(times_ms: dict[str, float]) -> None:
    if not times_ms:
        raise ValueError("times_ms: found none; give the time of one batch size at least")
    for rows, time_ms in times_ms.items():
        if ROWS.fullmatch(rows) is None or int(rows) > MOST_BATCH:
            raise ValueError(f"times_ms: found the key {rows!r}; allowed: 1 to {MOST_BATCH} rows")
        if not 1e-3 <= time_ms <= 1e6:
            raise ValueError(f"times_ms.{rows}: found {time_ms}; allowed: 0.001 to 1000000")


@frozen(kw_only=True)
class NetworkTimes:
    """From capture to arrival: `least_ms`, and exponential parts; and the way back."""

    least_ms: float = field(default=0.5, validator=MILLISECONDS)
    spread_ms: float = field(default=0.5, validator=MILLISECONDS)
    straggler_percent: float = field(default=1.0, validator=PERCENT)
    straggler_ms: float = field(default=4.0, validator=MILLISECONDS)
    return_ms: float = field(default=1.0, validator=MILLISECONDS)

    def network(self) -> Network:
        """Return it as the simulation knows it."""
        return Network(
            least_ns=_ns(self.least_ms),
            spread_ns=_ns(self.spread_ms),
            straggler_share=self.straggler_percent / 100,
            straggler_ns=_ns(self.straggler_ms),
            return_ns=_ns(self.return_ms),
        )


@frozen(kw_only=True)
class Chunk:
    """Chunks of actions, as `[chunk]` of `model.toml` has them, and episodes."""

    horizon: int = field(validator=and_(ge(1), le(10_000)))
    step_period_ms: float = field(validator=POSITIVE)
    episode_s: float = field(default=60.0, validator=and_(ge(1), le(86_400)))

    def chunks(self) -> Chunks:
        """Return it as the simulation knows it."""
        return Chunks(
            steps=self.horizon,
            step_period_ns=_ns(self.step_period_ms),
            episode_ns=round(self.episode_s * SECOND_NS),
        )


@frozen(kw_only=True)
class Robots:
    """One `[[robots]]` table: robots of a kind, so many or such a share of the fleet."""

    name: str = field(validator=matches_re(NAME))
    model: str
    hz: float = field(validator=and_(ge(1e-3), le(1000)))
    latency_budget_ms: float | None = field(default=None, validator=optional(POSITIVE))
    tier: int = field(default=1, validator=TIER)
    count: int | None = field(default=None, validator=optional(and_(ge(1), le(MOST_ROBOTS))))
    share: float | None = field(default=None, validator=optional(SHARE))
    lateness: Literal["firm", "soft"] = "soft"
    jitter_ms: float = field(default=0.5, validator=MILLISECONDS)
    network: NetworkTimes = NetworkTimes()
    chunk: Chunk | None = None
    declares_period: bool = True
    obeys_advice: bool = True

    def __attrs_post_init__(self) -> None:
        """Refuse robots that never need their answers."""
        if self.latency_budget_ms is None and self.chunk is None:
            raise ValueError("latency_budget_ms: is missing; only robots with a chunk need none")

    def kind(self, count: int) -> RobotClass:
        """Return them as the simulation knows them."""
        budget_ms = self.latency_budget_ms
        return RobotClass(
            name=self.name,
            model=self.model,
            rate_hz=self.hz,
            budget_ns=None if budget_ms is None else _ns(budget_ms),
            count=count,
            tier=self.tier,
            firm=self.lateness == "firm",
            declares_period=self.declares_period,
            network=self.network.network(),
            jitter_ns=_ns(self.jitter_ms),
            obedience=float(self.obeys_advice),
            chunks=None if self.chunk is None else self.chunk.chunks(),
        )


@frozen(kw_only=True)
class Workers:
    """One `[[workers]]` table: `count` processes that host the models named."""

    name: str = field(default="gpu", validator=matches_re(NAME))
    count: int = field(default=1, validator=and_(ge(1), le(64)))
    models: tuple[str, ...] = (EVERY_MODEL,)


@frozen(kw_only=True)
class Target:
    """How many observations may go without an answer in time.

    Attributes:
        miss_percent: Of all.
        tier_0_miss_percent: Of those of tier 0.
    """

    miss_percent: float = field(default=1.0, validator=PERCENT)
    tier_0_miss_percent: float = field(default=0.1, validator=PERCENT)


@frozen(kw_only=True)
class Description:
    """The whole file.

    Attributes:
        fleet_size: How many robots there are, if classes have shares.
        workers: None: one that hosts every model; of a recording, those that it had.
        switch_ms: What a batch takes longer behind one of another model.
        seconds: How long each fleet is simulated.
        seeds: Each fleet is simulated with each of them.
    """

    models: dict[str, Model] = field(factory=dict[str, Model])
    robots: tuple[Robots, ...] = ()
    workers: tuple[Workers, ...] | None = None
    target: Target = Target()
    fleet_size: int | None = field(default=None, validator=optional(and_(ge(1), le(MOST_ROBOTS))))
    switch_ms: float = field(default=0.0, validator=NOT_NEGATIVE)
    seconds: float = field(default=40.0, validator=and_(ge(2), le(3600)))
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), validator=deep_iterable(and_(ge(0), le(1 << 31)))
    )

    @property
    def counts(self) -> list[int]:
        """How many robots there are of each class."""
        if self.fleet_size is None:
            return [each.count or 0 for each in self.robots]
        return apportion(self.fleet_size, [each.share or 0.0 for each in self.robots])

    @property
    def size(self) -> int:
        """How many robots there are."""
        return sum(self.counts)

    @property
    def switch_ns(self) -> int:
        """What a batch takes longer behind one of another model."""
        return _ns(self.switch_ms)

    @property
    def largest_size(self) -> int:
        """The largest fleet of this mix that is simulated."""
        rates = zip(self.robots, self.counts, strict=True)
        observations = sum(kind.hz * count for kind, count in rates) * self.seconds
        return min(MOST_ROBOTS, int(MOST_OBSERVATIONS / observations * self.size))

    def fleet(self) -> Fleet:
        """Return the fleet as it is described.

        Raises:
            ConfigError: Models, robots and workers do not go together.
        """
        return Fleet(
            engines=tuple(model.engine(name) for name, model in self.models.items()),
            workers=slots(self.workers or (Workers(),), self.models),
            robots=tuple(
                kind.kind(count) for kind, count in zip(self.robots, self.counts, strict=True)
            ),
            switch_ns=self.switch_ns,
        )


def slots(
    workers: Iterable[Workers | config.Workers], models: Iterable[str]
) -> tuple[WorkerSlot, ...]:
    """Return every worker process of some groups, with the models that it hosts."""
    every = tuple(models)
    return tuple(
        WorkerSlot(f"{group.name}-{number}", every if EVERY_MODEL in group.models else group.models)
        for group in workers
        for number in range(group.count)
    )


def load(path: Path, *, robots: bool = True) -> Description:
    """Read a description of a fleet.

    Args:
        robots: There have to be some, and models that they ask.

    Raises:
        ConfigError: It is unreadable or not TOML, a key is unknown, of the wrong type or out of
            range, or its parts do not go together.
    """
    description = structure(read_toml(path), Description, str(path))
    problems = list(_problems(description))
    if robots:
        problems += _problems_of_robots(description)
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    if robots:
        try:
            description.fleet()
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        if description.size * LARGEST_SCALE > description.largest_size:
            raise ConfigError(
                f"{path}: seconds: found {description.seconds:g}; in fleets of up to "
                f"{LARGEST_SCALE:g} times {description.size} robots that is more than "
                f"{MOST_OBSERVATIONS} observations or {MOST_ROBOTS} robots; simulate less"
            )
    return description


def _problems(description: Description) -> Iterator[str]:
    """Say what single keys cannot tell."""
    for key, names in (
        ("robots", [each.name for each in description.robots]),
        ("workers", [each.name for each in description.workers or ()]),
        ("seeds", list(description.seeds)),
    ):
        for name, times in Counter(names).items():
            if times > 1:
                yield f"{key}: {name!r} is there {times} times"
    if description.workers == ():
        yield "workers: found none; at least one is needed"
    if not 1 <= len(description.seeds) <= 20:
        yield f"seeds: found {len(description.seeds)}; allowed: 1 to 20"


def _problems_of_robots(description: Description) -> Iterator[str]:
    robots = description.robots
    if not description.models:
        yield "models: found none; describe at least one, as [models.NAME]"
    if not robots:
        yield "robots: found none; describe at least one class, as [[robots]]"
        return
    key, other = ("count", "share") if description.fleet_size is None else ("share", "count")
    why = "with fleet_size" if key == "share" else "without fleet_size"
    for index, each in enumerate(robots):
        if getattr(each, other) is not None:
            yield f"robots.{index}.{other}: found {why}; give {key}"
        if getattr(each, key) is None:
            yield f"robots.{index}.{key}: is missing; {why} every class has one"
    if key == "share" and all(each.share is not None for each in robots):
        total = sum(each.share or 0.0 for each in robots)
        if abs(total - 1) > SHARES_SUM_WITHIN:
            yield f"robots: found shares that sum to {total:g}; they have to sum to 1"


def _ns(milliseconds: float) -> int:
    return round(milliseconds * MILLISECOND_NS)
