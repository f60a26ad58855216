import numpy as np
import pytest
import torch

from bfpsim.workloads import LayerWeights, WorkloadError, googlenet, load_workload
from tests.torch_network import weighted_module

# What torchvision publishes of its model, in torchvision/models/googlenet.py.
PARAMETERS = 6_624_904
GIGA_OPERATIONS = "1.498"
LEAST_SIZE = 15


@pytest.mark.parametrize(
    ("network", "arguments", "image"),
    [
        (load_workload("googlenet"), (), (3, 224, 224)),
        # Odd maps, at which every pooling leaves something over or nothing.
        (googlenet(size=91, channels=2, classes=7), (2, 7), (2, 91, 91)),
        (googlenet(size=LEAST_SIZE, channels=1, classes=1), (1, 1), (1, LEAST_SIZE, LEAST_SIZE)),
    ],
)
def test_layers_are_those_torch_runs(torch_googlenet, layers_in_torch, network, arguments, image):
    with torch.device("meta"):
        expected = layers_in_torch(torch_googlenet(*arguments), torch.empty(1, *image))
    ours = {
        layer.name: (layer.macs, layer.K, layer.P, layer.Q, layer.height, layer.width)
        for layer in network.layers
    }
    assert ours == expected
    assert len(ours) == 58


def test_googlenet_counts_that_torchvision_publishes():
    network = googlenet()
    convs = [layer for layer in network.layers if layer.name != "fc"]
    assert len(convs) == 57
    assert sum(layer.macs for layer in convs) == 1_497_352_192
    assert f"{network.macs / 1e9:.3f}" == GIGA_OPERATIONS
    weights = sum(K * C * R * S for K, C, R, S in (layer.weight_shape for layer in network.layers))
    # Each output channel of a convolution has two parameters of batch normalisation.
    assert weights + 2 * sum(layer.K for layer in convs) + 1000 == PARAMETERS


def test_5x5_filters_as_in_the_paper_have_other_counts(torch_googlenet, layers_in_torch):
    with torch.device("meta"):
        module = torch_googlenet(kernel=5)
        layers = layers_in_torch(module, torch.empty(1, 3, 224, 224))
    assert sum(counts[0] for name, counts in layers.items() if name != "fc") == 1_581_647_872


def test_maps_are_those_of_the_papers_table():
    network = googlenet()
    rows = {
        "conv1": (112, 64), "maxpool1": (56, 64), "conv3": (56, 192), "maxpool2": (28, 192),
        "inception3a": (28, 256), "inception3b": (28, 480), "maxpool3": (14, 480),
        "inception4a": (14, 512), "inception4b": (14, 512), "inception4c": (14, 512),
        "inception4d": (14, 528), "inception4e": (14, 832), "maxpool4": (7, 832),
        "inception5a": (7, 832), "inception5b": (7, 1024), "avgpool": (1, 1024), "fc": (1, 1000),
    }  # fmt: skip
    for name, (size, channels) in rows.items():
        assert network.shape(name) == (1, size, size, channels), name


def test_outputs_are_those_torch_computes(torch_googlenet):
    """Which tells the order of the concatenations and where the ReLUs stand."""
    torch.manual_seed(0)
    module = torch_googlenet(2, 5).double().eval()
    network = googlenet(size=43, channels=2, classes=5)
    own = module.state_dict()
    weights = {}
    for layer in network.layers:
        weight = own[f"{layer.name}.weight"].reshape(layer.weight_shape)
        bias = own[f"{layer.name}.bias"]
        # At torch's own scale the input is lost among the biases.
        weight *= 2.5
        weights[layer.name] = LayerWeights(
            weight.numpy().astype(np.float32), bias.numpy().astype(np.float32)
        )
        bias.copy_(bias.float())
        weight.copy_(weight.float())
    images = torch.randn(3, 2, 43, 43, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        found = weighted_module(network, weights).double()(images)[:, :, 0, 0]
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="node 'maxpool3': kernel=3 must be at most 2"):
        googlenet(size=LEAST_SIZE - 1)
    with pytest.raises(WorkloadError, match="layer 'fc': out_channels=0 must be an int >= 1"):
        googlenet(classes=0)
    with pytest.raises(WorkloadError, match="input_shape=0 must be an int >= 1"):
        googlenet(channels=0)
