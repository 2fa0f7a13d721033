"""Random fleets: dense traces in which everything that may happen does."""

from __future__ import annotations

import random

from attrs import evolve

from appliance.scheduling.events import Withdrawn
from support.simulation import MS, Ask, Death, Model, Succession, Trace, Withdrawal

MODELS = (
    Model(name="policy", max_batch=4, base_ns=4 * MS, row_ns=MS),
    Model(name="vision", max_batch=1, row_ns=6 * MS),
)
FLEETS = (
    (("cpu-0", ("policy", "vision")),),
    (("cpu-0", ("policy", "vision")), ("cpu-1", ("policy", "vision"))),
    (("cpu-0", ("policy",)), ("cpu-1", ("policy", "vision")), ("cpu-2", ("vision",))),
)
HOSTED = (("policy",), ("vision",), ("policy", "vision"))
SESSIONS = ("latest", "latest too", "all", "ordered", "both")


def random_trace(seed: int, size: int, *, faults: bool) -> Trace:
    """A trace of `size` observations. Times are whole milliseconds, so that things coincide."""
    chance = random.Random(seed)
    slots = chance.choice(FLEETS)
    span_ms = chance.choice((10, 60))
    limits = {session: chance.choice((2, 64)) for session in SESSIONS}
    asks = tuple(_ask(chance, span_ms, limits, faults=faults) for _ in range(size))
    deaths = tuple(
        Death(
            chance.randint(0, 80) * MS,
            chance.choice(slots)[0],
            chance.choice((1, 10, 60, 300)) * MS,
        )
        for _ in range(chance.choice((0, 0, 1, 3)) if faults else 0)
    )
    successions = tuple(
        Succession(chance.randint(0, 80) * MS, chance.choice(slots)[0], chance.choice(HOSTED))
        for _ in range(chance.choice((0, 0, 1, 2)))
    )
    return Trace(
        models=tuple(evolve(model, urgent=chance.random() < 0.3) for model in MODELS),
        slots=slots,
        asks=asks,
        deaths=deaths,
        successions=successions,
        withdrawals=tuple(_withdrawal(chance) for _ in range(chance.choice((0, 0, 1, 3)))),
        max_queue_size=chance.choice((1000, 6, 2)),
        overflow_policy=chance.choice(("drop_oldest", "reject_newest")),
        max_retries=chance.choice((0, 1)),
        noise=chance.choice((0.0, 0.3)),
        timer_lateness_ns=chance.choice((0, 300_000)),
        report_ns=chance.choice((0, 400_000, 3_000_000)),
        overlap=chance.choice((0.0, 0.0, 0.5)),
    )


def _ask(chance: random.Random, span_ms: int, limits: dict[str, int], *, faults: bool) -> Ask:
    session = chance.choice(SESSIONS)
    urgency = chance.choice(("firm", "firm", "runs out", "soft", "soft", "dry"))
    fault = chance.choice(("", "", "", "", "raises", "kills", "bad row")) if faults else ""
    return Ask(
        at_ns=chance.randint(0, span_ms) * MS,
        session=session,
        model=chance.choice(("policy", "policy", "vision")),
        budget_ns=chance.randint(-5, 50) * MS,
        ttl_ns=chance.choice((5000, 80, 20)) * MS,
        shape=chance.choice((0, 0, 0, 1)),
        keep_latest=session.startswith("latest") or (session == "both" and chance.random() < 0.5),
        firm=urgency in ("firm", "runs out"),
        dry=urgency == "dry",
        period_ns=chance.choice((0, 0, 20)) * MS,
        runs_out=urgency == "runs out",
        tier=chance.choice((0, 1, 1, 2, 3)),
        priority=chance.randint(0, 1),
        ordered=session == "ordered",
        queue_limit=limits[session],
        tag=chance.randint(0, 2),
        fault=fault,
    )


def _withdrawal(chance: random.Random) -> Withdrawal:
    session = chance.choice(SESSIONS)
    if chance.random() < 0.5:
        event = Withdrawn(session, gone=True)
    else:
        event = Withdrawn(
            session, chance.choice((None, "policy", "vision")), chance.choice((None, 1))
        )
    return Withdrawal(chance.randint(0, 80) * MS, event)
