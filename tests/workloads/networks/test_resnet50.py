import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.resnet import resnet50
from tests.workloads.networks.oracle import (
    count,
    layers_of_module,
    layers_of_network,
    macs,
    values,
    weights,
)


class Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1)
        self.conv3 = nn.Conv2d(width, width * 4, 1)
        same = stride == 1 and channels == width * 4
        self.downsample = nn.Identity() if same else nn.Conv2d(channels, width * 4, 1, stride)

    def forward(self, x):
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class TorchResNet50(nn.Module):
    """Table 1 of the paper, column 50-layer, with the stride where torchvision has it."""

    def __init__(self, width=64, channels=3, classes=1000, small=False) -> None:
        super().__init__()
        stride = 1 if small else 2
        self.small = small
        self.conv1 = nn.Conv2d(channels, width, 3 if small else 7, stride, 1 if small else 3)
        self.layer1 = self.stage(width, width, 3, 1)
        self.layer2 = self.stage(4 * width, 2 * width, 4, 2)
        self.layer3 = self.stage(8 * width, 4 * width, 6, 2)
        self.layer4 = self.stage(16 * width, 8 * width, 3, 2)
        self.fc = nn.Linear(32 * width, classes)

    def stage(self, channels, width, blocks, stride):
        more = [Block(4 * width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(channels, width, stride), *more)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = x if self.small else F.max_pool2d(x, 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "arguments", "image"),
    [
        (load_workload("resnet50"), (), (3, 224, 224)),
        # Odd maps, at which each kernel, stride and padding gives another size.
        (resnet50(8, 91, 2, 7), (8, 2, 7), (2, 91, 91)),
        (resnet50(4, 28, 1, 10, "small"), (4, 1, 10, True), (1, 28, 28)),
    ],
)
def test_layers_are_those_torch_runs(network, arguments, image):
    with torch.device("meta"):
        expected = layers_of_module(TorchResNet50(*arguments), torch.empty(1, *image))
    assert layers_of_network(network) == expected


def test_resnet50_counts_that_the_literature_gives():
    # source: timm 1.0.31 (resnet50) and transformers 5.23.0 (ResNet, downsample_in_bottleneck off):
    # 53 convolutions of 4,087,136,256 MACs, a classifier of 2,048,000, 25,557,032 parameters.
    network = load_workload("resnet50")
    assert count(network, "conv") == 53
    assert macs(network, "conv") == 4_087_136_256
    assert macs(network, "linear") == 2_048_000
    # source: torchvision's documentation of resnet50: 4.09 GFLOPS, classifier included.
    assert f"{network.macs / 1e9:.2f}" == "4.09"
    channels = sum(node.layer.K for node in network.nodes if node.op == "conv")
    assert weights(network) + 2 * channels + 1000 == 25_557_032


def test_outputs_are_those_torch_computes():
    """Which tells where the ReLUs and the shortcuts stand."""
    torch.manual_seed(0)
    module = TorchResNet50(4, 2, 5).double().eval()
    images = torch.randn(3, 2, 43, 43, dtype=torch.double)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data *= 2
    with torch.no_grad():
        expected = module(images)
        found = values(resnet50(4, 43, 2, 5), module, images)["fc"][:, 0, 0]
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_each_of_16_sums_takes_the_block_and_its_shortcut():
    network = load_workload("resnet50")
    sums = {node.name: node.inputs for node in network.nodes if node.op == "add"}
    assert len(sums) == 16
    projected = {name for name, read in sums.items() if read[1].endswith("downsample")}
    assert projected == {f"layer{stage}.0.add" for stage in (1, 2, 3, 4)}
    assert sums["layer3.2.add"] == ("layer3.2.conv3", "layer3.1.relu3")


def test_a_batch_has_as_many_macs_per_image():
    network = load_workload("resnet50")
    assert network.batched(2).macs == 2 * network.macs


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="resnet50: stem='large' must be 'imagenet' or 'small'"):
        resnet50(stem="large")
    with pytest.raises(WorkloadError, match="layer 'conv1': out_channels=0 must be an int >= 1"):
        resnet50(width=0)
