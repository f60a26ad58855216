"""The tests' own oracle, against loops and by hand."""

import numpy as np
import torch

from bfpsim.workloads import ConvLayer, LayerWeights, Network, NetworkBuilder, Node
from tests.torch_network import weighted_module


def test_a_convolution_is_the_sum_of_its_definition():
    """Against loops over every index, in integers, which floats hold exactly."""
    layer = ConvLayer("c", 2, 2, 3, 4, 2, 3, N=2, G=2, stride=(2, 1), padding=(1, 0, 0, 2))
    node = Node("c", "conv", ("i",), layer=layer)
    network = Network("one", (Node("i", "input", input_shape=layer.input_shape), node))
    rng = np.random.default_rng(1)
    images = rng.integers(-9, 10, layer.input_shape)
    weight = rng.integers(-9, 10, layer.weight_shape)
    bias = rng.integers(-9, 10, layer.weight_shape[0])
    padded = np.pad(images, ((0, 0), (1, 0), (0, 2), (0, 0)))
    expected = np.zeros(layer.output_shape, int)
    for n, p, q, k in np.ndindex(layer.output_shape):
        expected[n, p, q, k] = bias[k]
        first = k // layer.K * layer.C
        for c, r, s in np.ndindex(weight.shape[1:]):
            expected[n, p, q, k] += padded[n, 2 * p + r, q + s, first + c] * weight[k, c, r, s]
    weights = {"c": LayerWeights(weight.astype(np.float32), bias.astype(np.float32))}
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    output = weighted_module(network, weights)(inputs).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output, expected)


def test_a_sum_takes_all_of_its_inputs():
    build = NetworkBuilder("sums", (1, 2, 2, 1))
    build.add("sum", build.conv("double", "input", 1, 1), "input", build.relu("relu", "input"))
    weights = {"double": LayerWeights(np.full((1, 1, 1, 1), 2, "f4"), np.zeros(1, "f4"))}
    images = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]])
    output = weighted_module(build.network(), weights)(images)
    assert output.tolist() == [[[[4.0, -3.0], [12.0, 0.0]]]]


def test_a_concatenation_and_ceil_pooling():
    build = NetworkBuilder("joined", (1, 2, 2, 1))
    x = build.linear("double", "input", 1)
    build.maxpool("pool", build.concat("join", x, "input"), 1, stride=2)
    build.maxpool("rest", "join", 3, stride=2, ceil=True)
    build.concat("out", "pool", "rest")
    weights = {"double": LayerWeights(np.full((1, 1, 1, 1), 2, "f4"), np.zeros(1, "f4"))}
    images = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]])
    output = weighted_module(build.network(), weights)(images)
    assert output.tolist() == [[[[2.0]], [[1.0]], [[6.0]], [[3.0]]]]
