"""Unsafe settings are refused, each with what to do; wrong ones are named by their line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.node import safety
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.settings import SETTINGS_NAME, read_settings

Make = Callable[..., Places]

PACS = '[[target]]\nname = "pacs"\nkind = "dicom"\nhost = "10.1.2.3"\nport = 104\naet = "PACS"\n'
ARCHIVE = '[[target]]\nname = "archive"\nkind = "dicomweb"\nurl = "{}"\n'
ORTHANC = '[orthanc]\nurl = "http://127.0.0.1:8042"\n'
SENDER = '[[orthanc.sender]]\naet = "MR1"\nhost = "10.1.2.4"\n'


def problems(places: Places) -> str:
    return "\n".join(safety.problems(places, read_settings(places.root)))


def test_a_new_node_is_safe(make: Make) -> None:
    assert problems(make()) == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (PACS, "patient data would go to 10.1.2.3 without TLS"),
        (PACS + "plain = true\ncommitment = true\n", "through Orthanc, but there is no"),
        (PACS + 'tls = { ca = "secrets/none.pem" }\n', "cannot be read"),
        (ARCHIVE.format("http://archive.example/dicom-web"), "in the open; give an https address"),
        (ARCHIVE.format("ftp://archive.example"), "no address of a DICOMweb service"),
        (ARCHIVE.format("https://me:word@archive.example"), "a password stands in its url"),
        (ARCHIVE.format("https://archive.example") + 'password = "secrets/none"\n', "the secret"),
        (ORTHANC, "names no sender"),
        (ORTHANC + SENDER, "without TLS"),
        (ORTHANC + "plain = true\n" + SENDER + SENDER, "MR1 twice"),
        (ORTHANC.replace("127.0.0.1", "10.1.2.3") + "plain = true\n" + SENDER, "must be http on 127.0.0.1"),
        ('[[rule]]\nname = "ct"\ntask = "nothing"\ntargets = ["out"]\n', "no pack of the task 'nothing'"),
        ('[[rule]]\nname = "b"\ntask = "generated"\nsize = "x1/2"\ntargets = ["out"]\n', "of the size x1/2"),
        ('[[rule]]\nname = "b"\ntask = "generated"\noutputs = ["sr"]\ntargets = ["out"]\n', "add seg to its outputs"),
        ('[[target]]\nname = "in"\nkind = "folder"\nfolder = "in/results"\n', "results would be taken for scans"),
    ],
)
def test_what_is_unsafe_is_refused_with_what_to_do(make: Make, more: str, said: str) -> None:
    assert said in problems(make(more))


def test_plain_allows_what_would_be_refused(make: Make) -> None:
    assert problems(make(PACS + "plain = true\n" + ORTHANC + "plain = true\n" + SENDER)) == ""


@pytest.mark.skipif(
    sys.platform == "win32", reason="only on Linux and macOS: Windows has access lists instead of modes"
)
def test_secrets_and_state_are_for_the_node_alone(make: Make) -> None:
    places = make(ORTHANC + "plain = true\n" + SENDER)
    (places.secrets / "orthanc-password").chmod(0o644)
    places.state.chmod(0o755)
    places.orthanc.chmod(0o644)
    said = problems(places)
    assert f"chmod 600 {places.secrets / 'orthanc-password'}" in said
    assert f"chmod 700 {places.state}" in said
    (places.secrets / "orthanc-password").chmod(0o600)
    assert f"chmod 600 {places.orthanc}" in problems(places)


def test_a_configuration_of_orthanc_that_was_edited_is_noticed(make: Make) -> None:
    places = make(ORTHANC + "plain = true\n" + SENDER)
    content = json.loads(places.orthanc.read_text())
    content["DicomAlwaysAllowStore"] = True
    places.orthanc.write_text(json.dumps(content))
    assert "does not fit the settings any more" in problems(places)


def test_orthanc_is_configured_to_receive_from_those_who_may_and_to_do_nothing_else(make: Make) -> None:
    content = json.loads(make(ORTHANC + "plain = true\n" + SENDER).orthanc.read_text())
    assert content["DicomModalities"] == {
        "sender-1": {
            "AET": "MR1", "Host": "10.1.2.4", "Port": 104, "AllowEcho": True, "AllowStore": True, "AllowFind": False,
            "AllowFindWorklist": False, "AllowGet": False, "AllowMove": False, "AllowStorageCommitment": False,
        }
    }  # fmt: skip
    assert not any(value for name, value in content.items() if name.startswith("DicomAlwaysAllow"))
    for name in ("DicomCheckCalledAet", "StrictAetComparison", "DicomCheckModalityHost", "AuthenticationEnabled"):
        assert content[name] is True
    for name in (
        "RemoteAccessAllowed",
        "SslEnabled",
        "UnknownSopClassAccepted",
        "OverwriteInstances",
        "ExecuteLuaEnabled",
    ):
        assert content[name] is False
    assert content["MaximumStorageSize"] == 0
    assert len(next(iter(content["RegisteredUsers"].values()))) >= 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[watch]\nfolders = 'in'", "unknown field `folders`"),
        ("[limits]\nworkers = 0", r"`\$\.limits\.workers`"),
        ("[watch", "kdseg-node.toml"),
        ("[[rule]]\nname = 'a'\ntask = 'b'\ntargets = ['nowhere']", "names the target 'nowhere'"),
        ("[[rule]]\nname = 'a'\ntask = 'b'", "names no targets"),
        ("[[rule]]\nname = 'a/b'\ntask = 'b'", r"`\$\.rule\[0\]\.name`"),
        ("[[rule]]\nname = 'a'\ntask = 'b'\ndescription = '('", "no regular expression"),
        ("[[rule]]\nname = 'a'\ntask = 'b'\noptions = { engine = 'none' }", "no engine 'none'"),
        ("[[target]]\nname = 'a'\nkind = 'ftp'", "Invalid value 'ftp'"),
        ("[[target]]\nname = 'a'\nkind = 'folder'\nfolder = 'x'\n" * 2, "two of the"),
        ("[orthanc]\naet = 'LONGER THAN SIXTEEN'", r"`\$\.orthanc\.aet`"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / SETTINGS_NAME).write_text(text)
    with pytest.raises(InvalidSettingsError, match=said):
        read_settings(tmp_path)
