from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from distillation.command import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("package", ["yaml", "torch"])
def test_a_clinical_installation_says_what_is_missing(package: str) -> None:
    command = [sys.executable, "-c", WITHOUT, package, "validation", "work", "--output", "page.md"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"the package {package} is missing" in line
    assert "'.[distill]'" in line


def test_our_own_mistakes_are_not_blamed_on_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    from distillation import command

    pytest.importorskip("yaml", reason="install the extra 'distill'")
    from distillation import cli

    def broken(_arguments: object) -> int:
        raise ModuleNotFoundError("No module named 'distillation.nothing'", name="distillation.nothing")

    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(ModuleNotFoundError):
        command.main([])
