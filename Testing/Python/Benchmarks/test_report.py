"""The page and the picture: every figure is computed, every target gets its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.parts.paper import STOCK
from kdbench.report.markdown import seconds, table, times
from kdbench.report.page import page
from kdbench.report.picture import draw
from kdbench.report.scale import scale_section
from kdbench.report.targets import Target, peak_shares, targets
from kdbench.results import Machine, Measured, Operation, Outcome, Part, Results, Run

pytest.importorskip("matplotlib", reason="install the extra 'distill'")

MACHINE = Machine(processor="A processor", logical_cores=4, system="Linux", abilities=("BF16", "FP32"))
GB = 1_000_000_000


def outcome(
    wall: float | None,
    peak: int | None = None,
    *,
    facts: dict[str, float] | None = None,
    details: dict[str, float] | None = None,
    operations: tuple[Operation, ...] = (),
    problem: str | None = None,
    **labels: str,
) -> Outcome:
    inside = Measured(details=details or {}, operations=operations)
    runs = () if wall is None else (Run(wall_seconds=wall, cpu_seconds=2 * wall, peak_bytes=peak, inside=inside),)
    return Outcome(
        labels=labels,
        facts=facts or {},
        runs=runs,
        problem=problem,
        date="2026-11-24T12:00:00+00:00",
        load_average=0.5,
        versions={"numpy": "2"},
    )


def results(**parts: list[Outcome]) -> Results:
    return Results(
        parts={
            name: Part(machine=MACHINE, outcomes={str(number): each for number, each in enumerate(outcomes)})
            for name, outcomes in parts.items()
        }
    )


def stock(size: str, wall: float) -> Outcome:
    return outcome(
        wall, 6 * GB, size=size, software=STOCK, engine="torch", precision="float32", facts={"parameters": 9}
    )


def ours(size: str, precision: str, wall: float, peak: int = GB, **details: float) -> Outcome:
    return outcome(wall, peak, size=size, software="kdseg", engine="openvino", precision=precision, details=details)


PAPER = results(
    paper=[
        stock("x1", 400.0),
        stock("x1/4", 60.0),
        ours("x1/4", "float32", 10.0, windows=7.6),
        ours("x1/4", "bfloat16", 5.0, peak=2 * GB, windows=3.0),
        outcome(
            1.0, size="x1/4", software="comparison", engine="openvino", precision="float32", details={"equal": 0.9987}
        ),
        outcome(
            None, size="x1/4", software="kdseg", engine="openvino", precision="int8", problem="no instructions for it"
        ),
    ]
)


def target(results: Results, start: str) -> Target:
    return next(each for each in targets(results) if each.what.startswith(start))


def test_speed_up_over_the_teacher_is_that_of_the_medians() -> None:
    found = target(PAPER, "x1/4, ours against the teacher")
    assert {finding.way: finding.value for finding in found.findings} == {"float32": 40.0, "bfloat16": 80.0}
    assert found.verdict == "met with bfloat16"


@pytest.mark.parametrize(
    ("start", "verdict"),
    [
        ("x1/4, ours against stock nnU-Net with the same student", "met with bfloat16"),
        ("Peak memory of x1/4", "met with float32"),
        ("Share of the network", "met with float32"),
        ("x1/2, ours", "not measured"),
        ("`kdseg --help`", "not measured"),
    ],
)
def test_verdicts(start: str, verdict: str) -> None:
    assert target(PAPER, start).verdict == verdict


def test_limits_themselves_count_as_reached() -> None:
    exactly = results(start=[outcome(9.0, what="kdseg --help", details={"seconds": 0.4})])
    assert target(exactly, "`kdseg --help`").verdict == "**met**"
    above = results(start=[outcome(9.0, what="kdseg --help", details={"seconds": 0.41})])
    assert target(above, "`kdseg --help`").verdict == "**missed**"


def test_classes_volumes_and_the_brain_have_their_targets() -> None:
    def with_classes(classes: int, wall: float) -> Outcome:
        labels = {"software": "kdseg", "engine": "openvino", "precision": "float32", "classes": str(classes)}
        return outcome(wall, GB, facts={"classes": classes}, **labels)

    ct = {"software": "kdseg", "engine": "openvino", "precision": "float32", "scan_size": "512 x 512 x 600"}
    made = results(
        classes=[with_classes(14, 10.0), with_classes(111, 12.0)],
        volumes=[outcome(60.0, 5 * GB, facts={"voxels": 157e6}, **ct)],
        brain=[
            outcome(3.0, GB, what="file to file", precision="float32", details={"total": 2.0}),
            outcome(9.0, GB, what="body", precision="float32", details={"seconds": 1.0}),
        ],
    )
    for start, value, verdict in (
        ("Time of 111 classes", 1.2, "**met**"),
        ("Peak memory of a 512", 5 * GB, "**missed**"),
        ("A skull-stripped brain", 3.0, "**missed**"),
    ):
        found = target(made, start)
        assert [finding.value for finding in found.findings] == [pytest.approx(value)]
        assert found.verdict == verdict
    assert "Against the number of classes" in page(made)


def test_surface_metrics_against_monai() -> None:
    def pair(surface: str, monai: float) -> Outcome:
        details = {"monai": monai, "ours": 0.5, "monai_wall": monai + 1, "ours_wall": 0.8, "mean_dice": 0.9}
        return outcome(9.0, facts={"x": 160, "y": 192, "z": 160, "labels": 13}, details=details, surface=surface)

    made = results(surface=[pair("voxels", 3.0), pair("subvoxel", 2.0)])
    found = target(made, "HD95 and NSD of 13 labels on 160 x 192 x 160")
    assert {finding.way: finding.value for finding in found.findings} == {"voxels": 6.0, "subvoxel": 4.0}
    assert found.verdict == "met with voxels"
    text = page(made)
    assert "(160 x 192 x 160 voxels, 13 labels, mean Dice 0.900)" in text
    assert "| surface voxels | 3.00 | 0.500 | 6.00x | 4.00 | 0.800 | 5.00x |" in text
    assert "| sub-voxel patches | 2.00 | 0.500 | 4.00x | 3.00 | 0.800 | 3.75x |" in text


def test_dice_and_cross_entropy_against_nnunet() -> None:
    def patch(classes: int, stock: float) -> Outcome:
        details = {"stock": stock, "ours": 0.25, "stock_wall": stock + 1, "ours_wall": 0.5}
        facts: dict[str, float] = {"z": 64, "y": 96, "x": 32, "classes": classes}
        return outcome(9.0, facts=facts, details=details, classes=str(classes))

    text = page(results(loss=[patch(3, 0.5), patch(46, 3.0)]))
    assert "(64 x 96 x 32 voxels)" in text
    assert "| 3 | 0.500 | 0.250 | 2.00x | 1.50 | 0.500 | 3.00x |" in text
    assert "| 46 | 3.00 | 0.250 | 12x | 4.00 | 0.500 | 8.00x |" in text


def test_share_of_the_peak_and_where_the_rest_goes() -> None:
    convolution = Operation(kind="Convolution", coarseness=1, seconds=1.5, flops=60e9, bytes=3e9)
    norm = Operation(kind="MVN", coarseness=2, seconds=0.5, flops=0.0, bytes=4e9)
    labels = {"engine": "openvino", "precision": "bfloat16"}
    made = results(
        arithmetic=[
            outcome(1.0, what="copy", details={"bytes_per_second": 10e9}),
            outcome(1.0, what="product", details={"flops_per_second": 80e9}, **labels),
            outcome(1.0, what="body", details={"seconds": 2.0, "flops": 96e9}, **labels),
            outcome(1.0, what="profile", operations=(convolution, norm), **labels),
        ]
    )
    assert [(each.way, each.value) for each in peak_shares(made.parts["arithmetic"])] == [("bfloat16", 0.6)]
    text = page(made)
    assert "| bfloat16 | 80.0 | 96.0 | 2.00 | 48.0 | 60% |" in text
    assert "| Convolution | full | 1.50 | 75% | 40.0 | 50% | 2.0 |" in text
    assert "| MVN | 1/2 | 0.500 | 25% | - | - | 8.0 |" in text


def test_the_papers_table() -> None:
    text = page(PAPER)
    assert "| x1 | nnU-Net | 400 | 1.00x | 1.00x | - | 800 | 6.00 | - | 1 |" in text
    assert "| x1/4 | openvino float32 | 10.0 | 6.00x | 40x | 76% | 20.0 | 1.00 | 99.87% | 1 |" in text
    assert "- no instructions for it (5)" in text
    assert "A processor, 4 logical cores (BF16, FP32)" in text


def test_scale_is_computed_from_processor_time() -> None:
    text = "\n".join(scale_section(PAPER.parts["paper"]))
    # 20 CPU-seconds: 100,000 of them are 556 hours; 16 cores make 2,880 an hour; 16 / 4 cores at a time
    assert "| x1/4 | kdseg, openvino float32 | 556 | 1.4 | 2,880 | 1.00, 4.00 |" in text
    assert "kept busy by 4 scans side by side on 4 cores each" in text


def test_nothing_measured_gives_a_page_too(tmp_path: Path) -> None:
    assert page(Results()).count("not measured") == len(targets(Results()))
    assert not draw(Results(), tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()


def test_picture_is_written_with_what_there_is(tmp_path: Path) -> None:
    assert draw(PAPER, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0312, "0.031"),
        (0.9999, "1.00"),
        (2.345, "2.35"),
        (27.21, "27.2"),
        (99.99, "100"),
        (459.2, "459"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.976, "0.98x"), (3.14159, "3.14x"), (51.7, "52x")])
def test_times(value: float | None, text: str) -> None:
    assert times(value) == text


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a", "b"], [["x|y", "1"]]) == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 |"]
