"""Tables of a network: every number by hand or by a second count."""

import io
import math

import pytest
from rich.console import Console

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.models import predict
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.reports.workload import (
    catalog_frame,
    catalog_table,
    host_frame,
    host_table,
    kinds_frame,
    kinds_table,
    weights,
    workload_frame,
    workload_table,
)
from bfpsim.workloads import NetworkBuilder, load_workload
from tests.mapping.oracle import Packed

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))
EDGE = load_arch("ideal-64k")
ROOMY = replace(EDGE, "sram.capacity", "1 GiB")


def attention():
    """Two samples of four tokens, and what the host has to do between."""
    build = NetworkBuilder("attention", (2, 1, 4, 32))
    q, k = build.linear("q", "input", 32), build.linear("k", "input", 32)
    scores = build.matmul("scores", q, k, 4, heads=2)
    scores = build.host("softmax", "softmax", scores, macs=100)
    scores = build.host("again", "softmax", scores)
    build.relu("relu", build.host("mask", "mask", scores, macs=12))
    build.mark_unverified("scores", "published code")
    return build.network()


def lines(table, width=200):
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    printed = file.getvalue().splitlines()
    assert all(len(line) <= width for line in printed)
    assert "…" not in file.getvalue()
    return [line.split() for line in printed if line.strip()]


def test_a_row_by_hand():
    """128 to 10 features: 5-bit mantissas, 3-bit codes for each 16."""
    row = workload_frame(load_workload("resnet18-fashion"), BFP8, EDGE).iloc[-1]
    assert (row["layer"], row["kind"], row["stride"], row["macs"]) == ("fc", "linear", "1", 1280)
    assert [row[dim] for dim in "NGKCPQRS"] == [1, 1, 10, 128, 1, 1, 1, 1]
    assert row["I_bits"] == 128 * 5 + 8 * 3 == 664
    assert row["W_bits"] == 10 * 664
    assert row["O_bits"] == 10 * 5 + 3 == 53
    assert row["compulsory_bits"] == 664 + 6640 + 53 == 7357
    assert row["macs_per_bit"] == pytest.approx(1280 / 7357)
    assert row["macs_per_cycle"] == pytest.approx(1280 / 7357 * 102.4)
    assert row["bound"] == "memory"


@pytest.mark.parametrize("formats", [BFP8, LayerFormats(Plain(8), BFP(16, 4, 24), Plain(32))])
def test_sizes_are_those_of_packed_tensors_and_traffic_that_of_whole_tiles(formats):
    """With room for everything, the exact model moves each tensor once; strides skip rows."""
    build = NetworkBuilder("net", (1, 9, 9, 20))
    x = build.conv("strided", "input", 20, 1, stride=2)
    x = build.conv("depthwise", x, 20, 3, padding=1, groups=20)
    x = build.conv("grouped", x, 8, (3, 1), stride=(2, 1), groups=4)
    network = build.network()
    frame = workload_frame(network, formats, EDGE)
    for layer, row in zip(network.layers, frame.to_dict(orient="records"), strict=True):
        # Written out element by element.
        assert row["I_bits"] == Packed.activation(layer.input_shape, formats.I).end
        assert row["W_bits"] == Packed.weight(layer.weight_shape, formats.W).end
        assert row["O_bits"] == Packed.activation(layer.output_shape, formats.O).end
        moved = predict(layer, ROOMY, Mapping(), formats, model="exact")
        once = moved[moved["level"] == "DRAM"]["bits"].sum()
        if layer.name == "strided":
            # The box of a whole tile has the rows between; 5 x 5 of its 9 x 9 are needed.
            for extent, sign in ((9, -1), (5, 1)):
                once += sign * Packed.activation((1, extent, extent, 20), formats.I).end
        assert row["compulsory_bits"] == once
    assert list(frame["stride"]) == ["2", "1", "2x1"]


def test_a_product_of_activations_counts_every_head_and_sample():
    network = attention()
    row = workload_frame(network, BFP8, EDGE).iloc[-1]
    assert (row["layer"], row["kind"], row["repeats"], row["G"]) == ("scores", "matmul", 4, 1)
    assert row["macs"] == 2 * (2 * 4 * 4 * 16)  # samples, heads, queries, keys, channels
    query = key = 4 * (16 * 5 + 3)  # tokens of 16 channels, a block each
    scores = 4 * (4 * 5 + 3)  # tokens of 4 scores
    runs = 2 * 2  # samples, heads
    assert [row[f"{t}_bits"] for t in "IWO"] == [runs * query, runs * key, runs * scores]
    assert row["compulsory_bits"] == runs * (query + key + scores)
    assert row["unverified"] == "published code"
    assert weights(network) == 2 * 32 * 32


def test_fetched_padding_is_stored_and_moved():
    build = NetworkBuilder("net", (1, 4, 4, 16))
    build.conv("conv", "input", 16, 3, padding=1)
    fetching = replace(EDGE, "dma.padding", "fetch")
    skip, fetch = (workload_frame(build.network(), BFP8, arch).iloc[0] for arch in (EDGE, fetching))
    pixel = 16 * 5 + 3
    assert (skip["I_bits"], fetch["I_bits"]) == (16 * pixel, 36 * pixel)
    assert fetch["compulsory_bits"] - skip["compulsory_bits"] == 20 * pixel


def test_kinds_add_up_to_the_network():
    network = load_workload("mobilenetv2-eca")
    frame = workload_frame(network, BFP8, EDGE)
    kinds = kinds_frame(frame).set_index("kind")
    assert list(kinds.index) == ["conv", "depthwise", "conv1d", "linear", "total"]
    total, parts = kinds.loc["total"], kinds.drop("total")
    assert (total["layers"], total["macs"]) == (len(network.layers), network.macs)
    for column in ("layers", "memory_bound", "macs", "W_bits", "compulsory_bits"):
        assert parts[column].sum() == total[column] > 0
    assert parts["macs_share"].sum() == pytest.approx(1)
    depthwise = [node.layer for node in network.nodes if node.kind == "depthwise"]
    assert kinds.loc["depthwise", "layers"] == len(depthwise)
    assert kinds.loc["depthwise", "macs"] == sum(
        math.prod(layer.output_shape) * layer.R * layer.S for layer in depthwise
    )
    assert total["macs_per_bit"] == pytest.approx(network.macs / frame["compulsory_bits"].sum())


def test_what_is_not_modelled_stands_with_its_share():
    network = attention()
    frame = host_frame(network)
    every = network.macs + 112
    assert frame.to_dict(orient="records") == [
        {
            "function": "softmax", "nodes": 2, "output_elements": 2 * 2 * 4 * 8, "macs": 100,
            "macs_share": 100 / every,
        },
        {
            "function": "mask", "nodes": 1, "output_elements": 64, "macs": 12,
            "macs_share": 12 / every,
        },
        {"function": "relu", "nodes": 1, "output_elements": 64, "macs": 0, "macs_share": 0},
    ]  # fmt: skip
    build = NetworkBuilder("foreign", (1, 1, 1, 1))
    build.host("norm", "layer_norm", build.host("gqa", "com.microsoft.attention", "input"))
    *_, foreign, norm = lines(host_table(host_frame(build.network())))
    assert (foreign, norm[-2:]) == (["com.microsoft.attention", "1", "1", "?", "?"], ["-", "-"])
    only = NetworkBuilder("only", (1, 1, 1, 1)).network()
    assert host_frame(only).empty


def test_the_catalogue_in_brief():
    (row,) = catalog_frame([attention()]).to_dict(orient="records")
    assert row == {
        "network": "attention", "layers": 3, "kinds": "linear 2, matmul 1",
        "macs": 2 * (8 * 32 * 32) + 2 * (2 * 4 * 4 * 16), "host_macs": 112, "weights": 2048,
        "input": "2x1x4x32",
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("name", ["mobilenetv2-eca", "deit-tiny"])
def test_tables_fit_and_leave_out_columns_before_digits(width, name):
    network = load_workload(name)
    frame = workload_frame(network, BFP8, EDGE)
    printed = lines(workload_table(frame, name, width), width)
    head = " ".join(word for line in printed[:4] for word in line)
    assert ("compulsory" in head, " Q " in head, " O " in head) == (True, width > 80, width > 120)
    for table in (
        kinds_table(kinds_frame(frame)),
        host_table(host_frame(network)),
        catalog_table(catalog_frame([network])),
    ):
        lines(table, width)


def test_unverified_shapes_are_marked_and_their_source_named():
    frame = workload_frame(attention(), BFP8, EDGE)
    printed = lines(workload_table(frame, "attention"))
    assert [row[0] for row in printed if row[1:2] and row[1] in ("linear", "matmul")] == [
        "q", "k", "scores*",
    ]  # fmt: skip
    assert " ".join(printed[-1]) == "* shapes that the paper leaves open, from: published code"
    assert " ".join(printed[0]) == "attention; G = P = R = S = 1"
