"""Rewrites of an ONNX network that leave what it computes: exact normalisations, sums in place of concatenations.

Instance normalisation stays exact on large windows: onnxruntime's own operator adds up a whole channel in one float32
sum, which over the two million voxels of a 128 x 128 x 128 window rounds by 2e-4 of the result in every layer, where
torch rounds by 4e-7, and after a whole network labels change. Means taken axis by axis are as accurate as torch's.

Convolutions of concatenated maps become sums of convolutions, so that each map has an int8 scale of its own: in one
tensor the map from below, which nothing has normalised, and that from the encoder would share 256 steps.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

_SPATIAL_AXES = (4, 3, 2)


def with_exact_normalization(model: onnx.ModelProto) -> None:
    """Replace every InstanceNormalization of (n, C, z, y, x) tensors by means, differences and products, in place.

    y = (x - mean) * (scale / sqrt(variance + epsilon)) + bias, mean and variance over z, y and x of each channel.
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":  # without affine parameters torch writes ones and zeros
            values[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:  # equal parameters are stored once
            values[node.output[0]] = values[node.input[0]]
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        source, scale, bias = node.input
        prefix = f"normalization{number}."
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        for name, value in (
            ("scale", _per_channel(values[scale])),
            ("bias", _per_channel(values[bias])),
            ("epsilon", np.asarray(epsilon, dtype=np.float32)),
        ):
            added.append(numpy_helper.from_array(value, prefix + name))
        nodes += [
            *_mean(source, prefix + "mean"),
            helper.make_node("Sub", [source, prefix + "mean"], [prefix + "centred"]),
            helper.make_node("Mul", [prefix + "centred", prefix + "centred"], [prefix + "squared"]),
            *_mean(prefix + "squared", prefix + "variance"),
            helper.make_node("Add", [prefix + "variance", prefix + "epsilon"], [prefix + "raised"]),
            helper.make_node("Sqrt", [prefix + "raised"], [prefix + "deviation"]),
            helper.make_node("Div", [prefix + "scale", prefix + "deviation"], [prefix + "factor"]),
            helper.make_node("Mul", [prefix + "centred", prefix + "factor"], [prefix + "scaled"]),
            helper.make_node("Add", [prefix + "scaled", prefix + "bias"], [node.output[0]]),
        ]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *added])


def _mean(source: str, result: str) -> list[onnx.NodeProto]:
    """Return nodes for the mean over x, then y, then z."""
    names = [source, *(f"{result}.{axis}" for axis in _SPATIAL_AXES[:-1]), result]
    return [
        helper.make_node("ReduceMean", [before], [after], axes=[axis], keepdims=1)
        for before, after, axis in zip(names, names[1:], _SPATIAL_AXES, strict=False)
    ]


def _per_channel(tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return numpy_helper.to_array(tensor).astype(np.float32).reshape(1, -1, 1, 1, 1)


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
