import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.batch_stream import BatchStream  # noqa: E402


class RandomPatches:
    """Draws from numpy's and torch's global random numbers, as nnU-Net's loaders and augmentation do."""

    def generate_train_batch(self):
        return {"data": torch.rand(2, 3), "keys": np.random.choice(["a", "b", "c", "d"], 2), "target": [torch.rand(1)]}


class Broken:
    def generate_train_batch(self):
        raise ValueError("the soft labels of case_01 are cut off")


def numbers(stream, count):
    return [next(stream)["data"] for _ in range(count)]


def test_processes_make_the_batches_that_this_one_would_make():
    here, there = BatchStream(RandomPatches(), (7, 1, 0)), BatchStream(RandomPatches(), (7, 1, 0), processes=2)
    for _ in range(5):
        one, other = next(here), next(there)
        assert torch.equal(one["data"], other["data"])
        assert torch.equal(one["target"][0], other["target"][0])
        assert one["keys"].tolist() == other["keys"].tolist()
    there.close()


def test_a_run_that_goes_on_sees_the_batches_that_it_missed():
    whole = torch.stack(numbers(BatchStream(RandomPatches(), (7, 1, 0)), 6))
    resumed = BatchStream(RandomPatches(), (7, 1, 0))
    resumed.go_to(3)
    assert torch.equal(torch.stack(numbers(resumed, 3)), whole[3:])
    resumed.go_to(6)  # where it is
    resumed.go_to(1)  # and back
    assert torch.equal(torch.stack(numbers(resumed, 2)), whole[1:3])


def test_no_batch_comes_twice_nor_in_another_phase_process_or_seed():
    streams = [BatchStream(RandomPatches(), seed) for seed in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (1, 0, 1))]
    drawn = torch.stack([batch for stream in streams for batch in numbers(stream, 4)])
    assert len(drawn.flatten(1).unique(dim=0)) == 20


def test_a_failure_in_a_process_is_said_with_its_reason():
    stream = BatchStream(Broken(), (0, 1, 0), processes=1)
    with pytest.raises(ValueError, match="soft labels of case_01 are cut off"):
        next(stream)
