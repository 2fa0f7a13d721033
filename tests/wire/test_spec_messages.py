from __future__ import annotations

import socket

import pytest
import wire_strategies
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerProtocolError
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec, with_hash
from appliance.wire.types import DType, Encoding
from appliance.wire.worker import (
    MAX_DATAGRAM,
    spec_from_message,
    spec_from_ready,
    spec_to_message,
    spec_to_ready,
    times_from_ready,
)

names = wire_strategies.names
counts = wire_strategies.uint32s
sizes = wire_strategies.uint64s
edges = st.integers(1, 2**32 - 1)
shapes = st.lists(st.integers(-1, 2**40), max_size=5).map(tuple)
dtypes = st.sampled_from(DType)

specs = st.builds(
    ModelSpec,
    model_id=names,
    version=names,
    inputs=st.lists(
        st.builds(
            InputSpec,
            name=names,
            source=names,
            dtype=dtypes,
            shape=shapes,
            row_shape=shapes,
            encodings=st.lists(st.sampled_from(Encoding), max_size=4).map(tuple),
            optional=st.booleans(),
            max_pixels=sizes,
            max_samples=sizes,
            max_bytes=sizes,
            resize=st.just(()) | st.tuples(edges, edges),
        ),
        max_size=4,
    ).map(tuple),
    outputs=st.lists(st.builds(OutputSpec, names, dtypes, shapes), max_size=3).map(tuple),
    max_batch=counts,
    output_bytes_per_row=sizes,
    state_bytes=st.lists(sizes, max_size=3).map(tuple),
    horizon=counts,
    step_period_us=sizes,
).map(with_hash)
times = st.dictionaries(counts, sizes, max_size=5)


@wire_strategies.repeatable
@given(specs, times)
def test_a_worker_tells_the_core_everything(spec, times_ns) -> None:
    ready = spec_to_ready(spec, model=3, times_ns=times_ns, load_ns=7)
    ready = worker_pb2.ModelReady.FromString(ready.SerializeToString())
    assert spec_from_ready(ready) == spec
    assert times_from_ready(ready) == times_ns
    assert (ready.model, ready.load_ns) == (3, 7)


@wire_strategies.repeatable
@given(specs)
def test_a_client_is_told_what_it_has_to_send(spec) -> None:
    message = session_pb2.Spec.FromString(spec_to_message(spec).SerializeToString())
    told = spec_from_message(message)
    assert told.hash == spec.hash
    assert told.recurrent == spec.recurrent
    assert told.outputs == spec.outputs
    assert [item.source for item in told.inputs] == [item.source for item in spec.inputs]
    # And it can tell it on.
    assert spec_to_message(told) == message


def test_what_a_client_is_told() -> None:
    item = InputSpec(
        "image", "camera", DType.UINT8, (48, 192, 3), (3, 48, 192), max_pixels=9, resize=(48, 192)
    )
    spec = ModelSpec("m", "1", (item,), (OutputSpec("y", DType.FLOAT32, (7,)),), max_batch=8)
    told = spec_from_message(spec_to_message(spec))
    assert told.inputs == (evolve(item, name="camera", row_shape=(48, 192, 3), max_pixels=0),)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (session_pb2.TensorSpec(key="x", dtype=99), "'x': unknown dtype 99"),
        (session_pb2.TensorSpec(key="x", encodings=[1, 99]), "'x': unknown encodings .1, 99"),
        (session_pb2.TensorSpec(key="x", encodings=[0]), "'x': unknown encodings .0"),
        (session_pb2.TensorSpec(key="x", resize=[4]), "'x': resize .4. is no height and width"),
        (session_pb2.TensorSpec(key="x", resize=[4, 0]), "'x': resize .4, 0. is no height"),
    ],
)
def test_an_unknown_number(item, words) -> None:
    with pytest.raises(PeerProtocolError, match=words):
        spec_from_message(session_pb2.Spec(inputs=[item]))
    ready = worker_pb2.ModelReady(
        spec=session_pb2.Spec(inputs=[item]), limits=[worker_pb2.InputLimit()]
    )
    with pytest.raises(PeerProtocolError, match=words):
        spec_from_ready(ready)


def test_limits_that_do_not_match_the_inputs() -> None:
    spec = session_pb2.Spec(model_id="m", inputs=[session_pb2.TensorSpec(key="x")])
    with pytest.raises(PeerProtocolError, match="model m: 1 inputs, 0 limits"):
        spec_from_ready(worker_pb2.ModelReady(spec=spec))


def test_a_large_stage_fits_a_datagram() -> None:
    feed = worker_pb2.Feed(
        offset=1 << 40, length=1 << 30, dtype="UINT8", encoding="RAW", shape=[1080, 1920, 3]
    )
    row = worker_pb2.Row(feeds=[feed] * 32, state_in=[{"offset": 1 << 40, "length": 1 << 20}])
    message = worker_pb2.ToWorker(stage=worker_pb2.Stage(batch_id=1 << 50, rows=[row] * 64))
    assert message.ByteSize() <= MAX_DATAGRAM


def test_the_longest_datagram_passes_an_ordinary_socket() -> None:
    core, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with core, worker:
        core.settimeout(0)
        assert core.send(bytes(MAX_DATAGRAM)) == MAX_DATAGRAM
        assert len(worker.recv(MAX_DATAGRAM)) == MAX_DATAGRAM
