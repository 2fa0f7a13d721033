"""Half precision: a model's file is converted before its engine is built.

TensorRT for RTX, and TensorRT from 11 on, compute in the types that the file has. What the model
takes and gives keeps its type; casts are put behind its inputs and before its outputs.

float16 is made by ONNX Runtime's own converter. The runtime is there anyway, and its converter is
looked after more than `onnxconverter-common`, of which it was made. NVIDIA's ModelOpt knows
bfloat16, too, and chooses by itself what stays float32; but it takes PyTorch, CuPy, and one version
of ONNX and of ONNX Runtime. So bfloat16 is the same conversion with the other type written in, and
the numbers taken from the file once more: those that float16 cannot hold are why one wants it.
In float16, what takes such a number (a variance, mostly) stays float32; in a loop's body or a
branch, where the converter cannot keep a node as it is, the number is refused.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from appliance.errors import EngineError, ExtraMissing
from appliance.models.manifest import Precision

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

UNCONVERTED: tuple[Precision, ...] = ("fp32", "tf32")
"""What the builder does with the file as it is."""
UNSUPPORTED_IN_BF16 = ("ConvTranspose",)
"""TensorRT for RTX 1.7 finds no kernel for these."""
_FLOAT16_MOST = float(np.finfo(np.float16).max)


@contextmanager
def in_precision(path: Path, precision: Precision) -> Generator[Path, None, None]:
    """Give the file to build an engine of: the model's own, or one that goes again.

    Raises:
        EngineError: The model cannot be converted.
        ExtraMissing: What converts it is not installed.
    """
    if precision in UNCONVERTED:
        yield path
        return
    with TemporaryDirectory(prefix="appliance-build-") as directory:
        made = Path(directory) / path.name
        _convert(path, precision, made)
        yield made


def _convert(path: Path, precision: Precision, made: Path) -> None:
    try:
        import onnx  # noqa: PLC0415  only to build, and only where it is converted
        from onnx.external_data_helper import load_external_data_for_model  # noqa: PLC0415
        from onnxruntime.transformers import float16  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(
            f"precision {precision!r}: {error}; install: pip install 'appliance[gpu]'"
        ) from error
    kept = list(float16.DEFAULT_OP_BLOCK_LIST)
    nodes_kept: list[str] = []
    if precision == "bf16":
        kept += UNSUPPORTED_IN_BF16
    try:
        # Shapes before weights: a model of more than 2 GiB does not fit in one message.
        model = onnx.load(str(path), load_external_data=False)  # pyright: ignore[reportUnknownMemberType]
        model = onnx.shape_inference.infer_shapes(model)
        load_external_data_for_model(model, str(path.parent))
        original = deepcopy(model.graph) if precision == "bf16" else None
        if precision == "fp16":
            _lift_constants(model.graph)
            nodes_kept = _too_large_for_float16(model.graph)
        model = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=True,
            op_block_list=kept,
            node_block_list=nodes_kept,
        )
        if original is not None:
            _make_bfloat16(model.graph, original)
        onnx.save_model(  # pyright: ignore[reportUnknownMemberType]
            model, str(made), save_as_external_data=True, location=f"{made.name}.weights"
        )
    except Exception as error:  # both libraries raise whatever they come across
        raise EngineError(
            f"{path}: cannot be converted to {precision}: {type(error).__name__}: {error}"
        ) from error


# ---------------------------------------------------------------------------------- float16


def _lift_constants(graph: GraphProto) -> None:
    """Make weights of constant nodes: of those, the converter leaves alone what stays float32."""
    others: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weight = graph.initializer.add()
            weight.CopyFrom(node.attribute[0].t)
            weight.name = node.output[0]
        else:
            others.append(node)
    del graph.node[:]
    graph.node.extend(others)


def _too_large_for_float16(graph: GraphProto) -> list[str]:
    """Return the names of the nodes that take a number which float16 does not hold.

    Raises:
        ValueError: There is one inside of a node.
    """
    large = {weight.name for weight in graph.initializer if _largest(weight) > _FLOAT16_MOST}
    found: list[str] = []
    for index, node in enumerate(graph.node):
        within = max(map(_largest, _weights_within(node)), default=0.0)
        if within > _FLOAT16_MOST:
            raise ValueError(
                f"{node.op_type} {node.name!r} holds {within:g} inside, and float16 ends at "
                f'{_FLOAT16_MOST:g}: take "bf16" or "fp32"'
            )
        if large.intersection(node.input):
            node.name = node.name or f"kept {index}"
            found.append(node.name)
    return found


def _weights_within(node: NodeProto) -> Iterator[TensorProto]:
    """Yield what the graphs inside of a node hold: branches of an `If`, the body of a `Loop`."""
    for attribute in node.attribute:
        yield from attribute.g.initializer
        for inner in attribute.g.node:
            yield from (each.t for each in inner.attribute if each.HasField("t"))
            yield from _weights_within(inner)


def _largest(weight: TensorProto) -> float:
    """Return the largest number of a float32 weight that is finite, without its sign; or 0."""
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415  see above

    if weight.data_type != TensorProto.FLOAT:
        return 0.0
    numbers: NDArray[np.float32] = numpy_helper.to_array(weight)
    return float(np.max(np.abs(numbers), initial=0.0, where=np.isfinite(numbers)))


# --------------------------------------------------------------------------------- bfloat16


def _make_bfloat16(graph: GraphProto, original: GraphProto) -> None:
    """Make bfloat16 of all that was made float16.

    The converter leaves what there was in its order, and adds its own behind it.

    Raises:
        ValueError: The file holds float16 of its own.
    """
    from onnx import TensorProto  # noqa: PLC0415  see above

    theirs = (*original.input, *original.output, *original.value_info)
    types = {value.type.tensor_type.elem_type for value in theirs}
    types.update(tensor.data_type for tensor in original.initializer)
    if TensorProto.FLOAT16 in types:
        raise ValueError("it has float16 already; export it in float32")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for tensor, before in zip(graph.initializer, original.initializer, strict=True):
        _retype(tensor, before)
    for node, was in zip_longest(graph.node, original.node):
        for attribute, had in zip_longest(node.attribute, was.attribute if was else ()):
            _retype_attribute(attribute, had)


def _retype_attribute(attribute: AttributeProto, before: AttributeProto | None) -> None:
    from onnx import TensorProto  # noqa: PLC0415  see above

    if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
        attribute.i = TensorProto.BFLOAT16
    if attribute.HasField("t"):
        _retype(attribute.t, before.t if before else attribute.t)
    if before is not None and attribute.HasField("g"):
        _make_bfloat16(attribute.g, before.g)


def _retype(tensor: TensorProto, before: TensorProto) -> None:
    """Write a tensor's numbers anew, as they were before they were float16."""
    import ml_dtypes  # noqa: PLC0415  it comes with onnx
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415  see above

    if tensor.data_type != TensorProto.FLOAT16:
        return
    numbers = numpy_helper.to_array(before).astype(ml_dtypes.bfloat16)
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
