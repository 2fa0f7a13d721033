"""The synchronous face over real sockets."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_appliance import PATIENCE_MS, FakeAppliance
from numpy.typing import NDArray

from appliance import Connection, Encoded, Outcome, WindowFull
from appliance.errors import LocalProtocolError
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec
from appliance.wire.types import DType, Encoding, Keep, Kind, Lateness, Timing

State = NDArray[Any]


def test_an_answer_looks_as_it_does_in_inferential(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(urgency=0.5, steps_remaining=0, state=state, prompt="pick")
    received = appliance.receive()
    appliance.reply(
        received,
        tensors={"action": np.ones((2, 7), np.float32)},
        metadata={"note": "hi", "model_id": "evil"},
        inference_latency_ms=2.5,
    )
    result = model.get_result(PATIENCE_MS)
    assert result is not None
    assert isinstance(result, dict)
    assert list(result) == ["response_id", "model_id", "inference_latency_ms", "action", "note"]
    assert (result["response_id"], result["model_id"]) == ("r1", "p")
    assert result["inference_latency_ms"] == 2.5
    assert result["action"].shape == (2, 7)
    assert not result["action"].flags.writeable
    assert result["note"] == "hi"
    assert model.get_result(0) is None  # given once
    assert model.last_status is Outcome.OK


def test_what_is_observed_is_what_arrives(appliance: FakeAppliance, connection: Connection) -> None:
    model = connection.model(
        "p",
        20.0,
        3,
        lateness="firm",
        keep="latest",
        observation_period_ms=40,
        step_period_ms=12.5,
        model_version="2",
    )
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    sequence = model.observe_at(
        {
            "image": image,
            "every_other": image[:, ::2],
            "big_endian": np.array([1, 2], dtype=">i4"),
            "scalar": np.float64(2.5),
            "jpeg": Encoded(bytearray(b"\xff\xd8"), "jpeg", age_us=9),
            "prompt": "pick",
            "absent": None,
        },
        urgency=0.25,
        steps_remaining=4,
        age_us=1500,
        episode=3,
        committed_steps=2,
        inference_delay_steps=1,
        trace_id="t",
    )
    received = appliance.receive()
    observation = received.observation
    assert observation.sequence == sequence
    parts = {t.key: received.payload[t.offset : t.offset + t.length] for t in observation.tensors}
    assert parts == {
        "image": image.tobytes(),
        "every_other": image[:, ::2].tobytes(),
        "big_endian": b"\1\0\0\0\2\0\0\0",
        "scalar": np.float64(2.5).tobytes(),
        "jpeg": b"\xff\xd8",
    }
    tensors = {tensor.key: tensor for tensor in observation.tensors}
    assert (tensors["image"].dtype, tensors["image"].shape) == (DType.UINT8, (2, 3, 4))
    assert (tensors["jpeg"].encoding, tensors["jpeg"].age_us) == (Encoding.JPEG, 9)
    assert observation.metadata == {"prompt": "pick"}
    assert (observation.client_id, observation.client_type) == ("r1", "sim")
    assert (observation.urgency, observation.steps_remaining, observation.priority) == (0.25, 4, 3)
    assert observation.latency_budget_us == 20_000
    assert (observation.lateness, observation.keep) == (Lateness.FIRM, Keep.LATEST)
    assert (observation.observation_period_us, observation.step_period_us) == (40_000, 12_500)
    assert (observation.age_us, observation.episode) == (1500, 3)
    assert (observation.committed_steps, observation.inference_delay_steps) == (2, 1)
    assert (observation.model_version, observation.trace_id) == ("2", "t")
    assert observation.wants_status
    assert observation.round_trip_us is None
    assert len(received.identity) >= 16


@pytest.mark.parametrize("size", [7, 640 * 480])  # copied and lent to ZeroMQ
def test_an_array_may_be_overwritten_once_observed(tmp_path: Path, size: int) -> None:
    fake = FakeAppliance(f"ipc://{tmp_path}/late")
    with Connection(fake.address, reconnect_ivl_ms=10) as connection:
        image = np.full(size, 7, np.uint8)
        model = connection.model("p")
        model.observe(image=image)
        image[:] = 9
        fake.start()
        while not fake.has_message():
            model.get_result(10)
        assert fake.receive().payload == b"\7" * size
    fake.close()


def test_the_answer_to_an_older_observation_is_never_given(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    older = appliance.receive()
    model.observe(state=state)
    newer = appliance.receive()
    appliance.reply(older, tensors={"action": np.zeros(1)})
    while connection.statistics().outstanding == 2:
        assert model.get_result(20) is None
    assert model.last_status is None
    appliance.reply(newer, tensors={"action": np.ones(1)})
    result = model.get_result(PATIENCE_MS)
    assert result is not None
    assert result["action"] == 1
    assert connection.statistics().stale_dropped == 1
    assert connection.statistics().answers == {Outcome.OK: 2}


def test_handles_of_one_model_share_their_answers(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    connection.model("p").observe(state=state)
    connection.model("q").observe(state=state)
    appliance.reply(appliance.receive())
    appliance.reply(appliance.receive())
    q = connection.model("q").get_result(PATIENCE_MS)
    p = connection.model("p").get_result(PATIENCE_MS)
    assert q is not None
    assert p is not None
    assert (p["model_id"], q["model_id"]) == ("p", "q")
    with pytest.raises(ValueError, match="keep=DEFAULT, not ALL"):
        connection.model("p", keep="all")


def test_a_refusal_is_no_result_but_says_why(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    refusal = {"message": "too busy", "retry_after_us": 1500}
    appliance.reply(appliance.receive(), Outcome.SHED, **refusal)
    assert model.get_result(PATIENCE_MS) is None
    assert (model.last_status, model.last_message) == (Outcome.SHED, "too busy")
    model.observe(state=state)
    assert model.last_status is None
    appliance.reply(appliance.receive(), Outcome.SHED, **refusal)
    result = model.wait(PATIENCE_MS)
    assert result is not None
    assert (result.ok, result.status, result.message) == (False, Outcome.SHED, "too busy")
    assert result.retry_after_s == 0.0015


def test_an_answer_says_how_it_came_about(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    sequence = model.observe_at({"state": state}, episode=4)
    appliance.reply(
        appliance.receive(),
        late=True,
        timing=Timing(1, 2, 3, 6, 8),
        model_version="3",
        redirect=("tcp://other:5555",),
        first_step=2,
        step_period_us=20_000,
        horizon=16,
    )
    result = model.wait(PATIENCE_MS)
    assert result is not None
    assert (result.status, result.ok, result.late) == (Outcome.OK, True, True)
    assert result.timing == Timing(1, 2, 3, 6, 8)
    assert (result.sequence, result.episode, result.model_version) == (sequence, 4, "3")
    assert result.redirect == ("tcp://other:5555",)
    assert (result.first_step, result.step_period_s, result.horizon) == (2, 0.02, 16)
    assert result.retry_after_s is None
    assert result.elapsed_ns > 0
    assert "OK" in repr(result)


def test_garbage_from_the_appliance_is_counted_and_nothing_else(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    received = appliance.receive()
    appliance.send(received, b"")
    appliance.send(received, b"", b"\xff\xff\xff", b"")
    appliance.send(received, b"x", b"", b"")
    appliance.send(received, b"", b"", b"", b"")
    good = received
    appliance.reply(good, tensors={"action": np.ones(3)})
    result = model.get_result(PATIENCE_MS)
    assert result is not None
    assert connection.statistics().bad_answers == 4


def test_a_short_payload_is_garbage(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    received = appliance.receive()
    # ModelResponse{tensors{key="a" dtype=FLOAT32 shape=[2] byte_length=8} sequence=1}
    envelope = b"\x22\x0a\x0a\x01a\x10\x02\x1a\x01\x02\x28\x08\x90\x01\x01"
    appliance.send(received, b"", envelope, b"1234")
    while not connection.statistics().bad_answers:
        assert model.get_result(20) is None
    appliance.send(received, b"", envelope, b"12345678")
    assert model.get_result(PATIENCE_MS) is not None


def test_silence_is_no_result_after_the_timeout(connection: Connection, state: State) -> None:
    model = connection.model("p")
    model.observe(state=state)
    assert model.get_result(0) is None
    before = time.monotonic()
    assert model.get_result(30) is None
    assert time.monotonic() - before >= 0.030
    assert model.last_status is None


def test_everything_returns_at_once_without_an_appliance(tmp_path: Path, state: State) -> None:
    fake = FakeAppliance(f"ipc://{tmp_path}/late")
    with Connection(fake.address, "r1", reconnect_ivl_ms=10) as connection:
        model = connection.model("p")
        for _ in range(500):
            model.observe(state=state)
            assert model.get_result(0) is None
        statistics = connection.statistics()
        assert (statistics.asked, statistics.sent, statistics.outstanding) == (500, 0, 1)
        assert statistics.superseded_locally == 499
        assert model.get_result(5) is None  # an age of less than 1 ms is not told
        fake.start()
        while not fake.has_message():
            assert model.get_result(10) is None
        received = fake.receive()
        assert received.observation.sequence == 500
        assert received.observation.age_us > 0  # it has waited here
        fake.reply(received)
        assert model.get_result(PATIENCE_MS) is not None
        assert connection.last_heard_ns is not None
    fake.close()


def test_an_appliance_that_comes_back_is_found(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    appliance.reply(appliance.receive())
    assert model.get_result(PATIENCE_MS) is not None
    appliance.stop()
    while not connection.statistics().superseded_locally:  # until the loss is noticed
        model.observe(state=state)
        assert model.get_result(1) is None
    appliance.start()
    while not appliance.has_message():
        assert model.get_result(10) is None
    received = appliance.receive()
    assert received.observation.sequence == model.observe(state=state) - 1
    appliance.reply(appliance.receive())
    assert model.get_result(PATIENCE_MS) is not None


SLEEPER = """
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
while True:
    identity, _, envelope, payload = socket.recv_multipart()
    print(len(payload), flush=True)
"""


def test_a_stopped_appliance_neither_blocks_nor_fills_memory(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/stopped"
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, address], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with Connection(address, reconnect_ivl_ms=10) as connection:
            model = connection.model("p")
            image = np.zeros((480, 640), np.uint8)
            model.observe(image=image)
            while not connection.statistics().sent:
                model.get_result(10)
            assert int(process.stdout.readline()) == image.nbytes
            os.kill(process.pid, signal.SIGSTOP)
            for _ in range(200):
                model.observe(image=image)
            statistics = connection.statistics()
            # What the socket, the kernel and the peer's own socket took, and no more.
            assert statistics.sent < 100
            assert statistics.superseded_locally == 200 - statistics.sent
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_keep_all_gives_every_answer_with_its_number(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p", keep="all", window=3)
    asked = [model.observe(state=state) for _ in range(3)]
    with pytest.raises(WindowFull, match="window 3"):
        model.observe(state=state)
    assert model.outstanding == 3
    received = [appliance.receive() for _ in range(3)]
    appliance.reply(received[1])
    appliance.reply(received[0], Outcome.SHED)
    appliance.reply(received[2])
    result = model.wait_for(asked[0], PATIENCE_MS)
    assert result is not None
    assert (result.sequence, result.status) == (asked[0], Outcome.SHED)
    assert model.wait_for(asked[0], PATIENCE_MS) is None  # collected: at once
    assert [each.sequence for each in model.results(PATIENCE_MS)] == [asked[1], asked[2]]
    assert connection.statistics().stale_dropped == 0


def test_nobody_waits_for_what_will_not_be_given(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    older = model.observe(state=state)
    latest = model.observe(state=state)
    before = time.monotonic()
    assert model.wait_for(older, PATIENCE_MS) is None
    model.cancel()
    assert model.wait_for(latest, PATIENCE_MS) is None
    assert model.wait_for(latest + 1, PATIENCE_MS) is None
    assert time.monotonic() - before < PATIENCE_MS / 1000
    assert model.outstanding == 2


def test_results_end_when_time_is_up(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p", keep="all")
    first = model.observe(state=state)
    model.observe(state=state)
    appliance.reply(appliance.receive())
    assert model.wait_for(first, PATIENCE_MS) is not None
    assert list(model.results(10)) == []
    assert not connection.wait_settled(0)
    appliance.reply(appliance.receive())
    assert connection.wait_settled(PATIENCE_MS)


def test_under_keep_all_nothing_is_replaced_while_the_appliance_is_away(
    tmp_path: Path, state: State
) -> None:
    fake = FakeAppliance(f"ipc://{tmp_path}/late")
    with Connection(fake.address, reconnect_ivl_ms=10) as connection:
        model = connection.model("p", keep="all")
        asked = [model.observe(state=state) for _ in range(40)]  # more than the socket takes
        fake.start()
        while not fake.has_message():
            connection.wait_settled(10)
        arrived = []
        while len(arrived) < 40:
            if not fake.has_message():
                connection.wait_settled(1)
                continue
            received = fake.receive()
            arrived.append(received.observation.sequence)
            fake.reply(received)
        assert arrived == asked
        assert [each.sequence for each in model.results(PATIENCE_MS)] == asked
    fake.close()


def test_describe(appliance: FakeAppliance, connection: Connection) -> None:
    spec = ModelSpec(
        "p",
        "1",
        (InputSpec("x", "camera", DType.UINT8, (4, 4, 3), (3, 4, 4)),),
        (OutputSpec("action", DType.FLOAT32, (7,)),),
        max_batch=8,
    )
    model = connection.model("p")
    thread = appliance.reply_from_a_thread(spec=spec)
    described = model.describe(PATIENCE_MS)
    thread.join()
    assert described is not None
    assert (described.model_id, described.version, described.max_batch) == ("p", "1", 8)
    assert described.inputs[0].source == "camera"
    assert model.describe(0) is None
    assert appliance.receive().observation.kind is Kind.DESCRIBE


def test_a_refused_description_says_why(appliance: FakeAppliance, connection: Connection) -> None:
    model = connection.model("p")
    thread = appliance.reply_from_a_thread(Outcome.UNKNOWN_MODEL, message="served: q")
    assert model.describe(PATIENCE_MS) is None
    thread.join()
    assert (model.last_status, model.last_message) == (Outcome.UNKNOWN_MODEL, "served: q")


def test_reachable_is_what_answers(appliance: FakeAppliance, connection: Connection) -> None:
    assert not connection.wait_reachable(0)
    heartbeat = appliance.receive(heartbeat=True)
    appliance.reply(heartbeat)
    assert connection.wait_reachable(PATIENCE_MS)
    assert connection.last_heard_ns is not None
    assert connection.statistics().asked == 0


def test_cancel_and_end_of_episode_reach_the_appliance(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    sequence = model.observe(state=state)
    observed = appliance.receive()
    model.cancel()
    cancel = appliance.receive().observation
    assert (cancel.kind, cancel.model_id, cancel.sequence) == (Kind.CANCEL, "p", sequence)
    appliance.reply(observed, Outcome.CANCELLED)
    assert connection.wait_settled(PATIENCE_MS)
    assert model.wait(0) is None
    assert model.last_status is Outcome.CANCELLED
    model.end_episode()
    end = appliance.receive().observation
    assert (end.kind, end.model_id, end.episode) == (Kind.END_EPISODE, "p", 0)
    assert model.episode_number == 1


def test_the_round_trip_travels_with_the_next_observation(
    appliance: FakeAppliance, connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    appliance.reply(appliance.receive())
    assert model.get_result(PATIENCE_MS) is not None
    model.observe(state=state)
    reported = appliance.receive().observation.round_trip_us
    assert reported == connection.statistics().round_trip_us
    assert reported is not None


def test_a_client_without_a_name_gets_its_own(appliance: FakeAppliance, state: State) -> None:
    names = set()
    for _ in range(2):
        with Connection(appliance.address) as connection:
            connection.model("p").observe(state=state)
            assert connection.model("p").get_result(0) is None
            names.add(connection.client_id)
    assert len(names) == 2
    assert all(str(os.getpid()) in name for name in names)


def test_after_close_nothing_works_and_everything_is_counted(
    connection: Connection, state: State
) -> None:
    model = connection.model("p")
    model.observe(state=state)
    connection.close()
    connection.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        model.observe(state=state)
    with pytest.raises(LocalProtocolError, match="closed"):
        model.get_result()
    statistics = connection.statistics()
    assert statistics.asked == statistics.unanswered == 1


@pytest.mark.parametrize(
    "server", ["tcp://", "nonsense://x", "tcp://host:not-a-port", "inproc://x"]
)
def test_a_server_that_is_no_address(server: str) -> None:
    with pytest.raises(ValueError, match="server"):
        Connection(server)


def test_options_out_of_range(connection: Connection) -> None:
    with pytest.raises(ValueError, match="lateness 'hard'"):
        connection.model("p", lateness="hard")
    with pytest.raises(ValueError, match="keep 'some'"):
        connection.model("p", keep="some")
    with pytest.raises(ValueError, match="window 0"):
        connection.model("p", window=0)


def test_a_value_without_a_place_on_the_wire_is_the_callers_error(connection: Connection) -> None:
    model = connection.model("p")
    with pytest.raises(TypeError, match=r"'joints': .* list came"):
        model.observe(joints=[1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'z': .* complex128"):
        model.observe(z=np.zeros(2, complex))
    with pytest.raises(ValueError, match="jpeg, png, wav, flac"):
        Encoded(b"", "gif")
    assert connection.statistics().asked == 0


def test_many_connections_may_share_one_context(appliance: FakeAppliance, state: State) -> None:
    import zmq

    with zmq.Context() as context:
        connections = [Connection(appliance.address, context=context) for _ in range(3)]
        for connection, _ in zip(connections, itertools.count()):
            connection.model("p").observe(state=state)
            while not connection.statistics().sent:
                connection.wait_settled(10)
        identities = {appliance.receive().identity for _ in connections}
        assert len(identities) == 3
        for connection in connections:
            connection.close()
