"""The engines, devices and precisions that this machine could run a pack with, best first."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine, onnxruntime_devices
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_devices
from KDSegmentatorLib.errors import EngineUnavailableError
from KDSegmentatorLib.options import AUTOMATIC, PRECISIONS, RunOptions
from KDSegmentatorLib.packs.manifest import Manifest, Precision

_CHOSEN_BY_ITSELF = ("cuda", "directml", "cpu")
"""CoreML computes in float16 where it likes, and Intel's integrated GPUs and NPUs are no faster than the processor in
float32 on 3-D networks as a rule: those have to be asked for."""


_OPENVINO: dict[Precision, tuple[str, str]] = {
    "int8": ("INT8", "the pack has an int8 network that passed its accuracy check"),
    "bfloat16": ("BF16", "this device computes in bfloat16, and the pack passed its accuracy check with it"),
    "float32": ("FP32", "exact"),
}
"""Precision to the ability that the device needs, and what to tell the user."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a network, and why it is possible."""

    engine: str
    device: str
    precision: Precision
    reason: str

    @property
    def title(self) -> str:
        """For people: ``openvino bfloat16 on cpu``."""
        return f"{self.engine} {self.precision} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The possible ways, best first, and why others are not; ``broken`` are installed engines that do not start."""

    usable: tuple[Candidate, ...]
    left_out: tuple[str, ...] = field(default=())
    broken: tuple[str, ...] = field(default=())


def find_candidates(manifest: Manifest, options: RunOptions) -> Candidates:
    """Return how a pack could be run here, as far as that can be told without loading it.

    Args:
        manifest: of the pack.
        options: engine, precision and device; ``auto`` leaves them open, all else is taken or refused, not replaced.
    """
    usable: list[Candidate] = []
    left_out: list[str] = []
    broken: list[str] = []
    if options.engine in (AUTOMATIC, OpenVinoEngine.name):
        _add_openvino(manifest, options, usable, left_out, broken)
    if options.engine in (AUTOMATIC, OnnxRuntimeEngine.name):
        _add_onnxruntime(options, usable, left_out)
    # graphics cards first, then the fastest precision, then the engine in the order above (sorting is stable)
    usable.sort(key=lambda each: (_rank(each.device), PRECISIONS.index(each.precision)))
    return Candidates(usable=tuple(usable), left_out=tuple(left_out), broken=tuple(broken))


def _add_openvino(
    manifest: Manifest, options: RunOptions, usable: list[Candidate], left_out: list[str], broken: list[str]
) -> None:
    try:
        devices = openvino_devices()
    except EngineUnavailableError as error:
        left_out.append(f"openvino: {error}")
        if importlib.util.find_spec("openvino") is not None:
            broken.append(left_out[-1])
        return
    accepted = {reduced.precision for reduced in manifest.network.reduced_precisions}
    for device, abilities in devices.items():
        if not _wanted(device, options):
            continue
        for precision, (needed, reason) in _OPENVINO.items():
            if options.precision not in (AUTOMATIC, precision):
                continue
            if needed not in abilities:
                left_out.append(f"openvino {precision} on {device}: the device has no instructions for it")
            elif precision != "float32" and precision not in accepted:
                left_out.append(f"openvino {precision} on {device}: the pack was not accepted in {precision}")
            else:
                usable.append(Candidate(engine="openvino", device=device, precision=precision, reason=reason))
    if options.device != AUTOMATIC and options.device not in devices:
        left_out.append(f"openvino: finds no {options.device} (only {', '.join(devices)})")


def _add_onnxruntime(options: RunOptions, usable: list[Candidate], left_out: list[str]) -> None:
    try:
        devices = onnxruntime_devices()
    except EngineUnavailableError as error:
        left_out.append(f"onnxruntime: {error}")
        return
    if options.precision not in (AUTOMATIC, "float32"):
        left_out.append(f"onnxruntime: computes in float32 only, not in {options.precision}")
        return
    for device in devices:
        if _wanted(device, options):
            reason = "exact" if device == "cpu" else f"onnxruntime has a provider for {device}"
            usable.append(Candidate(engine="onnxruntime", device=device, precision="float32", reason=reason))
    if options.device != AUTOMATIC and options.device not in devices:
        left_out.append(f"onnxruntime: has no provider for {options.device} (only {', '.join(devices)})")


def _wanted(device: str, options: RunOptions) -> bool:
    return device in _CHOSEN_BY_ITSELF if options.device == AUTOMATIC else device == options.device


def _rank(device: str) -> int:
    return _CHOSEN_BY_ITSELF.index(device) if device in _CHOSEN_BY_ITSELF else 0
