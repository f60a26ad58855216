from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.convnext import convnext
from tests.workloads.networks.oracle import (
    count,
    layers_of_module,
    layers_of_network,
    macs,
    values,
    weights,
)


class ChannelNorm(nn.Module):
    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()


class Block(nn.Module):
    """Figure 4 of the paper: 7x7 depthwise, LN, 1x1 to four times, GELU, 1x1 back; scale, sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, 1, 3, groups=dim)
        self.norm = ChannelNorm()
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.randn(dim))

    def forward(self, x):
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pwconv2(F.gelu(self.pwconv1(y))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class TorchConvNeXt(nn.Module):
    def __init__(self, dims, depths, channels=3, classes=1000) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(channels, dims[0], 4, 4), ChannelNorm())
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in pairwise(dims):
            layer = nn.Sequential(ChannelNorm(), nn.Conv2d(before, after, 2, 2))
            self.downsample_layers.append(layer)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim) for _ in range(depth)))
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = ChannelNorm()
        self.head = nn.Linear(dims[-1], classes)

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((2, 3))))


# Section 3.1 of the paper: ConvNeXt-L: C = (192, 384, 768, 1536), B = (3, 3, 27, 3).
LARGE = (192, 384, 768, 1536), (3, 3, 27, 3)


@pytest.mark.parametrize(
    ("network", "arguments", "image"),
    [
        (load_workload("convnext-l"), LARGE, (3, 224, 224)),
        # Odd maps, of which the strided convolutions leave something over.
        (convnext((1, 2, 1), 4, 61, 2, 7), ((4, 8, 16), (1, 2, 1), 2, 7), (2, 61, 61)),
    ],
)
def test_layers_are_those_torch_runs(network, arguments, image):
    with torch.device("meta"):
        expected = layers_of_module(TorchConvNeXt(*arguments), torch.empty(1, *image))
    assert layers_of_network(network) == expected


def test_convnext_l_counts_that_the_literature_gives():
    # source: timm 1.0.31 (convnext_large) and transformers 5.23.0 (ConvNext): 40 convolutions of
    # 1,065,512,448 MACs, 73 linear layers of 33,295,921,152, 197,767,336 parameters.
    network = load_workload("convnext-l")
    assert count(network, "conv", "depthwise") == 40
    assert count(network, "depthwise") == 36
    assert count(network, "linear") == 73
    assert macs(network, "conv") == 1_065_512_448
    assert macs(network, "linear") == 33_295_921_152
    # source: table 1 of the paper: 34.4 G at 224, 198 M parameters.
    assert f"{network.macs / 1e9:.1f}" == "34.4"
    biases = sum(layer.G * layer.K for layer in network.layers)
    # Two per channel of a normalisation, one of a scale.
    host = {"layer_norm": 2, "mul": 1, "gelu": 0}
    rest = sum(
        host[node.function] * network.shape(node.name)[3]
        for node in network.nodes
        if node.op == "host"
    )
    assert weights(network) + biases + rest == 197_767_336


def test_outputs_are_those_torch_computes():
    """Which tells where normalisation, activation, scale and sum stand."""
    torch.manual_seed(0)
    module = TorchConvNeXt((4, 8, 16), (1, 2, 1), 2, 5).double().eval()
    images = torch.randn(3, 2, 45, 45, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        found = values(convnext((1, 2, 1), 4, 45, 2, 5), module, images)["head"][:, 0, 0]
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_every_block_ends_in_a_sum():
    assert count(load_workload("convnext-l"), "add") == 3 + 3 + 27 + 3


def test_a_batch_has_as_many_macs_per_image():
    network = load_workload("convnext-l")
    assert network.batched(2).macs == 2 * network.macs


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match=r"'downsample_layers\.2\.1': H=1 must be at least 2"):
        convnext((1, 1, 1), 4, size=15)
    with pytest.raises(WorkloadError, match="out_channels=0 must be an int >= 1"):
        convnext((1,), 0)
