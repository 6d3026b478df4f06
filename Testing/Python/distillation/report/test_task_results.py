from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.cli import main
from distillation.evaluation.efficiency import Efficiency, RunningCost, write_efficiency
from distillation.evaluation.paired_statistics import summarise
from distillation.report.result_tables import accuracy_table, comparison_table, efficiency_table, label_table
from distillation.report.task_results import TaskResults, join_seeds, read_results
from distillation.report.validation import validation_page, write_validation
from distillation.report.verdicts import verdicts
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError
from support.evaluated_workspaces import MODELS, rows, workspace
from support.scores import score


def cost(model: str, **changes: Any) -> Efficiency:
    running = RunningCost(seconds=0.5, peak_bytes=10**9, rounds=3, engine="openvino", threads=None)
    made = Efficiency(
        model=model,
        parameters=1000,
        flops=10**9,
        paper_flops=10**9,
        file_bytes=10**6,
        case="c00",
        size=(32, 32, 32),
        running=running,
        machine="a machine",
    )
    return replace(made, **changes)


@pytest.fixture
def results(tmp_path: Path) -> TaskResults:
    return read_results(workspace(tmp_path / "work"))


def test_only_the_packs_that_were_evaluated_count(results: TaskResults) -> None:
    assert results.models == tuple(MODELS)
    assert len(results.scores[0]) == len(rows())
    expected = summarise("x1/4 logit", rows())
    assert results.joined()["x1/4 logit"] == expected


def test_tables_have_the_numbers(results: TaskResults) -> None:
    joined = results.joined()
    table = accuracy_table(results)
    logit = next(row for row in table.rows if row[0] == "x1/4 logit")
    assert logit[1].startswith(f"{joined['x1/4 logit'].mean('dice'):.4f} (")
    assert logit[-1] == f"{joined['x1/4 logit'].mean('dice') / joined['x1 teacher'].mean('dice'):.1%}"
    compared = comparison_table(results)
    assert compared is not None
    assert [row[:2] for row in compared.rows[:3]] == [("x1/4 logit", each) for each in ("Dice", "NSD", "HD95 (mm)")]
    recovered = float(compared.rows[0][-1].rstrip("%"))
    assert recovered == pytest.approx(50, abs=5)
    labels = label_table(results, "dice")
    assert labels.rows[1][0] == "Back"
    assert labels.rows[1][-1] == "12"


def test_it_says_plainly_where_distillation_does_not_help(results: TaskResults) -> None:
    said = verdicts(results)
    assert any(line.startswith("x1/4 logit is better than x1/4 plain by Dice (+0.0") for line in said)
    assert any(re.match(r"x1/4 reco is WORSE than x1/4 plain by Dice \(-0\.0.*does not help", line) for line in said)
    assert any(line.startswith("x1/4 reco has a lower mean Dice than x1/4 plain in: Front | left") for line in said)


def pair_of_images(case: str) -> str:
    """Return the subject of a case: c00 and c01 show the first of six, and so on."""
    return f"s{int(case[1:]) // 2}"


def test_images_of_a_subject_are_averaged_and_said_to_be(tmp_path: Path) -> None:
    results = read_results(workspace(tmp_path / "work", subjects=pair_of_images))
    joined = results.joined()["x1/4 plain"]
    assert (joined.case_count, joined.subject_count) == (12, 6)
    table = accuracy_table(results)
    assert "twelve cases, 12 images of 6 subjects, n = 6; mean over subjects with 95 % interval" in table.caption
    assert "then over the cases of a subject, then over subjects." in table.caption
    compared = comparison_table(results)
    assert compared is not None
    assert "paired by case, averaged by subject;" in compared.caption
    assert compared.rows[0][3] == f"{2 / 2**6:.2g}"  # all six are better
    labels = label_table(results, "dice")
    assert (labels.header[-1], labels.rows[0][-1]) == ("Subjects", "6")
    assert "mean over its subjects" in labels.caption
    page = validation_page([tmp_path / "work"])
    assert "\nCases: Generated spheres, twelve cases, 12 images of 6 subjects, n = 6.\n" in page


def test_few_subjects_get_no_verdict(tmp_path: Path) -> None:
    """Four heads of three images each: what twelve cases seem to show, four heads do not."""
    folder = workspace(tmp_path / "work", subjects=lambda case: f"head {int(case[1:]) % 4}")
    results = read_results(folder)
    said = verdicts(results)
    assert not any(re.search("is better|WORSE|after Holm", line) for line in said)
    expected = (
        r"x1/4 reco against x1/4 plain by Dice: -0\.0\d+ \(0 better, 4 worse\), not tested: n = 4 subjects is too "
    )
    assert any(re.fullmatch(expected + r"small for a test\.", line) for line in said)
    compared = comparison_table(results)
    assert compared is not None
    assert {row[3:5] for row in compared.rows} == {("-", "-")}
    assert "'-' where n < 6, of which no test of ranks reaches p = 0.05" in compared.caption
    assert "Student's t where n < 6" in compared.caption


def test_an_evaluation_that_does_not_say_whom_it_shows_is_refused(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "work")
    path = folder / "evaluation" / "evaluation.json"
    content = json.loads(path.read_text())
    del content["subjects"]
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"'subjects'.*run 'kdseg-distill evaluate' again"):
        read_results(folder)


@pytest.mark.parametrize("sign", [1, -1])
def test_no_verdict_where_ranks_and_mean_disagree(tmp_path: Path, sign: int) -> None:
    """40 of 42 cases change a little one way, two of them a lot the other way."""
    random = np.random.default_rng(3)
    found = []
    for case in range(42):
        change = -0.3 if case >= 40 else random.uniform(0.002, 0.004)
        for model, dice in (("x1/4 plain", 0.6), ("x1/4 logit", 0.6 + sign * change)):
            found.append(score(model=model, pack_hash=model, case=f"c{case:02d}", dice=dice))
    results = read_results(workspace(tmp_path / "work", scores=found))
    dice = next(each for each in results.comparisons() if each.metric == "dice")
    assert dice.p_holm < 0.001
    assert (dice.gain < 0) == (sign > 0)
    assert (dice.improved, dice.worsened) == ((40, 2) if sign > 0 else (2, 40))
    # places 1 to 40 against 41 and 42
    assert dice.rank_sum == sign * (40 * 41 / 2 - (41.5 + 41.5))
    said = [line for line in verdicts(results) if "not tested" not in line]
    assert len(said) == 3
    for line, title in zip(said, ("Dice", "NSD", "HD95"), strict=True):
        if sign > 0:
            words = r"most cases are better \(40 better, 2 worse, p = \S+ after Holm\), the mean is worse because of 2"
        else:
            words = r"most cases are WORSE \(2 better, 40 worse, p = \S+ after Holm\), the mean is better because of 2"
        assert re.match(rf"x1/4 logit against x1/4 plain by {title}: {words} cases \(.*\): no verdict\.", line)


def test_nothing_shown_is_said_as_such(tmp_path: Path) -> None:
    equal = [row for row in rows() if row.model != "x1/4 logit"]
    equal += [replace(row, model="x1/4 logit") for row in equal if row.model == "x1/4 plain"]
    said = verdicts(read_results(workspace(tmp_path / "work", scores=equal)))
    assert any("x1/4 logit: no difference in Dice from x1/4 plain was shown (+0.0000, p = 1" in line for line in said)


def test_seeds_are_averaged_case_by_case(tmp_path: Path) -> None:
    several = [read_results(workspace(tmp_path / str(seed), seed)) for seed in (0, 1, 2)]
    (joined,) = join_seeds(several)
    assert joined.seeds == (0, 1, 2)
    found = joined.joined()["x1/4 plain"].metrics["dice"].cases
    assert found.keys() == several[0].joined()["x1/4 plain"].metrics["dice"].cases.keys()  # twelve cases, not 36
    for case, value in found.items():
        each = [result.joined()["x1/4 plain"].metrics["dice"].cases[case] for result in several]
        assert value == pytest.approx(np.mean(each))
    spread = np.std([result.joined()["x1/4 plain"].mean("dice") for result in several], ddof=1)
    table = accuracy_table(joined)
    assert table.header[-1] == "SD of Dice over seeds"
    assert table.rows[1][-1] == f"{spread:.4f}"


def test_a_label_found_falsely_or_missed_in_one_seed_counts(tmp_path: Path) -> None:
    """Case b has no label 2: seed 0 finds none, seed 1 finds one; case c has one, which seed 1 misses."""
    tables = (
        {"a": (0.8, 0.7), "b": (0.9, math.nan), "c": (0.75, 0.6), "d": (0.85, math.nan)},
        {"a": (0.7, 0.8), "b": (0.9, 0.0), "c": (0.8, 0.0), "d": (0.8, math.nan)},
    )
    measured = [
        [
            score(model="x1/4 plain", pack_hash=str(seed), case=case, label=label, dice=dice)
            for case, values in table.items()
            for label, dice in enumerate(values, start=1)
        ]
        for seed, table in enumerate(tables)
    ]
    several = [read_results(workspace(tmp_path / str(seed), seed, scores=found)) for seed, found in enumerate(measured)]
    (joined,) = join_seeds(several)
    result = joined.joined()["x1/4 plain"]
    # In seed 0, the empty label 2 of b is agreement, because seed 1 found something; that of d is empty in both.
    by_seed = (
        {"a": 0.75, "b": (0.9 + 1) / 2, "c": 0.675, "d": 0.85},
        {"a": 0.75, "b": 0.9 / 2, "c": 0.4, "d": 0.8},
    )
    for metric in ("dice", "nsd"):
        found = result.metrics[metric].cases
        assert found == pytest.approx({case: (by_seed[0][case] + by_seed[1][case]) / 2 for case in "abcd"})
    for case, hd95 in {"b": ((1 + 0) / 2 + (1 + 50) / 2) / 2, "c": ((2.5 + 4) / 2 + (2 + 50) / 2) / 2}.items():
        assert result.metrics["hd95_mm"].cases[case] == pytest.approx(hd95)
    seeds = [each["x1/4 plain"].mean("dice") for each in joined.by_seed()]
    assert seeds == pytest.approx([sum(cases.values()) / 4 for cases in by_seed])
    assert result.mean("dice") == pytest.approx(sum(seeds) / 2)
    assert (result.undefined, result.replaced, result.label_subjects) == (3, 2, {1: 4, 2: 3})
    (said,) = verdicts(joined)
    assert said.startswith("x1/4 plain: 3 scores are undefined (label in neither segmentation) and left out; 2 labels")
    assert said.endswith("Counted over all seeds.")
    caption = accuracy_table(joined).caption
    assert "undefined in some seeds only counts there as agreement (Dice and NSD 1, HD95 0 mm)" in caption
    assert "seeds" not in accuracy_table(several[0]).caption


def test_seeds_that_do_not_fit_together(tmp_path: Path) -> None:
    first = read_results(workspace(tmp_path / "a", 0))
    with pytest.raises(InvalidSettingsError, match="two workspaces of spheres have the seed 0"):
        join_seeds([first, read_results(workspace(tmp_path / "b", 0))])
    grouped = workspace(tmp_path / "d", 1, subjects=pair_of_images)
    with pytest.raises(InvalidSettingsError, match="evaluated on other cases, subjects or labels"):
        join_seeds([first, read_results(grouped)])
    fewer = [row for row in rows(1) if row.case != "c03"]
    with pytest.raises(InvalidSettingsError, match="evaluated on other cases"):
        join_seeds([first, read_results(workspace(tmp_path / "c", 1, scores=fewer))])


def test_costs_are_of_the_networks_that_were_evaluated(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "work")
    costs = [
        cost("x1 teacher"),  # of a version that did not write which pack
        cost("x1/4 plain", pack_hash="x1/4 plain 0"),
        cost("x1/4 logit", pack_hash="an earlier pack"),
        cost("x1/8 plain"),
    ]
    write_efficiency(folder / "evaluation" / "efficiency.json", costs)
    table = efficiency_table(read_results(folder))
    assert table is not None
    assert [row[0] for row in table.rows] == ["x1 teacher", "x1/4 plain"]
    assert "measured of another pack than was evaluated: x1/4 logit, x1/8 plain." in table.caption
    assert "with openvino and the engine's own number of threads on a machine." in table.caption
    running = replace(costs[0].running, threads=2)
    write_efficiency(folder / "evaluation" / "efficiency.json", [replace(costs[0], running=running)])
    table = efficiency_table(read_results(folder))
    assert table is not None
    assert "with openvino and 2 threads on a machine." in table.caption
    assert table.caption.endswith("a machine.")


def test_the_page_says_what_a_teacher_has_seen(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "work")
    path = folder / "evaluation" / "evaluation.json"
    content = json.loads(path.read_text())
    split = "validation cases of fold 0, which the teacher's other folds have seen"
    path.write_text(json.dumps({**content, "split": split}))
    page = validation_page([folder])
    assert f"\nCases: Generated spheres, {split}, n = 12 cases.\n" in page
    assert "neither teacher nor students" not in page


def test_a_plain_student_that_loses_nothing_is_named(tmp_path: Path, results: TaskResults) -> None:
    assert not any("nothing is left" in line for line in verdicts(results))
    weak = [replace(row, dice=row.dice - 0.1) if row.model == "x1 teacher" else row for row in rows()]  # by Dice only
    said = verdicts(read_results(workspace(tmp_path / "weak", scores=weak)))
    assert any(
        re.match(r"x1/4 plain is not below x1 teacher by Dice \(-0\.\d+ .*: nothing is left to rec", line)
        for line in said
    )
    weak = [
        replace(row, nsd=row.nsd - 0.1, hd95_mm=row.hd95_mm + 1) if row.model == "x1 teacher" else row for row in weak
    ]
    said = verdicts(read_results(workspace(tmp_path / "weaker", scores=weak)))
    assert [line.split(" (")[0] for line in said if "nothing is left" in line] == [
        f"x1/4 plain is not below x1 teacher by {title}" for title in ("Dice", "NSD", "HD95")
    ]


def test_structures_that_the_teacher_fails_are_named(tmp_path: Path) -> None:
    failing = [replace(row, dice=0.01) if row.model == "x1 teacher" and row.label == 2 else row for row in rows()]
    results = read_results(workspace(tmp_path / "work", scores=failing))
    assert label_table(results, "dice").rows[1][0] == "Back (the teacher fails)"
    said = verdicts(results)
    (line,) = (line for line in said if " fails " in line)
    assert line.startswith(
        "x1 teacher fails (mean Dice below 0.2) in: Back (0.01). These are left out of teacher - plain"
    )
    assert not any("nothing is left" in line for line in said)
    compared = comparison_table(results)
    assert compared is not None
    assert float(compared.rows[0][-1].rstrip("%")) == pytest.approx(50, abs=8)


def test_several_seeds_are_tested_over_seeds_and_cases(tmp_path: Path) -> None:
    """One seed in three where distillation failed: many cases do not make up for that."""
    unlucky = [replace(row, dice=row.dice - 0.05) if row.model == "x1/4 logit" else row for row in rows(2)]
    several = [read_results(workspace(tmp_path / str(seed), seed)) for seed in (0, 1)]
    several.append(read_results(workspace(tmp_path / "2", 2, scores=unlucky)))
    (joined,) = join_seeds(several)
    found = next(each for each in joined.comparisons() if (each.better, each.metric) == ("x1/4 logit", "dice"))
    assert found.seeds == 3
    assert found.p_value > 0.05 > several[0].comparisons()[0].p_value
    assert found.difference.low < 0 < found.difference.mean
    table = comparison_table(joined)
    assert table is not None
    assert "over 3 seeds x cases, both drawn at random" in table.caption


def test_a_label_that_loses_next_to_nothing_is_not_named(tmp_path: Path) -> None:
    plain = [row for row in rows() if row.model == "x1/4 plain"]
    found = [replace(row, model="x1/4 logit", dice=row.dice - (4e-5, 6e-5)[row.label - 1]) for row in plain]
    said = verdicts(read_results(workspace(tmp_path / "work", scores=plain + found)))
    assert said[-1] == "x1/4 logit has a lower mean Dice than x1/4 plain in: Back (-0.0001) (not tested)."


def test_what_not_every_seed_has_is_named_and_left_out_everywhere(tmp_path: Path) -> None:
    folders = [
        workspace(tmp_path / "a", 0, scores=[row for row in rows(0) if row.model != "x1/4 reco"]),
        workspace(tmp_path / "b", 1, scores=[row for row in rows(1) if row.model != "x1/4 logit"]),
        workspace(tmp_path / "c", 2, scores=[row for row in rows(2) if row.model != "x1/4 logit"]),
    ]
    write_efficiency(folders[0] / "evaluation" / "efficiency.json", [cost(model) for model in list(MODELS)[:3]])
    page = validation_page(folders)
    assert "x1/4 logit is left out: seeds 1, 2 did not evaluate it." in page
    assert "x1/4 reco is left out: seed 0 did not evaluate it." in page
    assert "**Table 2.**" in page
    assert not [line for line in page.splitlines() if line.startswith("|") and re.search("logit|reco", line)]
    only = [[row for row in rows(n) if row.model == model] for n, model in enumerate(("x1/4 plain", "x1/4 logit"))]
    nothing = [read_results(workspace(tmp_path / f"only {n}", n, scores=found)) for n, found in enumerate(only)]
    with pytest.raises(InvalidSettingsError, match="have no network in common"):
        join_seeds(nothing)


def test_the_validation_page_has_every_task(tmp_path: Path) -> None:
    folders = [
        workspace(tmp_path / "a", 0),
        workspace(tmp_path / "b", 1),
        workspace(tmp_path / "c", 0, task="cubes"),
    ]
    page = validation_page(folders)
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["What distillation gave", "Spheres", "Cubes"]
    overview = page.partition("## Spheres")[0]
    assert re.search(r"^\| \[Spheres\]\(#spheres\) \| x1/4 logit - x1/4 plain \| \+0\.0", overview, re.MULTILINE)
    assert re.search(r"^\|  \| x1/4 reco - x1/4 plain \| -0\.0", overview, re.MULTILINE)
    assert page.count("<details>") == page.count("</details>") == 2
    before = page.replace("# Validation\n", "# Validation\n\nWritten by a person.\n").replace(
        "## Cubes\n", "## Cubes\n\nSuperseded."
    )
    kept = validation_page(folders[:2], before)
    assert "Written by a person." in kept
    assert "[Cubes]" not in kept.partition("## Spheres")[0]
    assert "Seeds: 0, 1." in page
    assert "One seed: 0." in page
    assert "Front \\| left" in page  # a bar in a name does not break the table
    widths = [line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| Front")]
    assert set(widths) == {len(MODELS) + 3}
    assert validation_page(folders) == page


def test_the_validation_page_keeps_what_it_has_of_other_tasks(tmp_path: Path) -> None:
    spheres, cubes = workspace(tmp_path / "a"), workspace(tmp_path / "c", task="cubes")
    page, image = tmp_path / "docs" / "validation.md", b"\x89PNG"
    page.parent.mkdir()
    write_validation([spheres], page)
    write_validation([cubes], page)
    both = page.read_text(encoding="utf-8")
    assert both == validation_page([spheres, cubes])
    figure = cubes / "report" / "figures" / "qualitative.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(image)
    write_validation([cubes], page)  # takes the place of its earlier section
    assert page.read_text(encoding="utf-8") == validation_page([spheres, cubes])
    assert "](images/validation-cubes.png)" in page.read_text(encoding="utf-8")
    assert (page.parent / "images" / "validation-cubes.png").read_bytes() == image
    assert not (page.parent / "images" / "validation-spheres.png").exists()
    page.write_bytes(b"\xff\xfe")
    with pytest.raises(ExportError, match="cannot be read"):
        write_validation([cubes], page)


def test_the_figure_is_that_of_the_first_seed_which_has_one(tmp_path: Path) -> None:
    folders = [workspace(tmp_path / str(seed), seed) for seed in (3, 1, 2)]
    page = tmp_path / "docs" / "validation.md"
    page.parent.mkdir()
    for folder in folders[1:]:
        figure = folder / "report" / "figures" / "qualitative.png"
        figure.parent.mkdir(parents=True)
        figure.write_bytes(folder.name.encode())
    write_validation(folders, page)
    assert "(seed 1)](images/validation-spheres.png)" in page.read_text(encoding="utf-8")
    assert (page.parent / "images" / "validation-spheres.png").read_bytes() == b"1"


def test_a_workspace_without_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"evaluation\.json is missing; run 'kdseg-distill evaluate' first"):
        read_results(tmp_path)
    workspace(tmp_path / "old")
    (tmp_path / "old" / "evaluation" / "evaluation.json").write_text('{"dataset": "D"}')
    with pytest.raises(ExportError, match="run 'kdseg-distill evaluate' again"):
        read_results(tmp_path / "old")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = workspace(tmp_path / "a"), tmp_path / "validation.md"
    assert main(["validation", str(folder), "--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == validation_page([folder])
    assert main(["validation", str(tmp_path / "b"), "--output", str(page)]) == 2
    assert "run 'kdseg-distill evaluate' first" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == validation_page([folder])  # the earlier page stays
