import dataclasses
import sys

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")

import distillation.losses
from distillation.losses.registry import known_losses, read_terms
from KDSegmentatorLib.packs.strict_json import FieldError


def test_every_file_is_known_by_its_losses_name():
    assert {name: cls.__name__ for name, cls in known_losses().items()} == {
        "cwd": "CwdLoss",
        "logit": "LogitLoss",
        "ms_ca": "MsCaLoss",
        "ms_sard": "MsSardLoss",
    }


@pytest.mark.parametrize("name", sorted(known_losses()))
def test_settings_survive_the_way_through_plans(name):
    settings = {"weight": 0.5, **({"temperature": 3.0} if name == "logit" else {})}
    term = read_terms({name: settings}, "m")[name]
    assert read_terms({name: dataclasses.asdict(term)}, "m") == {name: term}
    with pytest.raises(dataclasses.FrozenInstanceError):
        term.weight = 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "m: must name at least one loss of: cwd, logit, ms_ca, ms_sard"),
        (["logit"], "m: must name at least one"),
        ({"kd": {}}, r"m\.kd: unknown loss; known are: cwd"),
        ({"cwd": {}}, r"m\.cwd\.weight: missing"),
        ({"cwd": None}, r"m\.cwd: must be an object"),
        ({"cwd": {"weight": "1"}}, r"m\.cwd\.weight: must be a number"),
        ({"cwd": {"weight": 1, "tau": 1}}, r"m\.cwd\.tau: unknown field"),
        ({"cwd": {"weight": -1}}, r"m\.cwd: weight must be >= 0"),
        ({"ms_ca": {"weight": 1, "form": "gram"}}, r"m\.ms_ca\.form: must be 'context' or 'affinity'"),
    ],
)
def test_mistakes_are_named(content, message):
    with pytest.raises(FieldError, match=message):
        read_terms(content, "m")


NEW_LOSS = """
from dataclasses import dataclass
from typing import ClassVar
from distillation.losses.term import DistillationTerm

@dataclass(frozen=True, kw_only=True)
class SquaredLoss(DistillationTerm):
    name: ClassVar[str] = "squared"
    power: int = 2

    def __call__(self, student, teacher, labels, parts):
        return (student.heads[0] - teacher.heads[0]).abs().pow(self.power).mean()
"""


def test_a_new_loss_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "squared.py").write_text(NEW_LOSS)
    monkeypatch.setattr(distillation.losses, "__path__", [*distillation.losses.__path__, str(tmp_path)])
    known_losses.cache_clear()
    try:
        assert read_terms({"squared": {"weight": 1.0, "power": 4}}, "m")["squared"].power == 4
    finally:
        known_losses.cache_clear()
        sys.modules.pop("distillation.losses.squared", None)
