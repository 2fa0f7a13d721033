"""What is told to a worker before it is done with what it has, through the whole core."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from attrs import evolve
from support.core import MS, Core
from support.pair import BARE, SPEC, payload_of

from appliance.dispatch.timeline import End
from appliance.errors import Outcome
from appliance.scheduling.assignment import STAGE_LEAD_NS
from appliance.wire.pb import worker_pb2
from appliance.wire.session import encode_observation
from appliance.wire.types import Keep, Lateness

FIRM = evolve(BARE, keep=Keep.ALL, lateness=Lateness.FIRM, latency_budget_us=1_000_000)


def ask(core: Core, number: int) -> None:
    observation = evolve(FIRM, sequence=number)
    core.ask(b"arm-3", b"", encode_observation(observation), payload_of(BARE))


async def test_a_worker_writes_elsewhere_while_its_outputs_are_sent(tmp_path: Path) -> None:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC, row_ns=10 * MS)) as core:
        for number in (1, 2, 3):
            ask(core, number)
            core.now_ns += 20 * MS
            core.dispatcher.turn()
            core.finish() if number > 1 else None
        core.finish()
        stages = [each for each in core.told if isinstance(each, worker_pb2.Stage)]
        places = [each.output_offset for each in stages]
        assert len(places) == 3
        assert places[0] != places[1] != places[2]
        assert len(set(places)) == 2
        assert all(each.output_bytes >= 16 * len(each.rows) for each in stages)


async def test_what_a_worker_skips_is_given_to_it_again(tmp_path: Path) -> None:
    with closing(Core(f"ipc://{tmp_path}/door", SPEC, row_ns=10 * MS)) as core:
        ask(core, 1)
        core.finish(took_us=10_000)  # so that delays are known, and batches are committed
        ask(core, 2)
        ask(core, 3)
        core.now_ns += 10 * MS - STAGE_LEAD_NS // 10_000
        core.dispatcher.turn()
        committed = core.told[-1]
        assert isinstance(committed, (worker_pb2.Stage, worker_pb2.Go))
        assert committed.latest_start_ns > core.now_ns
        core.finish(took_us=10)
        core.skip()
        again = core.told[-1]
        assert isinstance(again, worker_pb2.Stage)
        assert again.go
        core.finish()
        assert core.ledger.overall.answered == 3
        ends = [each.end for each in core.timeline().batches]
        assert ends == [End.FINISHED, End.FINISHED, End.REVOKED, End.FINISHED]
        heard = {each.sequence: each.outcome for each, _ in core.heard(b"arm-3")[:-1]}
        assert heard == dict.fromkeys((1, 2, 3), Outcome.OK)
