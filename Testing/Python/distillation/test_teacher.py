import hashlib
import json
import pickle
import re
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation import teacher  # noqa: E402
from distillation.teacher import load_model_folder, read_checkpoint  # noqa: E402
from KDSegmentatorLib.errors import TeacherError  # noqa: E402


def checkpoint(folder):
    return folder / "fold_0" / "checkpoint_final.pth"


def edit(folder, change):
    content = torch.load(checkpoint(folder), weights_only=False)
    change(content)
    torch.save(content, checkpoint(folder))


def test_loads_both_architectures(plans, model_folder, each_architecture):
    folder = model_folder(plans(each_architecture))
    model = load_model_folder(folder, 0)
    assert type(model.network).__name__ == each_architecture.rpartition(".")[2]
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    with torch.inference_mode():
        logits = model.network(torch.zeros(1, 1, 16, 16, 16))
    assert logits.shape == (1, 3, 16, 16, 16)  # full resolution only
    assert model.mirroring_axes == (0, 1, 2)
    assert model.configuration_name == "3d_fullres"
    assert model.sha256 == hashlib.sha256(checkpoint(folder).read_bytes()).hexdigest()


def test_plans_of_the_older_layout_give_the_same_network(plans, model_folder, older, each_architecture):
    content = plans(each_architecture, (8, 16, 16))
    folder = model_folder(content)
    expected = load_model_folder(folder, 0).network.state_dict()
    (folder / "plans.json").write_text(json.dumps(older(content)))
    found = load_model_folder(folder, 0).network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_hash_is_that_of_the_loaded_bytes(plans, model_folder, monkeypatch):
    folder = model_folder(plans())
    loaded = hashlib.sha256(checkpoint(folder).read_bytes()).hexdigest()
    build = teacher.build_network

    def replaced_meanwhile(*arguments, **options):
        edit(folder, lambda content: content.update(current_epoch=1000))
        return build(*arguments, **options)

    monkeypatch.setattr(teacher, "build_network", replaced_meanwhile)
    assert load_model_folder(folder, 0).sha256 == loaded
    assert hashlib.sha256(checkpoint(folder).read_bytes()).hexdigest() != loaded


def test_prefixes_of_ddp_and_compile_are_dropped(plans, model_folder):
    folder = model_folder(plans())
    expected = load_model_folder(folder, 0).network.state_dict()
    edit(
        folder,
        lambda content: content.update(
            network_weights={f"module._orig_mod.{name}": value for name, value in content["network_weights"].items()}
        ),
    )
    found = load_model_folder(folder, 0).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def written_by(path, core):
    """Rename numpy's core in a checkpoint, as if the numpy that calls it so had written it; return how often it is."""
    with zipfile.ZipFile(path) as archive:
        parts = {item: archive.read(item) for item in archive.infolist()}
    named = 0
    with zipfile.ZipFile(path, "w") as archive:
        for item, data in parts.items():
            if item.filename.endswith("/data.pkl"):
                for name in (b"numpy.core.", b"numpy._core."):
                    data = data.replace(b"c" + name, b"c" + core)  # the opcode GLOBAL; its arguments end in newlines
                named = data.count(b"c" + core)
            archive.writestr(item, data)
    return named


@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_scalars_of_any_numpy(plans, model_folder, core):
    folder = model_folder(plans())
    log = {
        "mean_fg_dice": [np.float64(0.5)],
        "dice_per_class_or_region": [[np.float64(0.25), np.float64(0.75)]],
        "train_losses": [np.float32(1), np.float16(2)],
        "counts": [np.int64(3), np.int32(4)],
    }
    edit(folder, lambda content: content.update(logging=log, _best_ema=np.float64(0.5)))
    assert written_by(checkpoint(folder), core) > 0
    assert load_model_folder(folder, 0).fold == 0
    content = read_checkpoint(checkpoint(folder))
    assert (content["logging"], content["_best_ema"]) == (log, 0.5)
    resumed = torch.load(checkpoint(folder), weights_only=False)  # as nnU-Net does, after our own trainers read it
    assert resumed["logging"] == log


def test_a_name_of_numpy_that_no_log_needs_is_refused(plans, model_folder):
    folder = model_folder(plans())
    edit(folder, lambda content: content.update(extra=np.zeros(3)))
    assert written_by(checkpoint(folder), b"numpy.core.") > 0
    with pytest.raises(TeacherError, match="could run code"):
        load_model_folder(folder, 0)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_with_code_is_refused_and_does_not_run(plans, model_folder, tmp_path):
    folder = model_folder(plans())
    touched = tmp_path / "touched"
    edit(folder, lambda content: content.update(extra=Bomb(str(touched))))
    with pytest.raises(TeacherError, match="could run code"):
        load_model_folder(folder, 0)
    checkpoint(folder).write_bytes(pickle.dumps(Bomb(str(touched))))
    with pytest.raises(TeacherError, match="could run code"):
        load_model_folder(folder, 0)
    assert not touched.exists()


def test_architecture_from_the_plans_is_allow_listed(plans, model_folder):
    folder = model_folder(plans())
    content = plans()
    content["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    (folder / "plans.json").write_text(json.dumps(content))
    with pytest.raises(TeacherError, match=r"os\.system"):
        load_model_folder(folder, 0)


def test_damaged_and_missing_files(plans, model_folder, tmp_path):
    with pytest.raises(TeacherError, match=r"plans\.json"):
        load_model_folder(tmp_path, 0)
    folder = model_folder(plans())
    with pytest.raises(TeacherError, match="fold_1"):
        load_model_folder(folder, 1)
    data = checkpoint(folder).read_bytes()
    checkpoint(folder).write_bytes(data[: len(data) // 2])
    with pytest.raises(TeacherError, match="damaged"):
        load_model_folder(folder, 0)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(TeacherError, match=r"dataset\.json"):
        load_model_folder(folder, 0)


def test_a_file_that_is_no_nnunet_checkpoint(plans, model_folder):
    folder = model_folder(plans())
    torch.save({"state_dict": {}}, checkpoint(folder))
    with pytest.raises(TeacherError, match="not an nnU-Net v2 checkpoint"):
        load_model_folder(folder, 0)
    torch.save([1], checkpoint(folder))
    with pytest.raises(TeacherError, match="not an nnU-Net v2 checkpoint"):
        load_model_folder(folder, 0)


def test_weights_of_another_network(plans, model_folder):
    folder = model_folder(plans())
    (folder / "plans.json").write_text(json.dumps(plans(features=(8, 16))))
    with pytest.raises(TeacherError, match="do not fit"):
        load_model_folder(folder, 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2], "core": 2}, "region"),
        ({"background": 0, "a": 1, "ignore": 2}, "ignore"),
    ],
)
def test_regions_and_ignore_labels_are_not_supported(plans, model_folder, labels, message):
    folder = model_folder(plans())
    dataset = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**dataset, "labels": labels}))
    with pytest.raises(TeacherError, match=message):
        load_model_folder(folder, 0)


def test_cascades_are_not_supported(plans, model_folder):
    content = plans()
    content["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    folder = model_folder(content)
    with pytest.raises(TeacherError, match="cascade"):
        load_model_folder(folder, 0)


def without(*keys):
    """Return a change of JSON that removes what lies at the end of the keys."""
    return put(*keys, None, remove=True)


def put(*keys_and_value, remove=False):
    """Return a change of JSON that replaces what lies at the end of the keys, or everything if there are none."""
    *keys, value = keys_and_value

    def change(content):
        if not keys:
            return value
        part = content
        for key in keys[:-1]:
            part = part[key]
        if remove:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        return content

    return change


FULL = ("configurations", "3d_fullres")
ARGUMENTS = (*FULL, "architecture", "arch_kwargs")
NEEDED = (
    *("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder"),
    *("conv_op", "norm_op", "dropout_op", "nonlin"),
)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset.json", without("channel_names"), "channel_names"),
        ("dataset.json", without("labels"), "labels"),
        ("dataset.json", put([1]), "channel_names"),
        ("dataset.json", put(None), "channel_names"),
        ("dataset.json", put("channel_names", ["MRI"]), "channel_names"),
        ("dataset.json", put("channel_names", {"0": "T1", "1": "T2"}), "2 channels"),
        ("dataset.json", put("labels", ["background", "Front"]), "labels"),
        ("dataset.json", put("labels", "Front", 1.5), "'Front' has the value 1.5"),
        ("dataset.json", put("labels", "Front", "²"), "'Front' has the value '²'"),
        ("dataset.json", put("labels", "Back", 3), "without gaps"),
        ("plans.json", put([1]), "configurations"),
        ("plans.json", without("plans_name"), "plans_name"),
        ("plans.json", put("plans_name", 1), "plans_name"),
        ("plans.json", put("configurations", [1]), "configurations"),
        ("plans.json", put("configurations", "2d", [1]), "configurations"),
        ("plans.json", without(*FULL), "no configuration '3d_fullres'"),
        ("plans.json", put(*FULL, "inherits_from", ["2d"]), "inherits from"),
        ("plans.json", put(*FULL, "architecture", [1]), "plan again"),
        ("plans.json", without(*ARGUMENTS), "arch_kwargs"),
        ("plans.json", put(*ARGUMENTS, [1]), "arch_kwargs"),
        ("plans.json", without(*FULL, "architecture", "_kw_requires_import"), "_kw_requires_import"),
        ("plans.json", put(*FULL, "architecture", "_kw_requires_import", [["conv_op"]]), "conv_op"),
        *(("plans.json", without(*ARGUMENTS, name), f"lacks '{name}'") for name in NEEDED),
        ("plans.json", put(*ARGUMENTS, "n_stages", "two"), "cannot build a network"),
        ("plans.json", put(*ARGUMENTS, "strides", None), "cannot build a network"),
        ("plans.json", put(*ARGUMENTS, "surprise", 1), "surprise"),
    ],
)
def test_a_folder_that_is_not_quite_a_teacher(plans, model_folder, file, change, message):
    folder = model_folder(plans())
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(change(content)))
    with pytest.raises(TeacherError, match=re.escape(str(folder / file))) as error:
        load_model_folder(folder, 0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"network_weights": [1]},
        {"network_weights": {1: torch.zeros(1)}},
        {"network_weights": {"encoder": "none"}},
        {"init_args": [1]},
        {"inference_allowed_mirroring_axes": ["x"]},
        {"inference_allowed_mirroring_axes": 1},
    ],
)
def test_a_checkpoint_that_is_not_quite_nnunets(plans, model_folder, changes):
    folder = model_folder(plans())
    edit(folder, lambda content: content.update(changes))
    with pytest.raises(TeacherError, match=r"checkpoint_final\.pth.*[Tt]ake"):
        load_model_folder(folder, 0)
