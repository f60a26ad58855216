"""The networks that the onnx package ships, counted again straight from the file."""

import math
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, shape_inference

from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import LIGHT, TORCH, execute, nhwc

NETWORKS = sorted(path.name for path in LIGHT.glob("*.onnx"))


def layers_of(path):
    """(MACs, weights) of each Conv and Gemm, by plain arithmetic on what onnx infers."""
    model = shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = shapes[node.input[1]]
            taken = math.prod(weight[1:])
            if node.op_type == "Gemm":
                assert [a.i for a in node.attribute if a.name == "transB"] == [1]
            yield math.prod(shapes[node.output[0]]) * taken, math.prod(weight)


def test_there_are_nine_networks():
    assert len(NETWORKS) == 9


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_the_files(name):
    imported = import_onnx(LIGHT / name)
    network = imported.network
    wanted = list(layers_of(LIGHT / name))
    found = [(layer.macs, math.prod(layer.weight_shape)) for layer in network.layers]
    assert found == wanted
    assert network.host_macs == 0
    assert network.nodes[0].input_shape == (1, 224, 224, 3)
    assert set(imported.weights) == {layer.name for layer in network.layers}
    for layer in network.layers:
        assert imported.weights[layer.name].weight.shape == layer.weight_shape
        assert imported.weights[layer.name].bias.shape == layer.weight_shape[:1]
    last = network.shape(network.nodes[-1].name)
    assert last == (1, 1, 1, 1000)


# Multiply-accumulates in units of 1e9 as torchvision's documentation gives them for its weights.
@pytest.mark.parametrize(
    ("name", "published", "convolutions", "linear"),
    [
        ("vgg19", 19.63, 16, 3),
        ("resnet50", 4.09, 53, 1),
        ("densenet121", 2.83, 121, 0),  # its classifier is a convolution here
        ("squeezenet", 0.35, 26, 0),  # 1.1
    ],
)
def test_counts_are_those_published(name, published, convolutions, linear):
    network = import_onnx(LIGHT / f"light_{name}.onnx").network
    assert round(network.macs / 1e9, 2) == published
    kinds = Counter(node.op for node in network.nodes)
    assert (kinds["conv"], kinds["linear"]) == (convolutions, linear)


def test_resnet50_has_nothing_on_the_host_but_its_softmax():
    """Every batch normalisation is folded: 53 of them follow a convolution."""
    network = import_onnx(LIGHT / "light_resnet50.onnx").network
    assert [node.function for node in network.nodes if node.op == "host"] == ["softmax"]
    assert Counter(node.op for node in network.nodes) == {
        "input": 1, "conv": 53, "relu": 49, "maxpool": 1, "add": 16, "avgpool": 1, "linear": 1,
        "host": 1,
    }  # fmt: skip


def test_densenet_folds_what_follows_a_convolution_and_leaves_what_follows_a_concat():
    """121 normalisations, each with a Mul and an Add behind it: 59 stand behind a convolution."""
    network = import_onnx(LIGHT / "light_densenet121.onnx").network
    functions = Counter(node.function for node in network.nodes if node.op == "host")
    assert functions == {"batch_normalization": 62, "mul": 62, "add": 62, "average_pool": 3}


def test_weights_filled_with_one_number_take_no_memory():
    weights = import_onnx(LIGHT / "light_vgg19.onnx").weights
    largest = max((own.weight for own in weights.values()), key=lambda weight: weight.size)
    assert largest.shape == (4096, 25088, 1, 1)
    assert largest.strides == (0, 0, 0, 0)
    assert largest[0, 0, 0, 0] == np.float32(0.02)


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for kind in ("Conv1d", "Conv2d", "Linear", "MaxPool1d", "MaxPool2d", "ReLU")
        for path in TORCH.glob(f"test_{kind}*")
        if not path.name.endswith("padding_dilation")  # a dilated MaxPool: the host's
    ),
)
def test_modules_that_torch_exported_give_what_torch_gave(name):
    data = TORCH / name / "test_data_set_0"
    given, wanted = (
        nhwc(numpy_helper.to_array(onnx.load_tensor(data / file)))
        for file in ("input_0.pb", "output_0.pb")
    )
    imported = import_onnx(TORCH / name / "model.onnx")
    first, *_, last = imported.network.nodes
    found = execute(imported, {first.name: given})[last.name]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
