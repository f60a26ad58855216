"""Keys and values that several heads share: read once by a product, however it is written."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.importers.torch.graph import capture
from bfpsim.workloads.importers.torch.module import import_torch
from tests.workloads.importers.onnx_models import Model

HEADS, SHARED, T, C = 6, 2, 5, 4  # heads of queries, of keys and values
GROUP = HEADS // SHARED


def shapes(network):
    """Every product's (rows, columns, contracted, repeats), and the elements of its W in all."""
    products = [node for node in network.nodes if node.op == "matmul"]
    return [(n.layer.P * n.layer.Q, n.layer.K, n.layer.C, n.repeats) for n in products], [
        n.repeats * n.layer.K * n.layer.C for n in products
    ]


def check(network, samples, shared=SHARED):
    found, elements = shapes(network)
    rows, repeats = HEADS // shared * T, samples * shared
    assert found == [(rows, T, C, repeats), (rows, C, T, repeats)]
    assert elements == [samples * shared * T * C] * 2  # of keys and of values, once
    assert network.macs == 2 * samples * HEADS * T * T * C
    names = {node.function or node.op for node in network.nodes}
    assert not names & {"expand", "tile", "repeat", "repeat_interleave", "gather", "cat"}


# --- ONNX -----------------------------------------------------------------------------------------


def expanded(model, x, samples):
    """As transformers' repeat_kv is exported."""
    x = model.node("Unsqueeze", x, model.constant(np.array([2])))
    shape = model.constant(np.array([samples, SHARED, GROUP, T, C]))
    x = model.node("Expand", x, shape)
    return model.node("Reshape", x, model.constant(np.array([samples, HEADS, T, C])))


def tiled(model, x, samples):
    """The other order of heads: 0, 1, 0, 1, 0, 1."""
    return model.node("Tile", x, model.constant(np.array([1, GROUP, 1, 1])))


def tiled_within(model, x, samples):
    x = model.node("Unsqueeze", x, model.constant(np.array([2])))
    x = model.node("Tile", x, model.constant(np.array([1, 1, GROUP, 1, 1])))
    return model.node("Reshape", x, model.constant(np.array([samples, HEADS, T, C])))


def gathered(model, x, samples):
    indices = model.constant(np.repeat(np.arange(SHARED), GROUP))
    return model.node("Gather", x, indices, axis=1)


def joined(model, x, samples):
    return model.node("Concat", *[x] * GROUP, axis=1)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("repeated", [expanded, tiled, tiled_within, gathered, joined])
def test_onnx_repeats(repeated, samples, tmp_path):
    model = Model()
    q = model.input("q", samples, HEADS, T, C)
    k, v = (repeated(model, model.input(n, samples, SHARED, T, C), samples) for n in "kv")
    x = model.node("MatMul", q, model.node("Transpose", k, perm=[0, 1, 3, 2]))
    x = model.node("MatMul", model.node("Softmax", x, axis=-1), v)
    network = import_onnx(model.save(tmp_path / "m.onnx", x)).network
    if repeated is joined:  # its input may be held otherwise
        assert network.macs == 2 * samples * HEADS * T * T * C
        return
    check(network, samples)
    assert network.shape(network.nodes[-1].name)[0] == samples


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("shared", [SHARED, 1, HEADS])
@pytest.mark.parametrize("rank", [3, 4])
def test_attention_of_onnx(opset, shared, rank, tmp_path):
    model = Model(opset=opset, kind=1)

    def operand(name, heads):
        return model.input(name, *((2, T, heads * C) if rank == 3 else (2, heads, T, C)))

    q, k, v = operand("q", HEADS), operand("k", shared), operand("v", shared)
    heads = {"q_num_heads": HEADS, "kv_num_heads": shared} if rank == 3 else {}
    x = model.node("Attention", q, k, v, is_causal=1, **heads)
    check(import_onnx(model.save(tmp_path / "m.onnx", x)).network, 2, shared)


def test_what_others_read_is_repeated_all_the_same(tmp_path):
    model = Model()
    q, k = model.input("q", 1, HEADS, T, C), expanded(model, model.input("k", 1, SHARED, T, C), 1)
    x = model.node("MatMul", q, model.node("Transpose", k, perm=[0, 1, 3, 2]))
    network = import_onnx(model.save(tmp_path / "m.onnx", x, k)).network
    assert "expand" in {node.function for node in network.nodes}
    assert shapes(network)[0] == [(GROUP * T, T, C, SHARED)]


def test_what_is_repeated_along_a_product_s_own_axis_is_no_shared_operand(tmp_path):
    model = Model()
    k = model.node("Tile", model.input("k", 2, C, T), model.constant(np.array([1, 1, 3])))
    x = model.node("MatMul", model.input("q", 2, T, C), k)
    network = import_onnx(model.save(tmp_path / "m.onnx", x)).network
    assert shapes(network)[0] == [(T, 3 * T, C, 2)]
    assert "tile" in {node.function for node in network.nodes}


# --- torch ----------------------------------------------------------------------------------------


def repeat_kv(x):
    samples = x.shape[0]
    return x[:, :, None].expand(samples, SHARED, GROUP, T, C).reshape(samples, HEADS, T, C)


SPELLINGS = {
    "repeat_kv": repeat_kv,
    "repeat_interleave": lambda x: x.repeat_interleave(GROUP, 1),
    "repeat": lambda x: x.repeat(1, GROUP, 1, 1),
    "cat": lambda x: torch.cat([x] * GROUP, 1),
    "stack": lambda x: torch.stack([x] * GROUP, 2).flatten(1, 2),
}


class Attention(nn.Module):
    def __init__(self, spelling, fused):
        super().__init__()
        self.repeated, self.fused = SPELLINGS[spelling], fused

    def forward(self, q, k, v):
        k, v = self.repeated(k), self.repeated(v)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return ((q @ k.mT) / 2).softmax(-1) @ v


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("spelling", ["repeat_kv", "repeat_interleave", "repeat", "cat"])
def test_torch_repeats(spelling, fused):
    size = {"q": (2, HEADS, T, C), "k": (2, SHARED, T, C), "v": (2, SHARED, T, C)}
    check(import_torch(Attention(spelling, fused), size).network, 2)


class Grouped(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class Broadcast(nn.Module):
    def forward(self, q, k, v):
        q = q.unflatten(1, (SHARED, GROUP))
        x = (q @ k.unsqueeze(2).mT).softmax(-1) @ v.unsqueeze(2)
        return x.flatten(1, 2)


class Einsum(nn.Module):
    def forward(self, q, k, v):
        q = q.unflatten(1, (SHARED, GROUP))
        x = torch.einsum("nhgtc,nhsc->nhgts", q, k).softmax(-1)
        return torch.einsum("nhgts,nhsc->nhgtc", x, v).flatten(1, 2)


@pytest.mark.parametrize("kind", [Grouped, Broadcast, Einsum])
def test_other_spellings_in_torch(kind):
    size = {"q": (2, HEADS, T, C), "k": (2, SHARED, T, C), "v": (2, SHARED, T, C)}
    check(import_torch(kind(), size).network, 2)


class MultiQuery(nn.Module):
    def forward(self, q, k, v):
        k, v = k.expand(-1, HEADS, -1, -1), v.expand(-1, HEADS, -1, -1)
        return F.scaled_dot_product_attention(q, k, v)


def test_one_head_for_all():
    size = {"q": (2, HEADS, T, C), "k": (2, 1, T, C), "v": (2, 1, T, C)}
    check(import_torch(MultiQuery(), size).network, 2, shared=1)


def test_the_captured_graph_is_as_it_was():
    inputs = (torch.randn(2, HEADS, T, C), *(torch.randn(2, SHARED, T, C) for _ in range(2)))
    module = Attention("repeat_kv", True)
    torch.testing.assert_close(capture(module, inputs).module(*inputs), module(*inputs))
