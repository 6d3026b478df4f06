from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib import geometry
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import (
    CancelledError,
    EngineError,
    GeometryError,
    InsufficientMemoryError,
    InvalidSettingsError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import network_grid, preprocessing, restoration
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Expected, ExpectedLabel, FieldOfView, Resampling
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import FEATURES, convolution_body, manifest, write_pack

ORDERS = ["".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)]


def scan(shape: tuple[int, int, int] = (20, 24, 18), spacing: tuple[float, float, float] = (1.1, 0.9, 1.7)) -> Volume:
    """Return an oblique scan without any symmetry."""
    angle = np.deg2rad(17)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    direction = tuple(tuple(float(v) for v in row) for row in turn @ tilt)
    voxels = np.random.default_rng(3).gamma(2, 100, size=shape).astype(np.float32)
    return Volume(voxels, spacing, (12.0, -34.0, 56.0), direction)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> StudentPack:
    return write_pack(tmp_path_factory.mktemp("packs") / "generated-x1_4")


def test_labels_lie_on_exactly_the_inputs_grid(pack: StudentPack) -> None:
    volume = scan()
    result = segment(volume, pack, OnnxRuntimeEngine(pack.body()))
    assert result.volume.voxels.shape == volume.voxels.shape
    assert result.volume.voxels.dtype == np.uint8
    assert (result.volume.spacing, result.volume.origin, result.volume.direction) == (
        volume.spacing,
        volume.origin,
        volume.direction,
    )
    assert set(np.unique(result.volume.voxels)) <= {0, 1, 2, 3}
    assert len(np.unique(result.volume.voxels)) > 1


def test_the_same_scan_in_any_of_the_48_orders_gives_the_same_labels(pack: StudentPack) -> None:
    engine = OnnxRuntimeEngine(pack.body())
    volume = scan()
    expected = segment(volume, pack, engine).volume
    assert len(ORDERS) == 48
    for codes in ORDERS:
        labels = segment(volume.reoriented(codes), pack, engine).volume
        assert labels.axis_codes == codes
        np.testing.assert_array_equal(labels.reoriented(expected.axis_codes).voxels, expected.voxels, err_msg=codes)


def test_reorientation_matters(pack: StudentPack) -> None:
    """Without it the test above could not fail: the network does not commute with flips."""
    engine = OnnxRuntimeEngine(pack.body())
    volume = scan()
    expected = segment(volume, pack, engine).volume.voxels
    flipped = segment(replace(volume, voxels=np.ascontiguousarray(volume.voxels[:, :, ::-1])), pack, engine)
    assert (flipped.volume.voxels[:, :, ::-1] != expected).mean() > 0.05


def test_early_and_late_head_agree(tmp_path: Path) -> None:
    """With more labels than features the features are blended, otherwise the logits; the labels are the same."""
    random = np.random.default_rng(5)
    weight = random.normal(size=(FEATURES + 1, FEATURES)).astype(np.float32)
    late = write_pack(tmp_path / "late", manifest=manifest(labels=FEATURES), weight=weight)
    # order 2 along the axis that is never resampled apart here: nothing changes but where the head is applied
    early_manifest = replace(
        late.manifest,
        preprocessing=replace(late.manifest.preprocessing, logits_resampling=Resampling(order=1, order_z=2)),
    )
    early = write_pack(tmp_path / "early", manifest=early_manifest, weight=weight)
    volume = scan(spacing=(1.1, 0.9, 1.2))
    engine = OnnxRuntimeEngine(late.body())
    np.testing.assert_array_equal(
        segment(volume, late, engine).volume.voxels, segment(volume, early, engine).volume.voxels
    )


def test_only_wanted_labels_are_kept(pack: StudentPack) -> None:
    engine = OnnxRuntimeEngine(pack.body())
    everything = segment(scan(), pack, engine, RunOptions(entropy=True, probabilities=[2]))
    some = segment(scan(), pack, engine, RunOptions(labels=["Structure 3", 1], entropy=True, probabilities=[2]))
    assert [label.value for label in some.labels] == [1, 3]
    np.testing.assert_array_equal(
        some.volume.voxels, np.where(everything.volume.voxels == 2, 0, everything.volume.voxels)
    )
    assert some.entropy is not None and everything.entropy is not None
    np.testing.assert_array_equal(some.entropy.voxels, everything.entropy.voxels)
    np.testing.assert_array_equal(some.probabilities[2].voxels, everything.probabilities[2].voxels)


def test_only_wanted_labels_are_kept_in_any_of_the_48_orders(pack: StudentPack) -> None:
    engine = OnnxRuntimeEngine(pack.body())
    everything = segment(scan(), pack, engine).volume
    expected = np.where(everything.voxels == 2, 0, everything.voxels)
    for codes in ORDERS:
        some = segment(scan().reoriented(codes), pack, engine, RunOptions(labels=[1, 3])).volume
        np.testing.assert_array_equal(some.reoriented(everything.axis_codes).voxels, expected, err_msg=codes)


def test_of_wanted_labels_too_only_the_largest_piece_is_kept(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, manifest=replace(manifest(), single_pieces=(1, 2)))
    engine = OnnxRuntimeEngine(pack.body())
    everything = segment(scan(), pack, engine).volume.voxels
    some = segment(scan(), pack, engine, RunOptions(labels=[1, 3])).volume.voxels
    assert (everything == 2).any()
    np.testing.assert_array_equal(some, np.where(everything == 2, 0, everything))


def test_a_result_is_judged_before_labels_are_dropped(tmp_path: Path) -> None:
    known = tuple(ExpectedLabel(value=v, cases=9, at_edge=9, smallest_ml=900, largest_ml=901) for v in range(1, 9))
    expected = Expected(cases=9, smallest_ml=0.1, largest_ml=9000, labels=known, pairs=())
    weight = np.random.default_rng(5).normal(size=(9, FEATURES)).astype(np.float32)
    pack = write_pack(tmp_path, manifest=manifest(labels=8, expected=expected), weight=weight)
    warnings = segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(labels=[3])).record.warnings
    assert warnings[0].kind == "implausible"
    assert "8 of 8 structures" in warnings[0].sentence


def test_one_label_by_its_name(pack: StudentPack) -> None:
    for name in ("structure 2", "Structure2", "STRUCTURE_2"):
        chosen = segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(labels=name)).labels
        assert [label.value for label in chosen] == [2]


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("Structrue 2", r"\(do you mean structure 2"),
        ("TURE 3", r"\(do you mean structure 3\?\)"),
        ("spleen", "'spleen';"),
    ],
)
def test_a_name_that_is_nearly_right(pack: StudentPack, wanted: str, meant: str) -> None:
    with pytest.raises(InvalidSettingsError, match=meant):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(labels=[wanted]))


@pytest.mark.parametrize("wanted", [["spleen"], [9]])
def test_unknown_label(pack: StudentPack, wanted: list[Any]) -> None:
    with pytest.raises(InvalidSettingsError, match="label"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(labels=wanted))


def test_mirroring_runs_every_window_eight_times_and_is_recorded(pack: StudentPack) -> None:
    engine = OnnxRuntimeEngine(pack.body())
    once = segment(scan(), pack, engine).record
    mirrored = segment(scan(), pack, engine, RunOptions(mirroring=True)).record
    assert mirrored.windows == 8 * once.windows
    assert mirrored.mirroring and not once.mirroring


def test_mirroring_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    base = manifest()
    plain = write_pack(tmp_path / "p", manifest=replace(base, windows=replace(base.windows, mirroring_axes=())))
    with pytest.raises(InvalidSettingsError, match="without mirroring"):
        segment(scan(), plain, OnnxRuntimeEngine(plain.body()), RunOptions(mirroring=True))


def test_the_record_names_pack_engine_and_times(pack: StudentPack) -> None:
    record = segment(scan(), pack, OnnxRuntimeEngine(pack.body())).record
    assert (record.pack_id, record.pack_version, record.engine, record.precision) == (
        "generated-x1_4",
        "1.0.0",
        "onnxruntime",
        "float32",
    )
    assert record.pack_sha256 == pack.manifest_sha256
    assert record.seconds["total"] >= record.seconds["windows"] > 0


def test_deterministic(pack: StudentPack) -> None:
    first, second = (segment(scan(), pack, OnnxRuntimeEngine(pack.body())).volume.voxels for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_input_is_not_changed(pack: StudentPack) -> None:
    volume = scan()
    before = volume.voxels.copy()
    segment(volume, pack, OnnxRuntimeEngine(pack.body()))
    np.testing.assert_array_equal(volume.voxels, before)


def test_the_record_tells_windows_and_calls_of_the_network(pack: StudentPack) -> None:
    """Clipping and cropping leave most of this scan at one value: those windows are run once."""
    voxels = np.zeros((60, 20, 20), np.float32)
    voxels[:14] = np.random.default_rng(0).gamma(2, 100, size=(14, 20, 20))
    voxels[-1, -1, -1] = 1  # or the zeros would be cropped away
    engine = Counting(pack)
    record = segment(Volume(voxels, (1.5, 1.5, 1.5)), pack, engine).record
    assert record.calls == engine.calls < record.windows
    record = segment(scan(), pack, engine).record
    assert record.calls == record.windows


class Counting(OnnxRuntimeEngine):
    """Counts the windows it runs."""

    def __init__(self, pack: StudentPack) -> None:
        super().__init__(pack.body())
        self.calls = 0

    def run(self, windows: Any, cancelled: Any) -> Any:
        self.calls += len(windows)
        return super().run(windows, cancelled)


def test_progress_counts_up_to_the_end_of_every_stage(pack: StudentPack) -> None:
    reports: list[Progress] = []
    segment(scan(), pack, OnnxRuntimeEngine(pack.body()), progress=reports.append)
    assert list(dict.fromkeys(report.stage for report in reports)) == ["preprocess", "windows", "restore"]
    for stage in ("preprocess", "windows", "restore"):
        done = [report.done for report in reports if report.stage == stage]
        total = {report.total for report in reports if report.stage == stage}
        assert total == {done[-1]} and done[0] == 0 and done == sorted(set(done))
    windows = [report for report in reports if report.stage == "windows"]
    assert windows[0].seconds_left is None
    assert windows[-1].seconds_left == 0
    assert all(report.seconds_left is not None and report.seconds_left > 0 for report in windows[1:-1])


@pytest.mark.parametrize("stage", ["preprocess", "windows", "restore"])
def test_cancel_at_every_stage(pack: StudentPack, stage: str) -> None:
    current = ""

    def follow(report: Progress) -> None:
        nonlocal current
        current = report.stage

    with pytest.raises(CancelledError):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()), progress=follow, cancel=lambda: current == stage)


def test_the_check_of_the_result_can_be_cancelled_and_is_part_of_the_progress(
    pack: StudentPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, engine = scan(), OnnxRuntimeEngine(pack.body())
    whole: list[Progress] = []
    segment(volume, pack, engine, progress=whole.append)
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", volume.voxels[0].size)
    reports: list[Progress] = []

    def three_slabs_left() -> bool:
        return bool(reports) and reports[-1].stage == "restore" and reports[-1].total - reports[-1].done <= 3

    for labels, passes in (((), 1), ((1,), 2)):  # what is not wanted is dropped in a pass of its own
        reports.clear()
        with pytest.raises(CancelledError):
            segment(volume, pack, engine, RunOptions(labels=labels), progress=reports.append, cancel=three_slabs_left)
        assert reports[-1].total == whole[-1].total - 1 + passes * 20, "one slab before, 20 now"
        assert reports[-1].total - reports[-1].done == 3


def test_a_window_is_broken_off_in_the_middle(tmp_path: Path) -> None:
    base = manifest()
    large = replace(
        base,
        windows=replace(base.windows, patch_size=(64, 64, 64)),
        network=replace(base.network, features=32),
    )
    slow = write_pack(tmp_path / "slow", manifest=large, body=convolution_body(features=32, repeats=12))
    engine = OnnxRuntimeEngine(slow.body())
    volume = scan((40, 40, 40), spacing=(1.0, 1.0, 1.0))

    start = time.process_time()
    segment(volume, slow, engine)
    whole = time.process_time() - start

    stage = ""

    def follow(report: Progress) -> None:
        nonlocal stage
        stage = report.stage

    start = time.process_time()
    with pytest.raises(CancelledError):
        segment(volume, slow, engine, progress=follow, cancel=lambda: stage == "windows")
    # there is one window, so that only the engine could stop: processor time, which a busy machine does not stretch
    assert time.process_time() - start < whole / 2


def test_an_engine_that_gives_nan_is_an_error(pack: StudentPack) -> None:
    class BrokenEngine:
        name = "broken"
        device = "cpu"
        precision = "float32"

        def run(self, windows: Any, cancelled: Any) -> Any:
            return np.full((1, FEATURES, *windows.shape[2:]), np.nan, np.float32)

    with pytest.raises(EngineError, match="not finite"):
        segment(scan(), pack, BrokenEngine())


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (preprocessing, "normalize"),
        (preprocessing, "resample_image"),
        (restoration, "blended_slabs"),
        (network_grid, "background_maps"),
    ],
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")], ids=["array", "thread"])
def test_too_little_memory_at_any_step_is_said_as_such(
    pack: StudentPack, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str, error: Exception
) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, step, short)
    with pytest.raises(InsufficientMemoryError, match="to segment 8,640 voxels with generated-x1_4; close other"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()))


def test_a_defect_is_not_taken_for_too_little_memory(pack: StudentPack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(preprocessing, "resample_image", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()))


_WITHIN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from types import ModuleType
import numpy as np
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import InsufficientMemoryError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import open_pack
pack = open_pack(Path(sys.argv[1]))
engine = OnnxRuntimeEngine(pack.body())
def scan(edge):
    return Volume(np.random.default_rng(0).gamma(2, 100, size=(edge,) * 3).astype(np.float32), (0.9, 0.9, 0.9))
small, large = scan(20), scan(260)
segment(small, pack, engine, RunOptions(threads=2))  # threads and libraries are there
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (60 << 20),) * 2)
try:
    segment(large, pack, engine, RunOptions(threads=2))
except InsufficientMemoryError as error:
    print(error)
segment(small, pack, engine, RunOptions(threads=2))
print("and goes on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a process can be given little memory")
def test_a_process_that_has_too_little_memory_survives(pack: StudentPack) -> None:
    """The normalised image alone takes 70 MB, and 60 MB are there."""
    finished = subprocess.run(
        [sys.executable, "-c", _WITHIN_LITTLE_MEMORY, str(pack.folder)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    said, went_on = finished.stdout.splitlines()
    assert said.startswith("there is not enough memory")
    assert went_on == "and goes on"


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_makes_no_sense(pack: StudentPack, threads: int) -> None:
    with pytest.raises(InvalidSettingsError, match=f"threads must be a whole number from 1 to 1024, got {threads}"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(threads=threads))


@pytest.mark.parametrize("wanted", [["spleen"], [9], [0]])
def test_a_probability_of_no_label(pack: StudentPack, wanted: list[Any]) -> None:
    with pytest.raises(InvalidSettingsError, match="has no label"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(probabilities=wanted))


def test_the_record_says_what_it_ran_on(pack: StudentPack) -> None:
    record = segment(scan(), pack, OnnxRuntimeEngine(pack.body()), RunOptions(threads=3, check_input=False)).record
    assert (record.device, record.threads, record.checked) == ("cpu", 3, False)


def test_outside_the_crop_there_is_no_doubt(pack: StudentPack) -> None:
    volume = scan()
    voxels = np.zeros_like(volume.voxels)
    voxels[5:15, 6:20, 4:12] = volume.voxels[5:15, 6:20, 4:12]
    found = segment(
        volume.with_voxels(voxels), pack, OnnxRuntimeEngine(pack.body()), RunOptions(entropy=True, probabilities=[2])
    )
    outside = np.ones(voxels.shape, bool)
    outside[5:15, 6:20, 4:12] = False
    assert found.entropy is not None
    for map_ in (found.entropy, found.probabilities[2]):
        assert not map_.voxels[outside].any() and map_.voxels[~outside].any()


def test_an_engine_that_gives_another_shape_is_an_error(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "p", body=convolution_body(features=FEATURES + 1))
    with pytest.raises(EngineError, match="shape"):
        segment(scan(), pack, OnnxRuntimeEngine(pack.body()))


def test_a_spacing_that_would_explode_is_refused_before_memory_is_taken(pack: StudentPack) -> None:
    with pytest.raises(GeometryError, match="at the pack's spacing"):
        segment(scan(spacing=(500.0, 500.0, 500.0)), pack, OnnxRuntimeEngine(pack.body()))


def test_a_spacing_far_too_small_is_named(pack: StudentPack) -> None:
    with pytest.raises(GeometryError, match=r"the volume is 0\.2 x 0\.24 x 0\.18 mm, less than one voxel.*spacing"):
        segment(scan(spacing=(0.01, 0.01, 0.01)), pack, OnnxRuntimeEngine(pack.body()), RunOptions(check_input=False))


def test_a_ct_is_refused_and_can_be_allowed(pack: StudentPack) -> None:
    volume = scan()
    ct = volume.with_voxels(volume.voxels - 1000)
    engine = OnnxRuntimeEngine(pack.body())
    with pytest.raises(UnsuitableVolumeError, match="looks like CT"):
        segment(ct, pack, engine)
    (warning,) = segment(ct, pack, engine, RunOptions(check_input=False)).record.warnings
    assert (warning.kind, warning.pack_id) == ("input", "generated-x1_4")
    assert "looks like CT" in warning.sentence and "--unchecked" not in warning.sentence


def test_another_field_of_view_is_refused_and_can_be_allowed(tmp_path: Path) -> None:
    heads = FieldOfView(smallest=(150.0, 180.0, 150.0), largest=(170.0, 220.0, 180.0))
    pack = write_pack(tmp_path / "p", manifest=manifest(field_of_view=heads))
    engine = OnnxRuntimeEngine(pack.body())
    with pytest.raises(UnsuitableVolumeError, match=r"too small .* trained on images of 150 to 170 mm left to right"):
        segment(scan(), pack, engine)
    (warning,) = segment(scan(), pack, engine, RunOptions(check_input=False)).record.warnings
    assert "too small" in warning.sentence


def test_a_result_unlike_the_training_set_has_warnings(tmp_path: Path) -> None:
    common = {"cases": 40, "at_edge": 40, "smallest_ml": 1e-3, "largest_ml": 100.0}
    labels = tuple(ExpectedLabel(value=value, **common) for value in (1, 2))  # type: ignore[arg-type]
    expected = Expected(cases=40, smallest_ml=1.0, largest_ml=100.0, labels=labels, pairs=())
    usual = write_pack(tmp_path / "usual", manifest=manifest(2, expected=expected))
    engine = OnnxRuntimeEngine(usual.body())
    result = segment(scan(), usual, engine)
    assert result.record.warnings == ()
    half = np.count_nonzero(result.volume.voxels == 2) * result.volume.voxel_volume / 2000
    labels = (labels[0], replace(labels[1], largest_ml=half))
    odd = write_pack(tmp_path / "odd", manifest=manifest(2, expected=replace(expected, labels=labels)))
    assert [(each.kind, each.labels) for each in segment(scan(), odd, engine).record.warnings] == [
        ("large", ("structure 2",))
    ]
    assert segment(scan(), odd, engine, RunOptions(labels=[1])).record.warnings == ()


def test_outside_the_nonzero_box_is_background(pack: StudentPack) -> None:
    volume = scan()
    voxels = np.zeros_like(volume.voxels)
    voxels[5:15, 6:20, 4:12] = volume.voxels[5:15, 6:20, 4:12]
    labels = segment(volume.with_voxels(voxels), pack, OnnxRuntimeEngine(pack.body())).volume.voxels
    outside = np.ones(labels.shape, bool)
    outside[5:15, 6:20, 4:12] = False
    assert (labels[outside] == 0).all() and labels.any()
