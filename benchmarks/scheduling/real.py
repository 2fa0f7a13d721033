"""The same fleets on the real stack: sockets, processes, a worker; beside what is simulated.

An appliance serves the robots of a workload (`robots.py`) and records itself. What it recorded, the
arrivals, the deadlines and how long engines took, is then served anew in virtual time, where
deciding and telling take no time: what is missed beyond that is what the stack costs. The peer's
server is asked by the same robots afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import asdict, field, frozen

from appliance import config
from appliance.cli.plan import recorded, replayed
from appliance.errors import Outcome
from appliance.simulation import Fleet, LinearEngine, Span
from benchmarks import peer
from benchmarks.box import PYTHON, Box, Model, box
from benchmarks.children import Child, cpu_s, role
from benchmarks.report import Limit, Line
from benchmarks.scheduling import accelerator, idle
from benchmarks.scheduling.workloads import WORKLOADS, Variation, fleet_of, slowed, with_engines

LOADS = (0.8, 0.95)
SECONDS = 20.0
SCALE = 1.0 if (os.cpu_count() or 1) > 2 else 2.0
"""Core, worker and robots want a processor each, or they keep each other from being in time."""
MOST_TIMES, MOST_POINTS = 2.0, 0.2
"""What may be missed: so many times what the simulation misses, and so many points more."""
SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
TIER_0 = """
[[clients.known]]
id = "{client}"
tier = 0
"""
POLICY = """

def run(batch):
    occupy({base_ns} + {row_ns} * len(batch["state"]))
    return {{"action": batch["state"]}}
"""


@frozen(kw_only=True)
class Case:
    """What is run.

    Attributes:
        engines: Take the place of the workload's, as they are without slow motion.
    """

    workload: str
    load: float
    seed: int
    seconds: float
    scale: float
    engines: tuple[LinearEngine, ...] = ()

    @property
    def fleet(self) -> Fleet:
        """Its robots and engines."""
        workload = with_engines(WORKLOADS[self.workload], self.engines)
        return slowed(fleet_of(workload, self.load, Variation()), self.scale)

    def robots(self, address: str) -> Child:
        """Start its robots."""
        return role(
            "fleet",
            address=address,
            workload=self.workload,
            load=self.load,
            scale=self.scale,
            seed=self.seed,
            engines=[asdict(each) for each in self.engines],
        )


@frozen
class Account:
    """How many of a class asked, and how many of them were not answered in time."""

    asked: Mapping[str, int] = field(factory=Counter[str])
    missed: Mapping[str, int] = field(factory=Counter[str])

    def miss(self, *classes: str) -> float:
        """Return what was missed, percent; of all without names. 0 of nothing."""
        names = classes or tuple(self.asked)
        asked = sum(self.asked.get(name, 0) for name in names)
        return 100 * sum(self.missed.get(name, 0) for name in names) / asked if asked else 0.0

    def __str__(self) -> str:
        """Say what each class missed."""
        return ", ".join(f"{name} {self.miss(name):.2f}" for name in sorted(self.asked))


@frozen(kw_only=True)
class Ran:
    """What came of a case on the appliance.

    Attributes:
        served, simulated, heard: By the server, in virtual time, and by the robots' clock.
        idle_us, simulated_idle_us: The worker's gaps while somebody waits; ascending.
        starts_us: From decisions to the start of their batches; ascending.
        busy: By process: share of a processor that it took.
        sent_late_us: The 99th percentile of how late robots observed.
        remarks: What was not as it should be.
    """

    served: Account
    simulated: Account
    heard: Account
    idle_us: Sequence[float]
    simulated_idle_us: Sequence[float]
    starts_us: Sequence[float]
    busy: Mapping[str, float]
    sent_late_us: float
    remarks: Sequence[str]


def measure(case: Case) -> Iterator[str | Line]:
    """Run a case on the appliance, simulate what it recorded, and run it on the peer."""
    yield f"{case.load:.0%}: the appliance, {case.seconds:g} s"
    ran = run(case)
    yield f"{case.load:.0%}: inferential {peer.VERSION}, {case.seconds:g} s"
    theirs, note = Account(), ""
    try:
        theirs = run_peer(case)
    except peer.PeerUnavailable as error:
        note = str(error)
    yield from _lines(case, ran, theirs, note)


def run(case: Case, models: Sequence[Model] = (), settings: str = "") -> Ran:
    """Run a case on an appliance.

    Args:
        models: Those of `case.engines`; none: stand-ins, which take as long as the engines do.
        settings: Of the appliance, beside the tiers of the robots; TOML.

    Raises:
        RuntimeError: It did not start, or its recording failed.
    """
    fleet = case.fleet
    critical = [client for client, tier in _clients(fleet) if tier == 0]
    known = "".join(TIER_0.format(client=client) for client in critical)
    models = models or [_model(each) for each in fleet.engines if isinstance(each, LinearEngine)]
    with ExitStack() as stack:
        appliance = stack.enter_context(box(*models, config=settings + known))
        robots = stack.enter_context(case.robots(appliance.address))
        number = appliance.record("run.mcap")
        pids = {"core": appliance.pid, "robots": robots.pid, "worker": _worker(appliance)}
        before_s = {name: cpu_s(pid) for name, pid in pids.items()}
        answer = robots.ask(seconds=case.seconds)
        busy = {name: (cpu_s(pid) - before_s[name]) / case.seconds for name, pid in pids.items()}
        appliance.end_recording(number)
        path = appliance.directory / "run.mcap"
        found = recorded.read(path, config.load(appliance.directory / "appliance.toml"))
        batches = idle.recorded_batches(path)
    found.samples_ns = idle.samples_ns(batches)
    simulation = replayed.serve(found, None, None)
    horizon_ns = round(case.seconds * SECOND_NS)
    span, first_ns = Span.settled(horizon_ns), found.served[0].received_ns
    served: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    simulated: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for real, virtual in zip(found.served, simulation.record.asked, strict=True):
        if span.from_ns <= virtual.arrival.arrived_ns < span.to_ns:
            name = real.client.rpartition("-")[0]
            served[0][name] += 1
            served[1][name] += real.outcome is not Outcome.OK or real.late
            simulated[0][name] += 1
            simulated[1][name] += not virtual.hit
    return Ran(
        served=Account(*served),
        simulated=Account(*simulated),
        heard=Account(answer["asked"], answer["missed"]),
        idle_us=idle.gaps_us(batches, span.from_ns + first_ns, span.to_ns + first_ns),
        starts_us=idle.starts_us(batches, span.from_ns + first_ns, span.to_ns + first_ns),
        simulated_idle_us=idle.gaps_us(
            idle.simulated_batches(simulation.record), span.from_ns, span.to_ns
        ),
        busy=busy,
        sent_late_us=answer["sent_late_us"],
        remarks=_remarks(simulation, answer["sent"]),
    )


def run_peer(case: Case) -> Account:
    """Run a case on the peer's server, as it comes; return the account of the robots.

    Raises:
        PeerUnavailable: There is none.
    """
    python, fleet = peer.interpreter(), case.fleet
    budgets_ms = {
        f"{kind.name}-{number}": ((kind.budget_ns or 0) - kind.network.return_ns) / MILLISECOND_NS
        for kind in fleet.robots
        for number in range(kind.count)
    }
    engines = {each.name: each.mean_ns(1) for each in fleet.engines}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        address = f"ipc://{directory}/peer"
        options = {"engines": engines, "budgets_ms": budgets_ms, "max_queue_size": 1000}
        stack.enter_context(peer.server(python, address, next(iter(engines)), **options))
        answer = stack.enter_context(case.robots(address)).ask(seconds=case.seconds)
    return Account(answer["asked"], answer["missed"])


def _clients(fleet: Fleet) -> Iterator[tuple[str, int]]:
    """Yield names and tiers."""
    for kind in fleet.robots:
        for number in range(kind.count):
            yield f"{kind.name}-{number}", kind.tier


def _model(engine: LinearEngine) -> Model:
    manifest = PYTHON.format(max_batch=engine.max_batch, name="state", dtype="float32", shape=[4])
    policy = Path(accelerator.__file__).read_text("utf-8") + POLICY.format(
        base_ns=engine.base_ns, row_ns=engine.row_ns
    )
    return Model(engine.name, manifest, policy)


def _worker(appliance: Box) -> int:
    (worker,) = appliance.status()["workers"]
    pid: int = worker["pid"]
    return pid


def _remarks(simulation: replayed.Replayed, sent: int) -> list[str]:
    found = simulation.found
    document = replayed.document(simulation, None)
    remarks = [
        f"{found.left_out[outcome]} left out: {outcome}" for outcome in sorted(found.left_out)
    ]
    ended = len(found.served) + sum(found.left_out.values())
    if ended != sent:
        remarks.append(f"sent {sent}, ended {ended}")
    kinds = ("deadlines_differ", "unanswered", "dropped_when_recorded")
    return remarks + [f"{kind}: {document[kind]}" for kind in kinds if document[kind]]


def _lines(case: Case, ran: Ran, theirs: Account, peer_note: str) -> Iterator[Line]:
    robots = sum(kind.count for kind in case.fleet.robots)
    critical = [kind.name for kind in case.fleet.robots if kind.tier == 0]
    asked = sum(ran.served.asked.values())
    simulated = ran.simulated.miss()
    remarks = "".join(f"; {remark}" for remark in ran.remarks)
    yield Line(
        name=f"{case.load:.0%}",
        measured=f"misses of {robots} robots by the server's account",
        unit="%",
        ours=(ran.served.miss(),),
        beside=(simulated,),
        beside_name=f"simulated: {ran.simulated}",
        limit=Limit("figure", "<=", round(MOST_TIMES * simulated + MOST_POINTS, 3)),
        note=f"of {asked:,}: {ran.served}{remarks}",
    )
    yield Line(
        name="",
        measured="of them critical",
        unit="%",
        ours=(ran.served.miss(*critical),),
        beside=(ran.simulated.miss(*critical),),
        beside_name="simulated",
    )
    has_peer = bool(theirs.asked)
    yield Line(
        name="",
        measured="misses by the robots' clock",
        unit="%",
        ours=(ran.heard.miss(),),
        beside=(theirs.miss(),) if has_peer else (),
        beside_name=f"inferential {peer.VERSION}: {theirs}",
        note=f"{ran.heard}" + (f"; {peer_note}" if peer_note else ""),
    )
    for share in (0.5, 0.99):
        yield Line(
            name="",
            measured=f"p{100 * share:.0f} of the worker's idle gap while somebody waits",
            unit="µs",
            ours=idle.quantiles(ran.idle_us, share),
            beside=idle.quantiles(ran.simulated_idle_us, share),
            beside_name="simulated",
        )
    for share in (0.5, 0.99):
        yield Line(
            name="",
            measured=f"p{100 * share:.0f} from a decision to the start of its batch",
            unit="µs",
            ours=idle.quantiles(ran.starts_us, share),
        )
    yield Line(
        name="",
        measured="processor time of the core, of a processor",
        unit="%",
        ours=(100 * ran.busy["core"],),
        note=f"robots {ran.busy['robots']:.0%}, worker {ran.busy['worker']:.0%}; "
        f"p99 of how late robots observe: {ran.sent_late_us:.0f} µs",
    )
