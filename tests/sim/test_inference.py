"""Whole networks: the host's operations, calibration, and every simulated layer against torch."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats, dequantize, quantize_activation, quantize_weight
from bfpsim.sim.inference import (
    Tops,
    calibrate,
    float_predictions,
    infer,
    infer_quantised,
    run_inference,
)
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import (
    ConvLayer,
    LayerWeights,
    NetworkBuilder,
    WorkloadError,
    load_graph,
    load_workload,
    normalise,
    shipped_images,
    shipped_weights,
)
from bfpsim.workloads.graph.graph import evaluate
from bfpsim.workloads.graph.product import Product, convolve
from bfpsim.workloads.training.shipped import shipped_module
from tests.generate import random_layer
from tests.long import often
from tests.torch_network import weighted_module


@pytest.fixture(autouse=True)
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small sums, which a second thread only waits for
    yield
    torch.set_num_threads(threads)


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
    np.testing.assert_allclose(convolve(layer, inputs, weights), expected, atol=1e-12)


def test_operations_between_layers_equal_torch() -> None:
    builder = NetworkBuilder("host", (2, 9, 8, 3))
    builder.maxpool("pool", "input", kernel=3, stride=2, padding=1)
    builder.relu("relu", "pool")
    builder.add("add", "relu", "pool")
    builder.avgpool("mean", "add")
    builder.concat("join", "pool", "relu", "pool")
    values = np.random.default_rng(0).normal(size=(2, 9, 8, 3)) - 1
    found = infer(builder.network(), {}, values)
    pooled = functional.max_pool2d(torch.from_numpy(values).permute(0, 3, 1, 2), 3, 2, 1)
    relu = functional.relu(pooled)
    added = relu + pooled
    expected = {
        "pool": pooled,
        "relu": relu,
        "add": added,
        "mean": added.mean((2, 3), keepdim=True),
        "join": torch.cat([pooled, relu, pooled], 1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.permute(0, 2, 3, 1).numpy(), rtol=1e-15)


def test_the_hosts_functions_equal_torch() -> None:
    """In float64, with what would overflow a careless sigmoid or softmax."""
    draw = np.random.default_rng(0)
    tokens = draw.normal(size=(2, 6, 1, 24)) * 4
    tokens[0, 0, 0, :3] = -800, 0, 800
    builder = NetworkBuilder("tokens", (2, 6, 1, 24))
    for name in ("relu6", "sigmoid", "gelu", "layer_norm", "add_parameter"):
        builder.host(name, name, "input")
    for part in ("q", "k", "v"):
        builder.host(part, "split", "input", shape=(2, 6, 1, 8))
    builder.matmul("qk", "q", "k", 6, heads=2)
    builder.host("scale", "scale", "qk")
    builder.host("softmax", "softmax", "scale")
    builder.matmul("av", "softmax", "v", 4, heads=2)
    builder.host("row", "reshape", builder.avgpool("mean", "input"), shape=(2, 1, 24, 1))
    builder.host("gate", "mul", "input", "mean")
    norm, place = draw.normal(size=(2, 24)), draw.normal(size=(1, 6, 1, 24))
    weights = {
        "layer_norm": LayerWeights(norm[0], norm[1]),
        "add_parameter": LayerWeights(place, np.zeros(24)),
    }
    found = infer(builder.network(), weights, tokens)
    x = torch.from_numpy(tokens)
    scale, shift = torch.from_numpy(norm)
    expected = {
        "relu6": functional.relu6(x),
        "sigmoid": torch.sigmoid(x),
        "gelu": functional.gelu(x),
        "layer_norm": functional.layer_norm(x, (24,), scale, shift),
        "add_parameter": x + torch.from_numpy(place),
        "row": x.mean(1).reshape(2, 1, 24, 1),
        "gate": x * x.mean(1, keepdim=True),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=1e-12, atol=1e-12)
    # (samples, heads, tokens, channels of a head)
    q, k, v = (part.squeeze(2).unflatten(2, (2, 4)).transpose(1, 2) for part in x.split(8, 3))
    attended = functional.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(
        found["av"][:, :, 0], attended.transpose(1, 2).flatten(2), rtol=1e-12, atol=1e-12
    )


def test_a_maps_pixels_become_tokens_row_by_row() -> None:
    builder = NetworkBuilder("tokens", (2, 3, 4, 5))
    builder.host("line", "tokens", "input", shape=(2, 12, 1, 5))
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    line = infer(builder.network(), {}, images)["line"]
    for row, col in product(range(3), range(4)):
        assert (line[:, 4 * row + col, 0] == images[:, row, col]).all()


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_equals_torch_for_every_window(ceil: bool) -> None:
    """Values below zero, so that a padding of zeros would win."""
    values = np.random.default_rng(0).normal(size=(2, 7, 6, 3)) - 9
    nchw = torch.from_numpy(values).permute(0, 3, 1, 2)
    for kernel, stride in product(product(range(1, 5), repeat=2), product(range(1, 5), repeat=2)):
        for padding in ((0, 0), (kernel[0] // 2, kernel[1] // 2)):
            build = NetworkBuilder("pools", (2, 7, 6, 3))
            build.maxpool("pool", "input", kernel, stride=stride, padding=padding, ceil=ceil)
            expected = functional.max_pool2d(nchw, kernel, stride, padding, ceil_mode=ceil)
            found = infer(build.network(), {}, values)["pool"]
            assert np.array_equal(found, expected.permute(0, 2, 3, 1).numpy()), (kernel, stride)


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
    batch = network.batched(len(images))
    graph = load_graph(batch, weights)
    for node in batch.nodes:
        sources, own = [values[name] for name in node.inputs], weights.get(node.name)
        if node.op == "input":
            values[node.name] = images.astype(np.float64)
        elif node.layer is None:
            for step in graph.steps_of(node.name):
                assert not isinstance(step.operation, Product)
                read = [values.get(name, graph.constants.get(name)) for name in step.inputs]
                values[step.outputs[0]] = evaluate(step, read)[0]
        elif node.op == "matmul":
            values[node.name] = reference_product(node.layer, sources, formats, tops[node.name])
        else:
            top = tops[node.name]
            inputs = dequantize(quantize_activation(sources[0], formats.I, top.I))
            filters = dequantize(quantize_weight(own.weight, formats.W))
            sums = torch_convolution(node.layer, inputs, filters)
            kept = dequantize(quantize_activation(sums, formats.O, top.O))
            values[node.name] = kept + own.bias
    return values


def reference_product(layer, sources, formats, top) -> np.ndarray:
    """Each sample's and head's product by itself; the channels of a head lie side by side."""
    left, right = (np.squeeze(each, 2) for each in sources)
    heads = left.shape[2] // layer.C
    samples = []
    for sample, tokens in zip(left, right, strict=True):
        products = []
        for rows, columns in zip(
            np.split(sample, heads, axis=1), np.split(tokens, heads, axis=1), strict=True
        ):
            operand = columns if columns.shape[1] == layer.C else columns.T
            a = dequantize(quantize_activation(rows[None, :, None], formats.I, top.I))
            b = dequantize(quantize_weight(operand[:, :, None, None], formats.W, top.W))
            sums = np.einsum("npqc,kcrs->npqk", a, b)
            products.append(dequantize(quantize_activation(sums, formats.O, top.O)))
        samples.append(np.concatenate(products, axis=3))
    return np.concatenate(samples)


@pytest.mark.parametrize("arch", ["ideal-16k", "ideal-64k-split", "ideal-64k-im2col"])
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
    quantised = infer_quantised(network, weights, images, formats, tops)
    assert (quantised["fc"] == expected["fc"]).all()
    assert [r.layer.name for r in inference.result.layers] == ["stem", "depthwise", "down", "fc"]


def test_a_network_of_branches_equals_torch_bit_for_bit() -> None:
    network, weights, images = inception_network()
    formats = LayerFormats.uniform(BFP(8, 3, 8))
    tops = calibrate(network, weights, images)
    inference = run_inference(network, load_arch("ideal-16k"), formats, weights, images, tops)
    expected = reference_run(network, weights, images, formats, tops)
    assert network.shape("join") == (1, 5, 5, 28)
    assert (inference.outputs == expected["out"]).all()
    module = weighted_module(network, weights).double()
    with torch.no_grad():
        logits = module(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    floats = infer(network.batched(3), weights, images)
    np.testing.assert_allclose(floats["out"], logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["resnet18-fashion", "googlenet-fashion", "mobilenetv2-fashion", "vit-fashion"]
)
def test_float_inference_computes_what_the_trained_module_does(name: str) -> None:
    network, images = load_workload(name), normalise(shipped_images(name)[0][:8])
    with torch.no_grad():
        logits = shipped_module(name)(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = infer(network.batched(8), shipped_weights(name), images)[network.nodes[-1].name]
    np.testing.assert_allclose(found[:, 0, 0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count"),
    often(
        2,
        [
            ("resnet18-fashion", 2),
            ("vit-fashion", 2),
            ("mobilenetv2-fashion", 1),
            ("googlenet-fashion", 2),
        ],
    ),
)
def test_fashion_mnist_images_through_the_trained_networks(name: str, count: int) -> None:
    """Logits equal the torch reference's bits; counts equal a run without data."""
    network, weights = load_workload(name), shipped_weights(name)
    pixels, labels = shipped_images(name)
    tops = calibrate(network, weights, normalise(pixels[100:116]))
    images, arch = normalise(pixels[:count]), load_arch("ideal-64k")
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    sizes_only = simulate_layers(network.batched(count), arch, formats)
    mappings = {each.layer.name: each.mapping for each in sizes_only.layers}
    inference = run_inference(network, arch, formats, weights, images, tops, mappings)
    expected = reference_run(network, weights, images, formats, tops)
    assert (inference.outputs == expected[network.nodes[-1].name]).all()
    assert (inference.predictions == labels[:count]).all()
    assert (float_predictions(network, weights, images) == labels[:count]).all()
    assert [r.counts for r in inference.result.layers] == [r.counts for r in sizes_only.layers]
    assert [r.layer for r in inference.result.layers] == [r.layer for r in sizes_only.layers]
    assert inference.result.cycles == sizes_only.cycles
    assert inference.result.simulations == sum(network.batched(count).repeats.values())


def test_calibration_takes_each_tensors_own_maximum() -> None:
    network, weights, images = residual_network()
    tops = calibrate(network, weights, images)
    outputs = infer(network.batched(3), weights, images)
    assert set(tops) == {"stem", "depthwise", "down", "fc"}
    biggest = np.abs(outputs["down"] - weights["down"].bias).max()
    assert 2.0 ** tops["down"].O <= biggest < 2.0 ** (tops["down"].O + 1)
    assert isinstance(tops["down"], Tops)
    assert tops["down"].W is None


def test_calibration_of_a_product_takes_both_operands_maxima() -> None:
    builder = NetworkBuilder("products", (1, 4, 1, 6))
    builder.matmul("qk", builder.linear("q", "input", 6), builder.linear("k", "input", 6), 4)
    network, images = builder.network(), np.random.default_rng(8).normal(size=(3, 4, 1, 6))
    weights = random_weights(network)
    weights["k"] = LayerWeights(16 * weights["k"].weight, 16 * weights["k"].bias)
    tops, outputs = calibrate(network, weights, images), infer(network.batched(3), weights, images)
    for top, name in ((tops["qk"].I, "q"), (tops["qk"].W, "k"), (tops["qk"].O, "qk")):
        assert 2.0**top <= np.abs(outputs[name]).max() < 2.0 ** (top + 1)


@pytest.mark.long
def test_googlenet_is_simulated_whole() -> None:
    network = load_workload("googlenet")
    result = simulate_layers(network, load_arch("ideal-64k"), LayerFormats.uniform(BFP(8, 3, 16)))
    assert [r.layer.name for r in result.layers] == [layer.name for layer in network.layers]
    assert result.simulations == len(network.unique_layers) < len(network.layers)
    assert sum(r.layer.macs for r in result.layers) == network.macs
    assert result.cycles == sum(r.cycles for r in result.layers)


def test_equal_layers_are_simulated_once() -> None:
    network = load_workload("resnet18-fashion")
    seen = []
    result = simulate_layers(
        network, load_arch("ideal-64k"), LayerFormats.uniform(BFP(8, 3, 16)), progress=seen.append
    )
    assert seen == [layer.name for layer in network.layers]
    assert result.simulations == len(network.unique_layers) < len(network.layers)
    assert list(dict.fromkeys(result.traffic["layer"])) == seen
    assert result.cycles == sum(r.cycles for r in result.layers)


def test_a_network_with_operations_that_have_no_arithmetic_is_refused_before_it_runs():
    build = NetworkBuilder("gated", (1, 4, 4, 3))
    x = build.host("gate", "hardsigmoid", build.conv("conv", "input", 3, 1))
    build.transposed("up", x, 3, 2, stride=2)
    network, images = build.network(), np.zeros((1, 4, 4, 3))
    formats = LayerFormats(BFP(8, 3, 16), BFP(8, 3, 16), BFP(8, 3, 16))
    message = (
        "network 'gated': 3 of 5 nodes cannot be run with data (hardsigmoid, interleave, "
        "transposed; first: 'gate'); allowed: input, conv, conv1d, linear, matmul, relu, add, "
        "concat, avgpool, maxpool, and on shapes that tell what is meant relu6, sigmoid, gelu, "
        "mul, reshape, tokens, split, scale, softmax, layer_norm, add_parameter"
    )
    for run in (
        lambda: infer(network, {}, images),
        lambda: run_inference(network, load_arch("ideal-64k"), formats, {}, images),
    ):
        with pytest.raises(WorkloadError) as caught:
            run()
        assert str(caught.value) == message


def test_functions_whose_shapes_leave_doubt_are_refused() -> None:
    def refused(shape: tuple[int, int, int, int], function: str, *sources: str, **given) -> None:
        build = NetworkBuilder("doubt", (1, 4, 4, 6))
        build.avgpool("mean", "input")
        build.linear("other", "input", 6)
        build.host("node", function, *sources, shape=shape, **given)
        with pytest.raises(WorkloadError, match=rf"1 of 4 nodes .* \({function}; first: 'node'\)"):
            infer(build.network(), {"other": None}, np.zeros((1, 4, 4, 6)))

    whole = (1, 4, 4, 6)
    refused(whole, "mul", "input")  # by a number that is not told
    refused(whole, "mul", "input", "other")  # whose axes an importer may have exchanged
    refused((1, 16, 1, 6), "reshape", "input")  # torch's would mix channels and pixels
    refused((1, 1, 2, 3), "reshape", "mean")
    refused((1, 4, 4, 6), "tokens", "input")
    refused((1, 4, 4, 2), "split", "input")  # which third?
    refused(whole, "scale", "input")
    refused(whole, "softmax", "input")  # over which axis?
    refused((1, 1, 1, 6), "sigmoid", "input")


@pytest.mark.parametrize(
    ("left", "right", "columns"),
    [
        ((1, 4, 1, 4), (1, 4, 1, 4), 4),  # keys and values have one shape
        ((1, 4, 1, 4), (1, 1, 12, 2), 6),  # elements enough, but neither tokens nor channels
    ],
)
def test_a_product_whose_operands_leave_doubt_is_refused(left, right, columns) -> None:
    build = NetworkBuilder("doubt", left)
    build.matmul("product", "input", build.input("right", right), columns)
    with pytest.raises(WorkloadError, match=r"1 of 3 nodes .* \(matmul; first: 'product'\)"):
        infer(build.network(), {}, np.zeros(left))


def test_weights_that_are_missing_are_named_before_anything_runs() -> None:
    build = NetworkBuilder("net", (1, 4, 4, 3))
    build.host("norm", "layer_norm", build.conv("conv", "input", 3, 1))
    network, images = build.network(), np.zeros((1, 4, 4, 3))
    weights = random_weights(network)
    for given, missing in (({}, "conv 'conv'"), (weights, "layer_norm 'norm'")):
        with pytest.raises(WorkloadError) as caught:
            infer(network, given, images)
        assert str(caught.value) == (
            f"network 'net': {missing} has no weights; allowed: weights for each layer, "
            "layer_norm and add_parameter"
        )
