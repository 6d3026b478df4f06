"""How large the tensors of a network get for one window, from the shapes that its operators give.

A file of a few hundred bytes can ask for terabytes: ``Concat(x, x)`` thirty times over, a convolution with a billion
voxels of padding. So the shape of every tensor is worked out before an engine sees the file, operator by operator as
the ONNX standard defines them, for those that :mod:`KDSegmentatorLib.packs.onnx_check` lets through.
"""

from __future__ import annotations

from collections.abc import Sequence

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.onnx_graph import Graph, read_graph
from KDSegmentatorLib.packs.onnx_shapes import Tensor, output_of
from KDSegmentatorLib.packs.protobuf import MalformedError

MAXIMUM_LIVE_BYTES = 16 << 30
"""Most that a network's tensors may take at one time, for one window and without its weights.

nnU-Net's own network, 32 features in windows of 160 x 192 x 160 voxels, takes 2.5 GB.
"""


def check_sizes(data: bytes, patch_size: Sequence[int], where: str) -> int:
    """Check that a network fits into memory, whatever its operators do; return the bytes that one window takes.

    Tensors are counted from the node that makes them to the last one that reads them, in the order of the file.

    Args:
        data: the ONNX file, which passed :func:`KDSegmentatorLib.packs.onnx_check.check_onnx`.
        patch_size: (z, y, x) of a window.
        where: the file's name, for error messages.

    Raises:
        PackError: it takes more than ``MAXIMUM_LIVE_BYTES``, or the shapes do not fit together.
    """
    try:
        return _peak_bytes(read_graph(data), (1, 1, *patch_size))
    except MalformedError as error:
        raise PackError(f"{where} is not a usable ONNX model: {error}; export or download the pack again") from None
    except _TooLargeError as error:
        raise PackError(
            f"{where} is refused: with windows of {' x '.join(map(str, patch_size))} voxels {error}; "
            f"{MAXIMUM_LIVE_BYTES:,} are allowed. Export it with a smaller patch size or fewer features"
        ) from None


class _TooLargeError(Exception):
    pass


def _peak_bytes(graph: Graph, window: tuple[int, ...]) -> int:
    tensors = dict(graph.initializers)
    inputs = [name for name in graph.inputs if name not in tensors]  # old files list the weights as inputs too
    if len(inputs) > 1:
        raise MalformedError(f"it has {len(inputs)} inputs, a network has one")
    sizes: dict[bytes, int] = {}
    for name in inputs:
        tensors[name] = Tensor(window, 4)
        sizes[name] = tensors[name].size_bytes
    last_read = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    kept = set(graph.outputs)
    alive = peak = sum(sizes.values())
    for place, node in enumerate(graph.nodes):
        missing = next((name for name in node.inputs if name and name not in tensors), None)
        if missing is not None:
            raise MalformedError(f"the tensor {missing[:100].decode(errors='replace')!a} is read before it is made")
        made = output_of(node, [tensors[name] if name else None for name in node.inputs])
        for name in node.outputs:
            if name in tensors:
                raise MalformedError(f"the tensor {name[:100].decode(errors='replace')!a} is made twice")
            if not name:
                continue
            tensors[name] = made
            sizes[name] = made.size_bytes
            alive += sizes[name]
        if alive > MAXIMUM_LIVE_BYTES:
            shape = " x ".join(map(str, made.shape))
            raise _TooLargeError(f"its tensors take {alive:,} bytes at the {node.operator} whose output is {shape}")
        peak = max(peak, alive)
        for name in {*node.inputs, *node.outputs}:
            if name in sizes and name not in kept and last_read.get(name, -1) <= place:
                alive -= sizes.pop(name)
    return peak
