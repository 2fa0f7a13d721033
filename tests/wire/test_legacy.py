from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from appliance.wire.arrays import Encoded, Item, pack, to_array
from appliance.wire.legacy import for_old_client
from appliance.wire.types import DType, Encoding, Response


def widened(**items: Item) -> tuple[Response, dict[str, np.ndarray]]:
    tensors, parts = pack(items)
    response, parts = for_old_client(Response(tensors=tensors, metadata={"a": "b"}), parts)
    payload = b"".join(parts)
    arrays = {tensor.key: to_array(tensor, payload) for tensor in response.tensors}
    return response, arrays


def test_what_an_old_client_knows_is_left_alone() -> None:
    tensors, parts = pack({"x": np.zeros(3, np.float32), "y": np.ones(2, np.bool_)})
    response = Response(tensors=tensors)
    same, same_parts = for_old_client(response, parts)
    assert same is response
    assert same_parts is parts


@pytest.mark.parametrize(
    ("dtype", "values", "wider"),
    [
        (ml_dtypes.bfloat16, [1.5, -2.0], DType.FLOAT32),
        (np.int8, [-128, 127], DType.INT32),
        (np.int16, [-32768, 32767], DType.INT32),
        (np.uint16, [0, 65535], DType.INT32),
        (np.uint32, [0, 2**32 - 1], DType.INT64),
        (np.uint64, [0, 2**63 - 1], DType.INT64),
    ],
)
def test_what_it_does_not_know_is_widened(dtype, values, wider) -> None:
    response, arrays = widened(
        first=np.zeros(3, np.uint8), x=np.array(values, dtype=dtype), last=np.arange(2.0)
    )
    assert [tensor.dtype for tensor in response.tensors] == [DType.UINT8, wider, DType.FLOAT64]
    assert arrays["x"].tolist() == values
    assert arrays["last"].tolist() == [0.0, 1.0]


def test_uint64_beyond_int64_is_cut_off() -> None:
    _, arrays = widened(x=np.array([2**64 - 1], dtype=np.uint64))
    assert arrays["x"].tolist() == [2**63 - 1]


def test_one_string_goes_where_old_clients_look_for_strings() -> None:
    response, arrays = widened(label="left é", x=np.arange(2.0))
    assert response.metadata == {"a": "b", "label": "left é"}
    assert arrays.keys() == {"x"}


def test_what_cannot_be_read_at_all_is_left_out() -> None:
    response, arrays = widened(
        labels=["a", "b"], image=Encoded(b"file", Encoding.PNG), x=np.arange(2.0)
    )
    assert response.metadata == {"a": "b"}
    assert arrays.keys() == {"x"}
    assert arrays["x"].tolist() == [0.0, 1.0]
