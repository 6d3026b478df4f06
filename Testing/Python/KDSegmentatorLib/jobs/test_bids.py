from __future__ import annotations

import json
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.jobs import bids
from KDSegmentatorLib.jobs.batch_files import batch_paths, find_scans
from KDSegmentatorLib.jobs.messages import BatchRequest


def dataset(folder: Path, *images: str) -> Path:
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.8.0"}')
    return folder


def request(folder: Path, *inputs: str) -> BatchRequest:
    return BatchRequest(
        task="brain-t1",
        user_packs="",
        shipped_packs="",
        input_folder=str(folder),
        inputs=inputs,
        output_folder=str(folder / "derivatives" / "kdsegmentator"),
        bids=True,
    )


def test_the_t1_weighted_images_of_a_data_set_are_found(tmp_path: Path) -> None:
    folder = dataset(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-mprage_T1w.nii",
        "sub-02/ses-1/func/sub-02_ses-1_task-rest_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    )
    assert bids.is_dataset(folder)
    assert not bids.is_dataset(folder / "sub-01")
    found = find_scans(folder, bids.PATTERN, folder / "derivatives" / "kdsegmentator")
    assert found == ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_acq-mprage_T1w.nii")


def test_results_are_named_as_derivatives(tmp_path: Path) -> None:
    names = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz")
    first, run, other = batch_paths(request(tmp_path, *names))
    output = tmp_path / "derivatives" / "kdsegmentator" / "sub-01" / "anat"
    assert first.labels == output / "sub-01_seg-brainT1_dseg.nii.gz"
    assert first.record == output / "sub-01_seg-brainT1_dseg.json"
    assert first.entropy == output / "sub-01_seg-brainT1_entropymap.nii.gz"
    assert run.labels.name == "sub-01_run-1_seg-brainT1_dseg.nii.gz"
    assert other.labels.name == "sub-01_seg-brainT1_desc-T2w_dseg.nii.gz"


@pytest.mark.parametrize(
    "names",
    [
        ("scan.nii.gz",),
        ("sub-01/anat/sub-02_T1w.nii.gz",),
        ("sub-01/anat/sub-01_T1w.mgz",),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.nii"),
    ],
)
def test_names_that_are_not_as_bids_asks_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSettingsError, match=r"not named as BIDS asks .*--layout scans"):
        batch_paths(request(tmp_path, *names))


def test_a_derivative_describes_itself_once(tmp_path: Path) -> None:
    output = tmp_path / "derivatives" / "kdsegmentator"
    output.mkdir(parents=True)
    bids.write_description(tmp_path, output)
    written = json.loads((output / "dataset_description.json").read_text(encoding="utf-8"))
    assert written["DatasetType"] == "derivative"
    assert written["DatasetLinks"] == {"raw": "../.."}
    (output / "dataset_description.json").write_text("{}")
    bids.write_description(tmp_path, output)
    assert (output / "dataset_description.json").read_text() == "{}"
