"""Saturated: what one observation costs the core, and how many there can be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from attrs import define, field

from benchmarks import peer
from benchmarks.box import box, noop
from benchmarks.children import Child, role, roles
from benchmarks.report import Limit, Line

ROUNDS = 4
ROUND_S = 2.5
CLIENTS = 4
WINDOW = 64
PAYLOAD_BYTES = 1024
FASTEST = {"strategy": "round_robin", "max_concurrent_dispatch": 256}
"""The peer's settings that gave it the most, of all its strategies."""


@define(eq=False)
class _Served:
    """One server under the load; per round: answers a second, and its processor time for each."""

    clients: Sequence[Child]
    cpu_s: Callable[[], float]
    rates: list[float] = field(factory=list[float])
    costs: list[float] = field(factory=list[float])
    lost: int = 0

    def load(self, seconds: float) -> None:
        before = self.cpu_s()
        for client in self.clients:
            client.tell(seconds=seconds)
        answers = [client.hear() for client in self.clients]
        total = sum(answer["total"] for answer in answers)
        self.rates.append(sum(answer["rate"] for answer in answers))
        self.costs.append((self.cpu_s() - before) / max(total, 1) * 1e6)
        self.lost += sum(answer["lost"] for answer in answers)

    def forget(self) -> None:
        """Begin anew: what came so far was to warm up."""
        self.rates.clear()
        self.costs.clear()


def measure() -> Iterator[str | Line]:
    """Alternate between the appliance and the peer's server, under the same load generator."""
    note = ""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        appliance = stack.enter_context(box(noop()))
        ours = _Served(_clients(stack, appliance.address), appliance.cpu_s)
        bare = stack.enter_context(
            role("bare_path", address=f"ipc://{directory}/bare", size=PAYLOAD_BYTES)
        )
        floor = _Served(_clients(stack, f"ipc://{directory}/bare"), bare.cpu_s)
        served = [ours, floor]
        theirs = None
        yield "looking for the peer"
        try:
            python = peer.interpreter()
        except peer.PeerUnavailable as error:
            note = str(error)
        else:
            address = f"ipc://{directory}/peer"
            server = stack.enter_context(peer.server(python, address, "noop", **FASTEST))
            theirs = _Served(_clients(stack, address), server.cpu_s)
            served.append(theirs)
        for each in served:
            each.load(0.5)
            each.forget()
        for number in range(ROUNDS):
            yield f"round {number + 1} of {ROUNDS}"
            for each in served:
                each.load(ROUND_S)
        status = appliance.status()
    lost = [each.lost for each in served]
    if set(status["outcomes"]) != {"OK"} or any(lost):
        note += f" outcomes: {status['outcomes']}; replies lost: {lost}"
    batch = status["models"][0]["batch_size_mean"]
    name = f"inferential {peer.VERSION}"
    yield Line(
        name="throughput",
        measured=f"saturated, no-op, 1 KB, {CLIENTS} clients, window {WINDOW}",
        unit="/s",
        ours=ours.rates,
        beside=theirs.rates if theirs else (),
        beside_name=name,
        limit=Limit("ratio", ">=", 2.5),
        note=note or f"batches of {batch:g} on average",
    )
    yield Line(
        name="",
        measured="its core's processor time for an observation",
        unit="µs",
        ours=ours.costs,
        beside=theirs.costs if theirs else (),
        beside_name=f"{name}, model included",
        limit=Limit("figure", "<=", 45.0),
    )
    yield Line(
        name="",
        measured="the same, beside what the libraries alone take",
        unit="µs",
        ours=ours.costs,
        beside=floor.costs,
        beside_name="parse, copy, describe, answer; no sessions, no scheduling",
    )


def _clients(stack: ExitStack, address: str) -> list[Child]:
    return roles(stack, CLIENTS, "pump", address=address, window=WINDOW)
