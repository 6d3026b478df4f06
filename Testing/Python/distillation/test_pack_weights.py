import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install kdsegmentator[distill]")
pytest.importorskip("nnunetv2", reason="needs nnU-Net: pip install kdsegmentator[distill]")

from pathlib import Path  # noqa: E402

from distillation.pack_weights import load_pack_weights  # noqa: E402
from distillation.teacher import build_network  # noqa: E402
from KDSegmentatorLib.errors import TeacherError  # noqa: E402
from KDSegmentatorLib.packs.pack import open_pack  # noqa: E402

PACKS = Path(__file__).parents[3] / "Resources" / "Packs"


def configuration(features):
    """Of the hippocampus family, as nnU-Net plans it."""
    stages = len(features)
    return {
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": features,
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * stages,
                "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }


def test_a_shipped_pack_gives_its_probes_labels_in_torch():
    pack = open_pack(PACKS / "hippocampus-x1_4")
    network = build_network(configuration([8, 16, 32, 64]), channels=1, labels=3, deep_supervision=True)
    load_pack_weights(network, pack)
    probe = pack.probe()
    with torch.inference_mode():
        labels = network.eval()(torch.from_numpy(probe.window))[0].argmax(1)[0].numpy()
    assert (labels == probe.labels).mean() > 0.999
    assert set(labels.ravel()) == {0, 1, 2}


@pytest.mark.parametrize("features", [[8, 16, 32, 32], [8, 16, 32]])
def test_weights_of_another_network_are_refused(features):
    network = build_network(configuration(features), channels=1, labels=3, deep_supervision=True)
    with pytest.raises(TeacherError, match="belong to another network"):
        load_pack_weights(network, open_pack(PACKS / "hippocampus-x1_4"))
