"""Compare the loss curves of one process with the whole batch and of two that share it, as on two nodes.

    python Testing/Benchmarks/two_processes.py RECIPE --workspace WORK --raw DATA [--teacher FOLDER]
                                               [--student x1/4] [--method logit-reco] [--epochs 6] [--iterations 25]

The dataset has to be prepared in the workspace. Three trainings of the same student, without a warm-up: one process;
two processes that ``torchrun`` starts as two nodes, which meet over the loopback interface (gloo); and one process with
another seed. Two processes draw other patches than one, so that their curves cannot be equal: they have to differ by no
more than two seeds do. (Equal steps on equal batches are what Testing/Python/distillation/test_distributed.py tests.)
The table is printed; the trainings stay in WORK/two_processes and are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from distillation.launch import Workspace, train
from distillation.plans import alpha_of, student_plans
from distillation.recipe_file import read_recipe
from distillation.stages import Stages
from distillation.students import Student, TeacherSource, plans_for_student
from distillation.training_log import CSV_NAME
from distillation.training_settings import TrainingSettings

RUNS = {"one process": 0, "two processes": 0, "another seed": 1}
"""Name of each training and what is added to the recipe's seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the three trainings and print their curves; with ``--part`` be one of the processes of one of them."""
    options = _parser().parse_args(arguments)
    if options.part is not None:
        _train(options)
        return
    curves = {}
    for name in RUNS:
        _start(name, sys.argv[1:] if arguments is None else list(arguments))
        curves[name] = _curve(_workspace(options, name).results)
    print("| epoch | " + " | ".join(RUNS) + " |")
    print("|---|" + "---|" * len(RUNS))
    for epoch, losses in enumerate(zip(*curves.values(), strict=True)):
        print(f"| {epoch} | " + " | ".join(f"{loss:.4f}" for loss in losses) + " |")
    one, two, other = curves.values()
    print(f"mean difference to one process: two processes {_distance(one, two):.4f}", end=", ")
    print(f"another seed {_distance(one, other):.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--student", default="x1/4")
    parser.add_argument("--method", default="logit-reco")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--part", choices=tuple(RUNS), help=argparse.SUPPRESS)
    return parser


def _workspace(options: argparse.Namespace, name: str) -> Workspace:
    common = Workspace.below(options.workspace, options.raw)
    return replace(common, results=options.workspace / "two_processes" / name.replace(" ", "_"))


def _start(name: str, arguments: list[str]) -> None:
    """Run a training in one process, or in two nodes of one process each."""
    script = [str(Path(__file__).resolve()), *arguments, "--part", name]
    commands = [[sys.executable, *script]]
    if name == "two processes":
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        node = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        commands = [
            [sys.executable, *node, f"--master-port={port}", f"--node-rank={rank}", *script] for rank in range(2)
        ]
    environment = {**os.environ, "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(each, env=environment, stdout=subprocess.DEVNULL) for each in commands]
    if any(process.wait() for process in processes):
        sys.exit(f"{name}: the training failed")


def _train(options: argparse.Namespace) -> None:
    recipe = read_recipe(options.recipe)
    space = _workspace(options, options.part)
    given = None if options.teacher is None else TeacherSource(folder=options.teacher)
    stages = Stages(recipe=recipe, workspace=space, folder=options.workspace, given_teacher=given)
    stock = stages.trainings.prepared().plans
    student = Student(size=options.student, method=options.method)
    settings = TrainingSettings.from_plans(plans_for_student(recipe, student, stock, stages.trainings.teacher()))
    settings = replace(
        settings,
        epochs=options.epochs,
        iterations_per_epoch=options.iterations,
        seed=settings.seed + RUNS[options.part],
    )
    configuration = recipe.dataset.configuration
    alpha = alpha_of(options.student)
    plans = student_plans(stock, configuration, alpha=alpha, name="TwoProcesses", settings=settings)
    train(space, dataset=recipe.dataset.name, plans=plans, configuration=configuration, fold=recipe.dataset.fold)


def _curve(results: Path) -> list[float]:
    (path,) = results.rglob(CSV_NAME)
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _distance(curve: list[float], other: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(curve, other, strict=True)) / len(curve)


if __name__ == "__main__":
    main()
