"""The head: the 1x1x1 convolution that turns features into logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.packs.pack import Head


def head_logits(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return logits (labels, z, y, x) for features (features, z, y, x); labels include the background.

    Raises:
        ValueError: the number of features is not the head's.
    """
    flat: npt.NDArray[np.float32] = head.weight @ features.reshape(len(features), -1)
    flat += head.bias[:, None]
    logits: npt.NDArray[np.float32] = flat.reshape(len(head.bias), *features.shape[1:])
    return logits
