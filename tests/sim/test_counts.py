"""Simulated counts: equal to the exact model, conserved, and split as the table says."""

import math
import random

import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import EXACT, FULL, ladder, model_counts, stored
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_formats, random_layer, random_mapping
from tests.long import often


def case(seed: int, burst: str):
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    return layer, random_arch(rng, burst), random_mapping(rng, layer, formats), formats


def assert_exact_equals_simulated(seed: int) -> None:
    point = case(seed, "1 bit")
    assert simulate(*point).counts == model_counts(*point, EXACT)


@pytest.mark.parametrize("block", range(5))
def test_exact_equals_simulated_without_bursts(block: int) -> None:
    """500 random nests, 0 bits apart at either level."""
    for seed in range(100 * block, 100 * block + 100):
        assert_exact_equals_simulated(seed)


@pytest.mark.long
def test_exact_equals_simulated_at_length() -> None:
    for seed in range(100_000, 150_000):
        assert_exact_equals_simulated(seed)


@pytest.mark.parametrize("burst", often(1, ["7 bit", "32 B", "64 bit"]))
def test_the_ladder_ends_at_the_simulation_with_bursts(burst: str) -> None:
    for seed in range(150):
        point = case(seed, burst)
        simulated = simulate(*point).counts
        assert simulated == model_counts(*point, FULL)
        assert sum(bits for _, bits, _ in ladder(*point)) == simulated.total("DRAM")


@pytest.mark.parametrize("seed", often(80, range(200)))
def test_conservation(seed: int) -> None:
    """What leaves DRAM enters SRAM; every output is written once as a result."""
    layer, arch, mapping, formats = case(seed, "32 B")
    counts = simulate(layer, arch, mapping, formats).counts
    for tensor in ("I", "W"):
        for kind in ("mantissa", "exponent"):
            assert counts.total("DRAM", tensor, "read", kind) == counts.total(
                "SRAM", tensor, "write", kind
            )
    elements = math.prod(layer.output_shape)
    for kind in ("mantissa", "exponent"):
        results = counts.total("DRAM", "O", "write", kind)
        assert results == counts.total("SRAM", "O", "read", kind)
        assert results == counts.total("SRAM", "O", "write", kind)
    assert counts.total("DRAM", "O", "write", "mantissa") == elements * formats.O.mantissa_bits
    spilled = counts.total("DRAM", "O", "write", "psum")
    assert spilled == counts.total("DRAM", "O", "read", "psum")
    # Every partial sum that the array or the DMA writes to the SRAM is read again.
    assert counts.total("SRAM", "O", "write", "psum") == counts.total("SRAM", "O", "read", "psum")


def test_energy_is_the_sum_of_its_rows() -> None:
    layer = ConvLayer("e", K=16, C=16, P=8, Q=8, R=3, S=3, padding=1)
    fmt = BFP(8, 3, 16)
    result = simulate(layer, load_arch("ideal-64k"), Mapping(), LayerFormats.uniform(fmt))
    frame = result.traffic
    assert list(frame.columns) == [
        "network", "layer", "level", "tensor", "direction", "kind", "bits", "energy_pj",
    ]  # fmt: skip
    per_bit = frame["level"].map({"DRAM": 20.0, "SRAM": 0.16})
    assert (frame["energy_pj"] == frame["bits"] * per_bit).all()
    assert result.energy_pj == math.fsum(frame["energy_pj"])
    assert frame["bits"].sum() == result.counts.total()


def test_an_illegal_mapping_is_refused_before_anything_runs() -> None:
    layer = ConvLayer("big", K=64, C=64, P=56, Q=56, R=3, S=3, padding=1)
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    with pytest.raises(MappingError, match="shared SRAM is short by"):
        simulate(layer, load_arch("ideal-64k"), Mapping(), formats)
    with pytest.raises(MappingError, match="cuts a block of 16"):
        simulate(layer, load_arch("ideal-64k"), Mapping("KP", {"K": 8, "P": 1}), formats)


def test_fetched_padding_is_stored_and_counted() -> None:
    """A 4x4 input with a border of 1 is 6x6 when padding is fetched."""
    from bfpsim.arch import replace

    layer = ConvLayer("pad", K=1, C=1, P=4, Q=4, R=3, S=3, padding=1)
    formats = LayerFormats.uniform(BFP(8, 3, 1))
    skip = load_arch("ideal-64k")
    fetch = replace(skip, "dma.padding", "fetch")
    moved = [
        simulate(layer, arch, Mapping(), formats).counts.total("DRAM", "I", "read", "mantissa")
        for arch in (skip, fetch)
    ]
    assert moved == [16 * 5, 36 * 5]
    assert stored(layer, fetch).input_shape == (1, 6, 6, 1)
    assert check(stored(layer, fetch), fetch, Mapping(), formats).steps == 1
