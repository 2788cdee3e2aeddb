"""What an ONNX file says of itself: its picture input, its output, and whether a runtime can execute it.

A classifier has one picture input of four axes and one output of one score a class, as the gateway demands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lensgate_export.failures import Failure

SERVED = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.UINT8: np.dtype(np.uint8),
    onnx.TensorProto.INT8: np.dtype(np.int8),
}

# Operators that move values and change none: behind them, what ends the graph is what stands before.
_SHAPE_ONLY = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Graph:
    """The facts of one graph. Extents are None where they are open."""

    input_name: str
    input_type: np.dtype[Any]
    input_shape: tuple[int | None, ...]
    output_name: str
    output_type: np.dtype[Any]
    classes: int | None
    ends_in: str | None
    output_scale: float | None
    output_zero_point: int | None

    def picture_axes(self, layout: str | None) -> tuple[str, int | None, int | None, int | None]:
        """Layout, channels, rows and columns; `layout` of the manifest wins where it is given."""
        _, second, third, last = self.input_shape
        if layout is None:
            if second in (1, 3):
                layout = "NCHW"
            elif last in (1, 3):
                layout = "NHWC"
            else:
                raise Failure(f"the input has shape {list(self.input_shape)}: neither axis is one of 1 or 3 channels")
        layout = layout.upper()
        return (layout, second, third, last) if layout == "NCHW" else (layout, last, second, third)


def facts(path: Path) -> Graph:
    """Reads a graph's facts; a file that is no classifier of pictures is a `Failure` that says why."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own errors have no common class
        raise Failure(f"{path} is no ONNX file: {error}") from error
    _refuse_foreign_operators(model)
    graph = model.graph
    constants = {value.name for value in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise Failure(f"{path} has {len(inputs)} inputs ({names}); a picture classifier has one")
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output)
        raise Failure(f"{path} has {len(graph.output)} outputs ({names}); choose one of them before the export")
    shape = _shape(inputs[0])
    if len(shape) != 4:
        raise Failure(f"the input {inputs[0].name} has shape {list(shape)}; a picture input has four axes")
    if shape[0] not in (None, 1):
        raise Failure(f"the batch is fixed at {shape[0]}; it must be open or 1")
    scale, zero_point = _quantisation(graph)
    return Graph(
        input_name=inputs[0].name,
        input_type=_element(inputs[0]),
        input_shape=shape,
        output_name=graph.output[0].name,
        output_type=_element(graph.output[0]),
        classes=_classes(graph.output[0]),
        ends_in=_end(graph),
        output_scale=scale,
        output_zero_point=zero_point,
    )


def tidy(path: Path) -> None:
    """Names the batch `batch`, drops the shapes noted for inner values, and gives every use of an integer its own copy.

    Exporters note inner shapes with batch symbols of their own, which tract cannot bring together with a batch of 1;
    every runtime infers them anew. ONNX Runtime, asked for precise sums of 8-bit products as the gateway asks it, does
    not open a graph in which two operators share a zero point, as they do in what tf2onnx makes of a TFLite file.
    """
    model = onnx.load(path)
    del model.graph.value_info[:]
    _unshare(model.graph)
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"
    try:
        onnx.checker.check_model(model, full_check=False)
    except onnx.checker.ValidationError as error:
        raise Failure(f"the exporter wrote a graph that is not valid ONNX: {error}") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def fix_batch(path: Path) -> None:
    """Says of the graph what is true of it: that it takes one picture at a time."""
    model = onnx.load(path)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path.write_bytes(model.SerializeToString(deterministic=True))


def _unshare(graph: onnx.GraphProto) -> None:
    """Zero points and other integers of 8 bits that several operators use become one each; they are small."""
    narrow = {
        value.name: value
        for value in graph.initializer
        if value.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        for slot, name in enumerate(node.input):
            if name in narrow and name in seen:
                own = onnx.TensorProto()
                own.CopyFrom(narrow[name])
                own.name = f"{name}/{number}.{slot}"
                graph.initializer.append(own)
                node.input[slot] = own.name
            seen.add(name)


def _refuse_foreign_operators(model: onnx.ModelProto) -> None:
    versions = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    foreign = set()
    for node in model.graph.node:
        domain = node.domain or "ai.onnx"
        known = domain == "com.microsoft" or any(function.name == node.op_type for function in model.functions)
        if not known and not onnx.defs.has(node.op_type, versions.get(domain, 1), node.domain):
            foreign.add(node.op_type if domain == "ai.onnx" else f"{domain}.{node.op_type}")
    if foreign:
        raise Failure(
            f"the model has operators that ONNX does not have: {', '.join(sorted(foreign))}; "
            "replace these layers by standard ones before the export"
        )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def _element(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    number = value.type.tensor_type.elem_type
    if number not in SERVED:
        name = onnx.TensorProto.DataType.Name(number)
        raise Failure(f"{value.name} is of type {name}; float32, float16, uint8 and int8 are served")
    return SERVED[number]


def _classes(value: onnx.ValueInfoProto) -> int | None:
    shape = _shape(value)
    if len(shape) == 1:
        return shape[0]
    if len(shape) in (2, 4) and all(extent in (None, 1) for extent in (shape[0], *shape[2:])):
        return shape[1]
    raise Failure(f"the output {value.name} has shape {list(shape)}; a classifier's is [N, C], [C] or [N, C, 1, 1]")


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _end(graph: onnx.GraphProto) -> str | None:
    """`softmax` or `sigmoid` where the graph ends in one, before operators that only reshape."""
    made_by = _producers(graph)
    node = made_by.get(graph.output[0].name)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = made_by.get(node.input[0])
    kind = node.op_type.lower() if node is not None else None
    return kind if kind in ("softmax", "sigmoid") else None


def _quantisation(graph: onnx.GraphProto) -> tuple[float | None, int | None]:
    """Scale and zero point of an output that a QuantizeLinear makes."""
    made_by = _producers(graph)
    node = made_by.get(graph.output[0].name)
    while node is not None and node.op_type in ("Identity", "Reshape", "Flatten", "Squeeze"):
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear":
        return None, None
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    scale = values.get(node.input[1])
    zero = values.get(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if scale is None or zero is None:
        return None, None
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
