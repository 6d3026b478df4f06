from __future__ import annotations

import copy
import platform
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation import torch_tuning  # noqa: E402
from distillation.distiller import EncoderTaps  # noqa: E402
from distillation.plans import resolve_configuration  # noqa: E402
from distillation.teacher import build_network  # noqa: E402
from distillation.torch_tuning import (  # noqa: E402
    checkpoint_stages,
    keep_channels_last,
    training_dtype,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_what_is_asked_for_is_taken():
    for device in (CPU, GPU):
        assert training_dtype("float32", device) is torch.float32
        assert training_dtype("bfloat16", device) is torch.bfloat16


@pytest.mark.parametrize(("speed_up", "expected"), [(1.1, torch.float32), (2.0, torch.bfloat16)])
def test_a_cpu_is_measured(monkeypatch, speed_up, expected):
    monkeypatch.setattr(torch_tuning, "_bfloat16_speed_up", lambda: speed_up)
    assert training_dtype("auto", CPU) is expected


@pytest.mark.parametrize(("native", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_gpu_is_asked(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert training_dtype("auto", GPU) is expected


def block(width):
    torch.manual_seed(0)
    norm = torch.nn.InstanceNorm3d(width, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return torch.nn.Sequential(torch.nn.Conv3d(1, width, 3, padding=1), norm).to(
        torch.float64, memory_format=torch.channels_last_3d
    )


def outputs_and_gradients(network, batch):
    network.zero_grad()
    data = torch.randn(
        batch, 1, 6, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    output = network(data.to(memory_format=torch.channels_last_3d))
    (output * torch.linspace(0, 1, output.numel(), dtype=torch.float64).reshape(output.shape)).sum().backward()
    return output, [data.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [4, 16, 48])
def test_same_values_and_gradients(width, batch):
    plain = block(width)
    changed = copy.deepcopy(plain)
    keep_channels_last(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(outputs_and_gradients(changed, batch), outputs_and_gradients(plain, batch))


def test_layout_stays():
    norm = torch.nn.InstanceNorm3d(32, affine=True)
    keep_channels_last(norm)
    output = norm(torch.randn(2, 32, 6, 7, 5).to(memory_format=torch.channels_last_3d))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_running_statistics_are_left_alone():
    norm = torch.nn.InstanceNorm3d(32, track_running_stats=True)
    keep_channels_last(norm)
    norm(torch.randn(2, 32, 4, 4, 4))
    assert norm.running_mean.abs().sum() > 0


PROGRAM = """
import gc
import resource
import sys
from contextlib import nullcontext
import numpy as np
from distillation.torch_tuning import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

start = resident()
with kept_memory() if sys.argv[1] == "kept" else nullcontext():
    np.ones(16 << 20)
    before = faults()
    for _ in range(5):
        np.ones(16 << 20)  # 128 MB
    inside = faults() - before
print(inside, resident() - start)
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc knows how")


def run(how: str) -> tuple[int, int]:
    """Return page faults while arrays come and go, and how much larger the process is afterwards, in bytes."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults, grown = done.stdout.split()
    return int(faults), int(grown)


@glibc_only
def test_memory_is_taken_once_and_given_back_in_the_end() -> None:
    faults, grown = run("kept")
    assert faults < 0.1 * run("given back")[0]
    assert grown < 32 << 20


def test_other_libraries_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tuning.ctypes, "CDLL", lambda _name: object())  # has no mallopt
    with torch_tuning.kept_memory():
        pass


def network_of(plans, architecture):
    torch.manual_seed(0)
    configuration = resolve_configuration(plans(architecture, (8, 16, 32)), "3d_fullres")
    return build_network(configuration, channels=1, labels=3, deep_supervision=True)


def step(network, taps=None):
    """Outputs, gradients and the number of values kept for the backward pass."""
    patch = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(patch)
    loss = sum(output.square().mean() for output in outputs)
    if taps is not None:
        loss = loss + sum(features.square().mean() for features in taps.take())
    loss.backward()
    return outputs, {name: parameter.grad for name, parameter in network.named_parameters()}, sum(kept.values())


def test_gradients_are_the_same_in_less_memory(plans, each_architecture):
    plain, checkpointed = (network_of(plans, each_architecture) for _ in range(2))
    checkpoint_stages(checkpointed)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    expected_outputs, expected, plain_kept = step(plain, EncoderTaps(plain))
    outputs, found, kept = step(checkpointed, EncoderTaps(checkpointed))
    torch.testing.assert_close(outputs, expected_outputs)
    torch.testing.assert_close(found, expected)
    assert kept < 0.6 * plain_kept


def test_without_gradients_nothing_is_recomputed(plans, each_architecture):
    network = network_of(plans, each_architecture)
    checkpoint_stages(network)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 1, 16, 16, 16))
    assert not any(output.requires_grad for output in outputs)
