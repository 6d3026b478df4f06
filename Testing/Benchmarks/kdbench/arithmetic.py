"""How fast the machine multiplies and copies, how fast a network's body runs on it, and where the rest of it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from kdbench.results import Measured, Operation
from KDSegmentatorLib.engines.loading import engine_threads
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.openvino_runtime import openvino_core, openvino_runtime
from KDSegmentatorLib.machine.hardware import usable_cores
from KDSegmentatorLib.packs.manifest import Manifest, Precision
from KDSegmentatorLib.packs.pack import open_pack

if TYPE_CHECKING:
    import openvino

_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4, "i8": 1, "u8": 1}
_NO_WORK = frozenset({"Const", "Parameter", "Result", "Input", "Output"})
_MINIMUM_REPEATS = 3


def multiply_matrices(precision: Precision, length: int, seconds: float) -> Measured:
    """Return the machine's matrix-multiply peak: the fastest product of two square matrices.

    Args:
        precision: number format; float32 also tries numpy's BLAS, and the faster of the two counts.
        length: rows of the matrices.
        seconds: how long to go on multiplying; at least three products are made.

    Returns:
        ``flops_per_second`` of OpenVINO or numpy, whichever is faster, and of each.
    """
    random = np.random.default_rng(0)
    left = random.uniform(-1, 1, size=(length, length)).astype(np.float32)
    request = _product(precision, length, random).create_infer_request()
    flops = 2 * length**3
    found = {"openvino": flops / min(_timed(lambda: request.infer({0: left}, share_inputs=True), seconds))}
    if precision == "float32":
        found["numpy"] = flops / min(_timed(lambda: left @ left, seconds))
    return Measured(details={"flops_per_second": max(found.values()), **found})


def copy_memory(size: int, seconds: float) -> Measured:
    """Return how fast the machine copies arrays that no cache holds, with one thread a core.

    Args:
        size: bytes of the array.
        seconds: how long to go on.

    Returns:
        ``bytes_per_second``, read and written together.
    """
    cores = usable_cores()
    source = np.ones(size // 4, dtype=np.float32)
    parts = list(zip(np.array_split(source, cores), np.array_split(np.zeros_like(source), cores), strict=True))
    with ThreadPoolExecutor(max_workers=cores) as executor:

        def copy_all() -> None:
            for _ in executor.map(lambda part: np.copyto(part[1], part[0]), parts):
                pass

        best = min(_timed(copy_all, seconds))
    return Measured(details={"bytes_per_second": 2 * source.nbytes / best})


def run_body(pack: str, precision: Precision, repeats: int) -> Measured:
    """Run a pack's body on one window, with the engine that segments.

    Returns:
        Median ``seconds`` of a window after a first one, and its ``flops``.
    """
    opened = open_pack(Path(pack))
    engine, window = _engine(pack, precision)
    engine.run(window, _never)
    times = _timed(lambda: engine.run(window, _never), 0.0, repeats)
    return Measured(details={"seconds": median(times), "flops": body_flops(opened.manifest)})


def profile_body(pack: str, precision: Precision, repeats: int) -> Measured:
    """Run a pack's body and let OpenVINO tell the time of every operation, which costs a little time itself.

    Returns:
        The operations by kind and resolution, each the mean of all runs, and their ``flops``.
    """
    openvino_core().set_property("CPU", {"PERF_COUNT": True})
    engine, window = _engine(pack, precision)
    for _ in range(repeats):
        engine.run(window, _never)
    # the engine keeps it to itself; a network compiled here might not be what the engine runs
    executed = engine._request.get_compiled_model().get_runtime_model()
    operations = _operations(executed, window.shape[2:])
    return Measured(details={"flops": sum(each.flops for each in operations)}, operations=operations)


def body_flops(manifest: Manifest) -> int:
    """Return 2 x multiply-accumulate of a pack's body for one window: all but the head, a 1x1x1 convolution."""
    head = 2 * math.prod(manifest.windows.patch_size) * manifest.network.features * (len(manifest.labels) + 1)
    return manifest.network.flops_per_window - head


def _engine(pack: str, precision: Precision) -> tuple[OpenVinoEngine, npt.NDArray[np.float32]]:
    opened = open_pack(Path(pack))
    patch = opened.manifest.windows.patch_size
    engine = OpenVinoEngine(
        opened.body(precision), patch_size=patch, precision=precision, threads=engine_threads(None), cache=None
    )
    return engine, np.random.default_rng(0).normal(size=(1, 1, *patch)).astype(np.float32)


def _product(precision: Precision, length: int, random: np.random.Generator) -> openvino.CompiledModel:
    """Return the product of a matrix with a constant one, compiled as the engine compiles networks."""
    runtime = openvino_runtime()
    from openvino import opset13  # openvino is loaded

    left = opset13.parameter([length, length], np.float32)
    if precision == "int8":
        low, high = (opset13.constant(np.float32(limit)) for limit in (-1, 1))
        factor = opset13.fake_quantize(left, low, high, low, high, 256)
        levels = opset13.constant(random.integers(-127, 128, size=(length, length)).astype(np.int8))
        right = opset13.multiply(opset13.convert(levels, np.float32), opset13.constant(np.float32(1 / 127)))
    else:
        factor = left
        right = opset13.constant(random.uniform(-1, 1, size=(length, length)).astype(np.float32))
    model = runtime.Model([opset13.matmul(factor, right, False, True)], [left], "product")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    threads = engine_threads(None)
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return cast("openvino.CompiledModel", openvino_core().compile_model(model, "CPU", settings))


def _operations(model: openvino.Model, window: tuple[int, ...]) -> tuple[Operation, ...]:
    """Return what a compiled model executed, added up by kind and resolution, the longest first."""
    totals: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
    for node in model.get_ordered_ops():
        kind = _text(node, "layerType")
        microseconds = _text(node, "execTimeMcs")
        if kind in _NO_WORK or not microseconds.isdigit():  # "not_executed": part of another operation
            continue
        shape = _shape(node.output(0))
        coarseness = round(window[0] / shape[2]) if len(shape) == 5 and shape[2] > 1 else 0
        cost = np.array([int(microseconds) * 1e-6, _flops(kind, node), _bytes(node)])
        totals[kind, coarseness] = totals.get((kind, coarseness), 0) + cost
    found = [
        Operation(kind=kind, coarseness=coarseness, seconds=float(cost[0]), flops=float(cost[1]), bytes=float(cost[2]))
        for (kind, coarseness), cost in totals.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.seconds))


def _flops(kind: str, node: Any) -> int:
    """Return 2 x multiply-accumulate: of a convolution for every output voxel, of a transposed one for every input."""
    if kind == "Convolution":
        grid = _shape(node.output(0))
    elif kind == "Deconvolution":
        grid = _shape(node.input_value(0))
    else:
        return 0
    return 2 * math.prod(grid[2:]) * math.prod(_shape(node.input_value(1)))


def _bytes(node: Any) -> int:
    inputs = [(inlet.get_source_output(), inlet.get_source_output().get_node()) for inlet in node.inputs()]
    outputs = [(outlet, node) for outlet in node.outputs()]
    return sum(
        math.prod(_shape(port)) * _BYTES.get(_text(owner, "outputPrecisions").partition(",")[0].lower(), 4)
        for port, owner in (*inputs, *outputs)
    )


def _shape(port: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in port.get_shape())


def _text(node: Any, name: str) -> str:
    return str(node.rt_info[name].value) if name in node.rt_info else ""


def _timed(work: Callable[[], object], seconds: float, repeats: int = _MINIMUM_REPEATS) -> list[float]:
    """Return how long each call took: as many as fit into some time, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < repeats or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def _never() -> bool:
    return False
