"""Does an exported body give the logits of the torch network it came from?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from distillation.export.body import SplitNetwork
from KDSegmentatorLib.engines.head import head_logits
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
