"""Real trainings, tiny: preparation, plain and distilled runs, a kill in the middle, and the command over it all."""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2  # noqa: E402
from nnunetv2.training.logging.nnunet_logger import LocalLogger  # noqa: E402

from distillation.cli import main  # noqa: E402
from distillation.export.description import describe_provenance  # noqa: E402
from distillation.launch import Workspace, train, train_side_by_side  # noqa: E402
from distillation.prepare import prepare  # noqa: E402
from distillation.recipe import DatasetRecipe  # noqa: E402
from distillation.teacher import build_network, load_model_folder  # noqa: E402
from distillation.training_settings import SoftLabelSettings  # noqa: E402
from KDSegmentatorLib.errors import TeacherError, TrainingError  # noqa: E402
from KDSegmentatorLib.packs.pack import open_pack, verify_pack  # noqa: E402
from support.tiny_training import (  # noqa: E402
    DATASET,
    DISTILLING,
    PLAIN,
    checkpoint,
    distilling,
    environment,
    folder_of,
    make_trainer,
    run,
    small_plans,
    spheres_recipe,
    trained_along,
)

pytestmark = pytest.mark.training

WEIGHTS = "network_weights"


@pytest.fixture(scope="module")
def workspace(prepared_spheres):
    return prepared_spheres


def command(workspace, plans):
    """A process of its own that trains, so that it can be killed."""
    script = (
        "import json, sys, torch; from pathlib import Path; from distillation.launch import Workspace, train\n"
        "from nnunetv2.training.logging.nnunet_logger import LocalLogger\n"
        "LocalLogger.plot_progress_png = lambda *_: None\n"
        "torch.set_num_threads(1)\n"
        "raw, preprocessed, results, dataset, plans = sys.argv[1:]\n"
        "space = Workspace(raw=Path(raw), preprocessed=Path(preprocessed), results=Path(results))\n"
        "train(space, dataset=dataset, plans=json.loads(plans), configuration='3d_fullres', fold=0)\n"
    )
    folders = [str(workspace.raw), str(workspace.preprocessed), str(workspace.results)]
    return [sys.executable, "-c", script, *folders, DATASET, json.dumps(plans)]


@pytest.fixture(autouse=True, scope="module")
def everything_in_this_process():
    """Worker processes take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # most of the time of a run this short
        yield


@pytest.fixture(scope="module")
def teacher(workspace):
    """A plainly trained folder."""
    plans = small_plans(workspace, "nnUNetPlans_x1_plain", alpha=0.5, epochs=1)
    run(workspace, plans)
    return folder_of(workspace, PLAIN, plans)


@pytest.fixture(scope="module")
def uninterrupted(workspace, teacher):
    plans = distilling(workspace, teacher, "nnUNetPlans_x1_2_logit-reco", "logit-reco")
    run(workspace, plans)
    return folder_of(workspace, DISTILLING, plans)


def test_preparation_is_complete_and_not_repeated(workspace, monkeypatch):
    import distillation.prepare as module

    def forbidden(*_, **__):
        raise AssertionError("prepared again")

    monkeypatch.setattr(module, "_fingerprint_and_plan", forbidden)
    prepared = prepare(workspace, spheres_recipe())
    assert len(prepared.held_out_cases(0)) == 2
    assert prepared.plans["plans_name"] == "nnUNetPlans"
    assert (workspace.preprocessed / DATASET / "dataset_fingerprint.json").is_file()


def test_a_recipe_may_plan_narrower_networks_and_another_spacing(workspace, monkeypatch):
    monkeypatch.setattr("distillation.prepare._processes", lambda: 1)
    recipe = DatasetRecipe(name=DATASET, title="Generated spheres", maximum_features=40, spacing=(1.25, 1.0, 1.0))
    planned = prepare(workspace, recipe).plans["configurations"]["3d_fullres"]
    assert planned["architecture"]["arch_kwargs"]["features_per_stage"] == [32, 40, 40]
    assert planned["spacing"] == [1.25, 1.0, 1.0]
    stock = prepare(workspace, spheres_recipe()).plans["configurations"]["3d_fullres"]
    assert stock["architecture"]["arch_kwargs"]["features_per_stage"] == [32, 64, 128]
    assert stock["spacing"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("axes", [(), (1, 2)])
def test_only_the_axes_of_the_recipe_are_mirrored(workspace, axes):
    plans = small_plans(
        workspace, f"nnUNetPlans_mirroring_{len(axes)}", epochs=1, iterations_per_epoch=1, mirroring_axes=axes
    )
    run(workspace, plans)
    folder = folder_of(workspace, PLAIN, plans)
    assert load_model_folder(folder, 0).mirroring_axes == axes
    train(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=0)  # known again, axes and all


def test_adamw_trains(workspace):
    options = {"epochs": 2, "iterations_per_epoch": 1, "optimizer": "adamw", "initial_learning_rate": 1e-3}
    plans = small_plans(workspace, "nnUNetPlans_adamw", **options)
    run(workspace, plans)
    state = checkpoint(folder_of(workspace, PLAIN, plans))["optimizer_state"]
    assert "max_exp_avg_sq" in state["state"][0]
    assert state["param_groups"][0]["lr"] == pytest.approx(1e-3 * 0.5**0.9)
    assert state["state"][0]["step"] == 2


def test_plain_training_writes_a_stock_checkpoint(workspace, teacher):
    content = checkpoint(teacher)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["current_epoch"] == 1
    assert not list(teacher.rglob("*.partial"))
    model = load_model_folder(teacher, 0)  # also: nothing in it but plain weights
    assert model.trained_with is not None
    assert model.trained_with["torch"] == metadata.version("torch")
    assert model.trained_with["nnunetv2"] == metadata.version("nnunetv2")
    assert model.trained_with["precision"] == "float32"
    assert model.mirroring_axes == (0, 1, 2)


def test_finished_training_is_not_repeated_and_not_confused(workspace, teacher):
    before = (teacher / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    plans = small_plans(workspace, "nnUNetPlans_x1_plain", alpha=0.5, epochs=1)
    options = {"dataset": DATASET, "configuration": "3d_fullres", "fold": 0}
    assert train(workspace, plans=plans, **options) == teacher
    assert (teacher / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == before
    longer = small_plans(workspace, "nnUNetPlans_x1_plain", alpha=0.5, epochs=2)
    with pytest.raises(TrainingError, match="other settings"):
        train(workspace, plans=longer, **options)


def test_a_killed_run_goes_on_to_the_same_weights(workspace, teacher, uninterrupted):
    plans = distilling(workspace, teacher, "nnUNetPlans_x1_2_killed", "logit-reco")
    folder = folder_of(workspace, DISTILLING, plans)
    latest = folder / "fold_0" / "checkpoint_latest.pth"
    process = subprocess.Popen(command(workspace, plans), env=environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not latest.is_file():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        time.sleep(0.2)  # into the next epoch
    finally:
        process.kill()
        process.wait()
    assert not (folder / "fold_0" / "checkpoint_final.pth").is_file(), "the kill came too late to test anything"
    run(workspace, plans)
    expected, found = checkpoint(uninterrupted), checkpoint(folder)
    assert found["current_epoch"] == expected["current_epoch"] == 3
    assert_same_state(found[WEIGHTS], expected[WEIGHTS])
    assert_same_state(trained_along(found), trained_along(expected))


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_networks_side_by_side_become_what_they_would_by_themselves(workspace):
    options = {"epochs": 2, "iterations_per_epoch": 2}
    widths = {"wide": 0.5, "narrow": 0.25}
    alone, both = (
        [small_plans(workspace, f"{how}_{name}", alpha, **options) for name, alpha in widths.items()]
        for how in ("alone", "both")
    )
    expected = [run(workspace, plans) for plans in alone]
    found = train_side_by_side(workspace, dataset=DATASET, plans=both, configuration="3d_fullres", fold=0)
    for one, other in zip(found, expected, strict=True):
        assert_same_state(checkpoint(one)[WEIGHTS], checkpoint(other)[WEIGHTS])
        assert load_model_folder(one, 0).mirroring_axes == (0, 1, 2)


def test_networks_that_would_need_other_batches_do_not_train_side_by_side(workspace):
    plans = [small_plans(workspace, f"seed_{seed}", epochs=1, seed=seed) for seed in (1, 2)]
    with pytest.raises(TrainingError, match="side by side need the same seed"):
        train_side_by_side(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=0)


def test_soft_labels_from_the_recipe_to_the_pack(workspace, teacher, recipe_text, tmp_path, capsys):
    taught = "{mix: {soft_labels: {weight: 0.5, ramp_start: 0, ramp_end: 0}}, control: {soft_labels: {hard: true}}}"
    text = recipe_text.replace("{logit: {logit: {temperature: 2.0, weight: 1.0}}}", taught)
    text = text.replace("epochs: 2, methods: [plain, logit]", "epochs: 1, methods: [plain, mix, control]")
    recipe = tmp_path / "spheres.yaml"
    recipe.write_text(text.replace("method: logit", "method: mix"))
    work = tmp_path / "work"
    shutil.copytree(workspace.preprocessed, work / "preprocessed")
    common = [str(recipe), "--workspace", str(work), "--raw", str(workspace.raw), "--teacher", str(teacher)]
    assert main(["distil", *common]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.index("soft labels:") < said.index("x1/2 plain") < said.index("x1/2 mix") < said.index("x1/2 control")
    weights = {
        method: checkpoint(next((work / "results").rglob(f"*_{method}__3d_fullres")))[WEIGHTS]
        for method in ("plain", "mix", "control")
    }
    name = next(name for name, value in weights["plain"].items() if value.ndim == 5)
    assert not torch.equal(weights["plain"][name], weights["mix"][name])
    assert not torch.equal(weights["control"][name], weights["mix"][name])
    mixed = load_model_folder(next((work / "results").rglob("*_mix__3d_fullres")), 0)
    student = describe_provenance(mixed, load_model_folder(teacher, 0))
    assert student.method == "mix"
    assert student.losses["soft_labels"]["weight"] == "0.5"
    assert len(student.losses["soft_labels"]["teachers"]) == 64
    text = recipe.read_text()
    recipe.write_text(text.replace("seed: 7", "seed: 7, mirroring_axes: [0]"))
    assert main(["teach", *common]) == 2
    assert "have mirroring_axes [0, 1, 2], wanted is [0]; remove the folder" in capsys.readouterr().err
    recipe.write_text(text)
    assert main(["run", *common, "--stage", "teach", "--dry-run"]) == 0
    assert "teach: done" in capsys.readouterr().out
    shutil.rmtree(next(work.rglob("*_soft_labels")))
    shutil.rmtree(next((work / "results").rglob("*_mix__3d_fullres")))
    assert main(["run", *common, "--stage", "students"]) == 2
    assert "run 'kdseg-distill teach' first" in capsys.readouterr().err


def test_soft_labels_reach_worker_processes_which_train_the_same_network(workspace, tmp_path, monkeypatch):
    from distillation.soft_labels import compressed

    split = json.loads((workspace.preprocessed / DATASET / "splits_final.json").read_text())[0]
    dataset = nnUNetDatasetBlosc2(str(workspace.preprocessed / DATASET / "nnUNetPlans_3d_fullres"))
    for name in split["train"]:
        shape = dataset.load_case(name)[0].shape[1:]
        np.save(tmp_path / f"{name}.npy", compressed(torch.full((3, *shape), 1 / 3)))
    soft = SoftLabelSettings(method="mix", folder=str(tmp_path), weight=0.5, ramp_start=0, ramp_end=0)
    options = {"epochs": 1, "iterations_per_epoch": 2, "soft_labels": soft}
    here = run(workspace, small_plans(workspace, "nnUNetPlans_no_workers", **options))
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    folder = run(workspace, small_plans(workspace, "nnUNetPlans_workers", **options))
    assert_same_state(checkpoint(folder)[WEIGHTS], checkpoint(here)[WEIGHTS])
    with (folder / "fold_0" / "training_log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss_soft_labels"]) > 0.5  # half of ln 3 and more


def test_what_the_losses_train_along_is_trained_and_kept_apart(workspace, teacher, uninterrupted):
    """The published code never gave it to the optimiser."""
    before = trained_along(first_checkpoint(workspace, teacher))
    after = trained_along(checkpoint(uninterrupted))
    assert {name.split(".")[0] for name in after} == {"maps", "ms_ca"}
    assert before.keys() == after.keys()
    same = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert not [name for name in same if not name.endswith("attention.bias")]  # a softmax's offset has no effect
    content = checkpoint(uninterrupted)
    student = small_plans(workspace, "n")["configurations"]["3d_fullres"]
    network = build_network(student, channels=1, labels=3, deep_supervision=True)
    assert content[WEIGHTS].keys() == network.state_dict().keys()
    groups = content["optimizer_state"]["param_groups"]
    assert [len(group["params"]) for group in groups] == [len(list(network.parameters())), len(after)]


def first_checkpoint(workspace, teacher):
    """The state before the first step."""
    with workspace.activated():
        plans = distilling(workspace, teacher, "nnUNetPlans_start", "logit-reco")
        trainer = make_trainer(workspace, plans)
        path = Path(trainer.output_folder) / "start.pth"
        trainer.save_checkpoint(str(path))
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("method", ["reco", "cwd", "heads"])
def test_every_method_trains(workspace, teacher, method):
    plans = distilling(workspace, teacher, f"nnUNetPlans_x1_2_{method}", method, epochs=1)
    run(workspace, plans)
    assert checkpoint(folder_of(workspace, DISTILLING, plans))["current_epoch"] == 1


def test_a_started_run_is_not_continued_with_other_settings(workspace, teacher):
    plans = distilling(workspace, teacher, "nnUNetPlans_x1_2_logit_changed")
    folder = folder_of(workspace, DISTILLING, plans)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_latest.pth").touch()
    path = workspace.preprocessed / DATASET / "nnUNetPlans_x1_2_logit_changed.json"
    path.write_text(json.dumps({**plans, "plans_name": "other"}))
    with pytest.raises(TrainingError, match="started with other settings"):
        train(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=0)
    shutil.rmtree(folder)


def test_distillation_changes_the_student_and_leaves_the_teacher_out(workspace, teacher, uninterrupted):
    plain = small_plans(workspace, "nnUNetPlans_x1_2_plain")
    run(workspace, plain)
    without, with_teacher = checkpoint(folder_of(workspace, PLAIN, plain)), checkpoint(uninterrupted)
    assert without[WEIGHTS].keys() == with_teacher[WEIGHTS].keys()  # nothing of the teacher in it
    assert with_teacher["trainer_name"] == "nnUNetTrainer"
    differences = [not torch.equal(without[WEIGHTS][name], value) for name, value in with_teacher[WEIGHTS].items()]
    assert any(differences)


def test_the_student_loads_in_stock_nnunet(workspace, uninterrupted):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(uninterrupted), (0,), "checkpoint_final.pth")
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    model = load_model_folder(uninterrupted, 0)
    patch = model.configuration["patch_size"]
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, *patch)).astype(np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(predictor.network.eval()(image), model.network(image))


def test_a_teacher_of_another_fold_is_refused(workspace, teacher):
    plans = distilling(workspace, teacher, "nnUNetPlans_x1_2_logit_fold")
    with pytest.raises(TeacherError, match="same fold"):
        train(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=1)


def test_a_teacher_with_other_labels_is_refused(workspace, teacher, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    content = json.loads((other / "dataset.json").read_text())
    content["labels"] = {"background": 0, "Back": 1, "Front": 2}
    (other / "dataset.json").write_text(json.dumps(content))
    plans = distilling(workspace, other, "nnUNetPlans_x1_2_logit_labels")
    with pytest.raises(TeacherError, match="labels"):
        train(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=0)


def test_a_dataset_that_is_not_prepared(workspace, tmp_path):
    space = Workspace.below(tmp_path)
    with pytest.raises(TrainingError, match="kdseg-distill prepare"):
        train(space, dataset=DATASET, plans=small_plans(workspace, "n"), configuration="3d_fullres", fold=0)


def test_a_loss_that_is_not_finite_stops_the_run(workspace, monkeypatch):
    from distillation.trainers import KDSegPlainTrainer

    not_a_number = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(KDSegPlainTrainer, "loss_terms", lambda *_: {"segmentation": not_a_number})
    plans = small_plans(workspace, "nnUNetPlans_nan")
    # nnU-Net imports our trainers under another module's name, but the class is the same
    with pytest.raises(TrainingError, match=r"loss became nan \(segmentation nan\) in epoch 0.*initial_learning_rate"):
        train(workspace, dataset=DATASET, plans=plans, configuration="3d_fullres", fold=0)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(workspace, teacher, monkeypatch):
    """The loss alone would be seen an iteration later, when a checkpoint may hold ruined weights."""
    from distillation.trainers import KDSegDistillingTrainer

    whole = KDSegDistillingTrainer.loss_terms

    def root_of_zero(self, data, outputs, target):
        terms = whole(self, data, outputs, target)
        if self.current_epoch == 1:
            terms["root"] = torch.sqrt(outputs[0].sum() * 0)  # 0, with the gradient 0 * infinity
        return terms

    monkeypatch.setattr(KDSegDistillingTrainer, "loss_terms", root_of_zero)
    plans = distilling(workspace, teacher, "nnUNetPlans_gradient")
    with pytest.raises(TrainingError, match=r"gradient became (nan|inf) in epoch 1"):
        run(workspace, plans)
    kept = checkpoint(folder_of(workspace, DISTILLING, plans), "checkpoint_latest.pth")
    assert kept["current_epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept[WEIGHTS].values())


def test_the_command_from_distilling_to_packs(workspace, teacher, recipe_text, tmp_path, capsys):
    recipe = tmp_path / "spheres.yaml"
    recipe.write_text(recipe_text.replace("epochs: 2, methods: [plain, logit]", "epochs: 1, methods: [logit]"))
    work = tmp_path / "work"
    shutil.copytree(workspace.preprocessed, work / "preprocessed")
    common = [str(recipe), "--workspace", str(work), "--raw", str(workspace.raw), "--teacher", str(teacher)]
    assert main(["prepare", *common]) == 0  # complete already
    assert main(["evaluate", *common]) == 2
    assert "not trained yet" in capsys.readouterr().err
    assert main(["distil", *common]) == 0
    capsys.readouterr()
    assert main(["distil", *common]) == 0
    assert "nothing changed since it was done; skipped" in capsys.readouterr().out
    assert main(["evaluate", *common, "--threads", "1", "--calibration-windows", "2"]) == 0
    said = capsys.readouterr().out
    assert "x1/2 logit: 2/2 cases" in said
    measured = json.loads((work / "evaluation" / "evaluation.json").read_text())["reduced_precisions"]
    if "int8 was not measured" not in said:
        assert "x1/2 logit: quantising to int8" in said
        assert {"x1 teacher", "x1/2 logit"} == {each["model"] for each in measured if each["precision"] == "int8"}
    assert main(["export", *common, "--output", str(tmp_path / "shipped")]) == 0
    packs = [open_pack(folder) for folder in sorted((tmp_path / "shipped").iterdir())]
    assert [pack.manifest.id for pack in packs] == ["spheres-x1", "spheres-x1_2"]
    for pack in packs:
        verify_pack(pack)
        assert pack.manifest.evaluation.cases == 2
        name = f"{pack.manifest.size} {pack.manifest.provenance.method}"
        accepted = [each["precision"] for each in measured if each["model"] == name and each["accepted"]]
        assert [each.precision for each in pack.manifest.network.reduced_precisions] == accepted
    student = packs[1].manifest.provenance
    assert (student.method, student.iterations, student.seed) == ("logit", 3, 7)
    assert student.teacher_sha256 == packs[0].manifest.provenance.checkpoint_sha256
    _check_that_run_knows_them(common, work, tmp_path / "shipped", capsys)


def _check_that_run_knows_them(common, work, shipped, capsys):
    """What single commands finished is finished for ``run``, and what was changed in part is not."""

    def states():
        options = ["--output", str(shipped), "--calibration-windows", "2", "--dry-run"]
        assert main(["run", *common, *options]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("warning:")]
        return {line.partition(": ")[0]: line.partition(": ")[2].split(";")[0] for line in lines}

    capsys.readouterr()
    assert states() == {
        "prepare": "done",
        "teacher": "to do",
        "student x1/2 logit": "done",
        "evaluate": "done",
        "export": "done",
        "report": "to do",
    }
    assert main(["report", *common]) == 0
    capsys.readouterr()
    assert [name for name, state in states().items() if state != "done"] == ["teacher"]  # a given one is looked at
    assert main(["evaluate", *common, "--method", "logit", "--threads", "1", "--calibration-windows", "0"]) == 0
    capsys.readouterr()
    assert states()["evaluate"] == "broken off, goes on"
    (final,) = (work / "results" / DATASET).rglob("checkpoint_final.pth")
    final.rename(final.with_name("checkpoint_latest.pth"))
    assert states()["student x1/2 logit"] == "broken off, goes on"
    recipe = Path(common[0])
    recipe.write_text(recipe.read_text().replace("temperature: 2.0", "temperature: 3.0"))
    assert states()["student x1/2 logit"] == "to do"


def unfinished(workspace, teacher, name):
    """A run with two epochs of three behind it, and its plans."""
    plans = distilling(workspace, teacher, name)
    stop = RuntimeError("stopped here")

    def stopping(self, folder):
        if self.get_value("train_losses", step=None)[1:]:
            raise stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLogger, "plot_progress_png", stopping)
        with pytest.raises(RuntimeError, match="stopped here"):
            run(workspace, plans)
    return folder_of(workspace, DISTILLING, plans), plans


def test_the_log_goes_on_where_the_run_was_broken_off(workspace, teacher):
    folder, plans = unfinished(workspace, teacher, "nnUNetPlans_logged")
    run(workspace, plans)
    with (folder / "fold_0" / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["iteration"]) for row in rows] == [("0", "2"), ("1", "4"), ("2", "6")]
    losses = checkpoint(folder)["logging"]["train_losses"]
    for row in rows:
        parts = float(row["loss_segmentation"]) + float(row["loss_logit"])
        assert float(row["loss"]) == pytest.approx(parts)
        assert float(row["loss"]) == pytest.approx(losses[int(row["epoch"])], rel=1e-5)
        assert float(row["seconds"]) > 0


def test_a_damaged_or_foreign_state_is_refused_with_a_way_on(workspace, teacher, tmp_path):
    folder, plans = unfinished(workspace, teacher, "nnUNetPlans_damaged")
    latest = folder / "fold_0" / "checkpoint_latest.pth"
    whole = latest.read_bytes()
    latest.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"cannot go on from .*checkpoint_latest\.pth.*checkpoint_best"):
        run(workspace, plans)
    content = torch.load(io.BytesIO(whole), weights_only=False)
    content["logging"] = Bomb(str(tmp_path / "exploded"))
    torch.save(content, latest)
    with pytest.raises(TrainingError, match="Python objects that could run code"):
        run(workspace, plans)
    assert not (tmp_path / "exploded").exists()
    latest.unlink()
    run(workspace, plans)  # from checkpoint_best.pth
    assert checkpoint(folder)["current_epoch"] == 3


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_full_disk_leaves_the_last_state(workspace, teacher, monkeypatch):
    folder, plans = unfinished(workspace, teacher, "nnUNetPlans_full")
    latest = folder / "fold_0" / "checkpoint_latest.pth"
    before = latest.read_bytes()
    save = torch.save

    def full(content, file):
        save(content, file)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"cannot be written.*Make room"):
        run(workspace, plans)
    assert latest.read_bytes() == before
    assert {path.name for path in latest.parent.glob("*.pth")} == {"checkpoint_latest.pth", "checkpoint_best.pth"}
    assert not list(latest.parent.glob(".kdseg-*"))
    monkeypatch.setattr(torch, "save", save)
    run(workspace, plans)
    assert checkpoint(folder)["current_epoch"] == 3


def test_a_run_that_goes_on_in_another_precision_says_so_and_keeps_both(workspace, monkeypatch):
    options = {"epochs": 2, "iterations_per_epoch": 1, "precision": "auto"}
    plans = small_plans(workspace, "nnUNetPlans_precisions", **options)
    monkeypatch.setattr("distillation.torch_tuning._bfloat16_speed_up", lambda: 1.0)
    stopped = RuntimeError("stopped here")

    def stopping(self, folder):
        if self.get_value("train_losses", step=None)[1:]:
            raise stopped

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
        patch.setattr(LocalLogger, "plot_progress_png", stopping)
        run(workspace, plans)
    monkeypatch.setattr("distillation.torch_tuning._bfloat16_speed_up", lambda: 2.0)
    folder = run(workspace, plans)
    said = [path.read_text() for path in (folder / "fold_0").glob("training_log_*.txt")]
    assert any("goes on in bfloat16, was in float32 so far" in text for text in said)
    assert load_model_folder(folder, 0).trained_with["precision"] == "float32, then bfloat16"


def test_soft_labels_of_other_teachers_do_not_train_a_student(workspace, tmp_path):
    (tmp_path / "soft_labels.json").write_text(json.dumps({"teachers": ["2" * 64], "mirroring_axes": []}))
    soft = SoftLabelSettings(method="mix", folder=str(tmp_path), teachers=("1" * 64,), mirroring_axes=())
    with pytest.raises(TeacherError, match=r"have teachers .*2222.*wanted is .*1111"):
        run(workspace, small_plans(workspace, "nnUNetPlans_other_teachers", soft_labels=soft))


def test_weights_of_another_pack_than_the_plans_start_from_are_refused(workspace, teacher_pack):
    start = {"initial_checkpoint": str(teacher_pack.folder), "initial_sha256": "0" * 64}
    with pytest.raises(TrainingError, match="is another pack than the one that these plans start from, of 000"):
        run(workspace, small_plans(workspace, "nnUNetPlans_other_start", **start))
