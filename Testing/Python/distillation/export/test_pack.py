import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset  # noqa: E402
from distillation.export import export_pack  # noqa: E402
from distillation.export.pack_folder import copy_pack, with_evaluation  # noqa: E402
from distillation.export.training_set import describe_expected  # noqa: E402
from distillation.exports import Exports  # noqa: E402
from distillation.launch import Workspace  # noqa: E402
from distillation.network_cost import network_cost  # noqa: E402
from distillation.stages import Stages  # noqa: E402
from distillation.students import TeacherSource  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from KDSegmentatorLib.errors import ExportError, PackError, TrainingError  # noqa: E402
from KDSegmentatorLib.io.images import read_grid  # noqa: E402
from KDSegmentatorLib.packs.manifest import Evaluation, FieldOfView, Interval, LabelScore, ReducedPrecision, Region  # noqa: E402
from KDSegmentatorLib.packs.pack import open_pack, verify_pack  # noqa: E402


@pytest.fixture
def exporting(plans, model_folder, spheres, recipe, tmp_path):
    """A function that exports a random teacher; its options go to export_pack."""
    model = load_model_folder(model_folder(plans()), 0)

    def export(**options):
        arguments = {
            "size": "x1",
            "teacher": None,
            "recipe": recipe.pack,
            "dataset": read_dataset(spheres),
            "into": tmp_path / "packs",
        }
        return export_pack(model, **{**arguments, **options})

    export.model = model
    export.into = tmp_path / "packs"
    return export


def test_pack_is_complete_and_verified(exporting, recipe):
    result = exporting()
    pack, model = open_pack(result.pack.folder), exporting.model
    verify_pack(pack)
    manifest = pack.manifest
    assert pack.folder == exporting.into / "spheres-x1"
    assert (manifest.id, manifest.size, manifest.network.alpha) == ("spheres-x1", "x1", 1.0)
    assert manifest.labels == recipe.pack.labels
    assert manifest.preprocessing.axis_codes == "RAS"
    assert manifest.provenance.checkpoint_sha256 == model.sha256
    assert manifest.evaluation is None
    cost = network_cost(model.configuration, channels=1, labels=3)
    assert (manifest.network.parameters, manifest.network.flops_per_window) == (cost.parameters, cost.flops)
    assert manifest.network.features == 16
    head = pack.head()
    np.testing.assert_array_equal(head.weight, model.network.decoder.seg_layers[-1].weight.flatten(1).numpy())
    assert result.agreement.windows == 3
    assert result.agreement.exported < 1e-3
    assert [path.name for path in exporting.into.iterdir()] == ["spheres-x1"]


def test_field_of_view_is_that_of_the_cases_that_are_not_held_out(exporting, spheres):
    cases = read_dataset(spheres).cases
    sizes = np.array([read_grid(case.image).size for case in cases])
    longest = int(sizes[:, 0].argmax())
    held_out = [case.name for case, size in zip(cases, sizes, strict=True) if size[0] == sizes[longest, 0]]
    trained = sizes[sizes[:, 0] < sizes[longest, 0]]
    manifest = exporting(held_out=held_out).pack.manifest
    assert manifest.field_of_view == FieldOfView(
        smallest=tuple(trained.min(axis=0).astype(float)), largest=tuple(trained.max(axis=0).astype(float))
    )


def test_what_to_expect_is_that_of_the_cases_that_are_not_held_out(exporting, spheres, recipe):
    cases = read_dataset(spheres).cases
    held_out = [case.name for case in cases[::2]]
    manifest = exporting(held_out=held_out).pack.manifest
    assert manifest.expected == describe_expected(cases[1::2], recipe.pack.labels)
    assert manifest.expected.cases == len(cases) - len(held_out)


def test_a_network_that_goes_on_from_a_pack_knows_the_images_of_both(exporting):
    own = exporting().pack.manifest
    wide = FieldOfView(smallest=(5.0, 21.0, 5.0), largest=(6.0, 22.0, 300.0))
    earlier = dataclasses.replace(own, field_of_view=wide)
    both = exporting(started_from=earlier).pack.manifest
    smallest, largest = own.field_of_view.smallest, own.field_of_view.largest
    assert both.field_of_view.smallest == (5.0, min(21.0, smallest[1]), 5.0)
    assert both.field_of_view.largest == (largest[0], max(22.0, largest[1]), 300.0)
    assert both.expected.cases == 2 * own.expected.cases
    assert both.expected.largest_ml == own.expected.largest_ml
    unknown = exporting(started_from=dataclasses.replace(own, field_of_view=None, expected=None)).pack.manifest
    assert (unknown.field_of_view, unknown.expected) == (None, None)


def test_the_earlier_stage_is_that_of_the_recipe(exporting, recipe):
    assert exporting().pack.manifest.region is None
    region = Region(pack="brain-extraction-x1_4", minimum_version="1.0.0", margin_mm=1.5)
    written = exporting(recipe=dataclasses.replace(recipe.pack, region=region)).pack
    assert open_pack(written.folder).manifest.region == region


def test_exporting_again_gives_the_same_pack_and_leaves_nothing_behind(exporting):
    first = exporting().pack
    second = exporting().pack
    assert first.manifest_sha256 == second.manifest_sha256
    assert [path.name for path in exporting.into.iterdir()] == ["spheres-x1"]


def test_nothing_is_written_if_the_logits_differ(exporting, monkeypatch):
    import distillation.export.network as agreement

    monkeypatch.setattr(agreement, "LOGIT_TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="differ from torch"):
        exporting()
    assert not exporting.into.exists()


def test_labels_that_the_network_does_not_know(exporting, recipe):
    with pytest.raises(ExportError, match="labels"):
        exporting(recipe=dataclasses.replace(recipe.pack, labels=recipe.pack.labels[:1]))


def test_mixed_axis_orders_are_refused(exporting, spheres):
    import SimpleITK

    for path in (spheres / "imagesTr" / "case_00_0000.nii.gz", spheres / "labelsTr" / "case_00.nii.gz"):
        image = SimpleITK.ReadImage(str(path))
        image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
        SimpleITK.WriteImage(image, str(path))
    with pytest.raises(TrainingError, match="case_00"):
        exporting()


def test_a_full_disk_keeps_the_earlier_pack(exporting, monkeypatch):
    before = exporting().pack

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="No space left"):
        exporting()
    monkeypatch.undo()
    assert open_pack(before.folder).manifest_sha256 == before.manifest_sha256
    assert [path.name for path in exporting.into.iterdir()] == ["spheres-x1"]


@pytest.mark.parametrize("calls", [1, 2])
def test_ctrl_c_between_the_two_renames_loses_nothing(exporting, monkeypatch, calls):
    from KDSegmentatorLib.io import files as module

    before = exporting().pack
    rename, done = module.replace, []

    def interrupted(source, target):
        rename(source, target)
        done.append(target)
        if len(done) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exporting()
    monkeypatch.undo()
    verify_pack(open_pack(before.folder))
    assert [path.name for path in exporting.into.iterdir()] == ["spheres-x1"]


def test_a_pack_of_another_checkpoint_or_teacher_is_out_of_date(exporting, recipe, tmp_path):
    manifest = exporting().pack.manifest
    teacher = TeacherSource(folder=exporting.model.folder)
    stages = Stages(recipe=recipe, workspace=Workspace.below(tmp_path), folder=tmp_path, given_teacher=teacher)
    assert stages.exports._up_to_date(manifest, teacher.path(0))

    def of_teacher(sha256):
        return dataclasses.replace(manifest, provenance=dataclasses.replace(manifest.provenance, teacher_sha256=sha256))

    assert stages.exports._up_to_date(of_teacher(teacher.sha256(0)), teacher.path(0))
    assert not stages.exports._up_to_date(of_teacher("0" * 64), teacher.path(0))
    (tmp_path / "other.pth").write_bytes(b"other")
    assert not stages.exports._up_to_date(manifest, tmp_path / "other.pth")
    without_probe = dataclasses.replace(manifest, network=dataclasses.replace(manifest.network, probe=None))
    assert not stages.exports._up_to_date(without_probe, teacher.path(0))  # of a version that wrote none


EVALUATION = Evaluation(
    dataset="Spheres",
    split="all",
    cases=6,
    mirroring=False,
    mean_dice=Interval(mean=0.8, low=0.7, high=0.9),
    labels=(LabelScore(value=1, dice=Interval(mean=0.8, low=0.7, high=0.9)),),
    teacher_mean_dice=0.8,
)


def test_evaluation_changes_the_manifest_only(exporting):
    pack = exporting().pack
    evaluated = with_evaluation(pack, EVALUATION)
    assert evaluated.manifest == dataclasses.replace(pack.manifest, evaluation=EVALUATION)
    assert evaluated.manifest_sha256 != pack.manifest_sha256
    verify_pack(evaluated)


REDUCED = ReducedPrecision(
    precision="int8",
    body="body.int8.onnx",
    mean_dice_loss=0.001,
    largest_dice_loss=0.002,
    cases=6,
    probe_agreement=0.99,
)


def test_a_reduced_precision_comes_with_its_network_and_goes_with_it(exporting):
    pack = exporting().pack
    body = pack.body()
    reduced = with_evaluation(pack, EVALUATION, [REDUCED], {REDUCED.body: body})
    verify_pack(reduced)
    assert reduced.body("int8") == body
    again = with_evaluation(reduced, dataclasses.replace(EVALUATION, split="others"))  # None: left as they are
    assert again.manifest.network == reduced.manifest.network
    without = with_evaluation(again, EVALUATION, [])
    verify_pack(without)
    assert without.manifest == dataclasses.replace(pack.manifest, evaluation=EVALUATION)
    assert not (without.folder / REDUCED.body).exists()


def test_a_network_that_no_pack_may_hold_changes_nothing(exporting):
    pack = exporting().pack
    with pytest.raises(PackError, match=r"body\.int8\.onnx"):
        with_evaluation(pack, EVALUATION, [REDUCED], {REDUCED.body: b"no network"})
    verify_pack(pack)
    assert [path.name for path in exporting.into.iterdir()] == ["spheres-x1"]


def test_copy(exporting, tmp_path):
    pack = with_evaluation(exporting().pack, EVALUATION)
    for _ in range(2):  # the second replaces the first
        copied = copy_pack(pack, tmp_path / "shipped")
        assert copied.manifest_sha256 == pack.manifest_sha256
        assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["spheres-x1"]


def test_a_damaged_pack_is_not_copied(exporting, tmp_path):
    pack = exporting().pack
    body = pack.folder / pack.manifest.network.body
    data = bytearray(body.read_bytes())
    data[len(data) // 2] ^= 1
    body.write_bytes(data)
    with pytest.raises(PackError, match=r"body\.onnx"):
        copy_pack(pack, tmp_path / "shipped")
    assert not list((tmp_path / "shipped").iterdir())


def test_the_command_writes_archives_that_install(exporting, recipe_text, monkeypatch, tmp_path, capsys):
    from distillation.cli import main
    from KDSegmentatorLib.packs.store import PackStore

    pack = exporting().pack
    monkeypatch.setattr(Exports, "teacher_pack", lambda *_: pack)
    recipe = tmp_path / "spheres.yaml"
    recipe.write_text(recipe_text)
    options = [str(recipe), "--workspace", str(tmp_path), "--student", "x1", "--output", str(tmp_path / "shipped")]
    assert main(["export", *options]) == 0
    assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["spheres-x1"]
    assert main(["export", *options, "--archive"]) == 0
    archive = tmp_path / "shipped" / "spheres-x1.kdpack"
    assert str(archive) in capsys.readouterr().out
    installed = PackStore(tmp_path / "user", tmp_path / "none").install(archive)
    assert installed.manifest == pack.manifest
