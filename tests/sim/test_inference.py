"""Whole networks: the host's operations, calibration, and every simulated layer against torch."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from arch import load_arch, replace
from quant import BFP, LayerFormats, dequantize, quantize_activation, quantize_weight
from sim.host import apply, convolve_float, infer
from sim.inference import Tops, calibrate, float_predictions, run_inference
from sim.simulate import simulate_network
from tests.generate import random_layer
from tests.torch_network import weighted_module
from workloads import (
    ConvLayer,
    LayerWeights,
    NetworkBuilder,
    Node,
    Pool,
    WorkloadError,
    load_workload,
    normalise,
    shipped_images,
    shipped_weights,
)


def torch_convolution(layer: ConvLayer, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Float64, NHWC in and out. Exact where all sums are integers below 2^53 of some unit."""
    top, bottom, left, right = layer.paddings
    nchw = torch.from_numpy(np.ascontiguousarray(inputs)).permute(0, 3, 1, 2).double()
    out = functional.conv2d(
        functional.pad(nchw, (left, right, top, bottom)),
        torch.from_numpy(np.ascontiguousarray(weights)).double(),
        stride=layer.strides,
        dilation=layer.dilations,
        groups=layer.G,
    )
    return out.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("seed", range(50))
def test_float_convolution_equals_torch(seed: int) -> None:
    import random

    layer = random_layer(random.Random(seed))
    data = np.random.default_rng(seed)
    inputs, weights = data.normal(size=layer.input_shape), data.normal(size=layer.weight_shape)
    expected = torch_convolution(layer, inputs, weights)
    np.testing.assert_allclose(convolve_float(layer, inputs, weights), expected, atol=1e-12)


def test_the_hosts_operations_equal_torch() -> None:
    builder = NetworkBuilder("host", (2, 9, 8, 3))
    builder.maxpool("pool", "input", kernel=3, stride=2, padding=1)
    builder.relu("relu", "pool")
    builder.add("add", "relu", "pool")
    builder.avgpool("mean", "add")
    builder.concat("join", "pool", "relu", "pool")
    nodes = {node.name: node for node in builder.network().nodes}
    values = np.random.default_rng(0).normal(size=(2, 9, 8, 3)) - 1
    pooled = apply(nodes["pool"], [values])
    nchw = torch.from_numpy(values).permute(0, 3, 1, 2)
    expected = functional.max_pool2d(nchw, 3, 2, 1)
    assert (pooled == expected.permute(0, 2, 3, 1).numpy()).all()
    relu = apply(nodes["relu"], [pooled])
    assert (relu == np.where(pooled > 0, pooled, 0)).all()
    added = apply(nodes["add"], [relu, pooled])
    assert (added == relu + pooled).all()
    joined = apply(nodes["join"], [pooled, relu, pooled])
    channels_first = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in (pooled, relu, pooled)]
    assert (joined == torch.cat(channels_first, 1).permute(0, 2, 3, 1).numpy()).all()
    mean = apply(nodes["mean"], [added])
    np.testing.assert_allclose(mean[:, 0, 0], added.reshape(2, -1, 3).mean(1))
    with pytest.raises(ValueError, match="is none of the host's"):
        apply(Node("c", "conv", ("x",)), [values])


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_equals_torch_for_every_window(ceil: bool) -> None:
    """Values below zero, so that a padding of zeros would win."""
    values = np.random.default_rng(0).normal(size=(2, 7, 6, 3)) - 9
    nchw = torch.from_numpy(values).permute(0, 3, 1, 2)
    for kernel, stride in product(product(range(1, 5), repeat=2), product(range(1, 5), repeat=2)):
        for padding in ((0, 0), (kernel[0] // 2, kernel[1] // 2)):
            node = Node("pool", "maxpool", ("x",), pool=Pool(kernel, stride, padding, ceil))
            expected = functional.max_pool2d(nchw, kernel, stride, padding, ceil_mode=ceil)
            found = apply(node, [values])
            assert np.array_equal(found, expected.permute(0, 2, 3, 1).numpy()), node


def inception_network():
    """A small net whose branches are concatenated, with poolings that round up."""
    builder = NetworkBuilder("branches", (1, 10, 10, 4))
    builder.conv("stem", "input", 12, 3, padding=1)
    builder.maxpool("pool", "stem", 3, stride=2, ceil=True)
    builder.conv("left", "pool", 6, 1)
    builder.relu("left.relu", "left")
    builder.maxpool("right.pool", "pool", 3, stride=1, padding=1, ceil=True)
    builder.conv("right", "right.pool", 10, 1)
    builder.concat("join", "left.relu", "right", "pool")
    builder.maxpool("rest", "join", 2, stride=2, ceil=True)
    builder.conv("out", "rest", 5, 3)
    network = builder.network()
    return network, random_weights(network), np.random.default_rng(8).normal(size=(3, 10, 10, 4))


def random_weights(network) -> dict[str, LayerWeights]:
    data = np.random.default_rng(7)
    return {
        layer.name: LayerWeights(
            data.normal(size=layer.weight_shape).astype(np.float32),
            data.normal(size=layer.weight_shape[0]).astype(np.float32),
        )
        for layer in network.layers
    }


def residual_network():
    """A small net with a residual add, depthwise and strided convs, and weights of its own."""
    builder = NetworkBuilder("small", (1, 10, 10, 4))
    builder.conv("stem", "input", 16, 3, padding=1)
    builder.relu("stem.relu", "stem")
    builder.conv("depthwise", "stem.relu", 16, 3, padding=1, groups=16)
    builder.add("add", "depthwise", "stem.relu")
    builder.conv("down", "add", 24, 3, stride=2, padding=1)
    builder.relu("down.relu", "down")
    builder.avgpool("mean", "down.relu")
    builder.conv("fc", "mean", 5, 1)
    network = builder.network()
    return network, random_weights(network), np.random.default_rng(8).normal(size=(3, 10, 10, 4))


def reference_run(network, weights, images, formats, tops) -> dict[str, np.ndarray]:
    """The quantised network with torch as the convolution; sums fit float64 exactly."""
    values = {}
    for node in network.batched(len(images)).nodes:
        sources = [values[name] for name in node.inputs]
        if node.op == "input":
            values[node.name] = images.astype(np.float64)
        elif node.layer is None:
            values[node.name] = apply(node, sources)
        else:
            own, top = weights[node.name], tops[node.name]
            inputs = dequantize(quantize_activation(sources[0], formats.I, top.I))
            filters = dequantize(quantize_weight(own.weight, formats.W))
            sums = torch_convolution(node.layer, inputs, filters)
            kept = dequantize(quantize_activation(sums, formats.O, top.O))
            values[node.name] = kept + own.bias
    return values


@pytest.mark.parametrize("arch", ["edge-16k", "edge-64k-split", "edge-64k-im2col"])
def test_a_small_network_equals_torch_bit_for_bit(arch: str) -> None:
    network, weights, images = residual_network()
    formats = LayerFormats.uniform(BFP(8, 3, 8))
    tops = calibrate(network, weights, images)
    small = (
        replace(load_arch(arch), "dma.padding", "fetch") if "im2col" in arch else load_arch(arch)
    )
    inference = run_inference(network, small, formats, weights, images, tops)
    expected = reference_run(network, weights, images, formats, tops)
    assert (inference.outputs == expected["fc"]).all()
    assert [r.layer.name for r in inference.result.layers] == ["stem", "depthwise", "down", "fc"]


def test_a_network_of_branches_equals_torch_bit_for_bit() -> None:
    network, weights, images = inception_network()
    formats = LayerFormats.uniform(BFP(8, 3, 8))
    tops = calibrate(network, weights, images)
    inference = run_inference(network, load_arch("edge-16k"), formats, weights, images, tops)
    expected = reference_run(network, weights, images, formats, tops)
    assert network.shape("join") == (1, 5, 5, 28)
    assert (inference.outputs == expected["out"]).all()
    module = weighted_module(network, weights).double()
    with torch.no_grad():
        logits = module(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    floats = infer(network.batched(3), weights, images)
    np.testing.assert_allclose(floats["out"], logits, rtol=1e-9, atol=1e-9)


def test_fashion_mnist_images_through_the_trained_network() -> None:
    """Logits equal the torch reference's bits; counts equal a run without data."""
    network, weights = load_workload("resnet18-fashion"), shipped_weights("resnet18-fashion")
    pixels, labels = shipped_images("resnet18-fashion")
    tops = calibrate(network, weights, normalise(pixels[100:116]))
    images, arch = normalise(pixels[:4]), load_arch("edge-64k")
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    inference = run_inference(network, arch, formats, weights, images, tops)
    expected = reference_run(network, weights, images, formats, tops)
    assert (inference.outputs == expected[network.nodes[-1].name]).all()
    assert (inference.predictions == labels[:4]).all()
    assert (float_predictions(network, weights, images) == labels[:4]).all()
    sizes_only = simulate_network(network.batched(4), arch, formats)
    assert [r.counts for r in inference.result.layers] == [r.counts for r in sizes_only.layers]
    assert inference.result.cycles == sizes_only.cycles


def test_calibration_takes_each_tensors_own_maximum() -> None:
    network, weights, images = residual_network()
    tops = calibrate(network, weights, images)
    outputs = infer(network.batched(3), weights, images)
    assert set(tops) == {"stem", "depthwise", "down", "fc"}
    biggest = np.abs(outputs["down:sum"]).max()
    assert 2.0 ** tops["down"].O <= biggest < 2.0 ** (tops["down"].O + 1)
    assert isinstance(tops["down"], Tops)


@pytest.mark.long
def test_googlenet_is_simulated_whole() -> None:
    network = load_workload("googlenet")
    result = simulate_network(network, load_arch("edge-64k"), LayerFormats.uniform(BFP(8, 3, 16)))
    assert [r.layer.name for r in result.layers] == [layer.name for layer in network.layers]
    assert result.simulations == len(network.unique_layers) < len(network.layers)
    assert sum(r.layer.macs for r in result.layers) == network.macs
    assert result.cycles == sum(r.cycles for r in result.layers)


def test_equal_layers_are_simulated_once() -> None:
    network = load_workload("resnet18-fashion")
    seen = []
    result = simulate_network(
        network, load_arch("edge-64k"), LayerFormats.uniform(BFP(8, 3, 16)), progress=seen.append
    )
    assert seen == [layer.name for layer in network.layers]
    assert result.simulations == len(network.unique_layers) < len(network.layers)
    assert list(dict.fromkeys(result.traffic["layer"])) == seen
    assert result.cycles == sum(r.cycles for r in result.layers)


def test_a_network_with_operations_that_have_no_arithmetic_is_refused_before_it_runs():
    build = NetworkBuilder("gated", (1, 4, 4, 3))
    x = build.host("gate", "sigmoid", build.conv("conv", "input", 3, 1))
    build.matmul("product", x, x, 16)
    network, images = build.network(), np.zeros((1, 4, 4, 3))
    formats = LayerFormats(BFP(8, 3, 16), BFP(8, 3, 16), BFP(8, 3, 16))
    message = (
        "network 'gated': 2 of 4 nodes cannot be run with data (matmul, sigmoid; first: 'gate'); "
        "allowed: input, conv, conv1d, linear, relu, add, concat, avgpool, maxpool"
    )
    for run in (
        lambda: infer(network, {}, images),
        lambda: run_inference(network, load_arch("edge-64k"), formats, {}, images),
    ):
        with pytest.raises(WorkloadError) as caught:
            run()
        assert str(caught.value) == message
