import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.network_cost import Cost, count_flops, network_cost  # noqa: E402
from distillation.plans import scale_features  # noqa: E402

PAPER_FEATURES = [32, 64, 128, 256, 320, 320]


def paper_configuration(alpha, features=PAPER_FEATURES, blocks=(1, 3, 4, 6, 6, 6), patch=(160, 192, 160)):
    """ResEnc-L as in the paper; see reference: 111 outputs, patch of 4,915,200 voxels."""
    stages = len(features)
    return {
        "patch_size": list(patch),
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": scale_features(features, alpha),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * stages,
                "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
                "n_blocks_per_stage": list(blocks),
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


@pytest.mark.parametrize(
    ("alpha", "parameters", "gigaflops", "printed"),
    [
        (1.0, 102_437_515, 3397.12, 3364.88),
        (0.5, 25_642_587, 860.13, 853.28),
        (0.25, 6_427_459, 220.46, 219.35),
    ],
)
def test_the_papers_networks(alpha, parameters, gigaflops, printed):
    cost = network_cost(paper_configuration(alpha), channels=1, labels=111)
    assert cost.parameters == parameters
    assert round(cost.flops / 1e9, 2) == gigaflops
    assert round(cost.paper_flops / 1e9, 2) == printed


@pytest.mark.parametrize(("alpha", "parameters"), [(1.0, 141_411_028), (0.5, 35_370_388), (0.25, 8_851_444)])
def test_the_papers_networks_for_btcv(alpha, parameters):
    features, blocks = [*PAPER_FEATURES, 320], (1, 3, 4, 6, 6, 6, 6)
    configuration = paper_configuration(alpha, features, blocks, patch=(80, 256, 256))
    arguments = configuration["architecture"]["arch_kwargs"]
    # thick slices: nnU-Net plans flat kernels at first, and no pooling along z at first and, with 80 voxels, at last
    arguments["kernel_sizes"][0] = [1, 3, 3]
    arguments["strides"][1] = arguments["strides"][6] = [1, 2, 2]
    assert network_cost(configuration, channels=1, labels=14).parameters == parameters


def test_hand_counted_convolutions():
    network = torch.nn.Sequential(
        torch.nn.Conv3d(2, 3, 3, padding=1),  # 4*4*4 voxels * 2*27*3
        torch.nn.Conv3d(3, 5, 2, stride=2),  # 2*2*2 voxels * 3*8*5
        torch.nn.InstanceNorm3d(5, affine=True),
        torch.nn.ConvTranspose3d(5, 2, 2, stride=2),  # 2*2*2 input voxels * 5*8*2
    )
    flops = 2 * (64 * 2 * 27 * 3 + 8 * 3 * 8 * 5 + 8 * 5 * 8 * 2)
    assert count_flops(network, torch.zeros(1, 2, 4, 4, 4)) == flops


def test_takes_no_memory_and_no_seed(plans):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    cost = network_cost(plans()["configurations"]["3d_fullres"], channels=1, labels=3)
    assert isinstance(cost, Cost)
    assert torch.rand(1) == expected
