"""The staircase of least traffic, against the mapper at every size."""

import random

import numpy as np
import pytest

from bfpsim.arch import ArchError, load_arch, replace
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.models import compulsory_counts
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.search.curve import Stair, knee, layer_curve, network_curve, traffic_curves
from bfpsim.workloads import ConvLayer, load_workload
from tests.generate import random_formats, random_layer

ARCH = load_arch("ideal-64k")


def at(arch, bits: int):
    return replace(arch, "sram.capacity", f"{bits} bit")


def least(layer, arch, formats) -> int | None:
    try:
        return best_mappings(layer, arch, formats, 1)[0].cost
    except MappingError:
        return None


@pytest.mark.parametrize("seed", range(40))
def test_every_step_is_where_the_mapper_says(seed: int) -> None:
    """At a step's capacity the mapper reaches its traffic; with one bit less it does not."""
    rng = random.Random(seed)
    layer, formats = random_layer(rng, 5), random_formats(rng)
    arch = load_arch(rng.choice(["ideal-64k", "ideal-64k-double", "ideal-64k-im2col"]))
    curve = layer_curve(layer, arch, formats)
    before = None
    for step in curve:
        assert least(layer, at(arch, step.capacity_bits), formats) == step.dram_bits
        assert least(layer, at(arch, step.capacity_bits - 1), formats) == before
        before = step.dram_bits


@pytest.mark.parametrize("seed", range(6))
def test_accumulators_that_keep_sums_shorten_the_stairs(seed: int) -> None:
    """With accumulators, the mapper reaches each step, and nothing less with one bit less."""
    rng = random.Random(seed)
    layer, formats = random_layer(rng, 5), random_formats(rng)
    arch = load_arch(rng.choice(["edge-64k", "gemmini-16"]))
    before = None
    for step in layer_curve(layer, arch, formats):
        assert least(layer, at(arch, step.capacity_bits), formats) == step.dram_bits
        assert least(layer, at(arch, step.capacity_bits - 1), formats) == before
        before = step.dram_bits


def test_a_staircase_falls_to_the_compulsory_minimum() -> None:
    layer = load_workload("resnet18").layers[1]
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    curve = layer_curve(layer, ARCH, formats)
    capacities = [step.capacity_bits for step in curve]
    traffic = [step.dram_bits for step in curve]
    assert capacities == sorted(set(capacities))
    assert traffic == sorted(set(traffic), reverse=True)
    assert traffic[-1] == compulsory_counts(layer, ARCH, formats).total()


def test_a_networks_staircase_is_the_sum_of_its_layers() -> None:
    one = [Stair(10, 100), Stair(20, 50)]
    other = [Stair(15, 7), Stair(20, 6), Stair(30, 5)]
    assert network_curve([one, other]) == [Stair(15, 107), Stair(20, 56), Stair(30, 55)]


def test_the_knee_is_farthest_below_the_chord() -> None:
    straight = [Stair(2**i, 2 ** (10 - i)) for i in range(5)]
    assert knee(straight) is None
    bent = [Stair(1, 1024), Stair(2, 64), Stair(1024, 32)]
    assert knee(bent) == Stair(2, 64)
    assert knee(bent[:2]) is None


def test_the_table_of_a_network() -> None:
    network = load_workload("resnet18-fashion")
    frame = traffic_curves(network, ARCH, LayerFormats.uniform(Plain(8)))
    assert list(dict.fromkeys(frame["layer"])) == [
        *(layer.name for layer, _ in network.unique_layers),
        "total",
    ]
    for _, curve in frame.groupby("layer"):
        assert curve["dram_bits"].is_monotonic_decreasing
        assert (curve["dram_bits"] >= curve["compulsory_bits"]).all()
        assert curve["knee"].sum() <= 1
    weights = frame.drop_duplicates("layer", keep="last").set_index("layer")
    parts = weights.drop("total")
    assert np.dot(parts["dram_bits"], parts["layers"]) == weights.loc["total", "dram_bits"]


def test_split_buffers_have_no_one_capacity() -> None:
    layer = ConvLayer("x", K=1, C=1, P=1, Q=1)
    with pytest.raises(ArchError, match="ideal-64k-split: sram: has a buffer per tensor"):
        layer_curve(layer, load_arch("ideal-64k-split"), LayerFormats.uniform(Plain(8)))
