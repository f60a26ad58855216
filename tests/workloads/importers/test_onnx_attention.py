"""Attention as exporters write it: the layers that `NetworkBuilder` gives, and no data moved."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bfpsim.workloads import NetworkBuilder, WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import Model

T, HEADS, C = 7, 3, 4
WIDTH = HEADS * C


def built(samples):
    """The layers of one attention, with a projection of each of q, k, v and of the output."""
    build = NetworkBuilder("attention", (samples, T, 1, WIDTH))
    q, k, v = (build.linear(name, "input", WIDTH) for name in "qkv")
    x = build.matmul("qk", q, k, T, heads=HEADS)
    x = build.matmul("av", build.host("softmax", "softmax", x), v, C, heads=HEADS)
    build.linear("proj", x, WIDTH)
    return build.network()


def alike(network):
    return [
        (node.op, replace(node.layer, name="any"), node.repeats)
        for node in network.nodes
        if node.layer is not None
    ]


def ones(*shape):
    return np.ones(shape)


def projected(model, x):
    x = model.node("MatMul", x, model.constant(ones(WIDTH, WIDTH)))
    return model.node("Add", model.constant(ones(WIDTH)), x)


def of_rank_four(model, x, samples):
    """As BERT's exporters: (N, T, heads, c) transposed; the key once more."""
    q, k, v = (
        model.node("Reshape", projected(model, x), model.constant(np.array([0, 0, HEADS, C])))
        for _ in range(3)
    )
    q, v = (model.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
    k = model.node("Transpose", k, perm=[0, 2, 3, 1])
    x = model.node("Div", model.node("MatMul", q, k), model.constant(2.0))
    x = model.node("MatMul", model.node("Softmax", x, axis=-1), v)
    x = model.node("Transpose", x, perm=[0, 2, 1, 3])
    return model.node("Reshape", x, model.constant(np.array([samples, -1, WIDTH])))


def of_einsum(model, x, samples):
    q, k, v = (
        model.node("Reshape", projected(model, x), model.constant(np.array([0, 0, HEADS, C])))
        for _ in range(3)
    )
    x = model.node("Einsum", q, k, equation="bihd,bjhd->bhij")
    x = model.node("Einsum", model.node("Softmax", x), v, equation="bhij,bjhd->bihd")
    return model.node("Reshape", x, model.constant(np.array([0, 0, WIDTH])))


def of_one_operator(model, x, samples):
    """Opset 23 has an operator for it; it is written out as the products that it is."""
    q, k, v = (projected(model, x) for _ in range(3))
    return model.node("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("way", [of_rank_four, of_einsum])
def test_layers_are_those_of_the_builder_and_only_axes_get_other_names(way, samples, tmp_path):
    model = Model()
    x = way(model, model.input("x", samples, T, WIDTH), samples)
    x = model.node("MatMul", x, model.constant(ones(WIDTH, WIDTH)))
    network = import_onnx(model.save(tmp_path / "a.onnx", x)).network
    assert alike(network) == alike(built(samples))
    assert network.macs == samples * (4 * T * WIDTH**2 + 2 * T * T * WIDTH)
    functions = Counter(node.function for node in network.nodes if node.op == "host")
    assert functions == ({"softmax": 1, "div": 1} if way is of_rank_four else {"softmax": 1})
    (softmax,) = (node for node in network.nodes if node.function == "softmax")
    assert network.shape(softmax.name) == (samples, T, 1, HEADS * T)
    assert network.batched(3 * samples).macs == 3 * network.macs


def test_the_attention_operator_is_two_products(tmp_path):
    model = Model(opset=23, kind=1)
    x = of_one_operator(model, model.input("x", 2, T, WIDTH), 2)
    network = import_onnx(model.save(tmp_path / "a.onnx", x)).network
    assert alike(network) == alike(built(2))[:-1]
    assert network.host_macs == 0


def test_heads_merged_into_the_batch_have_the_same_products(tmp_path):
    """(N * heads, T, c): every head is a sample of its own."""
    model = Model()
    model.input("q", 6, T, C)
    model.input("k", 6, T, C)
    k = model.node("Transpose", "k", perm=[0, 2, 1])
    network = import_onnx(model.save(tmp_path / "a.onnx", model.node("MatMul", "q", k))).network
    (product,) = (node for node in network.nodes if node.op == "matmul")
    layer = product.layer
    assert (layer.G, layer.K, layer.C, layer.P, layer.Q, product.repeats) == (1, T, C, T, 1, 6)


@pytest.mark.parametrize(
    ("left", "right", "repeats", "layer"),
    [
        ((5, 6), (6, 7), 1, (1, 7, 6, 5)),  # G, K, C, rows
        ((2, 5, 6), (6, 7), 1, (1, 7, 6, 10)),  # one right factor for all: more rows
        ((2, 3, 5, 6), (3, 6, 7), 3, (1, 7, 6, 10)),
        ((2, 3, 5, 6), (2, 1, 6, 7), 2, (1, 7, 6, 15)),
        ((5, 6), (2, 6, 7), 1, (1, 14, 6, 5)),  # one left factor: more columns
        ((2, 1, 5, 6), (2, 3, 6, 7), 2, (1, 21, 6, 5)),
        ((1, 1, 5, 6), (1, 1, 6, 7), 1, (1, 7, 6, 5)),
        ((6,), (6, 7), 1, (1, 7, 6, 1)),
        ((5, 6), (6,), 1, (1, 1, 6, 5)),
    ],
)
def test_products_of_activations_of_any_rank(left, right, repeats, layer, tmp_path):
    model = Model()
    x = model.node("MatMul", model.input("a", *left), model.input("b", *right))
    network = import_onnx(model.save(tmp_path / "p.onnx", x)).network
    *_, node = network.nodes
    assert node.op == "matmul"
    assert layer == (node.layer.G, node.layer.K, node.layer.C, node.layer.P * node.layer.Q)
    assert node.repeats == repeats
    # The multiplications of the product itself, counted on the result.
    result = np.matmul(np.ones(left), np.ones(right))
    assert network.macs == result.size * left[-1] == result.sum()


@pytest.mark.parametrize(
    ("equation", "left", "right", "macs"),
    [
        ("ij,jk->ik", (2, 3), (3, 4), 24),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5), 120),
        ("ijb,bjk->kbi", (2, 3, 4), (4, 3, 5), 120),
        ("abij,abkj->abik", (2, 3, 4, 5), (2, 3, 6, 5), 6 * 4 * 6 * 5),
        ("i,j->ij", (3,), (4,), 12),
        ("ij,ij->", (3, 4), (3, 4), 12),
    ],
)
def test_products_in_einsum_of_activations(equation, left, right, macs, tmp_path):
    model = Model()
    x = model.node("Einsum", model.input("a", *left), model.input("b", *right), equation=equation)
    network = import_onnx(model.save(tmp_path / "p.onnx", x)).network
    assert network.nodes[-1].op == "matmul"
    assert network.macs == macs
    result = np.einsum(equation, np.ones(left), np.ones(right))
    assert network.macs == result.sum()
    assert np.prod(network.shape(network.nodes[-1].name)) == result.size


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,kl->il", [(2, 3), (4, 5)], 120),  # j and k are summed before
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 5, 4, 6)], 2 * 5 * 3 * 4 * 6),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 120),
        ("ii,ij->j", [(3, 3), (3, 4)], 12),
        ("ij->ji", [(2, 3)], 0),
    ],
)
def test_other_einsums_are_the_hosts(equation, shapes, macs, tmp_path):
    model = Model()
    names = [model.input(f"x{place}", *shape) for place, shape in enumerate(shapes)]
    x = model.node("Einsum", *names, equation=equation)
    network = import_onnx(model.save(tmp_path / "e.onnx", x)).network
    assert network.nodes[-1].function == "einsum"
    assert (network.macs, network.host_macs) == (0, macs)


def test_a_product_with_several_constant_matrices_is_the_hosts(tmp_path):
    model = Model()
    x = model.node("MatMul", model.input("x", 2, 3, 5, 6), model.constant(ones(3, 6, 7)))
    network = import_onnx(model.save(tmp_path / "m.onnx", x)).network
    assert network.nodes[-1].function == "mat_mul"
    assert network.host_macs == 2 * 3 * 5 * 6 * 7


def test_a_transformer_block_of_torch_with_time_first(tmp_path):
    """Torch's own attention has (T, N, C), three projections in one, and takes them apart."""
    model = Model()
    x = model.input("x", 1, T, WIDTH)
    y = model.node("Transpose", x, perm=[1, 0, 2])
    y = model.node("MatMul", y, model.constant(ones(WIDTH, 3 * WIDTH)))
    y = model.node("Reshape", y, model.constant(np.array([T, 1, 3, WIDTH])))
    y = model.node("Unsqueeze", y, model.constant(np.array([0])))
    y = model.node("Transpose", y, perm=[3, 1, 2, 0, 4])
    y = model.node("Squeeze", y, model.constant(np.array([3])))
    parts = [model.node("Gather", y, model.constant(np.array(i)), axis=0) for i in range(3)]
    heads = model.constant(np.array([T, HEADS, C]))
    parts = [model.node("Reshape", part, heads) for part in parts]
    q, v = (model.node("Transpose", part, perm=[1, 0, 2]) for part in (parts[0], parts[2]))
    k = model.node("Transpose", parts[1], perm=[1, 2, 0])
    y = model.node("Softmax", model.node("MatMul", q, k))
    y = model.node("Transpose", model.node("MatMul", y, v), perm=[1, 0, 2])
    y = model.node("Reshape", y, model.constant(np.array([T, WIDTH])))
    y = model.node("Gemm", y, model.constant(ones(WIDTH, WIDTH)), model.constant(ones(WIDTH)))
    y = model.node("Reshape", y, model.constant(np.array([T, 1, WIDTH])))
    y = model.node("Add", x, model.node("Transpose", y, perm=[1, 0, 2]))
    network = import_onnx(model.save(tmp_path / "t.onnx", y)).network
    kinds = [node.function or node.op for node in network.nodes]
    assert kinds == [
        "input", "linear", "gather", "gather", "gather", "matmul", "softmax", "matmul", "linear",
        "add",
    ]  # fmt: skip
    assert alike(network)[1:3] == alike(built(1))[3:5]
    assert {network.shape(node.name)[:3] for node in network.nodes} == {(1, T, 1)}


def test_a_block_of_convnext_moves_nothing(tmp_path):
    """A depthwise convolution, then linear layers over the channels, which are last meanwhile."""
    model = Model()
    x = model.input("x", 1, 6, 4, 5)
    y = model.node("Conv", x, model.constant(ones(6, 1, 7, 7)), group=6, pads=[3] * 4)
    y = model.node("Transpose", y, perm=[0, 2, 3, 1])
    y = model.node("LayerNormalization", y, model.constant(ones(6)), axis=-1)
    y = model.node("MatMul", y, model.constant(ones(6, 24)))
    y = model.node("MatMul", model.node("Gelu", y), model.constant(ones(24, 6)))
    y = model.node("Add", x, model.node("Transpose", y, perm=[0, 3, 1, 2]))
    model.opset = 20
    network = import_onnx(model.save(tmp_path / "c.onnx", y)).network
    kinds = [node.function or node.kind for node in network.nodes]
    assert kinds == [
        "input", "depthwise", "layer_normalization", "linear", "gelu", "linear", "add"
    ]  # fmt: skip
    assert {network.shape(node.name)[:3] for node in network.nodes} == {(1, 4, 5)}


def test_images_with_their_channels_last_are_read_as_they_are(tmp_path):
    """TensorFlow's exporters transpose the input before the first convolution."""
    model = Model()
    x = model.node("Transpose", model.input("x", 1, 4, 5, 3), perm=[0, 3, 1, 2])
    x = model.node("Conv", x, model.constant(ones(6, 3, 1, 1)))
    network = import_onnx(model.save(tmp_path / "n.onnx", x)).network
    assert [node.op for node in network.nodes] == ["input", "conv"]
    assert network.nodes[0].input_shape == (1, 4, 5, 3)


@pytest.mark.parametrize("names", [("fc.transpose", "twin"), ("twin", "fc.transpose")])
def test_what_must_be_moved_is_moved_once(names, tmp_path):
    """Convolutions over time read tokens (N, T, C) in the other order: one move for both.

    The move has a name of its own, whether the operator of that name comes before it or after.
    """
    model = Model()
    x = model.node("MatMul", model.input("x", 1, 5, 3), model.constant(ones(3, 3)), name="fc")
    model.node("Conv", x, model.constant(ones(4, 5, 1)), name=names[0], outputs=["a"])
    model.node("Conv", x, model.constant(ones(4, 5, 1)), name=names[1], outputs=["b"])
    network = import_onnx(model.save(tmp_path / "m.onnx", "a", "b")).network
    assert [(node.name, node.function or node.op) for node in network.nodes] == [
        ("x", "input"),
        ("fc", "linear"),
        ("fc.transpose.2", "transpose"),
        (names[0], "conv1d"),
        (names[1], "conv1d"),
        ("outputs", "outputs"),
    ]


def test_sequences_with_their_channels_first_are_read_as_they_are(tmp_path):
    """(N, C, L), transposed to (L, N, C) for a linear layer."""
    model = Model()
    x = model.node("Transpose", model.input("x", 2, 3, 7), perm=[2, 0, 1])
    x = model.node("MatMul", x, model.constant(ones(3, 4)))
    network = import_onnx(model.save(tmp_path / "s.onnx", x)).network
    assert [node.op for node in network.nodes] == ["input", "linear"]
    assert network.nodes[0].input_shape == (2, 1, 7, 3)


def test_a_factor_that_fits_no_product_is_refused_by_onnx(tmp_path):
    model = Model()
    x = model.node("MatMul", model.input("a", 2, 3), model.input("b", 4, 5))
    with pytest.raises(WorkloadError, match=r"bad.onnx: .*1 MatMul cannot be inferred.*\(100.0%\)"):
        import_onnx(model.save(tmp_path / "bad.onnx", x))


@pytest.mark.parametrize("masked", [-1e9, -np.inf])
def test_a_mask_may_hold_infinity(masked, tmp_path):
    """As torch exports a causal mask that is cut to the tokens that there are."""
    model = Model()
    x = projected(model, model.input("x", 1, "l", WIDTH))
    mask = model.constant(np.triu(np.full((32, 32), masked), 1))
    length = model.node("Shape", x, start=1, end=2)
    for axis in (0, 1):
        start, along = (model.constant(np.array([number])) for number in (0, axis))
        mask = model.node("Slice", mask, start, length, along)
    scores = model.node("MatMul", x, model.node("Transpose", x, perm=[0, 2, 1]))
    x = model.node("MatMul", model.node("Softmax", model.node("Add", scores, mask)), x)
    network = import_onnx(model.save(tmp_path / "m.onnx", x), {"x": (1, T, WIDTH)}).network
    assert network.macs == T * WIDTH * WIDTH + 2 * T * T * WIDTH


def test_a_mask_of_features_stands_behind_their_layer(tmp_path):
    """Features that are switched off: no bias of a layer is infinite."""
    model = Model()
    x = model.node("MatMul", model.input("x", 2, 3), model.constant(ones(3, 4)))
    x = model.node("Add", x, model.constant(np.array([0, -np.inf, 0, 0])))
    network = import_onnx(model.save(tmp_path / "m.onnx", x)).network
    assert [node.function or node.op for node in network.nodes] == ["input", "linear", "add"]


def test_causal_attention_of_onnx(tmp_path):
    model = Model(opset=23, kind=1)
    q, k, v = (model.input(name, 2, T, WIDTH) for name in "qkv")
    x = model.node("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS, is_causal=1)
    assert import_onnx(model.save(tmp_path / "m.onnx", x)).network.macs == 2 * 2 * T * T * WIDTH
