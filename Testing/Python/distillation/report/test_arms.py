from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.cli import main
from distillation.report.arms import Arms, arm_verdicts, difference_table, read_arms, seed_table, structure_table
from distillation.report.validation import validation_page
from KDSegmentatorLib.errors import InvalidSettingsError
from support.evaluated_workspaces import workspace

REPOSITORY = Path(__file__).parents[4]
MEASURED = REPOSITORY / "docs" / "measured" / "hippocampus-soft-labels.json"
CASES = [f"c{number:02d}" for number in range(12)]


def scores(gain: float, seeds: int = 2, spread: float = 0.002) -> dict[str, dict[str, dict[str, float | None]]]:
    """Dice of two structures of twelve cases, ``gain`` above what seed and case alone give."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for seed in range(seeds):
        base = np.random.default_rng(seed).uniform(0.6, 0.8, (12, 2))
        noise = np.random.default_rng([seed, round(1e4 * abs(gain))]).normal(0, spread, (12, 2))
        found[str(seed)] = {
            case: {"Front": float(front), "Back": float(back)}
            for case, (front, back) in zip(CASES, base + gain + noise, strict=True)
        }
    return found


def arms(**changes: Any) -> Arms:
    taught = {"plain": scores(0), "control": scores(0.01), "mix": scores(0.03)}
    values = {"title": "Spheres", "data": "twelve cases", "baseline": "plain", "control": "control", "scores": taught}
    return Arms(**{**values, **changes})


def test_differences_are_paired_by_seed_and_case() -> None:
    made = arms()
    found = made.difference("mix", "plain")
    differences = [
        np.mean([made.scores["mix"][s][c][n] - made.scores["plain"][s][c][n] for s in "01" for n in ("Front", "Back")])  # type: ignore[operator]
        for c in CASES
    ]
    assert found.over_cases.mean == pytest.approx(np.mean(differences))
    assert (found.better, found.subjects, found.seeds) == (12, 12, 2)
    assert found.p_cases == pytest.approx(wilcoxon(differences, zero_method="pratt").pvalue)
    assert found.p_both is not None
    assert found.p_both < 0.05
    assert [row[0] for row in difference_table(made).rows] == ["control - plain", "mix - plain", "mix - control"]
    assert any(sentence.startswith("mix is better than plain by Dice (+0.03") for sentence in arm_verdicts(made))


def test_what_helps_in_one_of_two_seeds_only_is_not_shown() -> None:
    lucky = {"0": scores(0.04)["0"], "1": scores(-0.01)["1"]}
    found = arms(scores={"plain": scores(0), "mix": lucky}, control=None).difference("mix", "plain")
    assert found.p_cases is not None
    assert found.p_both is not None
    assert found.p_cases < 0.05 < found.p_both


def test_a_seed_that_an_arm_lacks_is_left_out_and_said() -> None:
    made = arms(scores={"plain": scores(0), "control": scores(0.01, seeds=1), "mix": scores(0.03)})
    assert seed_table(made).rows[1][2] == "not trained"
    assert made.difference("control", "plain").seeds == 1
    assert made.difference("control", "plain").p_both is None
    assert "seed 0;" in structure_table(made).caption


def test_a_structure_in_neither_segmentation_counts_for_neither() -> None:
    plain, mix = scores(0, seeds=1), scores(0.02, seeds=1, spread=0)
    base = {**plain["0"], "c00": {"Front": 0.5, "Back": None}, "c01": {"Front": 0.5, "Back": 0.0}}
    other = {**mix["0"], "c00": {"Front": 0.6, "Back": None}, "c01": {"Front": 0.5, "Back": None}}
    made = arms(scores={"plain": {"0": base}, "mix": {"0": other}}, control=None)
    assert made.difference("mix", "plain").subjects == 12
    only = {"c00": base["c00"], "c01": base["c01"]}, {"c00": other["c00"], "c01": other["c01"]}
    two = arms(scores={"plain": {"0": only[0]}, "mix": {"0": only[1]}}, control=None)
    # c00: 0.1 of one structure; c01: 0 and, of the one that rightly finds nothing, 1 - 0
    assert two.difference("mix", "plain").over_cases.mean == pytest.approx((0.1 + 0.5) / 2)


def test_images_of_a_subject_are_averaged() -> None:
    made = arms(subjects={case: f"s{int(case[1:]) // 2}" for case in CASES})
    assert made.difference("mix", "plain").subjects == 6
    assert "p (subjects)" in difference_table(made).header


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"baseline": "nothing"}, "the baseline 'nothing' is none of the arms plain, control, mix"),
        (
            {"scores": {"plain": scores(0), "mix": {"0": {}}}, "control": None},
            "arm mix, seed 0 was scored on other cases",
        ),
        ({"scores": {"plain": {"0": {"a": {"F": 1.0}}}}, "control": None}, "cases of two subjects are needed"),
        ({"scores": {"plain": scores(0), "mix": {"7": scores(0)["0"]}}, "control": None}, "no seed in common"),
    ],
)
def test_arms_that_do_not_fit_together_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSettingsError, match=problem):
        arms(**change)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is no file of scores"),
        ('{"title": "T", "data": "D", "baseline": "a"}', "'scores'"),
        (
            '{"title": "T", "data": "D", "baseline": "a", "scores": {"a": {"0": {"c": {"F": 1.2}}}}}',
            "Dice 1.2 is not in",
        ),
        (
            '{"title": "T", "data": "D", "baseline": "a", "scores": {"a": {"0": {"c": {"F": "x"}}}}}',
            "no file of scores",
        ),
        ('{"title": "T", "data": "D", "baseline": "a", "seeds": 2, "scores": {}}', "unexpected keyword"),
        ('{"title": "T", "data": "D", "baseline": "a", "scores": {"a": [1]}}', "no file of scores"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(InvalidSettingsError, match=problem):
        read_arms(path)
    with pytest.raises(InvalidSettingsError, match="no such file"):
        read_arms(tmp_path / "none.json")


def test_the_page_shows_what_the_file_of_scores_says() -> None:
    page = (REPOSITORY / "docs" / "validation.md").read_text(encoding="utf-8")
    assert validation_page([MEASURED], page) == page
    found = read_arms(MEASURED).difference("mix 0.9", "plain")
    assert (found.better, found.subjects) == (32, 42)


def test_the_command_compares_a_file_and_evaluated_workspaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(MEASURED)]) == 0
    assert "- mix 0.9 is better than plain by Dice (+0.0048, 32 of 42 better" in capsys.readouterr().out
    folders = [str(workspace(tmp_path / str(seed), seed)) for seed in (0, 1)]
    kept = tmp_path / "kept.json"
    assert main(["compare", *folders, "--size", "x1/4", "--json", str(kept)]) == 0
    said = capsys.readouterr().out
    assert "logit is better than plain by Dice" in said
    assert "reco is WORSE than plain by Dice" in said
    assert main(["compare", str(kept)]) == 0
    assert capsys.readouterr().out in said
    assert json.loads(kept.read_text())["baseline"] == "plain"
    (tmp_path / "0" / "tests").mkdir()
    (tmp_path / "0" / "evaluation").rename(tmp_path / "0" / "tests" / "IXI")
    assert main(["compare", folders[0], "--size", "x1/4", "--test", "IXI"]) == 0
    assert "logit is better than plain by Dice" in capsys.readouterr().out
    (tmp_path / "0" / "tests" / "IXI").rename(tmp_path / "0" / "evaluation")
    for arguments, problem in (
        (folders, "--size says which students"),
        ([*folders, "--size", "x1/8"], "there is no plain x1/8"),
        ([*folders, "--size", "x1/4", "--test", "IXI"], "run 'kdseg-distill evaluate' first"),
        ([str(kept), folders[0]], "give one file of scores"),
        ([str(tmp_path)], "--size"),
    ):
        assert main(["compare", *arguments]) == 2
        assert problem in capsys.readouterr().err
