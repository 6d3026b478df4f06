"""Patches as nnU-Net's pipeline has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")


@pytest.fixture
def patch() -> dict[str, Any]:
    """A skull-stripped brain, all but: a ball with tissue and noise, 0 and label -1 round it; two channels."""
    grid = np.indices((20, 28, 24)) - np.array([9.5, 13.5, 11.5])[:, None, None, None]
    radius = np.sqrt((grid**2).sum(0))
    random = np.random.default_rng(0)
    tissue = np.sin(radius) + 0.1 * random.standard_normal(radius.shape)
    image = np.where(radius < 9, np.stack([tissue, 2 - tissue]), 0).astype(np.float32)
    labels = np.where(radius < 9, (radius < 4).astype(np.int16), np.int16(-1))[None]
    return {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels)}


@pytest.fixture
def changed_by(patch: dict[str, Any]) -> Callable[..., npt.NDArray[np.float32]]:
    """A function that returns the image after a transform: changed_by(transform, seed=...)."""

    def change(transform: Any, seed: int = 0) -> npt.NDArray[np.float32]:
        np.random.seed(seed)
        image: npt.NDArray[np.float32] = transform(**patch)["image"].numpy()
        return image

    return change
