from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engines.tensorrt.choice import choose
from appliance.engines.tensorrt.flavour import DEFAULT_TARGET
from appliance.engines.tensorrt.tensors import Declared, padded, runs_of, tensors_of
from appliance.errors import EngineError
from appliance.models.engine_cache import REVISION
from appliance.models.manifest import Precision
from appliance.wire.types import DType


def test_the_batch_is_where_shapes_differ() -> None:
    shapes = {
        1: {"x": (1, 3, 8), "state": (2, 1, 5), "table": (7,)},
        4: {"x": (4, 3, 8), "state": (2, 4, 5), "table": (7,)},
    }
    declared = [Declared(name, is_input=True, dtype=DType.FLOAT32) for name in shapes[1]]
    x, state, table = tensors_of(declared, shapes.__getitem__, 4)
    assert (x.shape, x.axis, x.of_batch(2), x.bytes_of(2)) == ((-1, 3, 8), 0, (2, 3, 8), 192)
    assert (state.shape, state.axis, state.of_batch(3)) == ((2, -1, 5), 1, (2, 3, 5))
    assert (table.shape, table.axis, table.of_batch(3)) == ((7,), None, (7,))


@pytest.mark.parametrize(
    ("dtype", "least", "most", "told"),
    [
        (DType.FLOAT32, (1, 4), (4, 16), "one dimension has to be the batch"),
        (DType.FLOAT32, (2, 4), (8, 4), "one dimension has to be the batch"),
        (DType.FLOAT32, (1, -1), (4, -1), "its shape follows the data"),
        (DType.BFLOAT16, (1, 4), (4, 4), "is bfloat16; export the model with"),
    ],
)
def test_what_cannot_be_served_is_said(
    dtype: DType, least: tuple[int, ...], most: tuple[int, ...], told: str
) -> None:
    shapes = {1: {"y": least}, 4: {"y": most}}
    with pytest.raises(EngineError, match=told):
        tensors_of([Declared("y", is_input=False, dtype=dtype)], shapes.__getitem__, 4)


@given(st.lists(st.integers(1, 64), min_size=1, unique=True).map(sorted), st.integers(1, 64))
def test_padding_takes_the_least_that_holds_it(sizes: list[int], count: int) -> None:
    found = padded(count, sizes)
    assert found >= count
    assert not [size for size in sizes if count <= size < found]


@given(st.lists(st.integers(0, 40), unique=True).map(sorted))
def test_runs_hold_each_position_once(positions: list[int]) -> None:
    runs = runs_of(positions)
    assert [at for first, length in runs for at in range(first, first + length)] == positions
    assert all(first + length < other for (first, length), (other, _) in pairwise(runs))


# ------------------------------------------------------------------------- which engine


def entry(key: str, **changed: Any) -> tuple[str, dict[str, Any]]:
    recipe = {
        "model_sha256": "m",
        "builder": "tensorrt_rtx 1.7.1",
        "target": DEFAULT_TARGET,
        "precision": "fp32",
        "profile": {"x": [[1, 4], [8, 4], [8, 4]]},
        "revision": REVISION,
    }
    return key, {"recipe": {**recipe, **changed}}


def chosen(
    *entries: tuple[str, dict[str, Any]],
    precision: Precision = "fp32",
    max_batch: int | None = None,
) -> str:
    return choose(
        entries,
        name="arm",
        version="2",
        model_sha256="m",
        builder="tensorrt_rtx 1.7.1",
        targets=("8.9", DEFAULT_TARGET),
        options=" --capability 8.9",
        precision=precision,
        max_batch=max_batch,
    )


def test_an_engine_for_this_very_gpu_is_preferred() -> None:
    assert chosen(entry("a"), entry("b", target="8.6,8.9"), entry("c", target="8.6")) == "b"
    assert chosen(entry("a"), entry("c", target="8.6")) == "a"


def test_an_engine_takes_the_largest_batch_of_the_manifest() -> None:
    small = entry("a", profile={"x": [[1, 4], [4, 4], [4, 4]]})
    single = entry("a", profile={"x": [[1, 4], [1, 4], [1, 4]]})
    assert chosen(small, entry("b")) == "b"
    assert chosen(small, max_batch=3) == "a"
    assert chosen(single) == "a"


def test_an_engine_is_in_the_precision_of_the_manifest() -> None:
    both = entry("a"), entry("b", precision="fp16")
    assert (chosen(*both), chosen(*both, precision="fp16")) == ("a", "b")


def test_an_engine_that_was_built_in_another_way_is_not_taken() -> None:
    key, of_before = entry("a")
    del of_before["recipe"]["revision"]
    with pytest.raises(EngineError, match=r"built in another way .*; run: appliance models build"):
        chosen((key, of_before))
    assert chosen((key, of_before), entry("b")) == "b"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "no engine of arm 2 was built; run: appliance models build arm 2"),
        ([entry("a", model_sha256="other")], "no engine of arm 2 was built"),
        (
            [entry("a", precision="fp16")],
            "was built in fp16; the manifest says fp32; run: appliance",
        ),
        ([entry("a", builder="tensorrt 10.3")], "built by tensorrt 10.3; here is tensorrt_rtx 1.7"),
        (
            [entry("a", target="8.6")],
            "was built for 8.6; here is 8.9; run: appliance models build arm 2 --cap",
        ),
        (
            [entry("a", profile={"x": [[1, 4], [4, 4], [4, 4]]})],
            "takes batches of at most 4; the manifest says 8; run: appliance models build",
        ),
    ],
)
def test_why_there_is_no_engine(entries: list[tuple[str, dict[str, Any]]], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        chosen(*entries)
