"""The networks for 28x28 images against the torch modules that were trained."""

import pytest
import torch
from torch import nn

from bfpsim.workloads import Network, NetworkBuilder, Node, WorkloadError, googlenet, load_workload
from bfpsim.workloads.batch_norm import fold_batch_norm
from bfpsim.workloads.importers.torch.module import import_torch
from bfpsim.workloads.networks.mobilenet import mobilenetv2
from bfpsim.workloads.networks.vit import pooled_vit
from bfpsim.workloads.training.family import FAMILIES
from bfpsim.workloads.training.models.mobilenet import eca_kernel
from tests.long import often
from tests.workloads.networks.oracle import (
    count,
    layers_of_module,
    layers_of_network,
    macs,
    weights,
)


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small sums, which a second thread only waits for
    yield
    torch.set_num_threads(threads)


# What torch calls a function -> what it is called here, by how many nodes it reads.
TITLES = {("mul", 1): "scale", ("add", 1): "add_parameter", ("select", 1): "split"}
UNMOVED = ("reshape", "tokens")


def structure(network: Network, known: dict) -> int:
    """A number for the network's output that tells how it is computed, whatever hosts are called.

    Equal computations get equal numbers from one ``known``.
    """
    numbers: dict[str, int] = {}
    parts: dict[tuple, int] = {}
    for node in network.nodes:
        inputs = [numbers[name] for name in node.inputs]
        if node.function in UNMOVED:
            numbers[node.name] = inputs[0]
            continue
        function = TITLES.get((node.function, len(inputs)), node.function)
        op = "add" if function == "add" else node.op
        if op == "add":
            inputs.sort()
        part = 0
        if function == "split":
            part = parts[node.inputs] = parts.get(node.inputs, -1) + 1
        key = (op, function, part, node.layer, node.repeats, node.pool, *inputs)
        numbers[node.name] = known.setdefault(key, len(known))
    return numbers[network.nodes[-1].name]


@pytest.fixture(scope="module", params=often(1, FAMILIES))
def pair(request) -> tuple[Network, Network]:
    """A shipped network, and what the importer makes of its untrained module."""
    family = FAMILIES[request.param]
    module = fold_batch_norm(family.build(family.width))
    imported = import_torch(module, {"images": (1, 1, 28, 28)}).network
    return load_workload(f"{request.param}-fashion"), imported


def test_layers_are_those_of_the_imported_module(pair):
    ours, imported = pair
    by_name = [{layer.name: layer for layer in network.layers} for network in (ours, imported)]
    assert by_name[0] == by_name[1]
    assert ours.repeats == imported.repeats
    assert ours.macs == imported.macs


def test_layers_are_connected_as_the_modules_are(pair):
    known = {}
    assert structure(pair[0], known) == structure(pair[1], known)


def test_the_comparison_tells_other_connections():
    def build(*order: str) -> Network:
        build = NetworkBuilder("n", (1, 4, 4, 4))
        build.conv("one", "input", 4, 1)
        build.conv("two", "input", 4, 1)
        build.add("sum", *order)
        build.concat("join", *order)
        build.host("add", "add", build.relu("relu", "join"))
        return build.network()

    known = {}
    straight = structure(build("one", "two"), known)
    assert structure(build("one", "two"), known) == straight
    assert structure(build("two", "one"), known) != straight  # the concatenation's channels


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_and_biases_are_all_parameters_but_the_hosts(name):
    network, family = load_workload(f"{name}-fashion"), FAMILIES[name]
    module = fold_batch_norm(family.build(family.width))
    parts = [part for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d)]
    parts += [part for part in module.modules() if isinstance(part, nn.Linear)]
    assert weights(network) == sum(part.weight.numel() for part in parts)
    assert count(network, "matmul") == (12 if name == "vit" else 0)


@pytest.mark.parametrize("width", [4, 8, 24, 32, 40])
def test_mobilenetv2_at_other_widths(width):
    with torch.device("meta"):
        module = FAMILIES["mobilenetv2"].build(width)
        expected = layers_of_module(module, torch.empty(1, 1, 28, 28))
    network = mobilenetv2("paper", width, 28, 1, 10, "small")
    assert layers_of_network(network) == expected


@pytest.mark.parametrize("width", [8, 24, 64])
def test_googlenet_at_other_widths(width):
    with torch.device("meta"):
        module = FAMILIES["googlenet"].build(width)
        expected = layers_of_module(module, torch.empty(1, 1, 28, 28))
    assert layers_of_network(googlenet(width, 28, 1, 10, "small")) == expected


@pytest.mark.parametrize("width", range(4, 260, 12))
def test_kernels_of_attention_follow_equation_12(width):
    network = mobilenetv2("paper", width, 28, 1, 10, "small")
    kernels = {
        layer.height * layer.width: layer.S for layer in network.layers if ".eca." in layer.name
    }
    assert kernels == {channels: eca_kernel(channels) for channels in kernels}
    # By hand: floor((log2(C) + 1) / 2) = k, so that 2^(2k - 1) <= C < 2^(2k + 1); then the next
    # odd number.
    for channels, kernel in kernels.items():
        whole = next(k for k in range(20) if 2 ** (2 * k + 1) > channels)
        assert kernel == whole + (whole % 2 == 0)


def test_the_two_rules_for_kernels_differ_where_they_should():
    code, paper = mobilenetv2(), mobilenetv2("paper")
    assert [layer.S for layer in code.layers if ".eca." in layer.name] == [1] * 10 + [3] * 7
    # 160 and 320 channels are the first with 5.
    assert [layer.S for layer in paper.layers if ".eca." in layer.name] == [3] * 13 + [5] * 4
    assert macs(code, "conv") == macs(paper, "conv")


def test_maps_shrink_as_the_paper_has_it_behind_a_smaller_stem():
    network = load_workload("mobilenetv2-fashion")
    first = [0, 1, 3, 6, 10, 13, 16]
    assert [network.shape(f"blocks.{n}.project") for n in first] == [
        (1, 28, 28, 8), (1, 14, 14, 12), (1, 7, 7, 16), (1, 4, 4, 32), (1, 4, 4, 48),
        (1, 2, 2, 80), (1, 2, 2, 160),
    ]  # fmt: skip
    network = load_workload("googlenet-fashion")
    ends = ["conv1", "maxpool1", "maxpool2", "maxpool3", "maxpool4", "inception5b"]
    assert [network.shape(name)[1] for name in ends] == [28, 14, 7, 3, 2, 2]
    network = load_workload("vit-fashion")
    assert network.shape("pos_embed") == (1, 49, 1, 64)
    # Each of 6 blocks: every token with every other, over 64 channels, twice.
    assert macs(network, "matmul") == 6 * 2 * 49 * 49 * 64


def test_pooled_vit_has_no_class_token():
    network = pooled_vit(width=12, depth=1, heads=3, patch=4, size=8)
    assert network.shape("norm") == (1, 4, 1, 12)
    assert network.nodes[-2] == Node("mean", "avgpool", ("norm",))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: mobilenetv2(stem="tiny"),
            "mobilenetv2: stem='tiny' must be 'imagenet' or 'small'",
        ),
        (lambda: mobilenetv2("eq12"), "mobilenetv2: eca='eq12' must be 'code', 'paper' or None"),
        (lambda: googlenet(stem="tiny"), "googlenet: stem='tiny' must be 'imagenet' or 'small'"),
        (lambda: googlenet(width=12), "googlenet: width=12 must be a multiple of 8"),
        (lambda: googlenet(width=0), "googlenet: width=0 must be an int >= 1"),
        (lambda: googlenet(size=7, stem="small"), "node 'maxpool3': kernel=3 must be at most 2"),
        (lambda: pooled_vit(size=30), "vit: size=30 must be a multiple of patch=4"),
        (lambda: pooled_vit(heads=7), "layer 'blocks.0.attn.qk': heads=7 must divide the 64"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(WorkloadError) as caught:
        build()
    assert message in str(caught.value)


def test_the_least_sizes_of_the_small_stem():
    assert googlenet(size=8, stem="small").shape("maxpool4") == (1, 1, 1, 832)
    assert mobilenetv2(size=1, stem="small").shape("head") == (1, 1, 1, 1280)
