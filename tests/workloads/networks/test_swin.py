import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import Network, NetworkBuilder
from bfpsim.workloads.networks.swin import swin, swin_large
from tests.workloads.networks.reference import Product, layers_in_torch, layers_of, macs_of, map_of


class Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scores, self.mix = Product(), Product()

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        s = self.window
        windows = F.pad(x, (0, 0, 0, -w % s, 0, -h % s))
        windows = windows.unfold(1, s, s).unfold(2, s, s)  # N, rows, columns, channels, s, s
        windows = windows.flatten(4).transpose(3, 4).flatten(0, 2)
        q, k, v = self.qkv(windows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.mix(self.scores(q, k.transpose(2, 3)), v).transpose(1, 2).flatten(2)
        assert self.proj(mixed).shape == windows.shape
        return x + self.down(self.up(x))


class TorchSwin(nn.Module):
    def __init__(self, width, depths, heads, window) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            c = width << stage
            self.stages.append(nn.Sequential(*(Block(c, count, window) for _ in range(depth))))
            if stage + 1 < len(depths):
                self.merges.append(nn.Linear(4 * c, 2 * c, bias=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        _, _, h, w = x.shape
        x = self.embed(F.pad(x, (0, -w % 4, 0, -h % 4))).permute(0, 2, 3, 1)
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            maps.append(x)
            if number < len(self.merges):
                _, h, w, _ = x.shape
                x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
                x = torch.cat([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], 3)
                x = self.merges[number](x)
        return maps


def network(rows: int, columns: int, *sizes: object) -> tuple[Network, list[tuple[int, ...]]]:
    build = NetworkBuilder("swin", (1, rows, columns, 3))
    maps = swin(build, "input", *sizes) if sizes else swin_large(build)
    return build.network(), [build.shape(name) for name in maps]


LARGE = (192, (2, 2, 18, 2), (6, 12, 24, 48), 12)


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    window=st.integers(1, 13),
    depths=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=25)
def test_layers_are_those_torch_runs_whatever_must_be_padded(rows, columns, window, depths):
    sizes = (8, tuple(depths), tuple(2 << stage for stage in range(len(depths))), window)
    ours, shapes = network(rows, columns, *sizes)
    with torch.device("meta"):
        module = TorchSwin(*sizes)
    assert layers_of(ours) == layers_in_torch(module, map_of(3, rows, columns))
    assert shapes == [tuple(x.shape) for x in module(map_of(3, rows, columns))]


# transformers 5.23.0, SwinBackbone of Swin-L (window 12) on the meta device: the sum over its
# linear layers and convolutions, and the shapes of its four feature maps. Products by hand:
# blocks x windows x 2 x 144 x 144 x channels.
@pytest.mark.parametrize(
    ("rows", "columns", "weighted", "windows"),
    [
        (384, 384, 99_969_626_112 - 1_536_000, (64, 16, 4, 1)),  # with a classifier of 1000
        (640, 640, 312_455_725_056, (196, 49, 16, 4)),
        (512, 512, 196_902_125_568, (121, 36, 9, 4)),
        (800, 1088, 640_441_516_032, (17 * 23, 9 * 12, 5 * 6, 3 * 3)),
    ],
)
def test_swin_large_has_the_macs_that_transformers_counts(rows, columns, weighted, windows):
    ours, shapes = network(rows, columns)
    products = macs_of(ours, "matmul")
    assert ours.macs - products == weighted
    assert products == sum(
        depth * count * 2 * 144 * 144 * (192 << stage)
        for stage, (depth, count) in enumerate(zip((2, 2, 18, 2), windows, strict=True))
    )
    assert shapes == [
        (1, rows // 4 >> stage, columns // 4 >> stage, 192 << stage) for stage in range(4)
    ]


def test_swin_large_counts_of_the_paper():
    """Table 1: 103.9 G at 384x384, with the classifier; its 197 M parameters are 195.0 without."""
    ours, _ = network(384, 384)
    assert round((ours.macs + 1_536_000) / 1e9, 1) == 103.9
    weights = [node.layer for node in ours.nodes if node.layer is not None and node.op != "matmul"]
    # transformers' SwinBackbone: 195,204,276 parameters, less biases (one per output of all but
    # the three reductions), normalisations (also one over 1536 channels that a classifier would
    # read) and a position table of 23x23 per head.
    biases = sum(x.K for x in weights) - sum(192 << stage for stage in (1, 2, 3))
    channels = [192 << stage for stage in range(4)]
    norms = sum(2 * c * (2 * depth + 1) for c, depth in zip(channels, (2, 2, 18, 2), strict=True))
    norms += 2 * 192 + sum(2 * 4 * c for c in channels[:3]) + 2 * 1536
    tables = 23 * 23 * sum(d * h for d, h in zip((2, 2, 18, 2), (6, 12, 24, 48), strict=True))
    assert sum(x.K * x.C * x.R * x.S for x in weights) == 195_204_276 - biases - norms - tables


def test_each_block_adds_twice_and_every_second_one_is_shifted():
    ours, _ = network(384, 384)
    producers = ours.producers
    names = [n.name for n in ours.nodes if n.op == "add"]
    assert len(names) == 2 * (2 + 2 + 18 + 2)
    assert [n.name for n in producers["backbone.stage3.1.add1"]] == [
        "backbone.stage3.0.add2",
        "backbone.stage3.1.unwindow",
    ]
    assert [n.name for n in producers["backbone.stage3.1.add2"]] == [
        "backbone.stage3.1.add1",
        "backbone.stage3.1.mlp.1",
    ]
    shifted = [n.name for n in ours.nodes if n.function == "roll"]
    assert len(shifted) == 12
    assert all(int(name.split(".")[2]) % 2 for name in shifted)


def test_a_batch_doubles_windows_and_macs():
    ours, _ = network(100, 60, 8, (2, 1), (2, 4), 5)
    twice = ours.batched(2)
    assert twice.macs == 2 * ours.macs
    windows = 5 * 3  # of 5x5 tokens, over 25x15
    for net, count in ((ours, windows), (twice, 2 * windows)):
        assert net.shape("backbone.stage1.0.windows") == (count, 25, 1, 8)
        assert net.repeats["backbone.stage1.0.attention.qk"] == 2 * count  # heads
