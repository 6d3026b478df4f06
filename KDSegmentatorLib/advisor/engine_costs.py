"""What an engine costs beyond its arithmetic: memory and start.

Measured with OpenVINO 2026.4 and onnxruntime 1.32 on x86-64 Linux, over plain and residual U-Nets of 8, 16 and 32
features, 0.35 to 141 million parameters, windows of 0.09 to 5.2 million voxels
(``Testing/Benchmarks/advisor_error.py`` repeats it). A U-Net's peak is at its full resolution, where skip connections
wait for the decoder: so the feature maps that an engine keeps are a fixed number of those that the network ends with,
whatever its depth (for OpenVINO within 1 %; onnxruntime's arena grows in powers of two, within 25 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from KDSegmentatorLib.packs.manifest import Precision


@dataclass(frozen=True, kw_only=True)
class EngineCosts:
    """Memory and start of one engine.

    Attributes:
        library_bytes: its library, and a network's fixed parts.
        parameter_bytes: for each parameter, while it runs.
        loading_bytes: for each parameter on top of that, while the network is loaded.
        feature_maps: precision to the size of all feature maps that are kept, in float32 arrays of the network's last
            features (features x voxels of a window). Float32's is used for bfloat16, which takes no more.
        more_windows: how many times that is kept from the second window on.
        load_seconds: to load the library and a small network, with one core of the reference machine
            (:mod:`KDSegmentatorLib.advisor.duration`).
        parameter_seconds: to load, for each parameter, likewise.
    """

    library_bytes: int
    parameter_bytes: float
    loading_bytes: float
    feature_maps: Mapping[Precision, float]
    more_windows: float
    load_seconds: float
    parameter_seconds: float


OPENVINO = EngineCosts(
    library_bytes=65_000_000,
    parameter_bytes=9.9,
    loading_bytes=2.0,
    feature_maps={"float32": 4.89, "bfloat16": 4.89, "int8": 2.69},
    more_windows=1.0,
    load_seconds=0.2,
    parameter_seconds=20e-9,
)
ONNXRUNTIME = EngineCosts(
    library_bytes=25_000_000,
    parameter_bytes=8.2,
    loading_bytes=0.2,
    feature_maps={"float32": 4.4, "bfloat16": 4.4, "int8": 4.4},
    more_windows=1.95,
    load_seconds=0.1,
    parameter_seconds=14e-9,
)

ENGINE_COSTS: Mapping[str, EngineCosts] = {"openvino": OPENVINO, "onnxruntime": ONNXRUNTIME}
"""By the engine's name."""
