"""Has recorded observations served anew, in virtual time, and sets it beside what happened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from attrs import frozen

from appliance import config
from appliance.cli.plan.description import Description, slots
from appliance.cli.plan.recorded import UNKNOWN, Recorded, Served
from appliance.cli.text import optional, plain
from appliance.errors import ConfigError, Outcome, RecordingError
from appliance.scheduling import Scheduler
from appliance.simulation import (
    Arrival,
    Asked,
    Engine,
    Fleet,
    Record,
    RecordedEngine,
    WorkerSlot,
    replay,
)
from appliance.simulation.score import quantile

MOST_SHOWN = 40
"""Clients in the table, those first that missed most; the document has all."""


class Row(TypedDict):
    """How some observations fared, when recorded and in the simulation. Null: of nothing.

    `p99_ms` are from arrival to answer, of those in time.
    """

    client: str
    model: str
    tier: int
    observations: int
    recorded_miss_percent: float
    simulated_miss_percent: float
    recorded_p99_ms: float | None
    simulated_p99_ms: float | None


@frozen
class Replayed:
    """The simulation of a recording.

    Attributes:
        record: Its `asked` are in the order of `found.served`.
    """

    found: Recorded
    arrivals: list[Arrival]
    record: Record


def serve(
    found: Recorded,
    described: Description | None,
    workers: Sequence[config.Workers] | None,
) -> Replayed:
    """Serve a recording anew.

    Args:
        described: Its models and workers take the place of those of the recording.
        workers: Of the configuration; they are as those of the recording were.

    Raises:
        ConfigError: The workers do not host what was asked.
        RecordingError: Nobody knows how long batches of a model take.
    """
    fleet = _fleet(found, described, workers)
    planned_ns = {engine.name: engine.mean_ns(1) for engine in fleet.engines}
    arrivals = found.arrivals(planned_ns)
    scheduling = found.config.scheduling
    scheduler = Scheduler(scheduling.max_queue_size, scheduling.overflow_policy)
    return Replayed(found, arrivals, replay(arrivals, fleet, scheduler))


def _fleet(
    found: Recorded, described: Description | None, workers: Sequence[config.Workers] | None
) -> Fleet:
    engines: dict[str, Engine] = {
        name: RecordedEngine(name=name, max_batch=max(sizes), samples_ns=sizes)
        for name, sizes in found.samples_ns.items()
    }
    if described is not None:
        engines |= {name: model.engine(name) for name, model in described.models.items()}
    for name in sorted(found.models - engines.keys()):
        raise RecordingError(
            f"{found.path}: no batch of model {name!r} is in it, so nobody knows how long one "
            f"takes; describe it in FLEET.toml, as [models.{name}]"
        )
    if described is not None and described.workers is not None:
        hosts = slots(described.workers, engines)
    elif workers is not None:
        hosts = _known(slots(workers, engines), engines)
    else:
        hosts = tuple(WorkerSlot(slot, tuple(models)) for slot, models in found.hosted.items())
        hosts = _known(hosts, engines)
    fleet = Fleet(
        engines=tuple(engines.values()),
        workers=hosts,
        switch_ns=0 if described is None else described.switch_ns,
    )
    hosted = {model for slot in hosts for model in slot.models}
    for name in sorted(found.models - hosted):
        raise ConfigError(
            f"{found.path}: the model {name!r} was asked, and no worker hosts it; hosted are: "
            f"{', '.join(sorted(hosted))}"
        )
    return fleet


def _known(hosts: Iterable[WorkerSlot], engines: dict[str, Engine]) -> tuple[WorkerSlot, ...]:
    """Leave out models that nobody asked and no batch was recorded of."""
    return tuple(
        WorkerSlot(host.slot, tuple(model for model in host.models if model in engines))
        for host in hosts
    )


def document(replayed: Replayed, described: Description | None) -> dict[str, Any]:
    """Return everything there is to be told."""
    found, record = replayed.found, replayed.record
    pairs = list(zip(found.served, record.asked, strict=True))
    groups: dict[tuple[str, str], list[tuple[Served, Asked]]] = defaultdict(list)
    for served, asked in pairs:
        groups[served.client, asked.arrival.model].append((served, asked))
    total = _row("", "", pairs)
    critical = [pair for pair in pairs if pair[1].arrival.tier == 0]
    within = None
    if described is not None:
        target = described.target
        within = total["simulated_miss_percent"] <= target.miss_percent
        if critical:
            missed = _row("", "", critical)["simulated_miss_percent"]
            within = within and missed <= target.tier_0_miss_percent
    return {
        "file": str(found.path),
        "seconds": round(record.horizon_ns / 1e9, 3),
        "within": within,
        "total": total,
        "clients": [_row(client, model, each) for (client, model), each in sorted(groups.items())],
        "models": [_times(engine, found) for engine in record.fleet.engines],
        "workers": {host.slot: list(host.models) for host in record.fleet.workers},
        "left_out": dict(found.left_out),
        "deadlines_differ": found.disagreeing(replayed.arrivals),
        "unanswered": sum(asked.outcome is None for asked in record.asked),
        "dropped_when_recorded": found.dropped,
        "cut_off_at": found.cut_off_at,
    }


def _row(client: str, model: str, pairs: Sequence[tuple[Served, Asked]]) -> Row:
    recorded = [
        each
        for each, asked in pairs
        if each.outcome is Outcome.OK and (asked.arrival.dry or not each.late)
    ]
    simulated = [asked for _, asked in pairs if asked.hit]
    return Row(
        client=client,
        model=model,
        tier=min(asked.arrival.tier for _, asked in pairs),
        observations=len(pairs),
        recorded_miss_percent=round(100 - 100 * len(recorded) / len(pairs), 4),
        simulated_miss_percent=round(100 - 100 * len(simulated) / len(pairs), 4),
        recorded_p99_ms=_p99_ms(each.ended_ns - each.received_ns for each in recorded),
        simulated_p99_ms=_p99_ms(
            asked.answered_ns - asked.arrival.arrived_ns for asked in simulated
        ),
    )


def _p99_ms(times_ns: Iterable[int]) -> float | None:
    ascending = sorted(times_ns)
    return round(quantile(ascending, 0.99) / 1e6, 3) if ascending else None


def _times(engine: Engine, found: Recorded) -> dict[str, Any]:
    """Return the mean times of a model as FLEET.toml has them."""
    is_recorded = isinstance(engine, RecordedEngine)
    sizes = sorted(found.samples_ns[engine.name]) if is_recorded else [1, engine.max_batch]
    return {
        "name": engine.name,
        "recorded": is_recorded,
        "times_ms": {str(size): round(engine.mean_ns(size) / 1e6, 3) for size in sizes},
    }


def show(result: dict[str, Any]) -> None:
    """Print it for people."""
    from rich.console import Console
    from rich.table import Table

    total: Row = result["total"]
    clients: list[Row] = result["clients"]
    print(
        f"{plain(result['file'])}: {total['observations']} observations in "
        f"{result['seconds']:.1f} s, served anew by {len(result['workers'])} workers"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("client", "model"):
        table.add_column(header)
    for header in ("tier", "asked", "missed %", "simulated", "p99 ms", "simulated"):
        table.add_column(header, justify="right")
    worst = sorted(
        clients,
        key=lambda row: -max(row["recorded_miss_percent"], row["simulated_miss_percent"]),
    )
    for row in (*worst[:MOST_SHOWN], total):
        table.add_row(
            plain(row["client"]) if row is not total else "all",
            plain(row["model"]),
            str(row["tier"]) if row is not total else "",
            str(row["observations"]),
            f"{row['recorded_miss_percent']:.2f}",
            f"{row['simulated_miss_percent']:.2f}",
            optional(row["recorded_p99_ms"]),
            optional(row["simulated_p99_ms"]),
        )
    Console(highlight=False, markup=False, emoji=False).print(table)
    for line in _remarks(result, len(clients) - MOST_SHOWN):
        print(line)


def _remarks(result: dict[str, Any], hidden: int) -> list[str]:
    lines = [f"{hidden} more clients, which missed less"] if hidden > 0 else []
    for model in result["models"]:
        times = ", ".join(f"{rows} = {time}" for rows, time in model["times_ms"].items())
        source = "recorded" if model["recorded"] else "described"
        lines.append(f"{source}: [models.{plain(model['name'])}] times_ms = {{ {times} }}")
    for outcome, count in sorted(result["left_out"].items()):
        what = "are not whole in it" if outcome == UNKNOWN else f"ended in {outcome}"
        lines.append(f"left out: {count} observations that {what}")
    if result["deadlines_differ"]:
        lines.append(
            f"{result['deadlines_differ']} deadlines were others when it was recorded: name the "
            "configuration it was recorded with (--config)"
        )
    if result["cut_off_at"] is not None:
        lines.append(f"the file was cut off at byte {result['cut_off_at']}")
    if result["dropped_when_recorded"]:
        lines.append(f"{result['dropped_when_recorded']} messages are missing in the recording")
    if result["unanswered"]:
        lines.append(f"{result['unanswered']} observations were never answered: report this")
    if result["within"] is not None:
        lines.append(f"{'within' if result['within'] else 'beyond'} the target of FLEET.toml")
    return lines
