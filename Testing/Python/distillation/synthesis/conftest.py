"""A phantom head, read once."""

import pytest

from support.phantom_heads import write_phantoms


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A head and its table."""
    pytest.importorskip("yaml", reason="install the extra 'distill'")
    from distillation.synthesis.label_maps import read_head, read_label_table

    folder = write_phantoms(tmp_path_factory.mktemp("phantom"), 1)
    table = read_label_table(folder)
    return read_head(folder / "head_0.nii.gz", table), table
