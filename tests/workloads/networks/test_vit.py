import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.networks.vit import vit
from tests.workloads.networks.oracle import (
    Product,
    count,
    layers_of_module,
    layers_of_network,
    macs,
    values,
    weights,
)


class Attention(nn.Module):
    """Multi-head attention with its products as modules, so that they can be recorded."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.qk, self.av = Product(), Product()
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        scores = self.qk(q / q.shape[-1] ** 0.5, k.transpose(2, 3))
        return self.proj(self.av(scores.softmax(-1), v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, z):
        z = self.attn(self.norm1(z)) + z
        return self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(z)))) + z


class TorchViT(nn.Module):
    """Eq. 1 to 4 of the paper."""

    def __init__(self, width, depth, heads, patch=16, size=224, channels=3, classes=1000) -> None:
        super().__init__()
        tokens = (size // patch) ** 2 + 1
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).mT
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x)[:, 0]))


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        # Table 1 of the ViT paper, table 1 of the DeiT paper: width, layers, heads.
        (load_workload("vit-b16"), (768, 12, 12)),
        (load_workload("deit-base"), (768, 12, 12)),
        (load_workload("deit-small"), (384, 12, 6)),
        (load_workload("deit-tiny"), (192, 12, 3)),
        (vit(20, 2, 5, 7, 35, 2, 3), (20, 2, 5, 7, 35, 2, 3)),
    ],
)
def test_layers_are_those_torch_runs(network, arguments):
    N, H, W, channels = network.shape("input")
    with torch.device("meta"):
        expected = layers_of_module(TorchViT(*arguments), torch.empty(N, channels, H, W))
    assert layers_of_network(network) == expected


# source: timm 1.0.31 (vit_base_patch16_224, deit_*_patch16_224) and transformers 5.23.0 (ViT with
# these widths): MACs of the convolution and of the 49 linear layers, parameters.
@pytest.mark.parametrize(
    ("name", "conv", "linear", "parameters"),
    [
        ("vit-b16", 115_605_504, 16_732_895_232, 86_567_656),
        ("deit-base", 115_605_504, 16_732_895_232, 86_567_656),
        ("deit-small", 57_802_752, 4_183_415_808, 22_050_664),
        ("deit-tiny", 28_901_376, 1_045_949_952, 5_717_416),
    ],
)
def test_counts_that_the_literature_gives(name, conv, linear, parameters):
    network = load_workload(name)
    assert (count(network, "conv"), count(network, "linear"), count(network, "matmul")) == (
        1,
        49,
        24,
    )
    assert (macs(network, "conv"), macs(network, "linear")) == (conv, linear)
    biases = sum(node.layer.K for node in network.nodes if node.op in ("conv", "linear"))
    width = network.shape("cls_token")[3]
    norms = sum(node.function == "layer_norm" for node in network.nodes)
    learned = width + 197 * width  # the class token and the positions
    assert weights(network) + biases + 2 * norms * width + learned == parameters


def test_products_have_the_macs_of_all_pairs_of_tokens():
    network = load_workload("vit-b16")
    # Each of 12 blocks: every token with every other, over 768 channels, twice.
    assert macs(network, "matmul") == 12 * 2 * 197 * 197 * 768


def test_outputs_are_those_torch_computes():
    """Which tells the order of tokens and of queries, keys and values, and where the sums are."""
    torch.manual_seed(0)
    module = TorchViT(20, 2, 5, 7, 35, 2, 3).double().eval()
    images = torch.randn(3, 2, 35, 35, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        found = values(vit(20, 2, 5, 7, 35, 2, 3), module, images)["head"][:, 0, 0]
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_batch_multiplies_each_image_alone():
    network = load_workload("deit-tiny")
    batch = network.batched(2)
    assert batch.macs == 2 * network.macs
    assert macs(batch, "matmul") == 2 * macs(network, "matmul")
    assert batch.shape("cls_token") == (2, 1, 1, 192)


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="vit: size=230 must be a multiple of patch=16"):
        vit(192, 1, 3, 16, size=230)
    with pytest.raises(WorkloadError, match="heads=5 must divide the 192 channels"):
        vit(192, 1, 5, 16)
    with pytest.raises(WorkloadError, match="patch=0 must be an int >= 1"):
        vit(192, 1, 3, 0)
