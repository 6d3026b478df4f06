"""A network in int8: quantised after training (NNCF), its ranges measured on windows that training saw.

Kernels are stored in int8, and whatever enters a convolution is brought to eight bits by a QuantizeLinear and a
DequantizeLinear. Normalisations stay in float32: they are quantised around, as one operator each, and spelled out only
afterwards.
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, cast

from distillation.export.network import INPUT_NAME, finished, to_model
from distillation.export.onnx_rewrites import without_concatenations
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.packs.onnx_check import check_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import nn

_TELEMETRY = "openvino_telemetry"


def to_int8_onnx(
    body: nn.Module, *, channels: int, patch_size: Sequence[int], windows: Sequence[npt.NDArray[np.float32]]
) -> bytes:
    """Return a body in int8 as one self-contained ONNX file; the same arguments give the same bytes.

    All activations of one window are in memory at a time, in float32. The file names NNCF's version as its producer's.

    Args:
        body: with the checkpoint's own weights; rounding them twice would cost accuracy.
        channels: input channels.
        patch_size: voxels (z, y, x).
        windows: what the ranges of the activations are measured on, at least one, each (1, channels, z, y, x).

    Raises:
        ExportError: NNCF cannot be imported or fails, or the result is not valid ONNX.
        PackError: the result is nothing that a pack may hold.
    """
    with _no_telemetry(), redirect_stdout(io.StringIO()):  # NNCF prints progress bars
        nncf = _nncf()
        model = to_model(body, channels=channels, patch_size=patch_size)
        without_concatenations(model)
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(windows, lambda window: {INPUT_NAME: window}),
                subset_size=len(windows),
                preset=nncf.QuantizationPreset.MIXED,  # LeakyReLU leaves more room above zero than below
                target_device=nncf.TargetDevice.CPU,
            )
        except Exception as error:  # whatever the network led NNCF to
            raise ExportError(f"NNCF could not quantise the network: {error}") from error
    quantized.producer_version = f"nncf {nncf.__version__}"
    data = finished(quantized, "float16")
    check_onnx(data, "the int8 network")
    return data


def _nncf() -> Any:
    # it says on import that there is no CUDA, which is not needed
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
    except ImportError as error:
        raise ExportError(
            f"quantisation to int8 needs NNCF, which cannot be imported ({error}); install the extra 'distill' "
            "('pip install nncf'), or give --calibration-windows 0 to go without int8"
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would also change handlers of others
    return nncf


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep NNCF, and OpenVINO if NNCF is the first to import it, from reporting to Intel that they are used.

    Both go without where the package that reports is missing, which it seems to be here.
    """
    modules = cast("dict[str, Any]", sys.modules)
    present = _TELEMETRY in modules
    before = modules.get(_TELEMETRY)
    modules[_TELEMETRY] = None  # Python's way to say: there is no such module
    try:
        yield
    finally:
        if present:
            modules[_TELEMETRY] = before
        else:
            modules.pop(_TELEMETRY, None)
