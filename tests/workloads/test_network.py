import pickle
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import ConvLayer, Network, NetworkBuilder, Node, Pool, WorkloadError
from tests.torch_network import NetworkModule

INPUT = Node("input", "input", input_shape=(1, 8, 8, 4))
CONV = ConvLayer("conv", K=4, C=4, P=8, Q=8, R=3, S=3, padding=1)


def tiny() -> Network:
    build = NetworkBuilder("tiny", (1, 8, 8, 4))
    x = build.conv("conv", "input", 4, 3, padding=1)
    x = build.add("sum", build.relu("relu", x), "input")
    x = build.maxpool("pool", x, 3, stride=2, padding=1)
    x = build.conv("again", x, 4, 3, padding=1)
    x = build.conv("same", x, 4, 3, padding=1)
    build.conv("fc", build.avgpool("mean", x), 10, 1)
    return build.network()


def test_shapes_follow_from_the_input():
    network = tiny()
    assert [node.name for node in network.nodes] == [
        "input", "conv", "relu", "sum", "pool", "again", "same", "mean", "fc",
    ]  # fmt: skip
    assert network.shape("sum") == (1, 8, 8, 4)
    assert network.shape("pool") == (1, 4, 4, 4)
    assert network.shape("mean") == (1, 1, 1, 4)
    assert network.shape("fc") == (1, 1, 1, 10)
    assert [layer.name for layer in network.layers] == ["conv", "again", "same", "fc"]
    assert network.macs == 64 * 4 * 4 * 9 + 2 * 16 * 4 * 4 * 9 + 40
    assert [node.name for node in network.producers["sum"]] == ["relu", "input"]
    assert network.producers["input"] == ()


def test_unique_layers_count_those_that_differ_in_name_only():
    found = [(layer.name, count) for layer, count in tiny().unique_layers]
    assert found == [("conv", 1), ("again", 2), ("fc", 1)]


def test_batched_network_is_the_network_of_a_batched_input():
    network, batched = tiny(), tiny().batched(3)
    assert all(batched.shape(node.name)[0] == 3 for node in batched.nodes)
    assert batched.macs == 3 * network.macs
    assert batched.batched(1) == network
    assert hash(batched.batched(1)) == hash(network)
    with pytest.raises(WorkloadError, match="=0 must be an int >= 1"):
        network.batched(0)


def test_pickling_keeps_a_network_whole():
    copy = pickle.loads(pickle.dumps(tiny()))
    assert copy == tiny()
    assert copy.shape("pool") == (1, 4, 4, 4)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_networks_have_the_shapes_torch_gives(data):
    draw = data.draw
    size, channels = draw(st.integers(6, 14)), draw(st.sampled_from([2, 4]))
    build = NetworkBuilder("random", (2, size, size + 1, channels))
    x = "input"
    for index in range(draw(st.integers(1, 4))):
        x = build.conv(
            f"c{index}",
            x,
            draw(st.sampled_from([2, 4])),
            (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            stride=(draw(st.integers(1, 2)), 1),
            padding=tuple(draw(st.integers(1, 2)) for _ in range(4)),
            groups=draw(st.sampled_from([1, 2])),
        )
        x = build.add(f"a{index}", x, build.relu(f"r{index}", x), x)
        kernel = draw(st.integers(1, 2))
        x = build.maxpool(
            f"p{index}",
            x,
            kernel,
            stride=draw(st.integers(1, 2)),
            padding=kernel // 2,
            ceil=draw(st.booleans()),
        )
        x = build.concat(f"j{index}", x, build.relu(f"s{index}", x))
    network = build.network()
    with torch.device("meta"):
        module = NetworkModule(network)
        out = module(torch.empty(2, channels, size, size + 1))
    N, C, P, Q = out.shape
    assert network.shape(x) == (N, P, Q, C)


def pooled(kernel: int, stride: int = 1, padding: int = 0, ceil: bool = False) -> Node:
    pool = Pool((kernel, kernel), (stride, stride), (padding, padding), ceil)
    return Node("pool", "maxpool", ("input",), pool=pool)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "network 'net': must have at least one node"),
        ([INPUT, INPUT], "node 'input': name is taken by an earlier node"),
        ([INPUT, Node("", "relu", ("input",))], "node '': name must be a non-empty string"),
        ([INPUT, Node("x", "split", ("input",))], "op='split' must be one of input, conv, conv1d"),
        ([INPUT, Node("x", "relu", ("y",))], "node 'x': input 'y' must be a node before it"),
        ([Node("x", "relu", ("input",)), INPUT], "input 'input' must be a node before it"),
        ([INPUT, Node("x", "relu", ("x",))], "node 'x': input 'x' must be a node before it"),
        ([INPUT, Node("x", "relu", "input")], "node 'x': inputs='input' must be a tuple"),
        ([INPUT, Node("x", "relu")], "node 'x': relu reads 0 nodes, must read 1"),
        ([INPUT, Node("x", "relu", ("input", "input"))], "relu reads 2 nodes, must read 1"),
        ([INPUT, Node("x", "add", ("input",))], "add reads 1 nodes, must read at least 2"),
        ([INPUT, Node("x", "concat", ("input",))], "concat reads 1 nodes, must read at least 2"),
        ([INPUT, Node("conv", "conv", ("input",))], "node 'conv': conv must have layer"),
        ([INPUT, Node("x", "relu", ("input",), layer=CONV)], "relu must not have layer"),
        ([INPUT, Node("x", "maxpool", ("input",))], "maxpool must have pool"),
        ([Node("x", "input")], "node 'x': input must have input_shape"),
        ([Node("x", "input", input_shape=(1, 8, 8))], r"input_shape=\(1, 8, 8\) must be"),
        ([Node("x", "input", input_shape=(1, 8, 0, 3))], "input_shape=0 must be an int >= 1"),
        ([INPUT, Node("x", "conv", ("input",), layer=CONV)], "named 'conv', must be named alike"),
        (
            [INPUT, Node("conv", "conv", ("input",), layer=CONV.batched(2))],
            r"input 'input' has shape \(1, 8, 8, 4\), must have \(2, 8, 8, 4\)",
        ),
        (
            [INPUT, Node("mean", "avgpool", ("input",)), Node("x", "add", ("input", "mean"))],
            r"'mean' has shape \(1, 1, 1, 4\), must have \(1, 8, 8, 4\) as 'input' has",
        ),
        (
            [INPUT, Node("mean", "avgpool", ("input",)), Node("x", "concat", ("input", "mean"))],
            r"'mean' has N, H, W = \(1, 1, 1\), must have \(1, 8, 8\) as 'input' has",
        ),
        ([INPUT, pooled(9)], "node 'pool': kernel=9 must be at most 8, the padded input$"),
        ([INPUT, pooled(9, ceil=True)], "kernel=9 must be at most 8, the padded input$"),
        (
            [INPUT, pooled(11, stride=3, ceil=True)],
            r"kernel=11 must be at most 10, the padded input and 2 beyond it \(ceil, stride 3\)$",
        ),
        ([INPUT, pooled(2, padding=2)], "padding=2 must be at most half of kernel=2"),
        ([INPUT, pooled(2, stride=0)], "stride=0 must be an int >= 1"),
    ],
)
def test_a_network_that_does_not_hold_together_is_refused(nodes, message):
    with pytest.raises(WorkloadError, match=message) as caught:
        Network("net", tuple(nodes))
    assert str(caught.value).startswith("network 'net': ")


def test_a_pooling_window_may_reach_into_the_padding_on_both_sides():
    node = Node("pool", "maxpool", ("input",), pool=Pool((10, 9), (1, 1), (1, 1)))
    assert Network("net", (INPUT, node)).shape("pool") == (1, 1, 2, 4)


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_has_the_windows_torch_has_and_refuses_what_torch_refuses(ceil):
    refused = longer = 0
    for extent, kernel, stride in product(range(1, 10), range(1, 6), range(1, 6)):
        for padding in range(kernel // 2 + 2):
            image = Node("input", "input", input_shape=(1, extent, extent, 1))
            node = pooled(kernel, stride, padding, ceil)
            try:
                map_ = torch.empty(1, 1, extent, extent, device="meta")
                out = F.max_pool2d(map_, kernel, stride, padding, ceil_mode=ceil)
            except RuntimeError:
                refused += 1
                with pytest.raises(WorkloadError):
                    Network("net", (image, node))
            else:
                assert Network("net", (image, node)).shape("pool") == (1, *out.shape[2:], 1)
                longer += out.shape[2] > (extent + 2 * padding - kernel) // stride + 1
    assert refused > 0
    assert (longer > 0) == ceil


def test_with_ceil_the_last_window_starts_in_the_input_or_the_padding_before():
    """Stride 2 from the padding at -1: input 0 to 3 leaves a window at 3, but 0 to 2 none at 3."""
    pool = Pool((2, 2), (2, 2), (1, 1), ceil=True)
    assert pool.outputs((4, 3)) == (3, 2)
    assert Pool((3, 3), (2, 2), ceil=True).outputs((4, 5)) == (2, 2)
    assert Pool((3, 3), (2, 2)).outputs((4, 5)) == (1, 2)


def test_a_concatenation_joins_channels():
    build = NetworkBuilder("joined", (2, 8, 6, 3))
    x = build.conv("conv", "input", 5, 3, padding=1)
    assert build.shape(build.concat("once", x, "input")) == (2, 8, 6, 8)
    build.concat("again", "once", "once", x)
    network = build.network()
    assert network.shape("again") == (2, 8, 6, 21)
    assert [node.name for node in network.producers["once"]] == ["conv", "input"]
    assert network.batched(1).shape("again") == (1, 8, 6, 21)


def test_builder_refuses_at_the_line_that_is_wrong():
    build = NetworkBuilder("net", (1, 8, 8, 4))
    with pytest.raises(WorkloadError, match="network 'net': has no node 'nowhere'"):
        build.conv("conv", "nowhere", 4, 3)
    with pytest.raises(WorkloadError, match="layer 'conv': H=8 must be at least 9"):
        build.conv("conv", "input", 4, 9)
    with pytest.raises(WorkloadError, match="node 'pool': kernel=0 must be an int >= 1"):
        build.maxpool("pool", "input", 0, stride=1)
    build.relu("relu", "input")
    with pytest.raises(WorkloadError, match="name is taken"):
        build.relu("relu", "input")


@pytest.mark.parametrize("name", ["", None])
def test_a_network_must_have_a_name(name):
    with pytest.raises(WorkloadError, match="name must be a non-empty string"):
        Network(name, (INPUT,))


def test_asking_for_a_node_that_is_not_there():
    with pytest.raises(WorkloadError, match="network 'tiny': has no node 'conv9'"):
        tiny().shape("conv9")
