"""The command kdseg-node: a folder is made, checked, run with real processes, killed, and looked at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from KDSegmentatorLib.cli.node import main
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Queue
from support.generated_family import write_scan
from support.node_processes import RunningNode, until

Make = Callable[..., Places]


def scans(places: Places, count: int) -> None:
    for number in range(count):
        voxels = np.random.default_rng(number).gamma(2, 100, size=(20, 24, 18)).astype(np.float32)
        write_scan(places.root / "in" / f"Doe_Jane_{number}.nii.gz", voxels)


def test_init_makes_a_node_that_passes_its_own_check_and_keeps_settings(tmp_path: Path, capsys) -> None:
    root = tmp_path / "node"
    assert main(["init", str(root)]) == 0
    settings = root / "kdseg-node.toml"
    settings.write_text(settings.read_text().replace("free_gb = 5", "free_gb = 0.1").replace("= 95", "= 100"))
    assert main(["--node", str(root), "check"]) == 0
    before = settings.read_bytes()
    assert main(["init", str(root)]) == 0
    assert settings.read_bytes() == before
    assert "the node may run" in capsys.readouterr().out
    if sys.platform != "win32":
        assert (root / "state").stat().st_mode & 0o077 == 0


def test_a_folder_that_is_none_and_a_job_that_is_none_are_named(tmp_path: Path, make: Make, capsys) -> None:
    assert main(["--node", str(tmp_path), "status"]) == 1
    assert "is no node's folder" in capsys.readouterr().err
    assert main(["--node", str(make().root), "retry", "5"]) == 1
    assert "there is no job 5" in capsys.readouterr().err


def test_models_are_swapped_and_rolled_back(make: Make, newer_pack: Path, capsys) -> None:
    node = ["--node", str(make().root), "models"]
    assert main([*node, "install", str(newer_pack)]) == 0
    assert main([*node, "list"]) == 0
    assert "rolls back to 1.0.0" in capsys.readouterr().out
    assert main([*node, "roll-back", "generated-x1_4"]) == 0
    assert "generated-x1_4 is 1.0.0" in capsys.readouterr().out


def test_a_running_node_delivers_each_scan_once_though_workers_and_node_are_killed(make: Make, capsys) -> None:
    places = make()
    text = places.settings.read_text().replace("[limits]", "[limits]\nworkers = 2")
    places.settings.write_text(text)
    scans(places, 6)
    queue = Queue(places.queue)
    Deliveries(queue)
    with RunningNode(places) as node:
        until(lambda: queue.counts()["segmenting"] or queue.counts()["delivered"], node)
        for worker in node.workers():
            worker.kill()
        until(lambda: queue.counts()["delivered"] >= 1, node)
        node.kill()
    with RunningNode(places) as node:
        until(lambda: queue.counts()["delivered"] == 6, node)
        node.stop()
    assert sum(queue.counts().values()) == 6
    assert len(list((places.root / "out").glob("*/generated/labels.nii.gz"))) == 6
    assert not list((places.root / "out").glob("**/.*"))
    assert main(["--node", str(places.root), "audit"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [entry for entry in entries if entry["event"] == "written"]
    assert sorted(entry["job"] for entry in written) == list(range(1, 7))
    for text in (json.dumps(entries), places.log.read_text()):
        assert "Doe" not in text
        assert "Jane" not in text
    assert main(["--node", str(places.root), "status"]) == 0
    assert "6 delivered" in capsys.readouterr().out


def test_a_second_node_on_the_same_folder_is_refused(make: Make, capsys) -> None:
    places = make()
    with locked(places.state / "node.lock", 0.0):
        assert main(["--node", str(places.root), "run"]) == 1
    assert "another kdseg-node works on" in capsys.readouterr().err


def test_an_unsafe_node_does_not_run(make: Make, capsys) -> None:
    places = make('[[target]]\nname = "pacs"\nkind = "dicom"\nhost = "10.1.2.3"\nport = 104\naet = "PACS"\n')
    assert main(["--node", str(places.root), "run"]) == 1
    assert "without TLS" in capsys.readouterr().err
