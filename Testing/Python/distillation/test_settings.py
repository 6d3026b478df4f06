from dataclasses import replace

import pytest

from distillation.settings import LogitDistillationSettings, TrainingSettings

SHA, OTHER_SHA = "a" * 64, "b" * 64


def run(folder="/a/ws", sha=SHA, **changes):
    distillation = LogitDistillationSettings(
        teacher_folder=f"{folder}/results/D/Teacher", teacher_fold=0, teacher_sha256=sha
    )
    start = f"{folder}/results/D/WarmUp/fold_0/checkpoint_final.pth"
    return replace(TrainingSettings(epochs=3, initial_checkpoint=start, distillation=distillation), **changes)


def test_a_moved_workspace_is_the_same_run():
    for moved in (run("/b"), run("/b", sha=None)):  # earlier versions did not write the hash
        assert moved != run()
        assert moved.same_but_for_place(run())
        assert run().same_but_for_place(moved)


def test_a_renamed_teacher_is_known_by_its_hash():
    renamed = replace(run().distillation, teacher_folder="/x/y", teacher_checkpoint="checkpoint_best.pth")
    assert run(distillation=renamed).same_but_for_place(run())
    assert not run(distillation=replace(renamed, teacher_sha256=None)).same_but_for_place(run())


@pytest.mark.parametrize(
    "other",
    [
        run(sha=OTHER_SHA),
        run(epochs=4),
        run(distillation=None),
        run(distillation=replace(run().distillation, weight=2.0)),
        run(distillation=replace(run().distillation, teacher_fold=1)),
        run(initial_checkpoint=None),
        run(initial_checkpoint="/a/ws/results/D/Other/fold_0/checkpoint_final.pth"),
    ],
)
def test_other_runs_are_not_the_same(other):
    assert not other.same_but_for_place(run())
    assert not run().same_but_for_place(other)
