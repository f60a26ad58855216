"""What tiles take in the buffers, against the largest of all tiles; and what a refusal says."""

import random
import re

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.fit import Footprint, check, check_output_blocks, footprint, shortage
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.nest import Mapping, MappingError, make_nest
from bfpsim.quant.formats import BFP, Format, LayerFormats, Plain
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_arch, random_formats, random_layer, random_mapping
from tests.mapping.oracle import (
    activation_bits,
    activation_blocks,
    input_elements,
    odometer,
    output_elements,
    run_array,
    weight_bits,
    weight_elements,
)

BYTES = LayerFormats.uniform(Plain(8))
LAYER = ConvLayer("conv", K=8, C=4, P=6, Q=6, R=3, S=3)
TILED = Mapping("KP", {"K": 4, "P": 2})
# 8-bit words: I 4 rows x 8 columns x 4 channels, W 4 filters x 4 x 9, O 2 x 6 x 4 at 32 bit
NEED = Footprint(4 * 8 * 4 * 8, 4 * 4 * 9 * 8, 2 * 6 * 4 * 32)


def with_shared(bits: int, double: bool = False) -> Arch:
    return make_arch(sram={"capacity": f"{bits} bit", "width": "8 bit", "double_buffered": double})


def with_split(inputs: int, weights: int, outputs: int, double: bool = False) -> Arch:
    def part(bits: int) -> dict[str, object]:
        return {"capacity": f"{bits} bit", "width": "8 bit", "double_buffered": double}

    return make_arch(sram={"input": part(inputs), "weight": part(weights), "output": part(outputs)})


def largest_tiles(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> Footprint:
    """The most of any step: an O tile holds sums while unfinished, then results."""
    most = [0, 0, 0]
    for step in odometer(layer, mapping):
        outputs = output_elements(layer, step.ranges)
        array = run_array(layer, step.ranges, arch.pe_array, formats)
        taken = [
            sum(activation_bits(input_elements(layer, step.ranges), formats.I)),
            sum(weight_bits(layer, weight_elements(layer, step.ranges), formats.W)),
            sum(activation_bits(outputs, formats.O)),
        ]
        if len(step.ranges["C"]) < layer.C or array.psums > array.outputs:
            taken[2] = max(taken[2], len(outputs) * arch.pe_array.accumulator_bits)
        most = list(map(max, most, taken))
    return Footprint(*most)


@pytest.mark.parametrize("seed", range(10))
def test_the_footprint_is_that_of_the_largest_tiles(seed: int) -> None:
    rng = random.Random(seed)
    checked = 0
    while checked < 25:
        layer, arch, formats = random_layer(rng, largest=4), random_arch(rng), random_formats(rng)
        mapping = random_mapping(rng, layer, formats)
        if layer.macs > 2500:
            continue
        checked += 1
        need = footprint(make_nest(layer, mapping), arch, formats)
        assert need == largest_tiles(layer, arch, mapping, formats), (layer, mapping, formats)


def test_results_wider_than_the_sums_decide_the_output_tile() -> None:
    """2 x 2 outputs, C in two tiles: 16-bit sums become 32-bit results in the same buffer."""
    layer = ConvLayer("wide", K=1, C=2, P=2, Q=2)
    nest = make_nest(layer, Mapping("C", {"C": 1}))
    formats = LayerFormats(Plain(8), Plain(8), Plain(32))
    assert footprint(nest, make_arch(accumulator_bits=16), formats).O == 4 * 32
    assert footprint(nest, make_arch(accumulator_bits=48), formats).O == 4 * 48


@pytest.mark.parametrize(
    ("mapping", "stationary", "rows", "bits"),
    [
        (Mapping("KP", {"K": 4, "P": 2}), "output", "PQ", 8),  # sums never leave the PEs
        (Mapping("KPC", {"K": 4, "P": 2, "C": 2}), "output", "PQ", 32),  # C is cut into tiles
        (Mapping("KP", {"K": 4, "P": 2}), "weight", "C", 32),  # R and S run in time
        (Mapping("KP", {"K": 4, "P": 2}), "weight", "CRS", 32),  # 36 of CRS on 16 rows
    ],
)
def test_unfinished_sums_take_their_width_in_the_buffer(
    mapping: Mapping, stationary: str, rows: str, bits: int
) -> None:
    arch = make_arch(stationary=stationary, rows=(rows, 16))
    need = footprint(make_nest(LAYER, mapping), arch, BYTES)
    assert 2 * 6 * 4 * bits == need.O


# --- legal to the bit ---------------------------------------------------------------------------


def test_the_example_takes_what_its_comment_says() -> None:
    assert footprint(make_nest(LAYER, TILED), make_arch(), BYTES) == NEED


@pytest.mark.parametrize("double", [False, True])
def test_a_shared_buffer_fits_to_the_bit(double: bool) -> None:
    halves = 2 if double else 1
    assert check(LAYER, with_shared(NEED.bits * halves, double), TILED, BYTES).steps == 6
    with pytest.raises(MappingError, match="shared SRAM is short by 1 bit;"):
        check(LAYER, with_shared(NEED.bits * halves - 1, double), TILED, BYTES)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("small", [0, 1, 2])
def test_split_buffers_each_fit_to_the_bit(small: int, double: bool) -> None:
    halves = 2 if double else 1
    sizes = [NEED.I * halves, NEED.W * halves, NEED.O * halves]
    check(LAYER, with_split(*sizes, double), TILED, BYTES)
    sizes[small] -= 1
    with pytest.raises(MappingError, match=f"; {'IWO'[small]} buffer is short by 1 bit;"):
        check(LAYER, with_split(*sizes, double), TILED, BYTES)


def test_room_in_one_split_buffer_does_not_help_another() -> None:
    arch = with_split(NEED.I - 5, NEED.W - 7, 10 * NEED.O)
    assert shortage(NEED, arch) == {"I": 5, "W": 7}


def test_a_refusal_names_every_number() -> None:
    """700 bit over: 4 rows and 32-bit sums make half of K, of Q or one row of P enough."""
    with pytest.raises(MappingError) as refusal:
        check(LAYER, with_shared(NEED.bits - 700), TILED, BYTES)
    assert str(refusal.value) == (
        "conv: tiles of KP: K4 P2 take I 1024 + W 1152 + O 1536 = 3712 bit, usable in made: "
        "3012 bit; shared SRAM is short by 700 bit; allowed: with the other tiles as they are, "
        "K=2 or C=2 (order KPC) or P=1 or Q=4 (order KPQ)"
    )


SUGGESTION = re.compile(r"([NGKCPQ])=(\d+)(?: \(order (\w+)\))?")


@pytest.mark.parametrize("seed", range(40))
def test_what_a_refusal_allows_is_the_largest_that_fits(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats = random_layer(rng, largest=6), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    loops = make_nest(layer, mapping).loops
    mapping = Mapping("".join(loop.dim for loop in loops), mapping.tile)
    order = mapping.order
    orders = {dim: order if dim in order else order + dim for dim in "NGKCPQ"}
    need = footprint(make_nest(layer, mapping), make_arch(), formats)
    arch = with_shared(max(1, round(need.bits * rng.uniform(0.4, 0.99))))
    with pytest.raises(MappingError) as refusal:
        check(layer, arch, mapping, formats)
    assert f"short by {need.bits - arch.usable_bits('I')} bit" in str(refusal.value)

    def fits(dim: str, size: int) -> bool:
        try:
            check(layer, arch, Mapping(orders[dim], mapping.tile | {dim: size}), formats)
        except MappingError:
            return False
        return True

    advice = str(refusal.value).partition("allowed: ")[2]
    offered = {dim: int(size) for dim, size, _ in SUGGESTION.findall(advice)}
    added = {dim: order for dim, _, order in SUGGESTION.findall(advice) if order}
    assert added == {dim: orders[dim] for dim in offered if dim not in mapping.order}
    sizes = layer.dims | mapping.tile
    largest = {
        dim: max((size for size in range(1, sizes[dim]) if fits(dim, size)), default=0)
        for dim in "NGKCPQ"
    }
    assert offered == {dim: size for dim, size in largest.items() if size}
    assert offered or advice.startswith("no change of a single tile size fits")


def test_the_mapper_takes_results_wider_than_the_sums_into_account() -> None:
    layer = ConvLayer("wide", K=4, C=4, P=4, Q=4, R=3, S=3)
    formats = LayerFormats(Plain(8), Plain(8), Plain(32))
    for bits in range(600, 4200, 200):
        arch = make_arch(sram={"capacity": f"{bits} bit", "width": "8 bit"}, accumulator_bits=16)
        check(layer, arch, find_mapping(layer, arch, formats), formats)


# --- O tiles and blocks -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_an_output_tile_holds_whole_blocks_or_is_refused(seed: int) -> None:
    rng = random.Random(seed)
    refused = 0
    for _ in range(60):
        layer = ConvLayer("o", G=rng.randint(1, 4), K=rng.randint(1, 6), C=1, P=1, Q=1)
        tile = {"G": rng.randint(1, layer.G), "K": rng.randint(1, layer.K)}
        mapping, block = Mapping("GK", tile), rng.randint(1, 5)
        cut = False
        for step in odometer(layer, mapping):
            inside = output_elements(layer, step.ranges)
            rest = output_elements(layer, {d: range(layer.dims[d]) for d in "NGKPQ"}) - inside
            cut |= bool(activation_blocks(inside, block) & activation_blocks(rest, block))
        formats = LayerFormats(Plain(8), Plain(8), BFP(8, 3, block))
        nest = make_nest(layer, mapping)
        check_output_blocks(nest, BYTES)  # words have no blocks to cut
        if cut:
            refused += 1
            with pytest.raises(MappingError, match=rf"cuts a block of {block} \(bfp8e3b{block}\)"):
                check_output_blocks(nest, formats)
        else:
            check_output_blocks(nest, formats)
    assert 0 < refused < 60


@pytest.mark.parametrize(
    ("fmt", "tile", "message"),
    [
        (BFP(8, 3, 4), {"K": 6}, "conv: tile K=6 makes an O tile of channels 0..5, which cuts a "
         "block of 4 (bfp8e3b4); allowed: tiles that end on multiples of 4 channels"),
        (BFP(8, 3, 4), {"K": 4}, ""),
        (BFP(8, 3, 16), {"K": 8}, ""),  # a short block is whole
        (Plain(8), {"K": 3}, ""),
    ],
)  # fmt: skip
def test_the_block_rule_by_example(fmt: Format, tile: dict[str, int], message: str) -> None:
    formats = LayerFormats(Plain(8), Plain(8), fmt)
    if not message:
        check(LAYER, make_arch(), Mapping("K", tile), formats)
        return
    with pytest.raises(MappingError) as refusal:
        check(LAYER, make_arch(), Mapping("K", tile), formats)
    assert str(refusal.value) == message
