import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.mobilenet import mobilenetv2
from tests.workloads.networks.oracle import (
    count,
    layers_of_module,
    layers_of_network,
    macs,
    values,
    weights,
)


class Attention(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding="same", bias=False)

    def forward(self, x):
        squeezed = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return x * torch.sigmoid(self.conv(squeezed[:, None]))[:, 0, :, None, None]


class Bottleneck(nn.Module):
    """Table 1 of the paper: k -> tk -> tk -> k', where k -> tk is left out for t = 1."""

    def __init__(self, k: int, t: int, out: int, s: int, eca: int | None) -> None:
        super().__init__()
        if t != 1:
            self.expand = nn.Conv2d(k, t * k, 1)
        self.depthwise = nn.Conv2d(t * k, t * k, 3, s, 1, groups=t * k)
        self.project = nn.Conv2d(t * k, out, 1)
        self.eca = nn.Identity() if eca is None else Attention(eca)
        self.shortcut = s == 1 and k == out

    def forward(self, x):
        y = F.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = self.eca(self.project(F.relu6(self.depthwise(y))))
        return y + x if self.shortcut else y


class TorchMobileNetV2(nn.Module):
    def __init__(self, eca=True, channels=3, classes=1000, share=1.0) -> None:
        super().__init__()
        # Table 2 of the paper, bottleneck rows: t, c, n, s; and the attention's kernel in
        # ECANet/models/eca_mobilenetv2.py (github.com/BangguWu/ECANet at 5e1301c).
        rows = [(1, 16, 1, 1, 1), (6, 24, 2, 2, 1), (6, 32, 3, 2, 1), (6, 64, 4, 2, 1),
                (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)]  # fmt: skip
        width = round(32 * share)
        self.stem = nn.Conv2d(channels, width, 3, 2, 1)
        self.blocks = nn.Sequential()
        for t, c, n, s, kernel in rows:
            for i in range(n):
                out = round(c * share)
                block = Bottleneck(width, t, out, s if i == 0 else 1, kernel if eca else None)
                self.blocks.append(block)
                width = out
        self.head = nn.Conv2d(width, round(1280 * share), 1)
        self.fc = nn.Linear(round(1280 * share), classes)

    def forward(self, x):
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "arguments", "image"),
    [
        (load_workload("mobilenetv2-eca"), (), (3, 224, 224)),
        (mobilenetv2(eca=None), (False,), (3, 224, 224)),
        # Odd maps, at which each kernel, stride and padding gives another size.
        (mobilenetv2(width=12, size=75, channels=2, classes=7), (True, 2, 7, 0.375), (2, 75, 75)),
    ],
)
def test_layers_are_those_torch_runs(network, arguments, image):
    with torch.device("meta"):
        expected = layers_of_module(TorchMobileNetV2(*arguments), torch.empty(1, *image))
    assert layers_of_network(network) == expected


def test_mobilenetv2_counts_that_the_literature_gives():
    # source: timm 1.0.31 (mobilenetv2_100) and transformers 5.23.0 (MobileNetV2, tf_padding off):
    # 52 convolutions of 299,494,272 MACs, a classifier of 1,280,000, 3,504,872 parameters.
    network = mobilenetv2(eca=None)
    assert count(network, "conv", "depthwise") == 52
    assert count(network, "depthwise") == 17
    assert macs(network, "conv") == 299_494_272
    assert macs(network, "linear") == 1_280_000
    channels = sum(node.layer.G * node.layer.K for node in network.nodes if node.op == "conv")
    assert weights(network) + 2 * channels + 1000 == 3_504_872
    # source: figure of torchvision's documentation of mobilenet_v2.
    assert f"{network.macs / 1e9:.2f}" == "0.30"


def test_attention_adds_as_little_as_its_authors_say():
    plain, attending = mobilenetv2(eca=None), load_workload("mobilenetv2-eca")
    assert macs(attending, "conv") == macs(plain, "conv")
    assert count(attending, "conv1d") == 17
    # 10 blocks of kernel 1 below 96 channels, 7 of kernel 3 from there on.
    assert weights(attending) - weights(plain) == 10 * 1 + 7 * 3
    channels = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[3 * 96] * 3, *[3 * 160] * 3, 3 * 320]
    assert macs(attending, "conv1d") == sum(channels)
    # source: README of github.com/BangguWu/ECANet: 3.34 M parameters, M = 2^20 there.
    total = 3_504_872 + 31
    assert f"{total / 2**20:.2f}" == "3.34"


def test_outputs_are_those_torch_computes():
    """Which tells where activations, attention and shortcuts stand."""
    torch.manual_seed(0)
    module = TorchMobileNetV2(True, 2, 5, 0.25).double().eval()
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv1d):
            part.weight.data *= 2.5  # at torch's own scale the input is lost among the biases
    network = mobilenetv2(width=8, size=43, channels=2, classes=5)
    images = torch.randn(3, 2, 43, 43, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        found = values(network, module, images)["fc"][:, 0, 0]
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_batch_has_as_many_macs_per_image():
    network = load_workload("mobilenetv2-eca")
    assert network.batched(2).macs == 2 * network.macs


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="mobilenetv2: width=30 must be a multiple of 4"):
        mobilenetv2(width=30)
    with pytest.raises(WorkloadError, match="mobilenetv2: width=0 must be an int >= 1"):
        mobilenetv2(width=0)
    with pytest.raises(WorkloadError, match="layer 'fc': out_channels=0 must be an int >= 1"):
        mobilenetv2(classes=0)
