import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.one_peace import one_peace_detection, one_peace_segmentation
from tests.workloads.networks.reference import (
    Attention,
    Deformable,
    Perceptron,
    PixelDecoder,
    Product,
    layers_in_torch,
    layers_of,
    macs_of,
    map_of,
    unread,
    weights_of,
)

WIDTH, HIDDEN, HEADS = 1536, 6144, 24


class Stem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 384, 4, 4), nn.Conv2d(384, 384, 2, 2), nn.Conv2d(384, WIDTH, 2, 2)
        )


class Layer(nn.Module):
    """A layer on tokens, or with a window on a map (N, rows, columns, channels)."""

    def __init__(self, window: int = 0) -> None:
        super().__init__()
        self.window = window
        self.attention = Attention(WIDTH, HEADS)
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.window:
            s = self.window
            y = x.unfold(1, s, s).unfold(2, s, s).flatten(4).transpose(3, 4).flatten(0, 2)
        y = self.attention(y, y, y)
        y = x + y.reshape(x.shape)
        return y + self.down(F.gelu(self.gate(y)) * self.up(y))


class Detector(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()

        def level(*before: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(
                *before, nn.Conv2d(channels, 256, 1), nn.Conv2d(256, 256, 3, padding=1)
            )

        self.levels = nn.ModuleList(
            [
                level(
                    nn.ConvTranspose2d(WIDTH, 768, 2, 2),
                    nn.ConvTranspose2d(768, 384, 2, 2),
                    channels=384,
                ),
                level(nn.ConvTranspose2d(WIDTH, 768, 2, 2), channels=768),
                level(channels=WIDTH),
                level(nn.MaxPool2d(2), channels=WIDTH),
            ]
        )
        self.rpn = nn.Sequential(
            nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
        )
        self.objectness, self.deltas = nn.Conv2d(256, 3, 1), nn.Conv2d(256, 12, 1)
        self.boxes = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(256, 256, 3, padding=1) for _ in range(4)),
                nn.Flatten(),
                nn.Linear(7 * 7 * 256, 1024),
            )
            for _ in range(3)
        )
        self.scores = nn.ModuleList(nn.Linear(1024, classes + 1) for _ in range(3))
        self.moves = nn.ModuleList(nn.Linear(1024, 4) for _ in range(3))
        self.masks = nn.Sequential(
            *(nn.Conv2d(256, 256, 3, padding=1) for _ in range(4)),
            nn.ConvTranspose2d(256, 256, 2, 2),
            nn.Conv2d(256, classes, 1),
        )

    def forward(self, x: Tensor) -> None:
        maps = [level(x) for level in self.levels]
        for y in [*maps, F.max_pool2d(maps[-1], 1, 2)]:
            y = self.rpn(y)
            self.objectness(y)
            self.deltas(y)
        for boxes, scores, moves in zip(self.boxes, self.scores, self.moves, strict=True):
            y = boxes(map_of(256, 7, 7, n=1000))
            scores(y)
            moves(y)
        self.masks(map_of(256, 14, 14, n=100))


class Extractor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = Deformable(WIDTH, HEADS, 1, 4, 768)
        self.up, self.down = nn.Linear(WIDTH, 384), nn.Linear(384, WIDTH)
        self.filter = nn.Conv2d(384, 384, 3, padding=1, groups=384)

    def forward(self, c: Tensor, x: Tensor, sides: list[int]) -> Tensor:
        c = c + self.attend(c, x)
        parts = self.up(c).split([side * side for side in sides], 1)
        maps = (p.transpose(1, 2).unflatten(2, (s, s)) for p, s in zip(parts, sides, strict=True))
        return c + self.down(
            torch.cat([self.filter(y).flatten(2).transpose(1, 2) for y in maps], 1)
        )


class Adapter(nn.Module):
    """The adapter and the transformer inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = Stem(), Layer()
        self.prior = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(3, 64, 3, 2, 1),
                    nn.Conv2d(64, 64, 3, 1, 1),
                    nn.Conv2d(64, 64, 3, 1, 1),
                    nn.MaxPool2d(3, 2, 1),
                ),
                nn.Conv2d(64, 128, 3, 2, 1),
                nn.Conv2d(128, 256, 3, 2, 1),
                nn.Conv2d(256, 256, 3, 2, 1),
            ]
        )
        self.project = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in (64, 128, 256, 256))
        self.inject = nn.ModuleList(Deformable(WIDTH, HEADS, 3, 4, 768) for _ in range(4))
        self.extract = nn.ModuleList(Extractor() for _ in range(6))
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        prior, y = [], image
        for part, project in zip(self.prior, self.project, strict=True):
            y = part(y)
            prior.append(project(y))
        sides = [m.shape[2] for m in prior]
        c = torch.cat([m.flatten(2).transpose(1, 2) for m in prior[1:]], 1)
        x = self.stem(image).flatten(2).transpose(1, 2)
        token = torch.empty(1, 1, WIDTH, device="meta")
        for quarter in range(4):
            x = torch.cat([token, x + self.inject[quarter](x, c)], 1)
            for _ in range(10):
                x = self.layer(x)
            token, x = x[:, :1], x[:, 1:]
            for extract in self.extract[quarter : quarter + (3 if quarter == 3 else 1)]:
                c = extract(c, x, sides[1:])
        self.up(c[:, : sides[1] ** 2].transpose(1, 2).unflatten(2, (sides[1], sides[1])))
        return [map_of(WIDTH, side, side) for side in sides]


class Segmenter(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.adapter = Adapter()
        self.pixels = PixelDecoder((WIDTH,) * 4, 1, 0, 1024, 4096, 32)
        self.cross = nn.ModuleList(Attention(1024, 32) for _ in range(9))
        self.self_attention = nn.ModuleList(Attention(1024, 32) for _ in range(9))
        self.mlp = nn.ModuleList(Perceptron(1024, 4096, 1024) for _ in range(9))
        self.embed = Perceptron(1024, 1024, 1024, 1024)
        self.classes = nn.Linear(1024, classes + 1)
        self.masks, self.semantics = Product(), Product()

    def forward(self, image: Tensor) -> None:
        features, _, levels = self.pixels(self.adapter(image))
        pixels = features.flatten(2).transpose(1, 2)
        x = torch.empty(1, 200, 1024, device="meta")
        masks = self.masks(pixels, self.embed(x).transpose(1, 2))
        for number in range(9):
            level = levels[::-1][number % 3]
            x = x + self.cross[number](x, level, level)
            x = x + self.self_attention[number](x, x, x)
            x = x + self.mlp[number](x)
            masks = self.masks(pixels, self.embed(x).transpose(1, 2))
        self.semantics(masks, self.classes(x)[..., :-1])


@pytest.mark.parametrize("size", [256, 512, 1280])
def test_detection_has_the_layers_torch_runs(size):
    with torch.device("meta"):
        # One module that runs forty times is counted forty times.
        inside, whole = Layer(16), Layer(size // 16)
        body, heads = nn.Sequential(*[inside, inside, inside, whole] * 10), Detector(80)
        stem = Stem()
    image = map_of(3, size, size)
    expected = layers_in_torch(stem, image)
    expected += layers_in_torch(body, stem(image).permute(0, 2, 3, 1))
    expected += layers_in_torch(heads, stem(image))
    ours = one_peace_detection(size)
    assert layers_of(ours) == expected
    assert unread(ours) == ["instances"]


@pytest.mark.parametrize("size", [64, 896])
def test_segmentation_has_the_layers_torch_runs(size):
    with torch.device("meta"):
        module = Segmenter(150)
    ours = one_peace_segmentation(size)
    assert layers_of(ours) == layers_in_torch(module, map_of(3, size, size))
    assert unread(ours) == ["decoder.semantics"]
    assert ours.shape("decoder.semantics") == (1, size // 4, size // 4, 150)


def test_macs_of_the_transformer_by_the_formula():
    """Per layer, n tokens of d: 4 n d d + 2 n n d of attention, 3 n d h of the perceptron."""
    d, h, n = WIDTH, HIDDEN, 56 * 56 + 1
    ours = one_peace_segmentation()
    found = sum(macs_of(ours, op, "layer") for op in ("linear", "matmul"))
    assert found == 40 * (4 * n * d * d + 2 * n * n * d + 3 * n * d * h)
    ours = one_peace_detection()
    n, windows, inside = 80 * 80, 25, 16 * 16
    assert macs_of(ours, "linear", "layer") == 40 * (4 * n * d * d + 3 * n * d * h)
    assert macs_of(ours, "matmul") == 10 * 2 * n * n * d + 30 * windows * 2 * inside * inside * d


def test_parameters_of_the_vision_branch():
    """The README's model card: 1.5 B; the paper's table of classifiers: 1.52 B."""
    ours = one_peace_segmentation()
    backbone = sum(
        node.layer.K * node.layer.C * node.layer.R * node.layer.S
        for node in ours.nodes
        if node.op in ("conv", "linear") and node.name.startswith(("stem", "layer"))
    )
    stem = 48 * 384 + 4 * 384 * 384 + 4 * 384 * 1536
    assert backbone == 40 * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN) + stem
    assert backbone / 1.5e9 == pytest.approx(1.0086, abs=1e-4)
    assert backbone / 1.52e9 == pytest.approx(0.9953, abs=1e-4)


def test_parameters_of_the_heads_count_shared_filters_once():
    ours = one_peace_detection()
    heads = weights_of(ours, {r"proposals\d": "proposals"}) - sum(
        node.layer.K * node.layer.C * node.layer.R * node.layer.S
        for node in ours.nodes
        if node.op in ("conv", "linear") and node.name.startswith(("stem", "layer"))
    )
    d, square = WIDTH, 256 * 256
    ups = 4 * (d * d // 2 + d // 2 * d // 4 + d * d // 2)
    pyramid = ups + 256 * (d // 4 + d // 2 + d + d) + 4 * 9 * square
    proposals = 2 * 9 * square + 256 * 15
    boxes = 3 * (4 * 9 * square + 49 * 256 * 1024 + 1024 * 85)
    masks = 4 * 9 * square + 4 * square + 256 * 80
    assert heads == pyramid + proposals + boxes + masks


def test_the_decoder_has_the_macs_that_transformers_counts():
    """transformers 5.23.0, Mask2FormerTransformerModule of 1024 channels at 128x128 pixels.

    Hooks on its linear layers, 28,940,697,600; in its nn.MultiheadAttention, whose projections are
    no modules, 2 L E E + 2 S E E for L queries and S keys, in all 5,888,802,816. Products of masks
    2,097,152,000, of attention across 412,876,800, of self-attention 737,280,000.
    """
    ours = one_peace_segmentation(128)
    linear = macs_of(ours, "linear", "decoder") - 200 * 1024 * 151  # classes, not in that module
    assert linear == 28_940_697_600 + 5_888_802_816
    products = macs_of(ours, "matmul", "decoder") - macs_of(ours, "matmul", "decoder.semantics")
    assert products == 2_097_152_000 + 412_876_800 + 737_280_000


def test_host_macs_by_hand():
    detection, segmentation = one_peace_detection(), one_peace_segmentation()
    # Relative positions: each query times its row's and its column's keys, head by head.
    places = 10 * 6400 * (80 + 80) * WIDTH + 30 * 6400 * (16 + 16) * WIDTH
    pooled = 3 * 1000 * 7 * 7 * 256 * 16 + 100 * 14 * 14 * 256 * 16
    assert detection.host_macs == places + pooled
    patches, c = 56 * 56, 112 * 112 + 56 * 56 + 28 * 28
    adapter = (4 * patches * 3 + 6 * c * 1) * 768 * 4 * 5
    assert segmentation.host_macs == adapter + 6 * c * 1024 * 3 * 4 * 5


def test_residuals_are_sums_and_masks_restrict_attention():
    ours = one_peace_segmentation(64)
    read = {name: [n.name for n in nodes] for name, nodes in ours.producers.items()}
    assert read["layer11.add1"] == ["layer10.add2", "layer11.scale1"]
    assert read["layer11.add2"] == ["layer11.add1", "layer11.scale2"]
    assert read["joined1"] == ["class1", "adapter1.inject.add"]
    assert read["adapter1.inject.add"] == ["patches0", "adapter1.inject.scale"]
    assert read["adapter3.extract2.add1"][0] == "adapter3.extract1.add2"
    assert read["adapter.output2"] == ["adapter.split1", "adapter2.map"]
    assert read["adapter.finest"] == ["adapter.up.interleave", "adapter.project0"]
    assert read["decoder4.cross.softmax"] == ["decoder4.cross.qk", "decoder4.mask"]
    assert read["decoder4.mask"] == ["decoder4.masks"]
    # Attention takes the coarsest level first, then finer, then again.
    levels = [read[f"decoder{n}.level"][0][-1] for n in range(9)]
    assert levels == list("210210210")
    # 2 per layer, 1 per injector, 2 per extractor, 1 + 4 at the adapter's end, 2 per encoder layer,
    # 1 of the pyramid, 3 per decoder layer.
    assert sum(n.op == "add" for n in ours.nodes) == 80 + 4 + 12 + 5 + 12 + 1 + 27


def test_each_stage_pools_the_boxes_of_the_stage_before():
    ours = one_peace_detection(256)
    read = {name: [n.name for n in nodes] for name, nodes in ours.producers.items()}
    assert [read[f"box{stage}.pool"][-1] for stage in range(3)] == [
        "proposals",
        "box0.refine",
        "box1.refine",
    ]
    assert [read[f"box{stage}.refine"][0] for stage in range(3)] == [
        "proposals",
        "box0.refine",
        "box1.refine",
    ]
    assert read["detections"] == [*(f"box{stage}.classes" for stage in range(3)), "box2.refine"]
    assert read["mask.pool"][-1] == "detections"


def test_windows_but_in_every_fourth_layer():
    ours = one_peace_detection(512)
    repeats = [ours.repeats[f"layer{n}.attention.qk"] for n in range(40)]
    assert repeats == [24 * windows for windows in (4, 4, 4, 1)] * 10  # of 24 heads


@pytest.mark.parametrize("name", ["one-peace-detection", "one-peace-segmentation"])
def test_shipped_networks_batch_and_say_what_is_unverified(name):
    ours = load_workload(name)
    twice = ours.batched(2)
    assert (twice.macs, twice.host_macs) == (2 * ours.macs, 2 * ours.host_macs)
    for node in ours.nodes:
        if node.layer is not None:
            known = node.name.startswith("layer")
            if name == "one-peace-detection":  # its windows are the configuration's
                known = known and ".attention." not in node.name
            assert (node.unverified == "") == known, node.name
            assert known or "OFA-Sys/ONE-PEACE" in node.unverified


def test_bad_sizes_are_named():
    with pytest.raises(WorkloadError, match="size=1333 must be a positive multiple of 256"):
        one_peace_detection(1333)
    with pytest.raises(WorkloadError, match="size=100 must be a positive multiple of 32"):
        one_peace_segmentation(100)
    with pytest.raises(WorkloadError, match="size=0 must be a positive multiple of 32"):
        one_peace_segmentation(0)
