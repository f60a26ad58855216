import pytest
import torch
from torch import Tensor, nn

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.mask_dino import mask_dino_instance, mask_dino_semantic
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

CHANNELS = {"resnet50": (256, 512, 1024, 2048), "swin-large": (192, 384, 768, 1536)}


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.Conv2d(width, width, 3, stride, 1),
            nn.Conv2d(width, 4 * width, 1),
        )
        same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1))
        stages, channels = [], 64
        for number, depth in enumerate((3, 4, 6, 3)):
            blocks = []
            for block in range(depth):
                width = 64 * 2**number
                blocks.append(Bottleneck(channels, width, 2 if number and not block else 1))
                channels = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class DecoderLayer(nn.Module):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self.place = Perceptron(512, 256, 256)
        self.self_attention = Attention(256, 8)
        self.cross_attention = Deformable(256, 8, levels, 4, 256)
        self.mlp = Perceptron(256, 2048, 256)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        place = self.place(torch.cat([x, x], 2))  # the boxes' sines are of twice the channels
        x = x + self.self_attention(x + place, x + place, x)
        x = x + self.cross_attention(x + place, memory)
        return x + self.mlp(x)


class Head(nn.Module):
    """All behind the backbone."""

    def __init__(self, channels, first, extra, hidden, queries, classes, instances) -> None:
        super().__init__()
        self.queries, self.instances = queries, instances
        self.pixels = PixelDecoder(channels, first, extra, 256, hidden, 8)
        levels = len(channels) - first + extra
        self.layers = nn.ModuleList(DecoderLayer(levels) for _ in range(9))
        self.boxes = Perceptron(256, 256, 256, 4)
        self.embed = Perceptron(256, 256, 256, 256)
        self.select = nn.Linear(256, 256)
        self.classes = nn.Linear(256, classes if instances else classes + 1)
        self.masks, self.semantics = Product(), Product()
        self.categories = classes

    def mask(self, x: Tensor, features: Tensor) -> Tensor:
        pixels = features.flatten(2).transpose(1, 2)
        return self.masks(pixels, self.embed(x).transpose(1, 2))

    def forward(self, maps: list[Tensor], pixels: int) -> None:
        features, memory, _ = self.pixels(maps)
        x = torch.empty(1, self.queries, 256, device="meta")
        if self.instances:
            chosen = self.select(memory)
            self.classes(chosen)
            x = chosen[:, :1].expand(-1, self.queries, -1)
            self.mask(x, features)
        for number, layer in enumerate(self.layers):
            if number:
                self.boxes(x)
            x = layer(x, memory)
        classes = self.classes(x)
        masks = self.mask(x, features)
        if self.instances:
            self.boxes(x)
        else:
            masks = masks[:, :1].expand(-1, pixels, -1)
            self.semantics(masks, classes[..., : self.categories])


@pytest.mark.parametrize("size", [(64, 96), (160, 224)])
@pytest.mark.parametrize(
    ("build", "backbone", "first", "extra", "hidden", "queries", "classes"),
    [
        (mask_dino_instance, "resnet50", 1, 1, 2048, 300, 80),
        (mask_dino_instance, "swin-large", 0, 1, 2048, 300, 80),
        (mask_dino_semantic, "resnet50", 1, 0, 1024, 100, 150),
        (mask_dino_semantic, "swin-large", 1, 0, 1024, 100, 150),
    ],
)
def test_heads_have_the_layers_torch_runs(
    build, backbone, first, extra, hidden, queries, classes, size
):
    ours = build(backbone, size)
    instances = build is mask_dino_instance
    rows, columns = size
    maps = [
        map_of(c, rows // 4 >> level, columns // 4 >> level)
        for level, c in enumerate(CHANNELS[backbone])
    ]
    with torch.device("meta"):
        head = Head(CHANNELS[backbone], first, extra, hidden, queries, classes, instances)
    parts = ("pixels.", "selection.", "decoder", "head.", "semantics")
    assert layers_of(ours, *parts) == layers_in_torch(head, maps, rows * columns)
    assert layers_of(ours) == layers_of(ours, "backbone.") + layers_of(ours, *parts)
    assert unread(ours) == [ours.nodes[-1].name]


@pytest.mark.parametrize("size", [(64, 96), (512, 512)])
def test_resnet50_has_the_layers_torch_runs(size):
    ours = mask_dino_semantic("resnet50", size)
    with torch.device("meta"):
        backbone = ResNet50()
    assert layers_of(ours, "backbone.") == layers_in_torch(backbone, map_of(3, *size))


# The authors' README: GFLOPs of one multiply-accumulate each, averaged over images that it does not
# name, and millions of parameters.
@pytest.mark.parametrize(
    ("name", "gflops", "ratio", "parameters"),
    [
        ("mask-dino-r50-instance", 286, 0.975, 52),
        ("mask-dino-swinl-instance", 1326, 1.012, 223),
    ],
)
def test_counts_near_those_of_the_readme(name, gflops, ratio, parameters):
    ours = load_workload(name)
    assert ours.macs / 1e9 / gflops == pytest.approx(ratio, abs=5e-4)
    shared = {
        r"decoder\d\.boxes|head\.boxes": "boxes",
        r"decoder\d\.place": "place",
        r"(selection|head)\.classes": "classes",
        r"(selection|head)\.masks\.embed": "embed",
    }
    weights = weights_of(ours, shared)
    # Biases and normalisations are the rest: less than a hundredth.
    assert 0.99 < weights / (parameters * 1e6) < 1.001


def test_a_decoder_layer_has_the_macs_that_transformers_counts():
    """transformers 5.23.0, DeformableDetrDecoderLayer, hooks on its ten linear layers.

    300 queries; levels of 100x136, 50x68, 25x34 and 13x17.
    """
    ours = mask_dino_instance(size=(800, 1088))
    parts = ("self", "cross", "mlp")
    assert sum(macs_of(ours, "linear", f"decoder4.{part}.") for part in parts) == 1_626_669_056
    # By hand: queries x queries x channels, twice.
    assert macs_of(ours, "matmul", "decoder4.") == 2 * 300 * 300 * 256
    assert [n.output_shape[1] for n in ours.nodes if n.name == "pixels.memory"] == [
        100 * 136 + 50 * 68 + 25 * 34 + 13 * 17
    ]


def test_a_pixel_decoder_has_the_macs_that_transformers_counts():
    """transformers 5.23.0, Mask2FormerPixelDecoder on Swin-L's maps of 640x640 pixels."""
    ours = mask_dino_semantic("swin-large", (640, 640))
    assert sum(macs_of(ours, op, "pixels.") for op in ("conv", "linear")) == 55_882_547_200


def test_host_macs_are_all_the_samples():
    """Queries x channels x levels x points x 5: 6 encoder layers and 9 of the decoder."""
    ours = mask_dino_instance(size=(800, 1088))
    tokens = 100 * 136 + 50 * 68 + 25 * 34 + 13 * 17
    assert ours.host_macs == (6 * tokens + 9 * 300) * 256 * 4 * 4 * 5


def test_what_refines_boxes_and_where_queries_come_from():
    ours = mask_dino_instance(size=(64, 64))
    read = {name: [n.name for n in nodes] for name, nodes in ours.producers.items()}
    assert read["selection.boxes"] == ["selection.masks"]
    assert read["decoder0.sine"] == ["selection.boxes"]
    assert read["decoder0.query1"] == ["selection.content", "decoder0.place.1"]
    assert read["decoder1.boxes.0"] == ["decoder0.after_mlp.norm"]
    assert read["decoder1.boxes.refine"] == ["selection.boxes", "decoder1.boxes.2"]
    assert read["decoder1.cross.sampling"][3] == "decoder1.boxes.refine"
    assert read["decoder1.self.v"] == ["decoder0.after_mlp.norm"]
    assert read["decoder1.self.q"] == read["decoder1.self.k"] == ["decoder1.query1"]
    assert read["decoder1.after_self.add"] == ["decoder0.after_mlp.norm", "decoder1.self.out"]
    assert read["decoder1.after_cross.add"] == ["decoder1.after_self.norm", "decoder1.cross.out"]
    assert read["decoder1.after_mlp.add"] == ["decoder1.after_cross.norm", "decoder1.mlp.1"]
    assert read["head.masks"] == ["pixels.masks", "head.masks.embed.2"]
    # The pyramid's sum has the finest encoded level, of stride 8, scaled up to stride 4.
    assert read["pixels.sum"] == ["pixels.lateral.norm", "pixels.upsample"]
    assert ours.shape("pixels.finest") == (1, 8, 8, 256)
    assert ours.shape("pixels.upsample") == (1, 16, 16, 256)
    assert read["instances"] == ["head.classes", "head.boxes.refine", "head.masks"]
    # Sums: 2 per encoder layer, 1 of the pyramid, 5 per decoder layer, 16 of ResNet-50.
    assert sum(n.op == "add" for n in ours.nodes) == 2 * 6 + 1 + 5 * 9 + 16


@pytest.mark.parametrize("task", ["instance", "semantic"])
@pytest.mark.parametrize("backbone", ["r50", "swinl"])
def test_shipped_networks_batch_and_say_what_is_unverified(backbone, task):
    ours = load_workload(f"mask-dino-{backbone}-{task}")
    twice = ours.batched(2)
    assert (twice.macs, twice.host_macs) == (2 * ours.macs, 2 * ours.host_macs)
    for node in ours.nodes:
        if node.layer is not None:
            assert (node.unverified == "") == node.name.startswith("backbone.")
            assert not node.unverified or "IDEA-Research/MaskDINO" in node.unverified
    guessed = any("no configuration is published" in n.unverified for n in ours.nodes)
    assert guessed == ((backbone, task) == ("swinl", "semantic"))


def test_bad_arguments_are_named():
    with pytest.raises(
        WorkloadError, match=r"backbone='vgg' must be one of 'resnet50', 'swin-large'"
    ):
        mask_dino_instance("vgg")
    with pytest.raises(WorkloadError, match=r"size=\(800, 1333\) must be positive multiples of 32"):
        mask_dino_instance(size=(800, 1333))
    with pytest.raises(WorkloadError, match=r"size=\(0, 32\) must be positive multiples of 32"):
        mask_dino_semantic(size=(0, 32))
