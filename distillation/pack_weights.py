"""A pack's weights back in a torch network: to go on training from a shipped pack, or to let it teach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from KDSegmentatorLib.errors import TeacherError

if TYPE_CHECKING:
    from KDSegmentatorLib.packs.pack import StudentPack

_KERNEL_SUFFIX = ".float16"
_NORMALIZATION = "normalization"
_LEAST_AGREEMENT = 0.995
"""Share of the probe's voxels that have to get the label that the pack gives them."""


def load_pack_weights(network: nn.Module, pack: StudentPack) -> None:
    """Put a pack's weights into the network that it was exported from, checked with the pack's own probe.

    The heads of deep supervision, which a pack does not hold, stay as they are.

    Args:
        network: as nnU-Net builds it from the plans, at the pack's width.
        pack: its kernels are stored in half precision, and come back rounded so.

    Raises:
        TeacherError: the network is another one.
    """
    import onnx
    from onnx import numpy_helper

    stored = {
        initializer.name.removesuffix(_KERNEL_SUFFIX): numpy_helper.to_array(initializer)
        for initializer in onnx.load(pack.folder / pack.manifest.network.body).graph.initializer
    }
    wanted: dict[str, torch.Tensor] = {}
    numbers = sorted(int(name[len(_NORMALIZATION) :].split(".")[0]) for name in stored if name.endswith(".scale"))
    norms = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.InstanceNorm3d) and not name.startswith("decoder.encoder")
    ]
    if len(numbers) != len(norms):
        raise _other_network(pack, f"it has {len(numbers)} normalisations and the network of the plans {len(norms)}")
    for number, norm in zip(numbers, norms, strict=True):
        wanted[f"{norm}.weight"] = torch.from_numpy(stored[f"{_NORMALIZATION}{number}.scale"].copy()).flatten()
        wanted[f"{norm}.bias"] = torch.from_numpy(stored[f"{_NORMALIZATION}{number}.bias"].copy()).flatten()
    kernels = {name: values for name, values in stored.items() if not name.startswith(_NORMALIZATION)}
    wanted |= {name: torch.from_numpy(values.astype(np.float32)) for name, values in kernels.items()}
    last = len(network.decoder.seg_layers) - 1  # type: ignore[union-attr, arg-type]
    head = pack.head()
    wanted[f"decoder.seg_layers.{last}.weight"] = torch.from_numpy(head.weight.copy())[:, :, None, None, None]
    wanted[f"decoder.seg_layers.{last}.bias"] = torch.from_numpy(head.bias.copy())
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, values in wanted.items():
            if name not in parameters or parameters[name].shape != values.shape:
                raise _other_network(pack, f"{name} does not fit the network of the plans")
            parameters[name].copy_(values)
    _check_with_probe(network, pack)


def _check_with_probe(network: nn.Module, pack: StudentPack) -> None:
    probe = pack.probe()
    if probe is None:
        return
    labels = torch.from_numpy(probe.labels.astype(np.int64))
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        output = network(torch.from_numpy(probe.window).to(next(network.parameters()).device))
    network.train(was_training)
    logits = output if isinstance(output, torch.Tensor) else output[0]
    agreement = (logits.argmax(1)[0].cpu() == labels).float().mean().item()
    if agreement < _LEAST_AGREEMENT:
        raise _other_network(pack, f"{1 - agreement:.1%} of its probe's voxels would get another label")


def _other_network(pack: StudentPack, why: str) -> TeacherError:
    return TeacherError(
        f"the weights of {pack.folder} belong to another network: {why}. Take the recipe that the pack was made with"
    )
