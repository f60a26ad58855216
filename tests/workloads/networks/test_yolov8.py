import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.yolov8 import SCALES, yolov8, yolov8_seg
from tests.workloads.networks.oracle import (
    count,
    layers_of_module,
    layers_of_network,
    macs,
    values,
    weights,
)

# source: ultralytics 8.4.190, cfg/models/v8/yolov8.yaml: from, repeats, module, channels.
TABLE = """
-1 1 Conv 64
-1 1 Conv 128
-1 3 C2f+ 128
-1 1 Conv 256
-1 6 C2f+ 256
-1 1 Conv 512
-1 6 C2f+ 512
-1 1 Conv 1024
-1 3 C2f+ 1024
-1 1 SPPF 1024
-1 1 Up 0
-1,6 1 Cat 0
-1 3 C2f 512
-1 1 Up 0
-1,4 1 Cat 0
-1 3 C2f 256
-1 1 Conv 256
-1,12 1 Cat 0
-1 3 C2f 512
-1 1 Conv 512
-1,9 1 Cat 0
-1 3 C2f 1024
"""
# From the same file: depth, width, most channels; and parameters, of the detector.
COMPOUND = {
    "n": (0.33, 0.25, 1024, 3_157_200),
    "s": (0.33, 0.50, 1024, 11_166_560),
    "m": (0.67, 0.75, 768, 25_902_640),
    "l": (1.00, 1.00, 512, 43_691_520),
    "x": (1.00, 1.25, 512, 68_229_648),
}
# source: ultralytics 8.4.190, its models run at 640 with every Conv2d and ConvTranspose2d counted.
DETECT = {
    "n": (64, 4_371_993_600),
    "s": (64, 14_301_312_000),
    "m": (84, 39_468_364_800),
    "l": (104, 82_574_259_200),
    "x": (104, 128_902_169_600),
}
SEGMENT = {  # convolutions, their MACs, the transposed one's, parameters
    "n": (76, 5_896_524_800, 104_857_600, 3_409_968),
    "s": (76, 19_623_654_400, 419_430_400, 11_821_056),
    "m": (96, 51_325_363_200, 943_718_400, 27_285_968),
    "l": (116, 103_518_745_600, 1_677_721_600, 45_997_728),
    "x": (116, 161_557_017_600, 2_621_440_000, 71_827_888),
}


class ConvSiLU(nn.Conv2d):
    def __init__(self, channels, out, kernel=1, stride=1) -> None:
        super().__init__(channels, out, kernel, stride, kernel // 2)

    def forward(self, x):
        return F.silu(super().forward(x))


class Pair(nn.Module):
    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = ConvSiLU(width, width, 3), ConvSiLU(width, width, 3), add

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    def __init__(self, channels: int, out: int, repeats: int, add: bool) -> None:
        super().__init__()
        self.cv1 = ConvSiLU(channels, out)
        self.m = nn.ModuleList(Pair(out // 2, add) for _ in range(repeats))
        self.cv2 = ConvSiLU(out + repeats * out // 2, out)

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for pair in self.m:
            parts.append(pair(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Spatial pyramid pooling by windows of 1, 5, 9 and 13, as the maxima of maxima equal."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvSiLU(channels, channels // 2), ConvSiLU(2 * channels, out)

    def forward(self, x):
        x = self.cv1(x)
        pooled = [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]
        return self.cv2(torch.cat([x, *pooled], 1))


class Proto(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvSiLU(channels, width, 3), ConvSiLU(width, width, 3)
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.cv3 = ConvSiLU(width, 32)

    def forward(self, x):
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Head(nn.Module):
    """A branch per kind of prediction and map; with ``proto`` channels, masks too."""

    def __init__(self, channels: list[int], classes: int, proto: int | None) -> None:
        super().__init__()
        widest = max(channels[0], min(classes, 100))
        self.cv2 = self.branches(channels, max(16, channels[0] // 4, 64), 64)
        self.cv3 = self.branches(channels, widest, classes)
        self.dfl = nn.Conv2d(16, 1, 1, bias=False)
        if proto is not None:
            self.cv4 = self.branches(channels, max(channels[0] // 4, 32), 32)
            self.proto = Proto(channels[0], proto)

    def branches(self, channels, width, out):
        return nn.ModuleList(
            nn.Sequential(
                ConvSiLU(c, width, 3), ConvSiLU(width, width, 3), nn.Conv2d(width, out, 1)
            )
            for c in channels
        )

    def forward(self, maps):
        def joined(branches):
            outs = [branch(x).flatten(2) for branch, x in zip(branches, maps, strict=True)]
            return torch.cat(outs, 2)

        sides = joined(self.cv2)
        bins = sides.view(len(sides), 4, 16, -1).transpose(1, 2)
        found = {"dfl": self.dfl(bins.softmax(1)), "scores": joined(self.cv3).sigmoid()}
        if hasattr(self, "proto"):
            found |= {"coefficients": joined(self.cv4), "prototypes": self.proto(maps[0])}
        return found


class TorchYolo(nn.Module):
    def __init__(self, scale: str, masks: bool, channels=3, classes=80) -> None:
        super().__init__()
        depth, width, most, _ = COMPOUND[scale]

        def eights(c):
            return math.ceil(min(c, most) * width / 8) * 8

        self.model = nn.ModuleList()
        self.sources, widths = [], []
        for line in TABLE.split("\n")[1:-1]:
            froms, repeats, kind, size = line.split()
            out, n = eights(int(size)), max(round(int(repeats) * depth), 1)
            if int(repeats) == 1:
                n = 1
            read = [int(f) if f != "-1" else len(widths) - 1 for f in froms.split(",")]
            into = sum(widths[i] for i in read) if widths else channels
            match kind:
                case "Conv":
                    layer = ConvSiLU(into, out, 3, 2)
                case "C2f" | "C2f+":
                    layer = C2f(into, out, n, kind == "C2f+")
                case "SPPF":
                    layer = Pyramid(into, out)
                case _:
                    layer, out = (
                        nn.Upsample(scale_factor=2) if kind == "Up" else nn.Identity(),
                        into,
                    )
            self.model.append(layer)
            self.sources.append(read)
            widths.append(out)
        proto = eights(256) if masks else None
        self.model.append(Head([widths[i] for i in (15, 18, 21)], classes, proto))

    def forward(self, x):
        maps = []
        for layer, read in zip(self.model, self.sources, strict=False):
            x = torch.cat([maps[i] for i in read], 1) if maps else x
            maps.append(x := layer(x))
        return self.model[-1]([maps[i] for i in (15, 18, 21)])


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_layers_are_those_torch_runs(scale, masks):
    network = load_workload(f"yolov8{scale}-seg" if masks else f"yolov8{scale}")
    with torch.device("meta"):
        expected = layers_of_module(TorchYolo(scale, masks), torch.empty(1, 3, 640, 640))
    ours = layers_of_network(network)
    assert ours == expected
    assert len(ours) == (SEGMENT[scale][0] + 1 if masks else DETECT[scale][0])


def test_other_sizes_and_classes_are_those_torch_runs():
    # More classes than 100, and fewer than the finest map has channels.
    for classes in (300, 3):
        with torch.device("meta"):
            expected = layers_of_module(TorchYolo("n", True, 2, classes), torch.empty(1, 2, 96, 96))
        assert layers_of_network(yolov8_seg("n", 96, 2, classes)) == expected


@pytest.mark.parametrize("scale", SCALES)
def test_detectors_have_the_counts_of_ultralytics(scale):
    network = load_workload(f"yolov8{scale}")
    convolutions, expected = DETECT[scale]
    assert count(network, "conv") == convolutions
    assert macs(network, "conv") == network.macs == expected
    assert weights(network) + other_parameters(network) == COMPOUND[scale][3]
    assert network.shape("outputs") == (1, 1, 1, 8400 * (4 + 80))


@pytest.mark.parametrize("scale", SCALES)
def test_segmenters_have_the_counts_of_ultralytics(scale):
    network = load_workload(f"yolov8{scale}-seg")
    convolutions, expected, transposed, parameters = SEGMENT[scale]
    assert count(network, "conv") == convolutions
    assert macs(network, "conv") == expected
    assert macs(network, "transposed") == transposed
    assert weights(network) + other_parameters(network) == parameters
    assert network.shape("outputs") == (1, 1, 1, 8400 * (4 + 80 + 32) + 160 * 160 * 32)


def other_parameters(network):
    """Two per channel that is normalised, one bias per other output, none of the fixed weights."""
    normalised = {node.inputs[0] for node in network.nodes if node.function == "silu"}
    total = 0
    for node in network.nodes:
        if node.op == "transposed":
            total += node.layer.K // 4
        elif node.op == "conv" and not node.name.endswith("dfl"):
            total += node.layer.K * (2 if node.name in normalised else 1)
    return total


def test_outputs_are_those_torch_computes():
    """Which tells the order of concatenations, the halves, and where sums and activations stand.

    The coarsest map has 5 x 5 pixels: windows of 5 and of 9 differ there.
    """
    torch.manual_seed(0)
    module = TorchYolo("m", True, 2, 5).double().eval()
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.weight.data *= 3
    images = torch.randn(2, 2, 160, 160, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        found = values(yolov8_seg("m", 160, 2, 5), module, images)
    ours = {
        "dfl": found["model.22.dfl"].permute(0, 3, 1, 2),
        "scores": found["model.22.scores"][:, :, 0].mT,
        "coefficients": found["model.22.cv4.tokens"][:, :, 0].mT,
        "prototypes": found["model.22.proto.cv3.silu"].permute(0, 3, 1, 2),
    }
    for name, tensor in expected.items():
        assert tensor.std(0).mean() > 0.001, name
        error = (ours[name] - tensor).abs().max()
        assert error < 1e-9 * tensor.std(), name


def test_residual_and_concatenated_edges_are_nodes():
    network = load_workload("yolov8n")
    # Residual sums in the backbone's C2f alone: 1 + 2 + 2 + 1; joins in 8 C2f, SPPF and 4 levels.
    assert count(network, "add") == 6
    assert count(network, "concat") == 8 + 1 + 4
    joins = {node.name: node.inputs for node in network.nodes if node.op == "concat"}
    assert joins["model.11"] == ("model.10", "model.6.cv2.silu")
    assert joins["model.20"] == ("model.19.silu", "model.9.cv2.silu")


@pytest.mark.parametrize("make", [yolov8, yolov8_seg])
def test_outputs_come_last_and_a_batch_has_as_many_macs_per_image(make):
    network = make("n")
    last = network.nodes[-1]
    assert (last.name, last.op) == ("outputs", "host")
    batch = network.batched(2)
    assert batch.macs == 2 * network.macs
    assert batch.shape("outputs") == (2, *network.shape("outputs")[1:])


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="yolov8: scale='z' must be one of n, s, m, l, x"):
        yolov8("z")
    with pytest.raises(WorkloadError, match="yolov8-seg: size=650 must be a multiple of 32"):
        yolov8_seg("n", size=650)
    with pytest.raises(WorkloadError, match="classes=0 must be an int >= 1"):
        yolov8("n", classes=0)
