"""Convolutions of concatenated maps as sums of convolutions, so that each map has an int8 scale of its own.

In a decoder the map from below, which nothing has normalised, is concatenated with the one from the encoder. In one
tensor both would share 256 steps, and the smaller one would be left with a few of them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference


def without_concatenations(model: onnx.ModelProto) -> None:
    """Replace every convolution of a concatenation, in place: conv(a | b) = conv_a(a) + conv_b(b).

    Args:
        model: kernels as float32 initializers; every concatenation is of two maps along the channels, and
            enters one convolution.
    """
    channels = _channels(model)
    kernels = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in kernels:  # torch stores equal parameters once
            kernels[node.output[0]] = kernels[node.input[0]]
    parts = {node.output[0]: list(node.input) for node in model.graph.node if node.op_type == "Concat"}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in model.graph.node:
        if node.op_type == "Concat":
            continue
        if node.op_type != "Conv" or node.input[0] not in parts:
            nodes.append(node)
            continue
        sources, kernel = parts[node.input[0]], node.input[1]
        ends = np.cumsum([channels[source] for source in sources])[:-1]
        results = []
        for number, (source, part) in enumerate(zip(sources, np.split(kernels[kernel], ends, axis=1), strict=True)):
            added.append(numpy_helper.from_array(np.ascontiguousarray(part), f"{kernel}.{number}"))
            convolution = onnx.NodeProto()
            convolution.CopyFrom(node)
            convolution.name = f"{node.name}.{number}"
            convolution.output[0] = f"{node.output[0]}.{number}"
            bias = node.input[2:] if number == 0 else []  # one is enough
            del convolution.input[:]
            convolution.input.extend([source, f"{kernel}.{number}", *bias])
            results.append(convolution.output[0])
            nodes.append(convolution)
        nodes.append(helper.make_node("Add", results, [node.output[0]], name=f"{node.name}.sum"))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *added])


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of channels of every map (n, channels, z, y, x) of a model, by its name."""
    values = [*model.graph.input, *shape_inference.infer_shapes(model).graph.value_info]
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: shape[1].dim_value for name, shape in shapes.items() if len(shape) == 5}
