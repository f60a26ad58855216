import pytest
import torch

from bfpsim.workloads import WorkloadError, load_workload, names, resnet18


@pytest.mark.parametrize(
    ("network", "arguments", "image"),
    [
        (load_workload("resnet18"), (64, 3, 1000, False), (3, 224, 224)),
        (load_workload("resnet18-fashion"), (16, 1, 10, True), (1, 28, 28)),
        # Odd maps, at which each kernel, stride and padding gives another size.
        (resnet18(width=8, size=226, channels=2, classes=3), (8, 2, 3, False), (2, 226, 226)),
    ],
)
def test_layers_are_those_torch_runs(torch_resnet18, layers_in_torch, network, arguments, image):
    with torch.device("meta"):
        expected = layers_in_torch(torch_resnet18(*arguments), torch.empty(1, *image))
    ours = {
        layer.name: (layer.macs, layer.K, layer.P, layer.Q, layer.height, layer.width)
        for layer in network.layers
    }
    assert ours == expected
    assert len(ours) == 21


def test_resnet18_counts_that_the_literature_gives():
    network = resnet18()
    convs = [layer for layer in network.layers if layer.name != "fc"]
    assert len(convs) == 20
    assert sum(layer.macs for layer in convs) == 1_813_561_344
    assert len(network.unique_layers) == 12
    # torchvision: 11,689,512 parameters, of which 9,600 are batch normalisation's, 1,000 fc's bias.
    weights = sum(K * C * R * S for K, C, R, S in (layer.weight_shape for layer in network.layers))
    assert weights == 11_689_512 - 9_600 - 1_000


def test_each_sum_takes_the_block_and_its_shortcut():
    producers = load_workload("resnet18").producers
    read = {
        name: [node.name for node in nodes]
        for name, nodes in producers.items()
        if name.endswith(".add")
    }
    assert read["layer1.0.add"] == ["layer1.0.conv2", "maxpool"]
    assert read["layer2.0.add"] == ["layer2.0.conv2", "layer2.0.downsample"]
    assert read["layer2.1.add"] == ["layer2.1.conv2", "layer2.0.relu2"]
    assert len(read) == 8


def test_bad_arguments_are_named():
    with pytest.raises(WorkloadError, match="stem='large' must be 'imagenet' or 'small'"):
        resnet18(stem="large")
    with pytest.raises(WorkloadError, match="must be an int >= 1"):
        resnet18(size=0)
    with pytest.raises(WorkloadError, match="layer 'conv1': out_channels=0 must be an int >= 1"):
        resnet18(width=0)


def test_unknown_workload_lists_the_names_and_the_nearest():
    assert [load_workload(name).name for name in names()] == list(names())
    assert {"googlenet", "resnet18", "resnet18-fashion"} < set(names())
    with pytest.raises(WorkloadError) as caught:
        load_workload("resnet-18")
    allowed = ", ".join(names())
    message = f"workload 'resnet-18' is not shipped (did you mean 'resnet18'?); allowed: {allowed}"
    assert str(caught.value).startswith(message)
    with pytest.raises(WorkloadError) as caught:
        load_workload("zzz")
    assert str(caught.value).startswith(f"workload 'zzz' is not shipped; allowed: {allowed}")
    assert "did you mean" not in str(caught.value)
