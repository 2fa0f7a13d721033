from __future__ import annotations

from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.errors import LocalProtocolError, PeerProtocolError
from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec
from appliance.wire.types import DType
from appliance.wire.worker import MAX_DATAGRAM, WORKER_PROTOCOL, spec_to_ready
from appliance.workers.conversation import PING_PERIOD_NS, PONG_FLOOR_NS, Conversation, Phase, Send
from appliance.workers.events import BatchFinished, ModelFailed, ModelLoaded, WorkerUp
from appliance.workers.hang import HangBound
from appliance.workers.restart import Quarantine
from appliance.workers.slot import HostedModel, Slot

WORKER = WorkerRef("cpu", 3)
SLOT = Slot(
    name="cpu",
    models=tuple(HostedModel(name=name, version="1") for name in ("a", "b", "a")),
    start_timeout_ns=1000,
    hang_floor_ns=100,
    hang_factor=10.0,
)
SPEC = ModelSpec(
    model_id="a",
    version="1",
    inputs=(InputSpec("x", "x", DType.FLOAT32, (4,), (4,)),),
    outputs=(OutputSpec("y", DType.FLOAT32, (2,)),),
)


def said(**message: Any) -> bytes:
    return worker_pb2.FromWorker(**message).SerializeToString()


PONG = said(pong=worker_pb2.Pong())
HELLO = said(hello=worker_pb2.Hello(protocol=WORKER_PROTOCOL))
READY = said(ready=worker_pb2.Ready())


def model_ready(model: int, times_ns: dict[int, int] | None = None) -> bytes:
    return said(model_ready=spec_to_ready(SPEC, model=model, times_ns=times_ns or {}))


def model_failed(model: int) -> bytes:
    return said(model_failed=worker_pb2.ModelFailed(model=model, message="no"))


def loading(model: str, progress: float = 0.0, step: str = "") -> bytes:
    return said(loading=worker_pb2.Loading(model=model, progress=progress, step=step))


@define(eq=False)
class Talk:
    """A conversation, and what surrounds it."""

    slot: Slot = SLOT
    quarantine: Quarantine = field(factory=lambda: Quarantine(2))
    hang: HangBound = field(factory=lambda: HangBound(floor_ns=100, factor=10.0))

    def begin(self, now_ns: int = 0) -> Conversation:
        return Conversation(
            WORKER,
            self.slot,
            quarantine=self.quarantine,
            hang=self.hang,
            arena_bytes=1 << 20,
            ledger_offset=4096,
            now_ns=now_ns,
        )


def up(now_ns: int = 0, times_ns: dict[int, int] | None = None) -> Conversation:
    conversation = Talk().begin()
    for datagram in (HELLO, *(model_ready(model, times_ns) for model in range(3)), READY):
        conversation.received(datagram, now_ns)
    return conversation


def stage(batch_id: int, *, rows: int = 2, go: bool = True, model: int = 0) -> worker_pb2.Stage:
    return worker_pb2.Stage(
        batch_id=batch_id,
        model=model,
        rows=[worker_pb2.Row() for _ in range(rows)],
        output_offset=8192,
        output_bytes=64,
        go=go,
    )


def done(batch_id: int, **others: Any) -> bytes:
    return said(done=worker_pb2.Done(batch_id=batch_id, **others))


def output(**changes: Any) -> worker_pb2.Output:
    fields: dict[str, Any] = {
        "key": "y",
        "dtype": session_pb2.FLOAT32,
        "row_shape": [2],
        "offset": 8192,
        "row_length": 8,
        **changes,
    }
    return worker_pb2.Output(**fields)


def test_hello_is_answered_with_load() -> None:
    (send,) = Talk().begin().received(HELLO, 0)
    assert isinstance(send, Send)
    load = worker_pb2.ToWorker.FromString(send.datagram).load
    assert [(model.index, model.name) for model in load.models] == [(0, "a"), (1, "b"), (2, "a")]
    assert (load.device, load.arena_bytes, load.ledger_offset) == ("cpu", 1 << 20, 4096)


def test_models_that_are_left_out_are_told_and_not_loaded() -> None:
    talk = Talk()
    for _ in range(2):
        talk.quarantine.died(1, "killed by SIGSEGV")
    conversation = talk.begin()
    send, failed = conversation.received(HELLO, 0)
    assert isinstance(send, Send)
    load = worker_pb2.ToWorker.FromString(send.datagram).load
    assert [model.index for model in load.models] == [0, 2]
    assert isinstance(failed, ModelFailed)
    assert failed.model == 1
    for datagram in (model_ready(0), model_ready(2)):
        conversation.received(datagram, 0)
    assert conversation.received(READY, 0) == [WorkerUp(WORKER)]


def test_what_makes_a_worker_slower_is_passed_on() -> None:
    conversation = Talk().begin()
    for datagram in (HELLO, model_ready(1), model_ready(2)):
        conversation.received(datagram, 0)
    ready = spec_to_ready(
        SPEC, model=0, times_ns={1: 7}, without_graphs="no stream", images_on_cpu="no NVRTC"
    )
    [loaded] = conversation.received(said(model_ready=ready), 1)
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.without_graphs, loaded.images_on_cpu) == ("no stream", "no NVRTC")
    up = conversation.received(said(ready=worker_pb2.Ready(unpinned=True)), 2)
    assert up == [WorkerUp(WORKER, unpinned=True)]


def test_loading_to_ready() -> None:
    conversation = Talk().begin()
    conversation.received(HELLO, 0)
    assert conversation.received(loading("a", 0.25, "reading"), 1) == []
    assert (conversation.loading, conversation.step) == (0, "a: reading")
    assert conversation.progress == 0.25
    assert conversation.received(model_ready(0, {1: 7}), 2) == [
        ModelLoaded(WORKER, 0, SPEC, {1: 7})
    ]
    assert conversation.loading is None
    conversation.received(loading("a"), 3)
    assert conversation.loading == 2  # the first of that name has been reported
    conversation.received(model_failed(2), 4)
    conversation.received(model_ready(1), 5)
    assert conversation.received(READY, 6) == [WorkerUp(WORKER)]
    assert (conversation.phase, conversation.ready_ns) == (Phase.READY, 6)


@pytest.mark.parametrize("progress", [float("nan"), float("inf"), -1.0, 1.5])
def test_progress_is_a_fraction(progress: float) -> None:
    conversation = Talk().begin()
    conversation.received(HELLO, 0)
    conversation.received(loading("nobody", progress), 0)
    assert conversation.progress == 0.0
    assert conversation.loading is None


@pytest.mark.parametrize(
    ("before", "datagram", "why"),
    [
        ([], said(hello=worker_pb2.Hello(protocol=8)), "speaks protocol 8"),
        ([], READY, "unexpected ready while starting"),
        ([], b"", "unexpected empty message"),
        ([], b"\xff", "no message"),
        ([], b"\x0a" * (MAX_DATAGRAM + 1), "more than"),
        ([], done(1), "not to be run"),
        ([HELLO], HELLO, "unexpected hello while loading"),
        ([HELLO], READY, r"without a word of models \[0, 1, 2\]"),
        ([HELLO], model_ready(3), "never asked for"),
        ([HELLO, model_ready(1)], model_failed(1), "reported before"),
        ([HELLO], said(model_ready=worker_pb2.ModelReady(model=0, limits=[{}])), "1 limits"),
        ([HELLO, *map(model_failed, range(3)), READY], READY, "unexpected ready while ready"),
        ([HELLO, *map(model_failed, range(3)), READY], loading("a"), "unexpected loading"),
    ],
)
def test_what_may_not_be_said(before: list[bytes], datagram: bytes, why: str) -> None:
    conversation = Talk().begin()
    for earlier in before:
        conversation.received(earlier, 0)
    with pytest.raises(PeerProtocolError, match=why):
        conversation.received(datagram, 0)


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_nothing_but_its_own_error_comes_out(datagrams: list[bytes]) -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    try:
        for datagram in datagrams:
            conversation.received(datagram, 0)
    except PeerProtocolError:
        pass


def test_a_batch_there_and_back() -> None:
    conversation = up()
    sent = worker_pb2.ToWorker.FromString(conversation.stage(stage(1), 10))
    assert sent.stage == stage(1)
    assert conversation.batches.busy_since_ns == 10
    (finished,) = conversation.received(done(1, outputs=[output()]), 20)
    assert isinstance(finished, BatchFinished)
    assert finished.done.outputs[0] == output()
    assert conversation.batches.busy_since_ns is None
    assert conversation.batches.finished == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 8191},
        {"offset": 8192 + 49},
        {"offset": (1 << 64) - 1},
        {"row_length": 7},
        {"row_length": 1 << 63},
        {"row_shape": [2, 3]},
        {"row_shape": [-1, -2]},
        {"row_shape": [1 << 62, 1 << 62]},
        {"dtype": 0},
        {"dtype": 99},
        {"dtype": session_pb2.STRING, "row_lengths": [1]},
        {"dtype": session_pb2.STRING, "row_lengths": [60, 5]},
    ],
)
def test_outputs_that_must_not_be_read(changes: dict[str, Any]) -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    with pytest.raises(PeerProtocolError, match="output 'y'"):
        conversation.received(done(1, outputs=[output(**changes)]), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 8192 + 48},
        {"row_shape": [], "row_length": 4},
        {"row_shape": [0, 5], "row_length": 0},
        {"dtype": session_pb2.STRING, "row_lengths": [60, 4]},
    ],
)
def test_outputs_that_just_fit(changes: dict[str, Any]) -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    assert conversation.received(done(1, outputs=[output(**changes)]), 0)


def test_a_batch_is_skipped_only_where_it_may_be() -> None:
    conversation = up()
    late = stage(1)
    late.latest_start_ns = 5
    conversation.stage(late, 0)
    (event,) = conversation.received(done(1, skipped=True), 10)
    assert isinstance(event, BatchFinished)
    assert event.done.skipped
    assert conversation.batches.busy_since_ns is None
    conversation.stage(stage(2), 20)
    with pytest.raises(PeerProtocolError, match="batch 2 was not to be skipped"):
        conversation.received(done(2, skipped=True), 30)


def test_batches_of_a_model_are_done_in_the_order_they_were_told() -> None:
    conversation = up()
    for number in (1, 2):
        conversation.stage(stage(number), 0)
    with pytest.raises(PeerProtocolError, match="batch 2 is done but was not to be run"):
        conversation.received(done(2), 10)


def test_a_batch_of_another_model_may_be_done_first_and_costs_the_others_its_time() -> None:
    conversation = up(times_ns={1: 5, 8: 30})
    conversation.stage(stage(1), 0)
    for number in range(2, 12):  # one after the other passes the one that hangs
        now_ns = number * 20
        conversation.stage(stage(number, model=1), now_ns)
        conversation.received(done(number), now_ns + 10)
    assert conversation.batches.busy_since_ns == 100
    assert conversation.overdue(400) is None
    assert conversation.overdue(401) == "hung: batch 1 of a runs for more than 3e-07 s"
    conversation.received(done(1), 401)
    assert conversation.batches.busy_since_ns is None


def test_a_batch_is_not_skipped_before_it_is_late() -> None:
    conversation = up()
    later = stage(1)
    later.latest_start_ns = 50
    conversation.stage(later, 0)
    with pytest.raises(PeerProtocolError, match="batch 1 was not to be skipped"):
        conversation.received(done(1, skipped=True), 10)


def test_a_row_that_failed_must_be_in_the_batch() -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    with pytest.raises(PeerProtocolError, match="row 2 failed in a batch of 2"):
        conversation.received(done(1, row_errors=[worker_pb2.RowError(row=2)]), 0)


def test_no_progress_while_starting() -> None:
    conversation = Talk().begin(now_ns=5)
    assert conversation.overdue(1005) is None
    assert conversation.overdue(1006) == ("did not start: no progress for 1e-06 s while starting")
    conversation.received(HELLO, 1005)
    conversation.received(loading("b", step="warm-up"), 1500)
    assert conversation.overdue(2500) is None
    late = conversation.overdue(2501)
    assert late is not None
    assert late.endswith("while loading (b: warm-up)")
    for model in range(3):
        conversation.received(model_failed(model), 2000)
    conversation.received(READY, 2000)
    assert conversation.overdue(1 << 60) is None  # READY and idle


def test_the_bound_follows_warm_up() -> None:
    conversation = up(times_ns={1: 5, 8: 30})
    conversation.stage(stage(1), 1000)
    assert conversation.batches.hang_bound_ns == 300
    assert conversation.overdue(1300) is None
    assert conversation.overdue(1301) == "hung: batch 1 of a runs for more than 3e-07 s"


def test_a_batch_that_waits_for_another_is_not_running() -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    conversation.stage(stage(2), 0)
    conversation.received(done(1), 90)
    assert conversation.batches.busy_since_ns == 90
    assert conversation.overdue(990) is None  # ten times the 90 of the first
    assert conversation.overdue(991) is not None
    conversation.received(done(2), 150)
    assert conversation.overdue(1 << 60) is None


def test_a_batch_that_hangs_is_found_whatever_overtakes_it() -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    now_ns = 0
    for batch_id in range(2, 100):
        conversation.stage(stage(batch_id, model=1), now_ns)
        now_ns += 30
        conversation.received(done(batch_id), now_ns)
        if now_ns <= 400:
            assert conversation.overdue(now_ns) is None
        if late := conversation.overdue(now_ns + 1):
            assert late == "hung: batch 1 of a runs for more than 4e-07 s"
            break
    assert 400 <= now_ns <= 430


def test_a_batch_that_has_waited_long_is_not_hung_when_its_turn_comes() -> None:
    conversation = up(times_ns={1: 200})
    conversation.stage(stage(1), 0)
    conversation.stage(stage(2, model=1), 0)
    conversation.received(done(1), 1900)
    assert conversation.overdue(3800) is None
    assert conversation.overdue(3901) is not None


def test_an_idle_worker_is_asked_for_a_sign_of_life() -> None:
    conversation = up(now_ns=100)
    assert conversation.ping(99 + PING_PERIOD_NS) is None
    datagram = conversation.ping(100 + PING_PERIOD_NS)
    assert datagram is not None
    assert worker_pb2.ToWorker.FromString(datagram).WhichOneof("message") == "ping"
    assert conversation.ping(9 * PING_PERIOD_NS) is None  # it owes an answer
    asked_ns = 100 + PING_PERIOD_NS
    assert conversation.overdue(asked_ns + PONG_FLOOR_NS) is None
    assert conversation.overdue(asked_ns + PONG_FLOOR_NS + 1) == (
        "hung: it had nothing to do, and gave no sign of life for 5 s"
    )
    assert conversation.received(PONG, asked_ns + 7) == []
    assert conversation.overdue(1 << 60) is None
    assert conversation.ping(asked_ns + 6 + PING_PERIOD_NS) is None
    assert conversation.ping(asked_ns + 7 + PING_PERIOD_NS) is not None


def test_one_that_holds_a_batch_is_not_asked_and_still_owes_what_it_was_asked_before() -> None:
    conversation = up()
    conversation.stage(stage(1, go=False), 0)
    assert conversation.ping(1 << 60) is None
    conversation.go(1, 0, 50)
    assert conversation.ping(1 << 60) is None
    conversation.received(done(1), 90)
    assert conversation.ping(89 + PING_PERIOD_NS) is None
    assert conversation.ping(90 + PING_PERIOD_NS) is not None
    conversation.stage(stage(2), 100 + PING_PERIOD_NS)
    conversation.received(PONG, 110 + PING_PERIOD_NS)
    with pytest.raises(PeerProtocolError, match="unexpected pong while ready"):
        conversation.received(PONG, 120 + PING_PERIOD_NS)


class BatchesMachine(RuleBasedStateMachine):
    """A well-behaved worker, against plain sets of what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = up()
        self.now = 0
        self.count = 0
        self.staged: set[int] = set()
        self.running: list[int] = []

    @rule(go=st.booleans(), passes=st.integers(0, 50))
    def stage(self, go: bool, passes: int) -> None:  # noqa: FBT001
        self.now += passes
        self.count += 1
        self.conversation.stage(stage(self.count, go=go), self.now)
        if go:
            self.running.append(self.count)
        else:
            self.staged.add(self.count)

    @precondition(lambda self: self.staged)
    @rule(data=st.data(), revoke=st.booleans())
    def decide(self, data: st.DataObject, revoke: bool) -> None:  # noqa: FBT001
        batch_id = data.draw(st.sampled_from(sorted(self.staged)))
        self.staged.remove(batch_id)
        if revoke:
            self.conversation.revoke(batch_id)
        else:
            self.conversation.go(batch_id, 0, self.now)
            self.running.append(batch_id)

    @precondition(lambda self: self.running)
    @rule(passes=st.integers(0, 50))
    def finish(self, passes: int) -> None:
        self.now += passes
        batch_id = self.running.pop(0)
        self.conversation.received(done(batch_id), self.now)
        with pytest.raises(PeerProtocolError):
            self.conversation.received(done(batch_id), self.now)

    @invariant()
    def it_knows_what_is_held(self) -> None:
        batches = self.conversation.batches
        assert (batches.busy_since_ns is None) == (not self.running)
        held = {*self.staged, *self.running}
        assert batches.finished + len(self.running) <= self.count
        for batch_id in held:
            with pytest.raises(LocalProtocolError):
                self.conversation.stage(stage(batch_id), self.now)
        for batch_id in {self.count + 1, *self.running}:
            with pytest.raises(LocalProtocolError):
                self.conversation.go(batch_id, 0, self.now)
            with pytest.raises(LocalProtocolError):
                self.conversation.revoke(batch_id)


TestBatches = BatchesMachine.TestCase
TestBatches.settings = settings(max_examples=30, deadline=None)


# ------------------------------------------------------------------------- more models than memory

TIGHT = evolve(SLOT, memory_bytes=1000)


def tight(resident: list[int], load_ns: int = 50) -> Conversation:
    """Return one that is READY, of a worker with a budget."""
    conversation = Talk(slot=TIGHT).begin()
    (send,) = conversation.received(HELLO, 0)
    assert isinstance(send, Send)
    assert worker_pb2.ToWorker.FromString(send.datagram).load.memory_bytes == 1000
    for model in range(3):
        ready = spec_to_ready(SPEC, model=model, times_ns={1: 7}, load_ns=load_ns, memory_bytes=600)
        assert conversation.received(said(model_ready=ready), 0) == [
            ModelLoaded(WORKER, model, SPEC, {1: 7}, 600, load_ns)
        ]
    up = conversation.received(said(ready=worker_pb2.Ready(resident=resident)), 0)
    assert up == [WorkerUp(WORKER, 1000, tuple(resident))]
    return conversation


def test_a_batch_that_loads_its_model_may_take_longer_and_only_that_one() -> None:
    conversation = tight([2])
    conversation.stage(stage(1, model=2), 0)
    assert conversation.batches.hang_bound_ns == 100
    conversation.received(done(1), 10)
    conversation.stage(stage(2, model=0), 1000)
    assert conversation.overdue(1600) is None  # 100, and ten times the 50 of a load
    assert conversation.overdue(1601) == "hung: batch 2 of a runs for more than 6e-07 s"
    conversation.received(done(2, load_ns=80, resident=[0]), 1090)
    conversation.stage(stage(3, model=0), 2000)
    assert conversation.batches.hang_bound_ns == 100  # it is there by now; 10 is no slow batch
    conversation.received(done(3), 2005)
    conversation.stage(stage(4, model=2), 3000)
    assert conversation.batches.hang_bound_ns == 100 + 500  # it had to leave
    conversation.received(done(4, load_ns=1 << 63, resident=[2]), 3040)  # whatever it says
    conversation.stage(stage(5, model=0), 4000)
    assert conversation.batches.hang_bound_ns == 100 + 800


@pytest.mark.parametrize("resident", [[3], [1, 1], [0, 1 << 31]])
def test_what_is_resident_are_models_that_there_are(resident: list[int]) -> None:
    with pytest.raises(PeerProtocolError, match="resident"):
        tight(resident)
    conversation = tight([])
    conversation.stage(stage(1), 0)
    with pytest.raises(PeerProtocolError, match="resident"):
        conversation.received(done(1, load_ns=1, resident=resident), 1)


def test_a_worker_without_a_budget_loads_nothing_again() -> None:
    conversation = up()
    conversation.stage(stage(1), 0)
    assert conversation.batches.hang_bound_ns == 100
    with pytest.raises(PeerProtocolError, match="loaded a model that was there"):
        conversation.received(done(1, load_ns=1, resident=[0]), 1)
