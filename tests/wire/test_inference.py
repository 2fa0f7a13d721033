"""The Open Inference Protocol: requests to rows, rows' outputs to responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Outcome, Rejected
from appliance.wire.arrays import to_array
from appliance.wire.inference import (
    DATATYPES,
    Output,
    RowOutputs,
    read_options,
    read_outputs,
)
from appliance.wire.inference_response import write_response
from appliance.wire.inference_rows import TYPED, read_contents, read_rows
from appliance.wire.pb import inference_pb2 as pb
from appliance.wire.spec import FREE, InputSpec, ModelSpec, OutputSpec
from appliance.wire.types import ITEM_BYTES, NUMPY_DTYPES, DType, Encoding, Tensor

FIXED = sorted(name for name, dtype in DATATYPES.items() if dtype in ITEM_BYTES)
PLAIN = sorted(name for name, dtype in DATATYPES.items() if dtype in NUMPY_DTYPES)
JPEG, PNG = b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\n\x1a\nrest"


def spec(*inputs: InputSpec, max_batch: int = 4, **more: Any) -> ModelSpec:
    outputs = (OutputSpec("y", DType.FLOAT32, (2,)), OutputSpec("z", DType.INT64, ()))
    return ModelSpec("m", "1", inputs, outputs, max_batch, **more)


def takes(dtype: DType = DType.FLOAT32, *shape: int, name: str = "x", **more: Any) -> InputSpec:
    return InputSpec(name, more.pop("source", name), dtype, shape, shape, **more)


IMAGE = takes(DType.UINT8, FREE, FREE, 3, encodings=tuple(Encoding), max_pixels=100)
PROMPT = takes(DType.STRING, 1, name="text", source="metadata:prompt")


def asks(
    datatype: str, shape: tuple[int, ...], data: bytes | None, name: str = "x", **more: Any
) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m", **more)
    return also(made, datatype, shape, data, name)


def also(
    made: pb.ModelInferRequest,
    datatype: str,
    shape: tuple[int, ...],
    data: bytes | None,
    name: str = "x",
) -> pb.ModelInferRequest:
    made.inputs.add(name=name, datatype=datatype, shape=shape)
    if data is not None:
        made.raw_input_contents.append(data)
    return made


def elements(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def nothing_shared(*_: Any) -> Any:
    raise AssertionError("nothing lies in shared memory")


def rows_of(request: pb.ModelInferRequest, model: ModelSpec) -> Any:
    return read_rows(request, read_contents(request, nothing_shared, 0), model)


def why(request: pb.ModelInferRequest, *inputs: InputSpec, **more: Any) -> str:
    with pytest.raises(Rejected) as caught:
        rows_of(request, spec(*inputs, **more))
    assert caught.value.outcome is Outcome.INVALID
    return caught.value.message


# ------------------------------------------------------------------------------------- rows


@given(st.sampled_from(FIXED), st.integers(1, 4), st.lists(st.integers(1, 4), max_size=3))
def test_each_row_has_its_part_of_the_bytes(datatype: str, count: int, shape: list[int]) -> None:
    dtype = DATATYPES[datatype]
    size = ITEM_BYTES[dtype] * int(np.prod(shape))
    data = bytes(n % 251 for n in range(count * size))
    found = rows_of(asks(datatype, (count, *shape), data), spec(takes(dtype, *shape)))
    assert found.is_batched
    assert len(found.tensors) == count
    for row, (tensor,) in enumerate(found.tensors):
        assert (tensor.dtype, tensor.shape, tensor.key) == (dtype, tuple(shape), "x")
        got = found.payload[tensor.offset : tensor.offset + tensor.length]
        assert got == data[row * size : (row + 1) * size]


@given(st.sampled_from([name for name in PLAIN if DATATYPES[name] in TYPED]), st.data())
def test_typed_contents_are_the_same_bytes(datatype: str, data: st.DataObject) -> None:
    dtype = DATATYPES[datatype]
    narrow = NUMPY_DTYPES[dtype]
    if narrow.kind in "iu":
        limits = np.iinfo(narrow)
        numbers: Any = st.integers(int(limits.min), int(limits.max))
    else:
        numbers = st.booleans() if narrow.kind == "b" else st.floats(width=32, allow_nan=False)
    items = data.draw(st.lists(numbers, min_size=3, max_size=3))
    request = asks(datatype, (1, 3), None)
    getattr(request.inputs[0].contents, TYPED[dtype]).extend(items)
    found = rows_of(request, spec(takes(dtype, 3)))
    assert bytes(found.payload) == np.array(items, narrow).tobytes()


def test_a_row_needs_no_batch_dimension() -> None:
    found = rows_of(asks("FP32", (2,), bytes(8)), spec(takes(DType.FLOAT32, 2)))
    assert (len(found.tensors), found.is_batched) == (1, False)


def test_several_inputs() -> None:
    request = also(asks("FP32", (2, 1), bytes(8)), "INT8", (2, 3), b"abcdef", "n")
    found = rows_of(request, spec(takes(DType.FLOAT32, 1), takes(DType.INT8, 3, name="n")))
    assert [bytes(found.payload[t.offset : t.offset + t.length]) for _, t in found.tensors] == [
        b"abc",
        b"def",
    ]


def test_texts_and_files_are_an_element_a_row() -> None:
    request = also(
        asks("BYTES", (2, 1), elements(JPEG, PNG)), "BYTES", (2, 1), elements(b"a", b"bc"), "prompt"
    )
    found = rows_of(request, spec(IMAGE, PROMPT))
    assert [t.encoding for (t,) in found.tensors] == [Encoding.JPEG, Encoding.PNG]
    assert [bytes(found.payload[t.offset : t.offset + t.length]) for (t,) in found.tensors] == [
        JPEG,
        PNG,
    ]
    assert found.metadata == [{"prompt": "a"}, {"prompt": "bc"}]


def test_strings_keep_their_lengths() -> None:
    data = elements(b"one", b"", b"three", b"four")
    found = rows_of(asks("BYTES", (2, 2), data), spec(takes(DType.STRING, 2)))
    texts = [to_array(tensor, found.payload).tolist() for (tensor,) in found.tensors]
    assert texts == [[b"one", b""], [b"three", b"four"]]


def test_what_is_wrong_is_said() -> None:
    x = takes(DType.FLOAT32, 2)
    both = asks("FP32", (1, 2), bytes(8))
    both.inputs[0].contents.fp32_contents.extend([1, 2])
    half = asks("FP16", (1, 2), None)
    half.inputs[0].contents.fp32_contents.extend([1, 2])
    crowded = asks("INT8", (1, 2), None)
    crowded.inputs[0].contents.int_contents.extend([1, 300])
    other = asks("INT8", (1, 2), None)
    other.inputs[0].contents.fp32_contents.extend([1, 2])
    twice = also(asks("FP32", (1, 2), bytes(8)), "FP32", (1, 2), bytes(8))
    short = asks("FP32", (1, 2), bytes(8))
    short.raw_input_contents.append(b"")
    uneven = also(asks("FP32", (2, 2), bytes(16)), "FP32", (3, 2), bytes(24), "y")
    assert "has 8 bytes, came 7" in why(asks("FP32", (1, 2), bytes(7)), x)
    assert "sizes from 0 on" in why(asks("FP32", (-1, 2), bytes(8)), x)
    assert "came 'FLOAT'" in why(asks("FLOAT", (1, 2), bytes(8)), x)
    assert "takes 'x'; it does not take 'q'" in why(asks("FP32", (1, 2), bytes(8), "q"), x)
    assert "is there twice" in why(twice, x)
    assert "raw_input_contents and contents" in why(both, x)
    assert "raw_input_contents only" in why(half, takes(DType.FLOAT16, 2))
    assert "is no INT8" in why(crowded, takes(DType.INT8, 2))
    assert "not fp32_contents" in why(other, takes(DType.INT8, 2))
    assert "expected 1, one an input, came 2" in why(short, x)
    assert "1 to 4 rows, came 5" in why(asks("FP32", (5, 2), bytes(40)), x)
    assert "1 to 4 rows, came 0" in why(asks("FP32", (0, 2), b""), x)
    assert "different batch sizes" in why(uneven, x, takes(DType.FLOAT32, 2, name="y"))
    assert "expected a file" in why(asks("BYTES", (1, 1), elements(b"GIF89a")), IMAGE)
    assert "elements of BYTES" in why(asks("BYTES", (1, 1), elements(JPEG)[:-1]), IMAGE)
    assert "elements of BYTES" in why(asks("BYTES", (2, 1), elements(JPEG)), IMAGE)
    assert "an element a row" in why(asks("BYTES", (1, 2), elements(JPEG, JPEG)), IMAGE)
    assert "is no UTF-8" in why(asks("BYTES", (1, 1), elements(b"\xff"), "prompt"), PROMPT)
    assert "expected BYTES" in why(asks("FP32", (1, 1), bytes(4), "prompt"), PROMPT)


@given(st.binary(max_size=200), st.lists(st.integers(-2, 2**40), max_size=4))
def test_garbage_is_refused_or_read_within_the_payload(data: bytes, shape: list[int]) -> None:
    outcomes: set[Outcome] = set()
    for wanted in (takes(DType.STRING, 2), IMAGE, takes(DType.FLOAT32, 2)):
        for datatype in ("BYTES", "FP32"):
            try:
                found = rows_of(asks(datatype, tuple(shape), data), spec(wanted))
            except Rejected as rejected:
                outcomes.add(rejected.outcome)
                continue
            for (tensor,) in found.tensors:
                assert 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
    assert outcomes <= {Outcome.INVALID}


# ---------------------------------------------------------------------------------- options


def options(**parameters: Any) -> Any:
    made = pb.ModelInferRequest()
    for name, (kind, value) in parameters.items():
        setattr(made.parameters[name], f"{kind}_param", value)
    return read_options(made)


def test_options() -> None:
    found = options(
        priority=("uint64", 2),
        timeout=("int64", 5000),
        sequence_id=("int64", 7),
        sequence_start=("bool", True),
        keep=("string", "latest"),
        triton_enable_empty_final_response=("bool", True),
    )
    assert (found.priority, found.timeout_us, found.sequence_id) == (2, 5000, "7")
    assert (found.sequence_start, found.sequence_end, found.latest) == (True, False, True)
    assert options(sequence_id=("string", "arm")).sequence_id == "arm"
    assert options(priority=("uint64", 0), sequence_id=("uint64", 0)) == options()


@pytest.mark.parametrize(
    "parameter",
    [
        {"priority": ("string", "high")},
        {"timeout": ("int64", -1)},
        {"sequence_start": ("int64", 1)},
        {"sequence_id": ("bool", True)},
        {"triton_anything": ("bool", True)},
        {"keep": ("string", "oldest")},
        {"keep": ("int64", 1)},
    ],
)
def test_options_that_are_none(parameter: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as caught:
        options(**parameter)
    assert caught.value.outcome is Outcome.INVALID


def test_outputs_that_are_asked_for() -> None:
    made = pb.ModelInferRequest()
    assert [each.name for each in read_outputs(made, spec())] == ["y", "z"]
    made.outputs.add(name="z").parameters["classification"].int64_param = 3
    assert read_outputs(made, spec()) == [Output("z", 3)]
    for name in ("z", "q"):
        bad = pb.ModelInferRequest()
        bad.CopyFrom(made)
        bad.outputs.add(name=name)
        with pytest.raises(Rejected):
            read_outputs(bad, spec())


# -------------------------------------------------------------------------------- responses


def row(*numbers: float) -> RowOutputs:
    part = np.array(numbers, "<f4").tobytes()
    first = Tensor("y", DType.FLOAT32, (len(numbers),), 0, len(part))
    second = Tensor("z", DType.INT64, (), len(part), 8)
    return RowOutputs([first, second], [part, (7).to_bytes(8, "little")])


def test_a_response_has_one_tensor_of_all_rows() -> None:
    request = pb.ModelInferRequest(id="42")
    outputs = [Output("z"), Output("y")]
    response = write_response(
        request, spec(), outputs, [row(1, 2), row(3, 4)], nothing_shared, is_batched=True
    )
    assert (response.id, response.model_name, response.model_version) == ("42", "m", "1")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("z", "INT64", [2]),
        ("y", "FP32", [2, 2]),
    ]
    assert np.frombuffer(response.raw_output_contents[1], "<f4").tolist() == [1, 2, 3, 4]
    alone = write_response(request, spec(), outputs, [row(1, 2)], nothing_shared, is_batched=False)
    assert [list(each.shape) for each in alone.outputs] == [[], [2]]


def test_classification() -> None:
    response = write_response(
        pb.ModelInferRequest(),
        spec(),
        [Output("y", 2)],
        [row(0.5, 3, -1)],
        nothing_shared,
        is_batched=True,
    )
    assert response.raw_output_contents[0] == elements(b"3.000000:1", b"0.500000:0")
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1, 2])


def test_rows_of_different_shapes_are_no_tensor() -> None:
    with pytest.raises(Rejected, match="row by row"):
        write_response(
            pb.ModelInferRequest(),
            spec(),
            [Output("y")],
            [row(1), row(1, 2)],
            nothing_shared,
            is_batched=True,
        )


NUMBERS = {
    "ModelInferRequest": "model_name 1, model_version 2, id 3, parameters 4, inputs 5, outputs 6, "
    "raw_input_contents 7",
    "ModelInferRequest.InferInputTensor": "name 1, datatype 2, shape 3, parameters 4, contents 5",
    "ModelInferRequest.InferRequestedOutputTensor": "name 1, parameters 2",
    "ModelInferResponse": "model_name 1, model_version 2, id 3, parameters 4, outputs 5, "
    "raw_output_contents 6",
    "ModelInferResponse.InferOutputTensor": "name 1, datatype 2, shape 3, parameters 4, contents 5",
    "ModelStreamInferResponse": "error_message 1, infer_response 2",
    "InferParameter": "bool_param 1, int64_param 2, string_param 3, double_param 4, uint64_param 5",
    "InferTensorContents": "bool_contents 1, int_contents 2, int64_contents 3, uint_contents 4, "
    "uint64_contents 5, fp32_contents 6, fp64_contents 7, bytes_contents 8",
    "ModelMetadataResponse": "name 1, versions 2, platform 3, inputs 4, outputs 5",
    "ModelStatistics": "name 1, version 2, last_inference 3, inference_count 4, execution_count 5, "
    "inference_stats 6, batch_stats 7, memory_usage 8, response_stats 9",
    "InferStatistics": "success 1, fail 2, queue 3, compute_input 4, compute_infer 5, "
    "compute_output 6, cache_hit 7, cache_miss 8",
    "StatisticDuration": "count 1, ns 2",
    "ModelConfig": "name 1, platform 2, max_batch_size 4, input 5, output 6, instance_group 7, "
    "dynamic_batching 11, sequence_batching 13, backend 17, model_transaction_policy 19",
    "SystemSharedMemoryRegisterRequest": "name 1, key 2, offset 3, byte_size 4",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_the_protocol(name: str) -> None:
    message = pb.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}")
    fields = sorted(message.fields, key=lambda each: each.number)
    assert ", ".join(f"{each.name} {each.number}" for each in fields) == NUMBERS[name]


def test_the_methods_of_the_protocol() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert len(service.methods) == 20


def test_what_lies_in_shared_memory_is_bounded_before_it_is_read() -> None:
    made = pb.ModelInferRequest()
    for size in (60, 41):
        tensor = made.inputs.add(name="x", datatype="FP32", shape=[1])
        tensor.parameters["shared_memory_region"].string_param = "region"
        tensor.parameters["shared_memory_byte_size"].int64_param = size
    with pytest.raises(Rejected, match="at most 100 bytes are allowed, 101 are named"):
        read_contents(made, nothing_shared, 100)
