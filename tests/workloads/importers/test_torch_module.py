"""Networks from torch modules, against shipped definitions, torch's outputs and by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, parametrize

from bfpsim.sim.inference import infer
from bfpsim.workloads import ConvLayer, Network, Pool, WorkloadError, phases, resnet18
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.importers.torch.module import import_module_function, import_torch
from bfpsim.workloads.networks.vit import vit
from tests.workloads.importers.onnx_models import Model
from tests.workloads.importers.torch_macs import import_counted


def by_name(network: Network) -> dict[str, ConvLayer]:
    return {layer.name: layer for layer in network.layers}


def functions(network: Network) -> list[str]:
    return [node.function for node in network.nodes if node.op == "host"]


def run(network: Network, weights, images: Tensor) -> np.ndarray:
    """The output of float64 inference, as torch has it: (N, C, H, W)."""
    outputs = infer(network, weights, images.permute(0, 2, 3, 1).double().numpy())
    return outputs[network.nodes[-1].name].transpose(0, 3, 1, 2)


def test_a_resnet_is_the_shipped_one(torch_resnet18):
    module = torch_resnet18(8, 2, 3, False)
    made = import_counted(module, {"x": (1, 2, 66, 66)})
    ours, shipped = made.network, resnet18(width=8, size=66, channels=2, classes=3)
    assert by_name(ours) == by_name(shipped)
    assert ours.name == "TorchResNet18"
    assert functions(ours) == []
    kinds = [sorted(node.op for node in network.nodes) for network in (ours, shipped)]
    assert kinds[0] == kinds[1]

    def sums(network: Network) -> dict[str, list[str]]:
        # A ReLU goes by what it reads: functional ones have no name that could be the same.
        nodes = {node.name: node for node in network.nodes}
        return {
            node.name: [
                nodes[source].inputs[0] if nodes[source].op == "relu" else source
                for source in node.inputs
            ]
            for node in network.nodes
            if node.op == "add"
        }

    assert sums(ours) == sums(shipped)
    assert len(sums(ours)) == 8
    images = torch.randn(3, 2, 66, 66)
    with torch.no_grad():
        expected = module.eval()(images).numpy()
    logits = run(ours.batched(3), made.weights, images)[:, :, 0, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.one = nn.Conv2d(4, 5, 1)
        self.three = nn.Conv2d(4, 6, (3, 5), padding="same", groups=2)
        self.uneven = nn.Conv2d(4, 4, 4, padding="same", groups=4)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(19, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.stem(F.pad(x, (1, 0, 2, 1)))))
        pooled = F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([self.one(x), self.act(self.three(x)), self.uneven(x), pooled], 1)
        x = F.max_pool2d(x[:, :, :, :], 3, 2, ceil_mode=True)
        return self.fc(self.pool(x).flatten(1))


def test_a_convolutional_network_runs_as_torch_runs_it():
    module = Inception()
    module.bn.running_mean.normal_()
    module.bn.running_var.uniform_(0.5, 2)
    module.bn.weight.data.uniform_(-2, 2)
    made = import_counted(module, {"x": (2, 3, 8, 7)})
    images = torch.randn(2, 3, 8, 7)
    with torch.no_grad():
        expected = module.eval()(images).numpy()
    logits = run(made.network, made.weights, images)[:, :, 0, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    nodes = {node.name: node for node in made.network.nodes}
    assert list(nodes) == [
        "x", "stem", "act", "maxpool", "one", "three", "act:1", "uneven", "concat", "maxpool:1",
        "pool", "fc",
    ]  # fmt: skip
    # Pads of zeros are the convolutions' own; behind is the odd one of "same".
    assert nodes["stem"].layer.paddings == (2, 1, 1, 0)
    assert nodes["three"].layer.paddings == (1, 1, 2, 2)
    assert nodes["uneven"].layer.paddings == (1, 2, 1, 2)
    assert nodes["uneven"].kind == "depthwise"
    assert nodes["concat"].inputs == ("one", "act:1", "uneven", "maxpool")
    assert nodes["maxpool:1"].pool == Pool((3, 3), (2, 2), ceil=True)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        N, T, C = x.shape
        qkv = self.qkv(x).reshape(N, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(N, T, C))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TorchViT(nn.Module):
    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.patch_embed = Embedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, width))
        self.blocks = nn.Sequential(Block(width, heads))
        self.head = nn.Linear(width, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.blocks(x)[:, 0])


def test_a_vision_transformer_is_the_shipped_one():
    made = import_counted(TorchViT(12, 3, 4), {"images": (2, 3, 8, 8)})
    square, shipped = made.network, vit(12, 1, 3, 4, 8, classes=7).batched(2)
    ours = by_name(square)
    assert list(ours.items()) == list(by_name(shipped).items())
    assert square.repeats == shipped.repeats
    assert square.repeats["blocks.0.attn.qk"] == 2 * 3
    assert functions(square) == [
        "cat", "add", "layer_norm", "unbind", "unbind", "unbind", "mul", "softmax", "layer_norm",
        "gelu", "select",
    ]  # fmt: skip
    # Heads that are split, transposed and joined stay where they are: nothing is permuted.
    nodes = {node.name: node for node in square.nodes}
    assert nodes["blocks.0.attn.proj"].inputs == ("blocks.0.attn.av",)
    assert nodes["blocks.0.add"].inputs == ("add", "blocks.0.attn.proj")
    assert set(made.weights) == {name for name in ours if name[-3:] not in (".qk", ".av")}


class Windows(nn.Module):
    """Attention in windows of 2 x 2, a layer of flattened pixels, and a head on their halves."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(6, 2)
        self.flat = nn.Linear(6 * 4 * 4, 8)
        self.short = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        N, C, H, W = x.shape
        y = x.permute(0, 2, 3, 1).view(N, H // 2, 2, W // 2, 2, C).transpose(2, 3)
        y = self.attn(y.reshape(-1, 4, C)).view(N, H // 2, W // 2, 2, 2, C).transpose(2, 3)
        x = x + y.reshape(N, H, W, C).permute(0, 3, 1, 2)
        first, second = self.flat(x.flatten(1)).chunk(2, -1)
        return self.short(second), first


def test_what_moves_is_permuted_by_the_host():
    network = import_counted(Windows(), {"x": (2, 6, 4, 4)}).network
    nodes = {node.name: node for node in network.nodes}
    # Pixels are projected where they lie; only products need windows' rows together.
    assert nodes["attn.qkv"].inputs == ("x",)
    assert network.shape("attn.qkv") == (2, 4, 4, 18)
    qk = nodes["attn.qk"]
    assert (qk.repeats, qk.layer.G, qk.layer.C, qk.layer.P, qk.layer.K) == (16, 1, 3, 4, 4)
    assert network.shape(qk.inputs[0]) == (8, 4, 1, 6)
    assert nodes[qk.inputs[0]].function == "permute"
    assert nodes["add"].inputs == ("x", "attn.proj.permute")
    assert network.shape("attn.proj.permute") == (2, 4, 4, 6)
    assert (nodes["add.permute"].function, network.shape("add.permute")) == (
        "permute",
        (2, 1, 1, 96),
    )
    assert nodes["flat"].inputs == ("add.permute",)
    assert nodes["split"].inputs == nodes["split:1"].inputs == ("flat",)
    last = network.nodes[-1]
    assert (last.function, last.inputs) == ("outputs", ("short", "split"))
    assert functions(network).count("permute") == 3


class Upscaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, output_padding=1, groups=2)
        self.sparse = nn.ConvTranspose2d(6, 2, 1, 2)
        self.line = nn.ConvTranspose1d(2, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.sparse(self.up(x)).flatten(2))


def test_transposed_convolutions_are_their_phases():
    module = Upscaling()
    x = torch.randn(1, 4, 3, 5)
    made = import_counted(module, {"x": tuple(x.shape)})
    nodes = {node.name: node for node in made.network.nodes}
    windows = {"up": ((3, 2), 2, 1, 1, 2), "sparse": (1, 2), "line": ((1, 2), (1, 2))}
    for name, window in windows.items():
        with torch.no_grad():
            whole = getattr(module, name)(x.flatten(2) if name == "line" else x)
        if name == "line":
            x, whole = x.flatten(2)[:, :, None], whole[:, :, None]
        bare = module.sparse.bias.detach()[:, None, None] if name == "sparse" else 0
        ours = torch.zeros_like(whole) + bare
        parts, _ = phases(name, (1, *x.shape[2:], x.shape[1]), whole.shape[1], *window)
        for part in parts:
            layer = nodes[part.layer.name].layer
            assert layer == part.layer
            first_row, row, first_column, column = part.crop or (0, None, 0, None)
            top, bottom, left, right = layer.paddings
            read = x[:, :, first_row:row, first_column:column]
            padded = F.pad(read, (left, right, top, bottom))
            own = made.weights[layer.name]
            weight, bias = torch.from_numpy(own.weight), torch.from_numpy(own.bias)
            phase = F.conv2d(padded, weight, bias, groups=layer.G)
            grouped = phase.unflatten(1, (layer.G, len(part.offsets), -1))
            rows, columns = part.stride
            for number, (r, c) in enumerate(part.offsets):
                ours[:, :, r::rows, c::columns] += grouped[:, :, number].flatten(1, 2)
        torch.testing.assert_close(ours, whole)
        x = whole
    # The one whose kernel leaves outputs without a tap: their bias is the host's to add.
    assert nodes["sparse.bias"].inputs == ("sparse.interleave",)
    assert nodes["line.interleave"].output_shape == (1, 1, 2 * 11 * 17, 3)


class Unusual(nn.Module):
    """What no layer takes, token numbers, a product with a parameter and one with a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.memory = nn.LSTM(4, 5, batch_first=True)
        self.volume = nn.Conv3d(1, 2, 2)
        self.keys = nn.Parameter(torch.randn(1, 5, 3))

    def forward(self, tokens: Tensor, scale: Tensor | None = None) -> Tensor:
        x, _ = self.memory(self.table(tokens))
        scores = x @ self.keys.expand(len(x), -1, -1)
        scores = torch.add(scores, scores, alpha=2)  # no plain sum
        with torch.no_grad():
            v = self.volume(x[:, None, None].expand(-1, -1, 2, -1, -1)).amax((1, 2, 3, 4))
        return scores.mean(1) * v[:, None] + (x @ torch.ones(5)).sum()


def test_what_no_layer_takes_is_the_hosts():
    tokens = torch.tensor([[1, 2, 3, 8]])
    network = import_counted(Unusual(), {"tokens": tokens}).network
    hosts = {
        node.name: (node.function, node.host_macs) for node in network.nodes if node.op == "host"
    }
    assert hosts["table"] == ("embedding", 0)
    assert hosts["memory"] == ("lstm", 4 * 4 * 5 * (4 + 5))
    assert hosts["conv3d"] == ("conv3d", 2 * 1 * 3 * 4 * 8)
    assert hosts["matmul:1"] == ("matmul", 4 * 5)
    assert hosts["matmul.parameter"] == ("parameter", 0)
    assert not any(node.op == "add" for node in network.nodes)
    assert network.host_macs == 720 + 192 + 20
    assert by_name(network) == {"matmul": ConvLayer("matmul", K=3, C=5, P=4, Q=1)}
    assert network.shape("tokens") == (1, 1, 1, 4)
    assert network.shape("memory") == (1, 4, 1, 5)


class Hiding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen, self.hidden = nn.Linear(3, 4), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.hidden(x)
        return self.seen(x)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(3)


def test_a_graph_that_leaves_work_out_would_be_seen():
    """By the count of these tests: what no output needs is no part of the network."""
    assert import_torch(Hiding(), {"x": (2, 3)}).network.macs == 24
    with pytest.raises(AssertionError) as caught:
        import_counted(Hiding(), {"x": (2, 3)})
    assert str(caught.value) == (
        "module Hiding: the captured graph has 24 multiply-accumulates, the running module 54; "
        "they differ first in 'hidden', 0 and 30"
    )


@pytest.mark.parametrize(
    ("module", "shapes", "message"),
    [
        (nn.Linear(3, 2), None, "must give 'input'; its forward's arguments are input$"),
        (nn.Linear(3, 2), {"x": (1, 3)}, "has 'x', its forward's arguments are input$"),
        (nn.Linear(3, 2), {"input": (0, 3)}, r"shape \(0, 3\) of 'input' must be of ints >= 1"),
        (
            nn.MultiheadAttention(4, 2),
            {"query": (1, 1, 4), "value": (1, 1, 4)},
            r"must give 'key'; its forward's arguments are query, key, value, key_padding_mask "
            r"\(optional\), ",
        ),
        (
            nn.MultiheadAttention(4, 2),
            {"query": (1, 4), "key": (1, 4), "value": (1, 4), "attn_mask": (1, 1)},
            r"must give 'key_padding_mask'",
        ),
        (Constant(), {"x": (2, 3)}, "module Constant: no output depends on an input"),
    ],
)
def test_shapes_that_do_not_fit_are_named(module, shapes, message):
    with pytest.raises(WorkloadError, match=message) as caught:
        import_counted(module, shapes)
    assert "\n" not in str(caught.value)


def test_weights_must_be_finite():
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].bias.data[1] = torch.inf
    with pytest.raises(WorkloadError, match="layer '0': its weights hold NaN or Inf"):
        import_counted(module, {"input": (2, 3)})


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(5, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def test_a_weight_that_is_a_product_of_parameters():
    """What makes it is done before inference: the layer's multiply-accumulates are all."""
    normed = parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))
    adapted = parametrize.register_parametrization(nn.Linear(3, 5), "weight", LowRank())
    module = nn.Sequential(normed, nn.Flatten(2), nn.Conv1d(3, 3, 1), nn.Flatten(), adapted).eval()
    made = import_counted(module, {"input": (1, 2, 3, 3)})
    assert [(layer.name, layer.macs) for layer in made.network.layers] == [
        ("0", 3 * 2 * 9), ("2", 3 * 3), ("4", 3 * 5),
    ]  # fmt: skip
    assert made.network.host_macs == 0
    np.testing.assert_array_equal(made.weights["4"].weight[:, :, 0, 0], adapted.weight.detach())


class Product(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right


@pytest.mark.parametrize(
    ("left", "right", "layer"),
    [
        ((2, 4, 5, 6), (2, 1, 6, 7), (20, 6, 7, 2)),  # heads share it: their rows are one product's
        ((2, 4, 5, 6), (6, 7), (40, 6, 7, 1)),
        ((2, 1, 5, 6), (2, 4, 6, 7), (5, 6, 28, 2)),  # they share the first: columns
        ((5, 6), (2, 6, 7), (5, 6, 14, 1)),
        ((2, 1, 5, 6), (1, 4, 6, 7), (10, 6, 28, 1)),
        ((2, 4, 5, 6), (2, 4, 6, 7), (5, 6, 7, 8)),
    ],
)
def test_batches_that_share_an_operand_are_one_product(left, right, layer, tmp_path):
    """Rows, reduction, columns and runs by hand; the ONNX importer has the same."""
    model = Model()
    y = model.node("MatMul", model.input("left", *left), model.input("right", *right))
    read = import_onnx(model.save(tmp_path / "product.onnx", y)).network
    made = import_counted(Product(), {"left": left, "right": right}).network
    for network in (made, read):
        (node,) = (node for node in network.nodes if node.op == "matmul")
        assert (node.layer.P * node.layer.Q, node.layer.C, node.layer.K, node.repeats) == layer
        assert node is network.nodes[-1]


class MultiQuery(nn.Module):
    """Four heads with one key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(24, 24), nn.Linear(24, 12), nn.Linear(24, 9)

    def forward(self, x: Tensor) -> Tensor:
        N, T, C = x.shape
        q = self.q(x).reshape(N, T, 4, 6).transpose(1, 2)
        k, v = self.kv(x).unsqueeze(1).chunk(2, -1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(N, T, C))


def test_attention_with_one_key_for_all_heads():
    network = import_counted(MultiQuery(), {"x": (2, 10, 24)}).network
    assert [(node.name, node.op, network.shape(node.name)) for node in network.nodes] == [
        ("x", "input", (2, 10, 1, 24)),
        ("q", "linear", (2, 10, 1, 24)),
        ("kv", "linear", (2, 10, 1, 12)),
        ("split", "host", (2, 1, 10, 6)),
        ("split:1", "host", (2, 1, 10, 6)),
        ("q.permute", "host", (2, 4, 10, 6)),
        ("qk", "matmul", (2, 4, 10, 10)),
        ("mul", "host", (2, 4, 10, 10)),
        ("softmax", "host", (2, 4, 10, 10)),
        ("av", "matmul", (2, 4, 10, 6)),
        ("av.permute", "host", (2, 10, 1, 24)),
        ("proj", "linear", (2, 10, 1, 9)),
    ]
    assert network.macs == 2 * 10 * 24 * (24 + 12 + 9) + 2 * (2 * 40 * 6 * 10)
    assert network.batched(4).macs == 2 * network.macs


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_inputs_are_of_the_parameters_type_or_tensors():
    for dtype in (torch.float16, torch.float64):
        made = import_counted(nn.Conv2d(2, 3, 1).to(dtype), {"input": (1, 2, 4, 4)})
        assert made.network.macs == 16 * 2 * 3
    numbers = torch.tensor([[1, 2, 9]])
    assert import_counted(Tokens(), {"ids": numbers}).network.macs == 3 * 6 * 4
    with pytest.raises(WorkloadError, match="fails on inputs of shape") as caught:
        import_counted(Tokens(), {"ids": (1, 3)})
    assert str(caught.value).endswith(
        "; a shape stands for random floats: give token numbers as a tensor, from Python"
    )


def test_an_approximate_gelu_is_another_function():
    module = nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.GELU(approximate="tanh"))
    assert functions(import_counted(module, {"input": (1, 3)}).network) == ["gelu", "gelu_tanh"]


FILE = """
from __future__ import annotations
from dataclasses import dataclass
from beside import width
from torch import nn

@dataclass
class Options:
    out: int = 2

def network():
    return nn.Linear(width, Options().out)

whole = network()
number = 3

def failing():
    raise ValueError("no such luck\\nat all")

def three():
    return 3
"""


def test_modules_from_files_and_packages(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("width = 3\n")
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    shapes = {"input": (1, 3)}
    for name in ("network", "whole"):
        made = import_module_function(f"{path}:{name}", shapes)
        assert by_name(made.network) == {"linear": ConvLayer.linear("linear", 3, 2)}
    monkeypatch.chdir(tmp_path)
    assert import_module_function("nets:network", shapes).network.macs == 6
    cases = {
        "nets": "must be package.module:function or path/to/file.py:function",
        "nets:": "must be package.module:function or path/to/file.py:function",
        f"{path}:not a name": "must be package.module:function",
        "absent.py:f": "there is no file absent.py",
        "absent.deep:f": "importing absent.deep fails: ModuleNotFoundError: No module named",
        "broken.py:f": "importing broken.py fails: SyntaxError: invalid syntax",
        "nets:nothing": "nets has no attribute 'nothing'",
        "nets.py:failing": r"failing\(\) fails: ValueError: no such luck$",
        "nets.py:three": "three gives int, must be a torch.nn.Module or a function",
        "nets.py:number": "number gives int, must be",
        "nets.py:Options": "Options gives Options, must be",
    }
    for reference, message in cases.items():
        with pytest.raises(WorkloadError, match=message) as caught:
            import_module_function(reference, shapes)
        assert str(caught.value).startswith(f"workload {reference!r}")
        assert "\n" not in str(caught.value)
