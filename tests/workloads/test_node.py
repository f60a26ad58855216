"""Layer kinds and host operations: what they are, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from bfpsim.workloads import LAYER_OPS, OPS, ConvLayer, Network, NetworkBuilder, Node, WorkloadError

INPUT = Node("input", "input", input_shape=(2, 1, 12, 6))
HOST = Node("soft", "host", ("input",), function="softmax", output_shape=(2, 1, 12, 6))


def attention(samples: int) -> Network:
    """Self-attention of 3 heads of 4 channels over 5 tokens."""
    build = NetworkBuilder("attention", (samples, 5, 1, 12))
    q, k, v = (build.linear(name, "input", 12) for name in ("q", "k", "v"))
    scores = build.matmul("qk", q, k, 5, heads=3)
    weights = build.host("softmax", "softmax", scores)
    x = build.matmul("av", weights, v, 4, heads=3)
    build.add("residual", build.linear("proj", x, 12), "input")
    return build.network()


def test_attention_products_are_layers_that_run_once_per_head_and_sample():
    network = attention(2)
    qk, av = (layer for layer in network.layers if layer.name in ("qk", "av"))
    assert (qk.G, qk.K, qk.C, qk.P, qk.N) == (1, 5, 4, 5, 1)
    assert (av.G, av.K, av.C, av.P, av.N) == (1, 4, 5, 5, 1)
    assert network.repeats == {"q": 1, "k": 1, "v": 1, "qk": 6, "av": 6, "proj": 1}
    assert [(layer.name, runs) for layer, runs in network.unique_layers] == [
        ("q", 4), ("qk", 6), ("av", 6),
    ]  # fmt: skip
    assert network.shape("qk") == (2, 5, 1, 15)
    assert network.shape("av") == (2, 5, 1, 12)
    # The textbook's 4 n d^2 + 2 n^2 d for each sample.
    assert network.macs == 2 * (4 * 5 * 12 * 12 + 2 * 5 * 5 * 12)
    assert network == attention(1).batched(2)
    assert attention(1).batched(6) == attention(2).batched(6) == attention(6)


def test_attention_layers_count_what_einsum_multiplies():
    generator = np.random.default_rng(0)
    q = generator.integers(-5, 6, (5, 3, 4))  # tokens, heads, channels
    k = generator.integers(-5, 6, (5, 3, 4))
    (qk,) = (layer for layer in attention(1).layers if layer.name == "qk")
    heads = [q[:, head].reshape(5, qk.C) @ k[:, head].reshape(qk.K, qk.C).T for head in range(3)]
    grouped = np.concatenate(heads, axis=1)
    expected = np.einsum("qhc,khc->qhk", q, k).reshape(5, 15)
    np.testing.assert_array_equal(grouped, expected)


def test_kinds():
    build = NetworkBuilder("kinds", (1, 8, 8, 6))
    build.conv("conv", "input", 4, 3)
    build.conv("grouped", "input", 6, 3, groups=2)
    build.conv("depthwise", "input", 6, 3, groups=6)
    vector = build.host("vector", "reshape", build.avgpool("pool", "input"), shape=(1, 1, 6, 1))
    build.conv1d("eca", vector, 1, 3, padding=1)
    build.linear("linear", "input", 4)
    build.matmul("product", "input", "input", 64)
    build.transposed("up", "input", 4, 2, stride=2)
    network = build.network()
    kinds = [node.kind for node in network.nodes if node.layer is not None]
    assert kinds == [
        "conv", "grouped", "depthwise", "conv1d", "linear", "matmul", "transposed",
    ]  # fmt: skip
    assert set(kinds) - {"grouped", "depthwise"} == set(LAYER_OPS)
    assert set(LAYER_OPS) < set(OPS)
    eca = next(layer for layer in network.layers if layer.name == "eca")
    assert (eca.dims, eca.paddings) == (
        {"N": 1, "G": 1, "K": 1, "C": 1, "P": 1, "Q": 6, "R": 1, "S": 3}, (0, 0, 1, 1),
    )  # fmt: skip
    assert network.macs == sum(
        (36 * 4 * 6 * 9, 36 * 6 * 3 * 9, 36 * 6 * 9, 6 * 3, 64 * 6 * 4, 64 * 64 * 6, 64 * 6 * 16)
    )


def test_what_is_not_modelled_is_kept_with_its_share():
    build = NetworkBuilder("deformable", (1, 10, 1, 8))
    x = build.host("sampling", "deformable_sampling", "input", macs=500)
    build.linear("proj", x, 8)
    network = build.network()
    assert (network.macs, network.host_macs) == (640, 500)
    assert network.batched(3).host_macs == 1500
    assert network.batched(3).batched(1) == network
    assert network.shape("sampling") == (1, 10, 1, 8)


def test_host_outputs_whose_first_extent_is_not_the_batch_scale_with_it():
    build = NetworkBuilder("windows", (1, 8, 8, 6))
    build.host("partition", "window_partition", "input", shape=(4, 16, 1, 6))
    build.matmul("qk", "partition", "partition", 16, heads=2)
    network = build.network().batched(3)
    assert network.shape("partition") == (12, 16, 1, 6)
    assert network.shape("qk") == (12, 16, 1, 32)
    assert (network.layers[0].C, network.repeats) == (3, {"qk": 24})
    assert network.macs == 12 * 16 * 16 * 6


def test_a_source_that_fixed_a_shape_is_kept():
    build = NetworkBuilder("open", (1, 4, 4, 3))
    build.conv("head.a", "input", 3, 1)
    build.conv("head.b", "input", 3, 1)
    build.conv("body", "input", 3, 1)
    build.mark_unverified("head.", "published code")
    assert [node.unverified for node in build.network().nodes] == [
        "", "published code", "published code", "",
    ]  # fmt: skip
    with pytest.raises(WorkloadError, match=r"network 'open': has no node named 'tail'\.\.\."):
        build.mark_unverified("tail", "nobody")


LINEAR = ConvLayer("x", K=4, C=6, P=1, Q=12, N=2)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (replace(HOST, function=""), "host must have function"),
        (replace(HOST, output_shape=None), "host must have output_shape"),
        (replace(HOST, host_macs=-1), "host_macs=-1 must be an int >= 0"),
        (replace(HOST, output_shape=(1, 2, 3)), r"output_shape=\(1, 2, 3\) must be"),
        (replace(HOST, output_shape=(1, 2, 3, 0)), "output_shape=0 must be an int >= 1"),
        (Node("x", "relu", ("input",), function="gelu"), "relu must not have function"),
        (Node("x", "relu", ("input",), host_macs=4), "relu must not have host_macs"),
        (Node("x", "linear", ("input",)), "linear must have layer"),
        (
            Node("x", "linear", ("input",), layer=replace(LINEAR, S=3, Q=10, W=None)),
            "linear must be a 1x1 convolution of one group",
        ),
        (
            Node("x", "conv1d", ("input",), layer=replace(LINEAR, P=2, H=2)),
            "R=1, H=2, P=2 must be 1 for conv1d",
        ),
        (
            Node("x", "matmul", ("input", "input"), layer=LINEAR),
            "matmul must be a 1x1 convolution with N=1",
        ),
        (
            Node("x", "matmul", ("input", "input"), layer=replace(LINEAR, N=1), repeats=2),
            r"shape \(2, 1, 12, 6\), must have the elements of 2 times \(4, 6, 1, 1\)",
        ),
        (Node("x", "matmul", ("input",), layer=LINEAR), "matmul reads 1 nodes, must read 2"),
        (Node("x", "linear", ("input",), layer=LINEAR, repeats=2), "must not have repeats=2"),
        (
            Node(
                "x",
                "matmul",
                ("input", "input"),
                layer=replace(LINEAR, N=1, Q=8, W=8, C=6, K=8),
                repeats=3,
            ),
            "repeats=3 must be a multiple of the 2 samples",
        ),
        (Node("x", "relu", ("input",), repeats=0), "repeats=0 must be an int >= 1"),
    ],
)
def test_what_does_not_hold_together_is_refused(node, message):
    with pytest.raises(WorkloadError, match=message) as caught:
        Network("net", (INPUT, node))
    assert str(caught.value).startswith(f"network 'net': node {node.name!r}: ")
