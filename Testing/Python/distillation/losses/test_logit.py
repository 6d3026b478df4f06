import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses import term as voxel_rows  # noqa: E402
from distillation.losses.logit import LogitLoss, head_weights  # noqa: E402
from distillation.losses.term import Signals  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError  # noqa: E402


def reference(student, teacher, temperature):
    """The equation in float64: sum over classes, mean over voxels."""

    def log_softmax(z):
        z = z.astype(np.float64) / temperature
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    s, t = log_softmax(student), log_softmax(teacher)
    kl = (np.exp(t) * (t - s)).sum(axis=1)
    return temperature**2 * kl.mean()


def divergence(temperature=2.0):
    return LogitLoss(weight=1.0, temperature=temperature).divergence


def random_logits(shape=(2, 5, 3, 4, 2), seed=0, scale=3.0):
    random = np.random.default_rng(seed)
    return random.normal(0, scale, shape).astype(np.float32), random.normal(0, scale, shape).astype(np.float32)


def test_hand_computed_value():
    # p_T = (3/4, 1/4), p_S = (1/2, 1/2) at tau = 2: 4 (3/4 ln 3/2 + 1/4 ln 1/2) = 4 * 0.130812...
    teacher = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1, 1)
    student = torch.zeros(1, 2, 1, 1, 1)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert divergence(2.0)(student, teacher).item() == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.5232481, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_is_the_equation(temperature):
    student, teacher = random_logits()
    loss = divergence(temperature)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(reference(student, teacher, temperature), rel=1e-5)


def test_equal_logits_and_shifted_logits_give_zero():
    student, _ = random_logits()
    logits = torch.from_numpy(student)
    assert divergence()(logits, logits).item() == pytest.approx(0, abs=1e-6)
    assert divergence()(logits, logits + 7).item() == pytest.approx(0, abs=1e-5)


def test_gradient_is_the_closed_form_and_the_finite_difference():
    # dL/dz_S = tau (p_S - p_T) / voxels
    temperature = 3.0
    student, teacher = random_logits((1, 4, 2, 2, 2))
    z = torch.from_numpy(student).requires_grad_()
    divergence(temperature)(z, torch.from_numpy(teacher)).backward()
    p_s = torch.softmax(torch.from_numpy(student).double() / temperature, 1)
    p_t = torch.softmax(torch.from_numpy(teacher).double() / temperature, 1)
    closed = temperature * (p_s - p_t) / 8
    torch.testing.assert_close(z.grad.double(), closed, atol=1e-6, rtol=1e-4)
    step = 1e-5
    for index in [(0, 0, 0, 0, 0), (0, 2, 1, 0, 1), (0, 3, 1, 1, 1)]:
        up, down = student.astype(np.float64), student.astype(np.float64)
        up[index] += step
        down[index] -= step
        slope = (reference(up, teacher, temperature) - reference(down, teacher, temperature)) / (2 * step)
        assert z.grad[index].item() == pytest.approx(slope, abs=1e-6)


def standardized_reference(student, teacher, temperature):
    """Sun et al.'s equation in float64: z-scores over the classes before the temperature."""

    def z_scores(z):
        z = z.astype(np.float64)
        return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)

    return reference(z_scores(student), z_scores(teacher), temperature)


def standardized(temperature=1.0):
    return LogitLoss(weight=1.0, temperature=temperature, standardize=True).divergence


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [3, 5, 17])
def test_standardised_logits_are_the_equation_and_its_gradient(temperature, classes):
    shape = (2, classes, 2, 2, 2)
    student, teacher = random_logits(shape)
    z = torch.from_numpy(student).requires_grad_()
    loss = standardized(temperature)(z, torch.from_numpy(teacher))
    assert loss.item() == pytest.approx(standardized_reference(student, teacher, temperature), rel=1e-5)
    loss.backward()
    step = 1e-5
    for index in np.ndindex(2, classes, 1, 1, 2):
        up, down = student.astype(np.float64), student.astype(np.float64)
        up[index] += step
        down[index] -= step
        slope = standardized_reference(up, teacher, temperature) - standardized_reference(down, teacher, temperature)
        assert z.grad[index].item() == pytest.approx(slope / (2 * step), abs=1e-6)


def test_by_hand_three_standardised_classes():
    # (2, 0, -2) / sqrt(8/3) is (sqrt 3/2, 0, -sqrt 3/2), whatever it is times or plus
    teacher = torch.tensor([2.0, 0.0, -2.0]).view(1, 3, 1, 1, 1)
    student = 7 - 5 * teacher
    e = math.exp(math.sqrt(1.5))
    high, low = (share / (e + 1 + 1 / e) for share in (e, 1 / e))
    expected = high * math.log(high / low) + low * math.log(low / high)
    assert standardized()(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert standardized()(7 + 5 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_the_size_of_logits_counts_only_where_they_are_not_standardised():
    student, teacher = (torch.from_numpy(each) for each in random_logits())
    torch.testing.assert_close(standardized()(4 * student, teacher), standardized()(student, teacher))
    assert divergence(1.0)(4 * student, teacher) > 1.5 * divergence(1.0)(student, teacher)


def test_equal_logits_have_no_deviation_and_a_finite_gradient():
    student = torch.zeros(1, 4, 2, 2, 2, requires_grad=True)
    teacher = torch.from_numpy(random_logits((1, 4, 2, 2, 2))[1])
    standardized()(student, teacher).backward()
    assert torch.isfinite(student.grad).all()


def test_two_standardised_classes_are_refused():
    with pytest.raises(ValueError, match="they need three"):
        standardized()(torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1))


def some_labels(teacher, seed=1):
    """A label map of logits (batch, 5, *spatial) that is the teacher's in about half of the voxels."""
    random = np.random.default_rng(seed)
    labels = np.asarray(teacher).argmax(axis=1)[:, None]
    return torch.from_numpy((labels + random.integers(0, 2, labels.shape)) % 5)


given_labels = pytest.mark.parametrize("labels_of", [lambda _: None, some_labels], ids=["everywhere", "where correct"])


@given_labels
@pytest.mark.parametrize("chunk", [1, 5, 24, 48, 1000])
@pytest.mark.parametrize("loss_of", [divergence, standardized])
def test_chunks_change_neither_value_nor_gradient(chunk, labels_of, loss_of, monkeypatch):
    student, teacher = random_logits()
    results = []
    for size in (chunk, 1 << 20):
        z = torch.from_numpy(student).requires_grad_()
        monkeypatch.setattr(voxel_rows, "CHUNK_VALUES", size)
        loss = loss_of(2.0)(z, torch.from_numpy(teacher), labels_of(teacher))
        loss.backward()
        results.append((loss.detach(), z.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_does_not_depend_on_the_number_of_voxels_or_patches():
    student, teacher = (torch.from_numpy(each) for each in random_logits((1, 5, 2, 2, 2)))
    once = divergence()(student, teacher)
    torch.testing.assert_close(divergence()(student.repeat(3, 1, 2, 2, 2), teacher.repeat(3, 1, 2, 2, 2)), once)


def test_is_not_divided_by_the_number_of_classes():
    # classes that have no probability in either network must not change the loss; reduction="mean" would
    student, teacher = (torch.from_numpy(each) for each in random_logits((1, 3, 2, 2, 2)))
    nobody = torch.full((1, 97, 2, 2, 2), -1e4)
    once = divergence()(student, teacher)
    padded = divergence()(torch.cat([student, nobody], 1), torch.cat([teacher, nobody], 1))
    torch.testing.assert_close(padded, once)


def test_is_neither_torchs_mean_nor_its_batchmean():
    student, teacher = (torch.from_numpy(each) for each in random_logits((2, 5, 3, 4, 2)))
    log_s, log_t = (torch.log_softmax(each / 2, 1) for each in (student, teacher))
    mean = 4 * torch.nn.functional.kl_div(log_s, log_t, reduction="mean", log_target=True)
    batchmean = 4 * torch.nn.functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    loss = divergence(2.0)(student, teacher)
    torch.testing.assert_close(loss, mean * 5)
    torch.testing.assert_close(loss, batchmean / 24)


def test_bfloat16_logits_are_computed_in_float32():
    student, teacher = (torch.from_numpy(each).bfloat16() for each in random_logits(scale=8.0))
    loss = divergence()(student, teacher)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(reference(student.float().numpy(), teacher.float().numpy(), 2.0), rel=1e-5)


def test_bfloat16_autocast_does_not_touch_it():
    student, teacher = (torch.from_numpy(each) for each in random_logits())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = divergence()(student, teacher)
    assert loss.item() == pytest.approx(reference(student.numpy(), teacher.numpy(), 2.0), rel=1e-5)


def test_no_gradient_reaches_the_teacher():
    student, teacher = (torch.from_numpy(each).requires_grad_() for each in random_logits())
    divergence()(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_rare_classes_and_large_logits_stay_finite():
    student = torch.tensor([0.0, 80.0, -80.0]).view(1, 3, 1, 1, 1).requires_grad_()
    teacher = torch.tensor([90.0, -90.0, 0.0]).view(1, 3, 1, 1, 1)
    loss = divergence(0.5)(student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 2, 2\).*\(1, 4, 2, 2, 2\)"):
        divergence()(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 4, 2, 2, 2))


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(InvalidSettingsError, match="temperature"):
        LogitLoss(weight=1.0, temperature=temperature)


@given_labels
def test_gradcheck(labels_of, monkeypatch):
    monkeypatch.setattr(voxel_rows, "CHUNK_VALUES", 25)
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 3, 2, 2, dtype=torch.float64, generator=random) for _ in range(2))
    labels = labels_of(teacher)
    assert torch.autograd.gradcheck(lambda z: divergence(1.7)(z, teacher, labels), student.requires_grad_())


def test_the_gradient_is_scaled_by_what_comes_in():
    student, teacher = (torch.from_numpy(each) for each in random_logits())
    z = student.clone().requires_grad_()
    (3 * divergence()(z, teacher)).backward()
    once = student.clone().requires_grad_()
    divergence()(once, teacher).backward()
    torch.testing.assert_close(z.grad, 3 * once.grad)


@given_labels
def test_memory_layout_does_not_matter(labels_of):
    student, teacher = (torch.from_numpy(each) for each in random_logits())
    labels = labels_of(teacher)
    last = student.to(memory_format=torch.channels_last_3d).requires_grad_()
    loss = divergence()(last, teacher, labels)
    loss.backward()
    plain = student.clone().requires_grad_()
    expected = divergence()(plain, teacher, labels)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(last.grad, plain.grad)


@pytest.mark.parametrize(
    "labels", [None, torch.zeros(1, 1, 8, 4, 4, dtype=torch.int16)], ids=["everywhere", "where correct"]
)
def test_beyond_the_logits_there_is_room_for_their_gradient_and_one_chunk(labels, monkeypatch):
    """111 classes on a 160x192x160 patch are 2.2 GB: one more tensor of that size would be too many."""
    monkeypatch.setattr(voxel_rows, "CHUNK_VALUES", 111 * 16)
    student = torch.randn(1, 111, 8, 4, 4).requires_grad_()
    teacher = torch.randn(1, 111, 8, 4, 4)
    kept = []
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda each: kept.append(each.data_ptr()) or each, lambda each: each
    )
    with keep, NewTensors() as made:
        loss = divergence()(student, teacher, labels)
    known = [student, teacher] if labels is None else [student, teacher, labels]
    assert sorted(kept) == sorted(each.data_ptr() for each in known)
    assert max(made.sizes) <= 111 * 16
    with NewTensors() as made:
        loss.backward()
    assert sorted(made.sizes)[-1] == student.numel()
    assert sorted(made.sizes)[-2] <= 111 * 16


class NewTensors(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the number of elements of every tensor that an operation makes; views are none."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        known = {each.untyped_storage().data_ptr() for each in arguments if isinstance(each, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.sizes.append(result.numel())
        return result


def test_voxels_that_the_teacher_labels_wrongly_count_nothing():
    student, teacher = random_logits((2, 5, 3, 4, 2))
    labels = teacher.argmax(axis=1)[:, None]
    wrong = np.random.default_rng(1).random(labels.shape) < 0.4
    labels = np.where(wrong, (labels + 1) % 5, labels)
    labels[0, 0, 0, 0, 0] = 5  # the ignore label
    wrong[0, 0, 0, 0, 0] = True
    z = torch.from_numpy(student).requires_grad_()
    loss = divergence()(z, torch.from_numpy(teacher), torch.from_numpy(labels))
    loss.backward()
    everywhere = torch.from_numpy(student).requires_grad_()
    divergence()(everywhere, torch.from_numpy(teacher)).backward()
    right = np.broadcast_to(~wrong, student.shape)
    assert not z.grad.numpy()[~right].any()
    np.testing.assert_array_equal(z.grad.numpy()[right], everywhere.grad.numpy()[right])
    apart = [
        reference(student[n, :, i, j, k][None], teacher[n, :, i, j, k][None], 2.0)
        for n, _, i, j, k in np.argwhere(~wrong)
    ]
    assert loss.item() == pytest.approx(sum(apart) / wrong.size, rel=1e-5)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_correct_only_asks_the_reference_at_each_resolution(deep_supervision):
    student, teacher = Signals(heads=heads_of(0, 1, 2)), Signals(heads=heads_of(3, 4, 5))
    right = [heads.argmax(1, keepdim=True) for heads in teacher.heads]
    wrong = [(labels + 1) % 5 for labels in right]
    loss = LogitLoss(weight=1.0, temperature=2.0, correct_only=True, deep_supervision=deep_supervision)
    all_voxels = LogitLoss(weight=1.0, temperature=2.0, deep_supervision=deep_supervision)
    nothing = torch.nn.ModuleList()
    torch.testing.assert_close(loss(student, teacher, right, nothing), all_voxels(student, teacher, wrong, nothing))
    assert loss(student, teacher, wrong, nothing).item() == 0
    lower_only = loss(student, teacher, [wrong[0], right[1], wrong[2]], nothing)
    expected = divergence()(student.heads[1], teacher.heads[1]) / 3 if deep_supervision else torch.tensor(0.0)
    torch.testing.assert_close(lower_only, expected)


@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 2), (2, 5, 3, 4, 2), (2, 3, 4, 2), (2, 1, 6, 8, 4), (1, 1, 1, 1, 1)])
def test_labels_of_another_shape_are_refused(shape):
    student, teacher = (torch.from_numpy(each) for each in random_logits())
    with pytest.raises(ValueError, match="labels of shape"):
        divergence()(student, teacher, torch.zeros(shape))


@pytest.mark.parametrize("teachers", [(3, 4), (3, 4, 5, 6)])
def test_other_numbers_of_heads_are_refused(teachers):
    student = Signals(heads=heads_of(0, 1, 2))
    teacher = Signals(heads=heads_of(*teachers))
    loss = LogitLoss(weight=1.0, temperature=2.0, deep_supervision=True)
    with pytest.raises(ValueError, match=f"3 heads and the teacher {len(teachers)}"):
        loss(student, teacher, [], torch.nn.ModuleList())


def heads_of(*seeds):
    return [torch.from_numpy(random_logits((2, 5, 8 >> n, 8 >> n, 8 >> n), seed)[0]) for n, seed in enumerate(seeds)]


def test_deep_supervision_heads_have_nnunets_weights():
    assert head_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert head_weights(1) == [1.0]
    student, teacher = Signals(heads=heads_of(0, 1, 2)), Signals(heads=heads_of(3, 4, 5))
    loss = LogitLoss(weight=1.0, temperature=2.0, deep_supervision=True)
    assert loss.uses_all_heads
    one, two = (divergence(2.0)(student.heads[n], teacher.heads[n]) for n in (0, 1))
    torch.testing.assert_close(loss(student, teacher, [], torch.nn.ModuleList()), one * 2 / 3 + two / 3)


def test_without_deep_supervision_the_full_resolution_counts_alone():
    student, teacher = Signals(heads=heads_of(0, 1, 2)), Signals(heads=heads_of(3, 4, 5)[:1])
    loss = LogitLoss(weight=1.0, temperature=2.0)
    assert not loss.uses_all_heads
    expected = divergence(2.0)(student.heads[0], teacher.heads[0])
    torch.testing.assert_close(loss(student, teacher, [], torch.nn.ModuleList()), expected)
