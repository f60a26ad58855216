"""The array's SRAM traffic over whole layers: every tile of the nest, enumerated."""

import random
from math import prod

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.closed.levels import inner_counts
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.nest import Mapping, make_nest
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_formats, random_layer, random_mapping
from tests.mapping.oracle import activation_bits, odometer, output_elements, run_array


def enumerated(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> tuple[Counts, int]:
    counts, cycles = Counts(), 0
    width = arch.pe_array.accumulator_bits
    for step in odometer(layer, mapping):
        reads = run_array(layer, step.ranges, arch.pe_array, formats)
        cycles += reads.cycles * passes(arch.pe_array, formats)
        counts.add("SRAM", "I", "read", "mantissa", reads.inputs * formats.I.mantissa_bits)
        counts.add("SRAM", "I", "read", "exponent", reads.input_codes * formats.I.exponent_bits)
        counts.add("SRAM", "W", "read", "mantissa", reads.weights * formats.W.mantissa_bits)
        counts.add("SRAM", "W", "read", "exponent", reads.weight_codes * formats.W.exponent_bits)
        # Sums come back for every contribution but the first of all, and leave after every one
        # but the last of all, which leaves as a result.
        begins, ends = step.ranges["C"].start == 0, step.ranges["C"].stop == layer.C
        counts.add("SRAM", "O", "read", "psum", (reads.psums - begins * reads.outputs) * width)
        counts.add("SRAM", "O", "write", "psum", (reads.psums - ends * reads.outputs) * width)
        if ends:
            bits = activation_bits(output_elements(layer, step.ranges), formats.O)
            counts.add("SRAM", "O", "write", "mantissa", bits[0])
            counts.add("SRAM", "O", "write", "exponent", bits[1])
    return counts, cycles


@pytest.mark.parametrize("seed", range(10))
def test_the_closed_form_is_the_sum_over_every_lane(seed: int) -> None:
    rng = random.Random(seed)
    checked = 0
    while checked < 25:
        layer, formats, arch = random_layer(rng, 4), random_formats(rng), random_arch(rng)
        mapping = random_mapping(rng, layer, formats)
        if prod(layer.dims.values()) > 2500:
            continue
        checked += 1
        got = inner_counts(make_nest(layer, mapping), arch, formats)
        wanted = enumerated(layer, arch, mapping, formats)
        assert got == wanted, (layer, mapping, formats, arch.pe_array)
