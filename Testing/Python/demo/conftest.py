"""The demos run on what is shipped, whatever packs the developer has installed."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def only_shipped_packs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path_factory.mktemp("packs")))
        yield
