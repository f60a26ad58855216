"""SCALE-Sim's topology files: the counts are those of the literature and of the tool itself."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import WorkloadError, load_workload
from bfpsim.workloads.files.scale_sim import read_scale_sim

HEADER = (
    "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, "
    "Strides,\n"
)
# The convolutions of AlexNet, input maps with their padding, grouped ones as two rows.
ALEXNET = (
    HEADER
    + """\
Conv1 ,227 ,227 ,11 ,11 ,3 ,96 ,4 ,
Conv2a,31,31,5,5,48,128,1,
\tConv2b,31,31,5,5,48,128,1,

Conv3, 15, 15, 3, 3, 256, 384, 1,
Conv4a,15,15,3,3,192,192,1,
Conv4b,15,15,3,3,192,192,1,
Conv5a,15,15,3,3,192,128,1,#tower
Conv5b,15,15,3,3,192,128,1
,,,,,,,,
"""
)


def write(tmp_path, text):
    path = tmp_path / "alexnet.csv"
    path.write_text(text)
    return path


def test_alexnet_has_the_macs_that_the_literature_gives(tmp_path):
    """105 M, 224 M, 150 M, 112 M and 75 M, together 666 M: Chen et al., JSSC 2017, table V."""
    network = load_workload(write(tmp_path, ALEXNET))
    assert network.name == "alexnet"
    macs = {layer.name: layer.macs for layer in network.layers}
    assert list(macs) == [
        "Conv1", "Conv2a", "Conv2b", "Conv3", "Conv4a", "Conv4b", "Conv5a", "Conv5b",
    ]  # fmt: skip
    assert macs["Conv1"] == 105_415_200
    assert macs["Conv2a"] + macs["Conv2b"] == 223_948_800
    assert macs["Conv3"] == 149_520_384
    assert macs["Conv4a"] + macs["Conv4b"] == 112_140_288
    assert macs["Conv5a"] + macs["Conv5b"] == 74_760_192
    assert network.macs == 665_784_864


def test_layers_read_inputs_of_their_own(tmp_path):
    network = load_workload(write(tmp_path, ALEXNET))
    assert [node.op for node in network.nodes] == ["input", "conv"] * 8
    for node in network.nodes[1::2]:
        assert node.inputs == (f"{node.name}.input",)
        H, W, C = network.shape(node.inputs[0])[1:]
        weight = torch.empty(node.layer.weight_shape, device="meta")
        image = torch.empty(1, C, H, W, device="meta")
        K, P, Q = F.conv2d(image, weight, stride=node.layer.strides).shape[1:]
        assert network.shape(node.name) == (1, P, Q, K)
        assert node.layer.paddings == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("row", "extent"),
    [
        # Rows of SCALE-Sim's own alexnet.csv and Resnet50.csv; the latter notes the 110.
        ("Conv1,224,224,11,11,3,96,4,", 55),
        ("Conv1,224,224,7,7,3,64,2,,,110,110,12100", 110),
        ("CB3a_1,56,56,1,1,256,128,2,,,,,", 29),
        ("Conv1,7,7,7,7,3,64,5,", 1),
    ],
)
def test_a_last_window_may_hang_over_the_edge_as_in_scale_sim(tmp_path, row, extent):
    (layer,) = load_workload(write(tmp_path, HEADER + row)).layers
    ifmap, filter_, stride = (int(row.split(",")[at]) for at in (1, 3, 7))
    assert math.ceil((ifmap - filter_ + stride) / stride) == extent  # topology_utils.py
    assert layer.output_shape[1:3] == (extent, extent)
    assert (layer.height, layer.width) == (ifmap, ifmap)


def test_dp_in_the_name_is_a_depthwise_layer(tmp_path):
    """SCALE-Sim runs such a row once per channel, on one channel."""
    network = load_workload(write(tmp_path, HEADER + "DP1,114,112,3,1,32,2,1,1:1,"))
    (node,) = network.nodes[1:]
    assert node.kind == "depthwise"
    assert node.layer.dims == {
        "N": 1, "G": 32, "K": 2, "C": 1, "P": 112, "Q": 112, "R": 3, "S": 1,
    }  # fmt: skip
    assert network.macs == 32 * (2 * 112 * 112 * 3)


def test_matrix_products(tmp_path):
    text = "Layer,M,N,K,\nL0,196,192,384,\nL1,196,1176,64,1:1,\nL2,1,10,5,1,\n\n"
    network = load_workload(write(tmp_path, text))
    assert [node.op for node in network.nodes] == ["input", "linear"] * 3
    assert [layer.macs for layer in network.layers] == [196 * 192 * 384, 196 * 1176 * 64, 50]
    assert network.shape("L1.input") == (1, 1, 196, 64)
    assert network.shape("L1") == (1, 1, 196, 1176)
    assert network.layers[1].weight_shape == (1176, 64, 1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEADER, ": has no layer; allowed: a row per layer"),
        ("Layer name, IFMAP Height\nConv1,2,\n", ":1: header 'Layer name,IFMAP Height' is ref"),
        ("\nLayer, N, M, K\nL0,1,1,1\n", ":2: header 'Layer,N,M,K' is refused; allowed: layer na"),
        (HEADER + "Conv1,8,8,3,3,4,\n", ":2: 7 cells; allowed: at least 8: layer name, ifmap"),
        (HEADER + "Conv1,8,8,3,3,0,8,1,\n", ":2: channels: '0' is refused; allowed: a whole num"),
        (HEADER + "\nConv1,8,8,3,3,4,8,one,\n", ":3: strides: 'one' is refused"),
        (HEADER + "Conv1,8,8,3,3,4,,1,\n", ":2: num filter: '' is refused"),
        (HEADER + "Conv1,8,8,9,3,4,8,1,\n", ":2: filter of 9 x 3 must fit into the input map of"),
        (HEADER + "Conv1,8,8,3,3,4,8,1,2:4,\n", ":2: sparsity '2:4' is refused; allowed: 1:1"),
        (HEADER + 2 * "C,8,8,3,3,4,8,1,\n", ":3: network 'alexnet': node 'C.input': name is taken"),
        (HEADER + ",8,8,3,3,4,8,1,\n", ":2: layer '': name must be a non-empty string"),
        ("Layer,M,N,K,\nL0,1,1,\n", ":2: 4 cells; allowed: at least 4"),
        ("Layer,M,N,K,\nL0,1,1\n", ":2: 3 cells; allowed: at least 4: layer, m, n, k"),
        ("Layer,M,N,K,\nL0,1,1,1,12,\n", ":2: batch '12' is refused; allowed: 1, or a row for"),
        ("Layer,M,N,K,\nL0,1,1,1," + "1" * 5000, ":2: batch '111"),
        ("Layer,M,N,K,\nL0,1,1," + "0" * 5000 + "1,", ":2: k: '000"),
        ("Layer,M,N,K,\nL0,1,1,1,2:" + "3" * 5000 + "\n", ":2: sparsity '2:33"),
        ("Layer,M,N,K,\n\x1b[31m,1,1,1,\n", ":2: layer '\\x1b[31m': holds the control character"),
        ("Layer, M, N, K, Sparsity,\nL0,3,5,16,3:4,\n", ":2: sparsity '3:4' is refused"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_bad_topologies(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(WorkloadError) as caught:
        load_workload(path)
    if "4 cells" in expected:  # a blank one is there, and no number
        assert str(caught.value) == f"{path}:2: k: '' is refused; allowed: a whole number from 1"
        return
    assert str(caught.value).startswith(f"{path}{expected}")
    assert "\n" not in str(caught.value)
    with pytest.raises(WorkloadError):
        read_scale_sim(path)


def test_a_stride_per_axis(tmp_path):
    """The convolution is torch's with that stride; a last window hangs over the edge."""
    header = HEADER.replace("Strides", "Stride height,Stride width")
    row = "wide,1080,1920,3,3,32,8,1,2,"
    layer = load_workload(write(tmp_path, f"{header}{row}\n")).layers[0]
    assert (layer.P, layer.Q, layer.K, layer.C) == (1078, 960, 8, 32)
    image, weight = torch.empty(1, 32, 1080, 1921, device="meta"), torch.empty(8, 32, 3, 3)
    assert F.conv2d(image, weight.to("meta"), stride=(1, 2)).shape == (1, 8, 1078, 960)
