"""Training in two processes, as on two nodes: the same steps as one process with the whole batch."""

import csv
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation import distributed  # noqa: E402
from distillation.launch import Workspace  # noqa: E402
from KDSegmentatorLib.errors import TrainingError  # noqa: E402
from support import fixed_steps  # noqa: E402
from support.tiny_training import DISTILLING, checkpoint, distilling, environment, folder_of, run, small_plans  # noqa: E402

pytestmark = [
    pytest.mark.training,
    pytest.mark.usefixtures("everything_in_this_process"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.fixture(scope="module")
def teacher(prepared_spheres):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        return run(prepared_spheres, small_plans(prepared_spheres, "nnUNetPlans_shared_teacher", alpha=0.5, epochs=1))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def as_two_nodes(*script):
    """Run a script once on each of two nodes, both of them on this machine."""
    port = free_port()
    options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--node-rank={node}", *options, *script],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        said = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    return said


def folders(space, results):
    return [str(space.raw), str(space.preprocessed), str(results)]


def test_two_processes_take_the_steps_of_one_with_the_whole_batch(prepared_spheres, teacher, tmp_path):
    plans = distilling(prepared_spheres, teacher, "nnUNetPlans_steps", "logit-reco")
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(plans))
    alone, together = tmp_path / "alone", tmp_path / "together"
    for output in (alone, together):
        output.mkdir()
    fixed_steps.main(*folders(prepared_spheres, tmp_path / "results"), str(file), str(alone))
    script = str(Path(fixed_steps.__file__))
    as_two_nodes(script, *folders(prepared_spheres, tmp_path / "results"), str(file), str(together))
    one, *two = (torch.load(path) for path in (alone / "0.pt", together / "0.pt", together / "1.pt"))
    assert [each["processes"] for each in (one, *two)] == [1, 2, 2]
    assert one["losses"] == pytest.approx(two[0]["losses"], rel=1e-4)
    # the losses changed over the steps, so that what is compared is training and not its start
    assert abs(one["losses"][-1] - one["losses"][0]) > 1e-2
    lowest = "decoder.seg_layers.0."  # nnU-Net gives it the weight 1e-6 in several processes, and 0 in one
    for part in ("weights", "parts"):
        for name, expected in one[part].items():
            assert torch.equal(two[0][part][name], two[1][part][name]), name
            if not name.startswith(lowest):
                torch.testing.assert_close(two[0][part][name], expected, rtol=1e-3, atol=2e-5, msg=name)


def test_gradients_without_the_synchronisation_would_differ(prepared_spheres, teacher, tmp_path):
    """The published code's second defect, put back on purpose: the test above can fail."""
    plans = distilling(prepared_spheres, teacher, "nnUNetPlans_unsynchronised", "reco")
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(plans))
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys; from distillation import distributed; from support import fixed_steps\n"
        "distributed.average_gradients = lambda parameters: None\n"
        "fixed_steps.main(*sys.argv[1:])\n"
    )
    as_two_nodes(str(script), *folders(prepared_spheres, tmp_path / "results"), str(file), str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt")["parts"] for rank in range(2))
    assert not torch.equal(first["maps.0.weight"], second["maps.0.weight"])


TRAINING = """
import json, sys, torch
from pathlib import Path
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from distillation.launch import Workspace, train
LocalLogger.plot_progress_png = lambda *_: None
torch.set_num_threads(1)
raw, preprocessed, results, plans = map(Path, sys.argv[1:])
space = Workspace(raw=raw, preprocessed=preprocessed, results=results)
for _ in range(2):  # the second time there is nothing to do, in any process
    print(train(space, dataset="Dataset901_Spheres", plans=json.loads(plans.read_text()), configuration="3d_fullres",
                fold=0))
"""


def test_a_whole_training_in_two_processes(prepared_spheres, teacher, tmp_path):
    space = Workspace(
        raw=prepared_spheres.raw, preprocessed=prepared_spheres.preprocessed, results=tmp_path / "results"
    )
    plans = distilling(space, teacher, "nnUNetPlans_two_nodes", "logit-reco", epochs=2)
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "training.py").write_text(TRAINING)
    as_two_nodes(str(tmp_path / "training.py"), *folders(space, space.results), str(tmp_path / "plans.json"))
    folder = folder_of(space, DISTILLING, plans)
    content = checkpoint(folder)
    assert (content["current_epoch"], content["trainer_name"]) == (2, "nnUNetTrainer")
    assert not [name for name in content["network_weights"] if name.startswith("module.")]
    with (folder / "fold_0" / "training_log.csv").open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["2", "4"]
    assert not (folder / "fold_0" / "checkpoint_latest.pth").exists()


def test_more_processes_than_patches_are_refused(prepared_spheres, monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 3)
    with pytest.raises(TrainingError, match="3 processes cannot share a batch of 2"):
        run(prepared_spheres, small_plans(prepared_spheres, "nnUNetPlans_too_many"))


def test_alone_everything_is_as_it_was():
    assert not distributed.is_distributed()
    assert (distributed.process_count(), distributed.process_rank()) == (1, 0)
    assert distributed.from_first("mine") == "mine"
    value = torch.tensor(2.0)
    assert distributed.mean_over_processes(value) is value
    distributed.join_processes("cpu")
    assert not distributed.is_distributed()
    distributed.wait_for_all()
    distributed.synchronise_weights(torch.nn.Linear(1, 1))
    distributed.average_gradients([torch.nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda:0"), ("3", "cuda:3")])
def test_the_device_is_that_of_the_number_on_the_node(monkeypatch, rank, expected):
    monkeypatch.setenv("RANK", "9")
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert distributed.local_device("cuda") == torch.device(expected)
    assert distributed.local_device("cpu") == torch.device("cpu")


def test_two_processes_share_one_training(prepared_spheres, recipe_text, tmp_path):
    """The first judges for both; a student that is finished is skipped by both."""
    recipe = tmp_path / "spheres.yaml"
    plain = recipe_text.replace("epochs: 2, methods: [plain, logit]", "epochs: 1, methods: [plain]")
    recipe.write_text(plain.replace("method: logit", "method: plain"))
    work = tmp_path / "work"
    shutil.copytree(prepared_spheres.preprocessed, work / "preprocessed")
    command = ["distil", str(recipe), "--workspace", str(work), "--raw", str(prepared_spheres.raw)]
    as_two_nodes("-m", "distillation.cli", *command)
    (path,) = (work / "results").rglob("checkpoint_final.pth")
    before = path.read_bytes()
    for said in as_two_nodes("-m", "distillation.cli", *command):
        assert "student x1/2 plain: nothing changed since it was done; skipped" in said
    assert path.read_bytes() == before
