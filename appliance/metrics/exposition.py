"""`/metrics`: which numbers are exposed, under which names.

Names keep the stems that operators of robots know from `inferential`, with the prefix
`appliance_` and, as OpenMetrics wants, base units: its `e2e_latency_ms` is
`appliance_e2e_latency_seconds` here. Latencies are summaries, their quantiles over the whole life
of the process. `appliance_outcomes_total` counts every request once; the counters under the old
names (`requests_expired` and so on) count some of the same again, so never add the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from appliance.errors import Outcome
from appliance.metrics.histogram import PERCENTILES, Summary
from appliance.metrics.ledger import Ledger
from appliance.metrics.openmetrics import Family, render
from appliance.metrics.registry import COUNTERS, Reading
from appliance.metrics.status import Stage, Status

PREFIX = "appliance_"

DeviceNumber = Literal[
    "utilisation_percent",
    "temperature_c",
    "slow_from_c",
    "clock_mhz",
    "max_clock_mhz",
    "memory_clock_mhz",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_w",
    "power_limit_w",
    "slowdown",
]
"""Keys of `status.Device` that are one number each."""

STAGE_NAMES: Mapping[Stage, tuple[str, str]] = {
    "age": ("observation_staleness", "Capture to arrival of an observation, as its client says."),
    "queue": ("scheduling_wait", "Admitted to handed to a worker."),
    "batch": ("batch_preparation", "Gathering and preprocessing in the worker."),
    "execute": ("inference_latency", "The engine."),
    "reply": ("reply_latency", "The engine's end to the answer handed to the socket."),
    "total": ("e2e_latency", "Received to answered."),
    "slack": ("deadline_slack", "Time left to the deadline, of answers in time."),
    "lateness": ("deadline_lateness", "Time past the deadline, of late answers."),
}

OUTCOME_NAMES: Mapping[str, tuple[str, tuple[Outcome, ...]]] = {
    "observation_errors": (
        "Observations that could not be taken as they were.",
        (
            Outcome.INVALID,
            Outcome.TOO_LARGE,
            Outcome.UNKNOWN_MODEL,
            Outcome.UNAUTHENTICATED,
            Outcome.FORBIDDEN,
        ),
    ),
    "queue_full_drops": (
        "Requests refused or dropped by a full queue.",
        (Outcome.QUEUE_FULL,),
    ),
    "requests_expired": ("Requests whose time ran out in the queue.", (Outcome.EXPIRED,)),
    "dispatch_errors": (
        "Requests that an engine or the loss of a worker ended.",
        (Outcome.ENGINE_FAILED, Outcome.WORKER_LOST),
    ),
}

DEVICE_GAUGES: tuple[tuple[str, str, DeviceNumber, float, str], ...] = (
    ("utilisation_ratio", "Part of the time that the GPU works.", "utilisation_percent", 0.01, ""),
    ("temperature_celsius", "Of the GPU.", "temperature_c", 1, "celsius"),
    ("slowdown_temperature_celsius", "At which it slows down.", "slow_from_c", 1, "celsius"),
    ("clock_hertz", "Of its multiprocessors.", "clock_mhz", 1e6, "hertz"),
    ("max_clock_hertz", "The most that it could have.", "max_clock_mhz", 1e6, "hertz"),
    ("memory_clock_hertz", "Of its memory.", "memory_clock_mhz", 1e6, "hertz"),
    ("memory_used_bytes", "In use, by whomever.", "memory_used_bytes", 1, "bytes"),
    ("memory_total_bytes", "What it has.", "memory_total_bytes", 1, "bytes"),
    ("power_watts", "What it takes now.", "power_w", 1, "watts"),
    ("power_limit_watts", "What it may take.", "power_limit_w", 1, "watts"),
    ("slowdown_ratio", "How many times slower it is planned with: clocks.", "slowdown", 1, ""),
)
"""Name, help, key of the document, factor to the base unit, and that unit."""

HOLDS = ("thermal", "power", "power_brake", "hardware")

_QUANTILES = tuple(f"{percentile / 100:g}" for percentile in PERCENTILES)
_US = 1e-6


def exposition(reading: Reading, ledger: Ledger, status: Status) -> str:
    """Return the whole OpenMetrics text."""
    return render(
        [
            *_of_process(status),
            *_of_requests(ledger, status),
            *_of_latencies(reading),
            *_of_counters(reading),
            *_of_workers(status),
            *_of_devices(status),
        ]
    )


def _of_process(status: Status) -> Iterator[Family]:
    build = Family(f"{PREFIX}build", "info", "What is running.")
    build.add(
        1,
        {
            "version": status["version"],
            "instance": status["instance"],
            "appliance_id": status["appliance_id"],
        },
        suffix="_info",
    )
    yield build
    state = Family(f"{PREFIX}state", "stateset", "The state of the appliance.")
    for name in ("starting", "standby", "ready", "degraded", "draining"):
        state.add(int(status["state"] == name), {f"{PREFIX}state": name})
    yield state
    arena, clients = status["arena"], status["clients"]
    yield _gauge("uptime_seconds", "Since the start.", status["uptime_s"], unit="seconds")
    yield _gauge("active_clients", "Clients connected now.", clients["connected"])
    yield _gauge("known_clients", "Clients connected or remembered.", clients["known"])
    yield _gauge("arena_size_bytes", "Shared memory for rows.", arena["bytes"], unit="bytes")
    yield _gauge("arena_used_bytes", "Of it in use now.", arena["used"], unit="bytes")
    yield _gauge("arena_peak_bytes", "Of it in use at most.", arena["peak"], unit="bytes")
    gone = Family(f"{PREFIX}client_disconnected", "counter", "Clients that left.")
    gone.add(clients["disconnects"], suffix="_total")
    yield gone
    yield _causes(
        "connections_refused",
        "Connections that failed in the handshake, by cause.",
        status["connections_refused"],
    )


def _of_requests(ledger: Ledger, status: Status) -> Iterator[Family]:
    asked = Family(f"{PREFIX}requests", "counter", "Requests that came in.")
    in_flight = Family(f"{PREFIX}requests_in_flight", "gauge", "Requests without an outcome yet.")
    late = Family(f"{PREFIX}late_answers", "counter", "Requests answered after their deadline.")
    outcomes = Family(f"{PREFIX}outcomes", "counter", "Requests that ended, by outcome.")
    known = {
        name: Family(f"{PREFIX}{name}", "counter", text)
        for name, (text, _) in OUTCOME_NAMES.items()
    }
    for model, count in ledger.models.items():
        labels = {"model": model}
        ended = count.outcomes()
        asked.add(count.asked, labels, suffix="_total")
        in_flight.add(count.in_flight, labels)
        late.add(count.late, labels, suffix="_total")
        for outcome, number in ended.items():
            outcomes.add(number, {**labels, "outcome": outcome}, suffix="_total")
        for name, (_, causes) in OUTCOME_NAMES.items():
            for cause in causes:
                number = ended.get(cause.name, 0)
                known[name].add(number, {**labels, "cause": cause.name}, suffix="_total")
    yield from (asked, in_flight, late, outcomes, *known.values())
    yield _causes("send_errors", "Answers that could not be handed over.", ledger.replies_lost)
    yield _causes("wasted_rows", "Rows that ran and no OK came of it.", ledger.wasted)
    depth = Family(f"{PREFIX}queue_depth", "gauge", "Requests waiting in the queue.")
    ready = Family(f"{PREFIX}model_ready", "gauge", "1 if the model can be asked.")
    for model in status["models"]:
        depth.add(model["queued"], {"model": model["name"]})
        ready.add(
            int(model["state"] == "ready"), {"model": model["name"], "version": model["version"]}
        )
    yield from (depth, ready)


def _of_latencies(reading: Reading) -> Iterator[Family]:
    for stage, (name, text) in STAGE_NAMES.items():
        family = Family(f"{PREFIX}{name}_seconds", "summary", text, "seconds")
        for model, each in reading.models.items():
            _summarise(family, each.stages[stage], {"model": model}, _US)
        yield family
    size = Family(f"{PREFIX}batch_size", "summary", "Rows of executed batches.")
    payload = Family(
        f"{PREFIX}payload_size_bytes", "summary", "Tensor bytes of an observation.", "bytes"
    )
    for model, each in reading.models.items():
        _summarise(size, each.batch_size, {"model": model})
        _summarise(payload, each.payload_bytes, {"model": model})
    yield from (size, payload)
    timer = Family(
        f"{PREFIX}timer_lateness_seconds",
        "summary",
        "How late the dispatcher's timer fired.",
        "seconds",
    )
    _summarise(timer, reading.timer_lateness, {}, _US)
    yield timer


def _of_counters(reading: Reading) -> Iterator[Family]:
    for name, text in COUNTERS.items():
        yield _causes(name, text, reading.counters[name])
    clamped = Family(
        f"{PREFIX}clamped_values", "counter", "Values outside the range of their summary."
    )
    clamped.add(reading.clamped, suffix="_total")
    yield clamped


def _of_workers(status: Status) -> Iterator[Family]:
    ready = Family(f"{PREFIX}worker_ready", "gauge", "1 if the worker takes batches.")
    busy = Family(f"{PREFIX}worker_busy", "gauge", "1 while the worker executes a batch.")
    memory = Family(f"{PREFIX}worker_memory_bytes", "gauge", "Resident memory.", "bytes")
    rows = Family(f"{PREFIX}worker_rows", "counter", "Rows the worker's engines took and gave.")
    for worker in status["workers"]:
        labels = {"worker": worker["slot"]}
        ready.add(int(worker["state"] == "ready"), labels)
        busy.add(int(worker["busy"]), labels)
        memory.add(worker["rss_bytes"], labels)
        rows.add(worker["rows_started"], {**labels, "event": "started"}, suffix="_total")
        rows.add(worker["rows_finished"], {**labels, "event": "finished"}, suffix="_total")
        rows.add(worker["rows_failed"], {**labels, "event": "failed"}, suffix="_total")
    yield from (ready, busy, memory, rows)


def _of_devices(status: Status) -> Iterator[Family]:
    """Yield what is known of GPUs: what one does not say it has no sample of."""
    for name, text, key, scale, unit in DEVICE_GAUGES:
        family = Family(f"{PREFIX}gpu_{name}", "gauge", text, unit)
        for device in status["devices"]:
            value = device[key]
            if value is not None:
                family.add(_scaled(value, scale), {"device": device["device"]})
        yield family
    about = Family(f"{PREFIX}gpu", "info", "Which GPUs there are.")
    ready = Family(f"{PREFIX}gpu_readable", "gauge", "1 if the GPU's health can be read.")
    held = Family(
        f"{PREFIX}gpu_throttled", "gauge", "1 while something holds the GPU's clocks down."
    )
    ecc = Family(f"{PREFIX}gpu_ecc_errors", "counter", "Memory errors since the driver was loaded.")
    xids = Family(f"{PREFIX}gpu_xid_errors", "counter", "Errors that the driver reported (XID).")
    for device in status["devices"]:
        labels = {"device": device["device"]}
        ready.add(int(not device["error"]), labels)
        if device["error"]:
            continue
        about.add(1, {**labels, "name": device["name"]}, suffix="_info")
        for hold in HOLDS:
            held.add(int(hold in device["holds"]), {**labels, "by": hold})
        for kind, count in (
            ("corrected", device["ecc_corrected"]),
            ("uncorrected", device["ecc_uncorrected"]),
        ):
            if count is not None:
                ecc.add(count, {**labels, "kind": kind}, suffix="_total")
        if device["xids"] is not None:
            xids.add(device["xids"], labels, suffix="_total")
    yield from (about, ready, held, ecc, xids)


def _gauge(name: str, text: str, value: float, *, unit: str = "") -> Family:
    family = Family(f"{PREFIX}{name}", "gauge", text, unit)
    family.add(value)
    return family


def _causes(name: str, text: str, causes: Mapping[str, int]) -> Family:
    family = Family(f"{PREFIX}{name}", "counter", text)
    for cause, number in causes.items():
        family.add(number, {"cause": cause}, suffix="_total")
    return family


def _summarise(
    family: Family, summary: Summary, labels: Mapping[str, str], scale: float = 1
) -> None:
    """Add a summary; without values it has no quantiles yet."""
    if summary.count:
        for quantile, value in zip(_QUANTILES, summary.percentiles, strict=True):
            family.add(_scaled(value, scale), {**labels, "quantile": quantile})
    family.add(summary.count, labels, suffix="_count")
    family.add(_scaled(summary.total, scale), labels, suffix="_sum")


def _scaled(value: float, scale: float) -> float:
    return value if scale == 1 else round(value * scale, 6)
