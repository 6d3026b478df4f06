import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation import precision  # noqa: E402
from distillation.precision import training_dtype  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_what_is_asked_for_is_taken():
    for device in (CPU, GPU):
        assert training_dtype("float32", device) is torch.float32
        assert training_dtype("bfloat16", device) is torch.bfloat16


@pytest.mark.parametrize(("speed_up", "expected"), [(1.1, torch.float32), (2.0, torch.bfloat16)])
def test_a_cpu_is_measured(monkeypatch, speed_up, expected):
    monkeypatch.setattr(precision, "_bfloat16_speed_up", lambda: speed_up)
    assert training_dtype("auto", CPU) is expected


@pytest.mark.parametrize(("native", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_gpu_is_asked(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert training_dtype("auto", GPU) is expected
