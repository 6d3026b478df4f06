"""A network as a pack holds it: the body as ONNX and the head's numbers beside it ("head last"), compared with torch.

The last layer of a nnU-Net is a 1x1x1 convolution from C features to K labels. Blending windows and order-1 resampling
are linear, so that both can be done on the C features and the head applied once at the very end.
"""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from distillation.export.onnx_rewrites import with_exact_normalization
from KDSegmentatorLib.engines.head import head_logits
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.packs.pack import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

OPSET = 17
"""ONNX operator set of exported bodies: known to every onnxruntime since 1.12, and all that we need."""

MAXIMUM_IR_VERSION = 10
"""Newest ONNX file format that a pack may use; onnxruntime 1.23 (Slicer's) reads up to 11."""

INPUT_NAME = "input"
OUTPUT_NAME = "features"

Storage = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitNetwork:
    """A network cut in front of its last 1x1x1 convolution.

    Attributes:
        body: (n, channels, z, y, x) to features (n, C, z, y, x).
        head_weight: (K, C) float32; K labels, background included.
        head_bias: (K,) float32.
    """

    body: nn.Module
    head_weight: npt.NDArray[np.float32]
    head_bias: npt.NDArray[np.float32]

    @property
    def head(self) -> Head:
        """The head as the library applies it."""
        return Head(self.head_weight, self.head_bias)


class MeanOfFolds(nn.Module):
    """Networks of one architecture whose logits are averaged, as nnU-Net predicts with several folds.

    Their weights cannot be averaged instead: folds start from random weights of their own, so that a channel of one
    means nothing to the other.

    Args:
        networks: each returns logits (n, K, z, y, x).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """Return the mean logits of a window (n, channels, z, y, x)."""
        return torch.stack([network(window) for network in self.networks]).mean(dim=0)


class _FeaturesOfFolds(nn.Module):
    def __init__(self, bodies: Sequence[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return torch.cat([body(window) for body in self.bodies], dim=1)


def fold_count(network: nn.Module) -> int:
    """Return how many networks a network is made of."""
    return len(network.networks) if isinstance(network, MeanOfFolds) else 1


def split_network(network: nn.Module) -> SplitNetwork:
    """Cut a PlainConvUNet or ResidualEncoderUNet in front of its head; the network itself stays as it is.

    The mean of folds has the features of all of them, and one head: the mean of F heads is linear in all features,
    (1/F) [W_1 ... W_F], so that it stays exact.

    Raises:
        ExportError: the network does not end in a 1x1x1 convolution.
    """
    if isinstance(network, MeanOfFolds):
        parts = [split_network(each) for each in network.networks]
        return SplitNetwork(
            body=_FeaturesOfFolds([part.body for part in parts]),
            head_weight=np.concatenate([part.head_weight for part in parts], axis=1) / np.float32(len(parts)),
            head_bias=np.mean([part.head_bias for part in parts], axis=0, dtype=np.float32),
        )
    body = copy.deepcopy(network).eval()
    try:
        decoder = body.decoder
        head = decoder.seg_layers[-1]  # type: ignore[union-attr, index]
    except (AttributeError, IndexError, TypeError):
        raise ExportError(f"{type(network).__name__} has no decoder with segmentation layers") from None
    if not isinstance(head, nn.Conv3d) or head.kernel_size != (1, 1, 1) or head.bias is None:
        raise ExportError(f"the network ends in {head}, not in a 1x1x1 convolution with a bias")
    decoder.deep_supervision = False  # type: ignore[union-attr]
    decoder.seg_layers = nn.ModuleList([nn.Identity() for _ in decoder.seg_layers])  # type: ignore[union-attr]
    return SplitNetwork(
        body=body,
        head_weight=head.weight.detach().flatten(1).float().numpy().copy(),
        head_bias=head.bias.detach().float().numpy().copy(),
    )


def with_stored_weights(network: nn.Module, storage: Storage) -> nn.Module:
    """Return a copy of a body whose weights went through the storage format and back to float32.

    Only tensors with more than one axis (convolution kernels) are stored in half precision: biases and the affine
    parameters of normalisation take next to no space.

    Raises:
        ExportError: a kernel does not fit into half precision.
    """
    stored = copy.deepcopy(network)
    if storage == "float32":
        return stored
    with torch.no_grad():
        for name, parameter in stored.named_parameters():
            if parameter.ndim > 1:
                rounded = parameter.half()
                if not torch.isfinite(rounded).all():
                    raise ExportError(f"{name} holds values beyond half precision; export with storage float32")
                parameter.copy_(rounded)
    return stored


def to_onnx(body: nn.Module, *, channels: int, patch_size: Sequence[int], storage: Storage) -> bytes:
    """Return a body as one self-contained ONNX file.

    The batch axis is dynamic, the patch is fixed. All computation is in float32; with half-precision storage every
    kernel is followed by a Cast, which onnxruntime folds away when it loads the file.

    Args:
        body: what :func:`with_stored_weights` returned for the same storage.
        channels: input channels.
        patch_size: voxels (z, y, x).
        storage: number format of the kernels in the file.

    Raises:
        ExportError: torch cannot export the network, or the result is not valid ONNX.
    """
    return finished(to_model(body, channels=channels, patch_size=patch_size), storage)


def to_model(body: nn.Module, *, channels: int, patch_size: Sequence[int]) -> onnx.ModelProto:
    """Return a body as torch writes it: float32, each normalisation one operator.

    Args:
        body: see :func:`to_onnx`.
        channels: input channels.
        patch_size: voxels (z, y, x).

    Raises:
        ExportError: torch cannot export the network.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated but needs no further package, and says that InstanceNorm uses the
            # statistics of its input, which is what it is for.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                body,
                (torch.zeros(1, channels, *patch_size),),
                buffer,  # type: ignore[arg-type]  # a file object is accepted
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes={INPUT_NAME: {0: "n"}, OUTPUT_NAME: {0: "n"}},
            )
    except Exception as error:  # the exporter raises many types
        raise ExportError(f"torch could not export the network to ONNX: {error}") from error
    return onnx.load_from_string(buffer.getvalue())


def finished(model: onnx.ModelProto, storage: Storage) -> bytes:
    """Return the file of a model: kernels in their storage format, normalisations spelled out, checked.

    Args:
        model: what :func:`to_model` returned; changed in place.
        storage: number format of the kernels that are still float32.

    Raises:
        ExportError: the result is not valid ONNX.
    """
    if storage == "float16":
        _store_kernels_in_half(model)
    with_exact_normalization(model)
    model.producer_name = "kdseg-distill"
    check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def check_model(model: onnx.ModelProto) -> None:
    """Check that a model is valid and of a file format that the oldest supported onnxruntime reads.

    What the library asks of a pack's network besides is checked by
    :func:`KDSegmentatorLib.packs.pack.verify_pack`, which every export ends with.

    Raises:
        ExportError: it is not.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        raise ExportError(f"the exported network is not valid ONNX: {error}") from error
    if model.ir_version > MAXIMUM_IR_VERSION:
        raise ExportError(f"ONNX IR version {model.ir_version} is newer than {MAXIMUM_IR_VERSION}")


def _store_kernels_in_half(model: onnx.ModelProto) -> None:
    """Replace every float32 initializer with more than one axis by a float16 one and a Cast back to float32."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name = tensor.name
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.float16"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


LOGIT_TOLERANCE = 1e-3
"""Largest accepted logit difference between the exported and the torch network with the same stored weights."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the exported network is from torch, over all windows.

    Attributes:
        windows: number of windows compared.
        exported: largest absolute logit difference to torch with the same (stored) weights.
        storage: largest absolute logit difference to torch with the checkpoint's own weights.
        equal_voxels: share of voxels whose label is that of torch with the checkpoint's own weights.
    """

    windows: int
    exported: float
    storage: float
    equal_voxels: float


def check_agreement(
    onnx_bytes: bytes,
    *,
    stored_body: nn.Module,
    split: SplitNetwork,
    network: nn.Module,
    windows: Sequence[Array],
) -> Agreement:
    """Compare the exported body plus head with torch on real or representative windows.

    Args:
        onnx_bytes: the exported body.
        stored_body: the torch body with the weights that the file stores.
        split: the network's head.
        network: the whole network with the checkpoint's weights.
        windows: preprocessed patches, each (1, channels, z, y, x).

    Raises:
        ExportError: a logit differs by more than ``LOGIT_TOLERANCE`` or is not finite.
        EngineError: the engine does not load or run the body.
    """
    engine = OnnxRuntimeEngine(onnx_bytes, threads=torch.get_num_threads())
    exported = storage = 0.0
    equal = voxels = 0
    for window in windows:
        logits = apply_head(engine.run(window, lambda: False), split)
        with torch.inference_mode():
            same_weights = apply_head(stored_body(torch.from_numpy(window)).numpy(), split)
            full = network(torch.from_numpy(window)).numpy()
        if not (np.isfinite(logits).all() and np.isfinite(full).all()):
            raise ExportError("the network's logits are not finite; train it again")
        exported = max(exported, float(np.abs(logits - same_weights).max()))
        storage = max(storage, float(np.abs(logits - full).max()))
        equal += int((logits.argmax(1) == full.argmax(1)).sum())
        voxels += logits[:, 0].size
    if exported > LOGIT_TOLERANCE:
        raise ExportError(
            f"the exported network's logits differ from torch by up to {exported:.3g}, more than {LOGIT_TOLERANCE}"
        )
    return Agreement(windows=len(windows), exported=exported, storage=storage, equal_voxels=equal / voxels)


def apply_head(features: Array, split: SplitNetwork) -> Array:
    """Return logits (n, K, z, y, x) for features (n, C, z, y, x), computed as the library computes them."""
    return np.stack([head_logits(split.head, window) for window in features])
