import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import SimpleITK  # noqa: E402

from distillation import cli  # noqa: E402
from distillation.export.terminology import find_terminology  # noqa: E402
from distillation.public_model import Description, import_model  # noqa: E402
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine  # noqa: E402
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError, TeacherError  # noqa: E402
from KDSegmentatorLib.inference.pipeline import segment  # noqa: E402
from KDSegmentatorLib.io.images import read_volume  # noqa: E402
from KDSegmentatorLib.options import RunOptions  # noqa: E402
from KDSegmentatorLib.packs.pack import open_pack, verify_pack  # noqa: E402
from support.public_models import stock_labels, write_model  # noqa: E402

ORGANS = {"background": 0, "spleen": 1, "kidney_right": 2, "kidney_left": 3}
MANY = {"background": 0} | {
    f"structure_{value}" if value > 3 else list(ORGANS)[value]: value for value in range(1, 118)
}
NAME = "Dataset291_TotalSegmentator_part1_organs_1559subj"


def changed(plans, **changes):
    plans["configurations"]["3d_fullres"].update(changes)
    return plans


def total_segmentator(plans, _):
    """nnU-Net 2.0's layout, CT, 1.5 mm, no mirroring, a reader that reorients."""
    content = changed(plans(), spacing=[1.5, 1.5, 1.5], normalization_schemes=["CTNormalization"])
    content |= {"dataset_name": NAME, "image_reader_writer": "NibabelIOWithReorient"}
    options = {"labels": MANY, "trainer": "nnUNetTrainerNoMirroring", "mirroring": None, "folds": (0, 1)}
    return content, options


def older_layout(plans, older):
    content, options = total_segmentator(plans, older)
    return older(content), options


def residual_preset(plans, _):
    from distillation.plans import ALLOWED_ARCHITECTURES

    (residual,) = (name for name in ALLOWED_ARCHITECTURES if name.endswith("ResidualEncoderUNet"))
    content = plans(residual, (8, 16, 16))
    content |= {"dataset_name": "Dataset004_Hippocampus", "plans_name": "nnUNetResEncUNetMPlans"}
    return content, {"labels": ORGANS, "channel": "MRI", "folds": ("all",)}


def low_resolution(plans, _):
    content = plans()
    content["dataset_name"] = "Dataset017_BTCV"
    content["image_reader_writer"] = "SimpleITKIOWithReorient"
    content["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [2.0, 1.7, 1.7],
        "patch_size": [8, 16, 16],
        "next_stage": "3d_cascade_fullres",
    }
    return content, {"labels": ORGANS, "configuration": "3d_lowres", "trainer": "nnUNetTrainer_5epochs"}


SHAPES = (total_segmentator, older_layout, residual_preset, low_resolution)


@pytest.fixture
def public_model(tmp_path, plans, older):
    """A function that writes a model folder in one of the shapes: public_model(shape, **options)."""

    def write(shape=total_segmentator, **changes):
        content, options = shape(plans, older)
        options |= changes
        configuration = options.get("configuration", "3d_fullres")
        trainer = f"{options.get('trainer', 'nnUNetTrainer')}__{content['plans_name']}__{configuration}"
        return write_model(tmp_path / "results" / content["dataset_name"] / trainer, content, **options)

    return write


@pytest.fixture
def image(tmp_path):
    """An image of smooth shapes, 1.3 x 1.1 x 1.8 mm, stored in LPS."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    voxels = gaussian_filter(random.normal(size=(22, 30, 27)), 2) * 900 + random.normal(size=(22, 30, 27)) * 10
    written = SimpleITK.GetImageFromArray(voxels.astype(np.float32))
    written.SetSpacing((1.3, 1.1, 1.8))
    path = tmp_path / "image_0000.nii.gz"
    SimpleITK.WriteImage(written, str(path))
    return path


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_an_imported_model_gives_every_voxel_of_stock_nnunet(shape, public_model, image, tmp_path, monkeypatch):
    folder = public_model(shape)
    pack = import_model(folder, tmp_path / "packs", storage="float32", images=[image]).exported.pack
    verify_pack(pack)
    mirroring = bool(pack.manifest.windows.mirroring_axes)
    fold = "all" if (folder / "fold_all").is_dir() else 0
    with monkeypatch.context() as patched:
        patched.setattr(torch, "half", torch.float32)  # the type of the predictor's sums; float16 has ties
        expected = stock_labels(folder, image, tmp_path / "stock.nii.gz", fold=fold, mirroring=mirroring)
    ours = segment(
        read_volume(image), pack, OnnxRuntimeEngine(pack.body()), RunOptions(mirroring=mirroring, check_input=False)
    ).volume
    reference = read_volume(expected, allow_constant=True)
    assert len(np.unique(reference.voxels)) > 2
    assert ours.same_grid(reference)
    np.testing.assert_array_equal(ours.voxels, reference.voxels)


def test_the_mean_of_several_folds_gives_every_voxel_of_stock_nnunet(public_model, image, tmp_path, monkeypatch):
    folder = public_model()
    result = import_model(folder, tmp_path / "packs", fold="0,1", storage="float32", images=[image])
    pack, one = result.exported.pack, import_model(folder, tmp_path / "one", images=[image]).exported.pack
    verify_pack(pack)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "half", torch.float32)
        expected = stock_labels(folder, image, tmp_path / "stock.nii.gz", fold=(0, 1), mirroring=False)
    ours = segment(
        read_volume(image), pack, OnnxRuntimeEngine(pack.body()), RunOptions(mirroring=False, check_input=False)
    ).volume
    reference = read_volume(expected, allow_constant=True)
    assert len(np.unique(reference.voxels)) > 2
    np.testing.assert_array_equal(ours.voxels, reference.voxels)
    network, alone = pack.manifest.network, one.manifest.network
    assert (network.features, network.parameters) == (2 * alone.features, 2 * alone.parameters)
    assert pack.manifest.provenance.checkpoint_sha256 != one.manifest.provenance.checkpoint_sha256
    assert "the mean of the folds 0, 1" in pack.manifest.intended_use
    assert not any("only fold" in warning for warning in result.warnings)


def test_folds_of_different_trainings_are_not_averaged(public_model, tmp_path):
    folder = public_model()
    path = folder / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "inference_allowed_mirroring_axes": (0, 1)}, path)
    refused(folder, tmp_path, TeacherError, r"fold 1 was trained for 3d_fullres, mirrored along \[0, 1\]", fold="0,1")
    refused(folder, tmp_path, InvalidSettingsError, "names a fold twice", fold="0,0")
    refused(folder, tmp_path, InvalidSettingsError, "has no fold 2 with checkpoint_final.pth; it has: 0, 1", fold="0,2")


def test_the_pack_says_what_the_folder_knows(public_model, tmp_path):
    result = import_model(public_model(), tmp_path / "packs")
    manifest = result.exported.pack.manifest
    assert manifest.id == "totalsegmentator-part1-organs-1559subj-x1"
    assert (manifest.modality, len(manifest.labels), manifest.windows.mirroring_axes) == ("CT", 117, ())
    assert manifest.preprocessing.axis_codes == "RAS"
    assert manifest.provenance.method == "teacher"
    assert manifest.network.probe is not None
    left = manifest.labels[2]
    assert (left.name, left.terminology.type.value, left.terminology.type_modifier.meaning) == (
        "kidney_left",
        "64033007",
        "Left",
    )
    said = " ".join(result.warnings)
    assert "only fold 0 is in the pack, not 1; --fold 0,1 takes the mean of their logits" in said
    assert "no SNOMED CT code is known for structure_4, structure_5" in said
    assert "spleen" not in said
    assert "nobody said under which licence" in said
    assert "axis order" not in said


def test_what_a_person_says_stands_in_the_pack(public_model, tmp_path):
    said = Description(
        task="organs",
        title="Organs",
        modality="MR",
        body_part="ABDOMEN",
        axes="LAS",
        license="CC-BY-4.0",
        credit="Somebody.",
    )
    result = import_model(public_model(residual_preset), tmp_path / "packs", description=said)
    manifest = result.exported.pack.manifest
    assert (manifest.id, manifest.title, manifest.modality, manifest.body_part) == (
        "organs-x1",
        "Organs",
        "MR",
        "ABDOMEN",
    )
    assert (manifest.preprocessing.axis_codes, manifest.weights.license) == ("LAS", "CC-BY-4.0")
    assert result.warnings == ()


def test_the_axis_order_is_guessed_aloud_or_taken_from_an_image(public_model, image, tmp_path):
    folder = public_model(residual_preset)
    guessed = import_model(folder, tmp_path / "packs")
    assert guessed.exported.pack.manifest.preprocessing.axis_codes == "RAS"
    assert any("does not say in which axis order" in warning for warning in guessed.warnings)
    seen = import_model(folder, tmp_path / "packs", images=[image])
    assert seen.exported.pack.manifest.preprocessing.axis_codes == "LPS"
    assert not any("axis order" in warning for warning in seen.warnings)


def test_what_the_dataset_says_about_itself_is_its_credit(public_model, tmp_path):
    folder = public_model()
    said = {"name": "TotalSegmentator", "licence": "Apache 2.0", "reference": "Wasserthal et al. 2023"}
    edit_json(folder / "dataset.json", lambda content: content.update(said))
    data = import_model(folder, tmp_path / "packs").exported.pack.manifest.data
    assert (data.license, data.text) == ("Apache 2.0", "TotalSegmentator; Wasserthal et al. 2023")
    edit_json(folder / "dataset.json", lambda content: content.update(licence="see <website>\nand ask"))
    assert import_model(folder, tmp_path / "packs").exported.pack.manifest.data.license == "LicenseRef-unknown"


def test_a_given_fold_and_checkpoint_are_taken(public_model, tmp_path):
    folder = public_model()
    (folder / "fold_1" / "checkpoint_final.pth").rename(folder / "fold_1" / "checkpoint_best.pth")
    first = import_model(folder, tmp_path / "first").exported.pack
    other = import_model(folder, tmp_path / "other", fold="1", checkpoint="checkpoint_best.pth").exported.pack
    assert first.manifest.provenance.checkpoint_sha256 != other.manifest.provenance.checkpoint_sha256
    with pytest.raises(InvalidSettingsError, match=r"has no fold 3 with checkpoint_final\.pth; it has: 0"):
        import_model(folder, tmp_path / "none", fold="3")
    assert not (tmp_path / "none").exists()


def test_an_exported_zip_gives_the_pack_of_its_folder(public_model, tmp_path, monkeypatch):
    from nnunetv2.model_sharing import model_export

    folder = public_model(residual_preset)
    (folder / "fold_all").rename(folder / "fold_0")
    monkeypatch.setattr(model_export, "nnUNet_results", str(tmp_path / "results"), raising=False)
    monkeypatch.setattr(model_export, "get_output_folder", lambda *_: str(folder))
    monkeypatch.setattr(model_export, "maybe_convert_to_dataset_name", lambda name: name)
    archive = tmp_path / "model.zip"
    model_export.export_pretrained_model(
        "Dataset004_Hippocampus", str(archive), ("3d_fullres",), plans_identifier="nnUNetResEncUNetMPlans", folds=(0,)
    )
    of_zip = import_model(archive, tmp_path / "of_zip").exported.pack
    of_folder = import_model(folder, tmp_path / "of_folder").exported.pack
    assert of_zip.manifest.files == of_folder.manifest.files


def test_among_several_models_the_full_resolution_one_is_taken(public_model, plans, tmp_path):
    folder = public_model(residual_preset)
    for configuration in ("2d", "3d_lowres"):
        other = folder.with_name(f"nnUNetTrainer__nnUNetPlans__{configuration}")
        (other / "fold_0").mkdir(parents=True)
        for name in ("plans.json", "fold_0/checkpoint_final.pth"):
            (other / name).write_text("{}")
    pack = import_model(folder.parent, tmp_path / "packs").exported.pack
    assert pack.manifest.files == import_model(folder, tmp_path / "own").exported.pack.manifest.files
    with pytest.raises(InvalidSettingsError, match=r"no model 'nothing'; it has: nnUNetTrainer__nnUNetPlans__2d, "):
        import_model(folder.parent, tmp_path / "packs", model="nothing")
    folder.rename(folder.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres2"))
    folder.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres").rename(folder.with_name("renamed"))
    with pytest.raises(InvalidSettingsError, match=r"holds several models: .*; name one with --model"):
        import_model(folder.parent, tmp_path / "packs")


def refused(source, tmp_path, error, match, **options):
    with pytest.raises(error, match=match):
        import_model(source, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_a_pack_cannot_hold_is_refused_by_name(public_model, tmp_path):
    folder = public_model(residual_preset)
    plans, dataset = folder / "plans.json", folder / "dataset.json"
    configuration = json.loads(plans.read_text())["configurations"]["3d_fullres"]

    def with_plans(error, match, **changes):
        before = plans.read_text()
        edit_json(plans, lambda content: content["configurations"]["3d_fullres"].update(changes))
        refused(folder, tmp_path, error, match)
        plans.write_text(before)

    with_plans(TeacherError, "second stage of a cascade", previous_stage="3d_lowres")
    with_plans(TeacherError, "is a 2-D network", patch_size=[16, 16])
    with_plans(ExportError, "normalise with NoNormalization", normalization_schemes=["NoNormalization"])
    with_plans(ExportError, "preprocess with OwnPreprocessor", preprocessor_name="OwnPreprocessor")
    with_plans(ExportError, "resample data with resample_torch", resampling_fn_data="resample_torch_fornnunet")
    with_plans(
        TeacherError,
        "network class 'primus.Primus' is not supported",
        architecture={**configuration["architecture"], "network_class_name": "primus.Primus"},
    )
    with_plans(ExportError, "does not say how images are preprocessed", spacing=None)
    with_plans(TeacherError, "is incomplete or damaged", patch_size=None)
    edit_json(plans, lambda content: content.update(image_reader_writer="Tiff3DIO"))
    refused(folder, tmp_path, ExportError, "read images with Tiff3DIO")
    edit_json(plans, lambda content: content.update(image_reader_writer="SimpleITKIO"))
    edit_json(dataset, lambda content: content["labels"].update(spleen=[1, 2]))
    refused(folder, tmp_path, TeacherError, "'spleen' is a region")
    edit_json(dataset, lambda content: content.update(labels=ORGANS, channel_names={"0": "PET"}))
    refused(folder, tmp_path, InvalidSettingsError, "'PET', which is neither CT nor MR; give --modality")
    edit_json(dataset, lambda content: content.update(channel_names={"0": "T1", "1": "T2"}))
    refused(folder, tmp_path, TeacherError, "names 2 channels")


class Thief:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["KDSEG_THIEF"]) / "stolen"),)


def test_code_in_a_checkpoint_does_not_run(public_model, tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEG_THIEF", str(tmp_path))
    folder = public_model()
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps({"network_weights": Thief()}))
    refused(folder, tmp_path, TeacherError, "could run code")
    assert not (tmp_path / "stolen").exists()


def test_damaged_and_foreign_sources_are_refused_by_name(public_model, tmp_path):
    refused(tmp_path / "nothing", tmp_path, TeacherError, "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, TeacherError, "holds no plans.json")
    (tmp_path / "text.zip").write_text("no zip")
    refused(tmp_path / "text.zip", tmp_path, TeacherError, "is not a readable zip file")
    folder = public_model(trainer="nnUNetTrainerBN")
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            if path.name != "dataset.json":
                file.write(path, path.relative_to(folder.parent))
    refused(archive, tmp_path, TeacherError, r"lacks .*dataset.json")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "dataset.json", f"{folder.name}/dataset.json")
    content = archive.read_bytes()
    start = content.index(b"fold_0/checkpoint_final.pth") + 1000
    archive.write_bytes(content[:start] + bytes(500) + content[start + 500 :])
    refused(archive, tmp_path, TeacherError, "cannot be unpacked")
    edit_json(
        folder / "plans.json",
        lambda each: each["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(conv_bias=False),
    )
    refused(folder, tmp_path, TeacherError, r"\(nnUNetTrainerBN\) do not fit the network")
    for fold in folder.glob("fold_*"):
        (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    refused(folder, tmp_path, TeacherError, "its folds hold checkpoint_best.pth: name one with --checkpoint")


def test_the_command_writes_a_pack_and_its_archive(public_model, tmp_path, capsys):
    folder = public_model()
    assert cli.main(["import", str(folder), "--output", str(tmp_path / "packs"), "--task", "organs", "--archive"]) == 0
    printed = capsys.readouterr()
    assert "organs-x1 exported: logits within" in printed.out
    assert "warning: only fold 0 is in the pack" in printed.err
    assert open_pack(tmp_path / "packs" / "organs-x1").manifest.task == "organs"
    assert (tmp_path / "packs" / "organs-x1.kdpack").is_file()
    assert cli.main(["import", str(tmp_path / "none"), "--output", str(tmp_path / "packs")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "type_", "side"),
    [
        ("kidney_left", "Kidney", "Left"),
        ("Right Kidney", "Kidney", "Right"),
        ("heart_ventricle_left", "Left ventricle of heart", None),
        ("rib_right_12", "Twelfth rib", "Right"),
        ("vertebrae_L1", "L1 vertebra", None),
        ("Left-Thalamus", "Thalamus", "Left"),
        ("esophagus", "Esophagus", None),
    ],
)
def test_codes_are_found_whatever_the_spelling(name, type_, side):
    terms = find_terminology(name)
    assert terms.type.meaning == type_
    assert (terms.type_modifier.meaning if terms.type_modifier else None) == side


def test_the_side_of_a_cyst_is_that_of_its_kidney():
    terms = find_terminology("kidney_cyst_left")
    assert (terms.type.meaning, terms.region.meaning, terms.region_modifier.meaning) == ("Cyst", "Kidney", "Left")
    assert terms.type_modifier is None
    assert find_terminology("left right confusion") is None
