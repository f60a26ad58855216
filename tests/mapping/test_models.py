"""The exact model against sets, the paper's against its own rule, and the ladder between them."""

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.counts import Counts, Flow
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import (
    EXACT,
    FULL,
    PAPER,
    Effect,
    compulsory_counts,
    ladder,
    model_counts,
    stored,
)
from bfpsim.mapping.nest import EVERY_DIM, Mapping, MappingError
from bfpsim.mapping.steps.array import Tile, array_traffic
from bfpsim.quant.formats import BFP, LayerFormats, PartialSums, Plain
from bfpsim.quant.formats.layout import ActivationLayout, Runs, WeightLayout
from bfpsim.workloads import ConvLayer
from tests.generate import (
    make_arch,
    random_arch,
    random_formats,
    random_layer,
    random_mapping,
)
from tests.long import often
from tests.mapping.oracle import count_steps, dram_counts, with_padding_stored
from tests.mapping.walk import (
    input_fetches,
    odometer,
    output_box,
    output_visits,
    span,
    weight_fetches,
)
from tests.storage import storage

Case = tuple[ConvLayer, Arch, Mapping, LayerFormats]
WORDS = LayerFormats.uniform(Plain(16))


def cases(seed: int, wanted: int, burst: str = "1 bit", work: float = 2e6) -> Iterator[Case]:
    """Random cases of several steps whose element sets stay small."""
    rng = random.Random(seed)
    while wanted:
        layer, formats = random_layer(rng, largest=5), random_formats(rng)
        mapping = random_mapping(rng, layer, formats)
        elements = layer.height * layer.width * layer.G * layer.C
        if 1 < count_steps(layer, mapping) < work / (elements + 1000):
            wanted -= 1
            yield layer, random_arch(rng, burst), mapping, formats


def as_stored(layer: ConvLayer, arch: Arch) -> ConvLayer:
    return with_padding_stored(layer) if arch.dma.padding == "fetch" else layer


def at_dram(counts: Counts) -> dict[Flow, Fraction | int]:
    return {flow: bits for flow, bits in counts.items() if flow.level == "DRAM"}


# --- exact --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", often(2, range(16)))
def test_exact_is_what_the_rules_move(seed: int) -> None:
    """250 nests a seed, any halo and padding policy, element by element."""
    for layer, arch, mapping, formats in cases(seed, 250):
        wanted = dram_counts(as_stored(layer, arch), arch, mapping, formats)
        got = at_dram(model_counts(layer, arch, mapping, formats, EXACT))
        assert got == wanted, (layer, arch.dma, mapping, formats)


@pytest.mark.parametrize("burst", ["7 bit", "64 bit", "32 B"])
def test_full_adds_bursts_run_by_run(burst: str) -> None:
    """Every bit's address is written out; runs of adjacent addresses are rounded to bursts."""
    for layer, arch, mapping, formats in cases(1, 40, burst, work=2e5):
        wanted = dram_counts(as_stored(layer, arch), arch, mapping, formats, bursts=True)
        got = at_dram(model_counts(layer, arch, mapping, formats, FULL))
        assert got == wanted, (layer, arch.dma, mapping, formats)


@pytest.mark.parametrize("seed", range(4))
def test_exact_counts_whole_bits_and_loses_none(seed: int) -> None:
    """What DRAM reads fills the SRAM; what the SRAM drains DRAM writes; each result once."""
    for layer, arch, mapping, formats in cases(seed, 60):
        counts = model_counts(layer, arch, mapping, formats, EXACT)
        assert all(bits.denominator == 1 for bits in counts.values())
        for kind in ("mantissa", "exponent"):
            for tensor in ("I", "W"):
                assert counts.total("SRAM", tensor, "write", kind) == counts.total(
                    "DRAM", tensor, "read", kind
                )
            drained = counts.total("SRAM", "O", "read", kind)
            assert drained == counts.total("DRAM", "O", "write", kind)
            assert drained == counts.total("SRAM", "O", "write", kind)
        outputs = layer.N * layer.P * layer.Q * layer.G * layer.K
        results = counts.total("DRAM", "O", "write", "mantissa")
        assert results == outputs * formats.O.mantissa_bits
        # Sums: whatever comes into a buffer or goes out to DRAM is read back as often.
        assert counts.total(None, "O", "read", "psum") == counts.total(None, "O", "write", "psum")
        assert not counts.total(kind="burst")


def walk(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Counts:
    """The movement rules and the array's tiles, transfer by transfer, as a simulator runs them."""
    layer = stored(layer, arch)
    nest = check(layer, arch, mapping, formats)
    counts, burst, width = Counts(), arch.dram.burst, arch.pe_array.accumulator_bits

    def transfer(tensor, direction, runs: Runs, kinds: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
        assert runs.bits == sum(kinds.values())  # the layout holds what the box counts
        other = "write" if direction == "read" else "read"
        for kind, bits in kinds.items():
            counts.add("DRAM", tensor, direction, kind, bits)  # type: ignore[arg-type]
            counts.add("SRAM", tensor, other, kind, bits)  # type: ignore[arg-type]
        counts.add("DRAM", tensor, direction, "burst", runs.burst_padding(burst))

    inputs = ActivationLayout(layer.input_shape, formats.I)
    for fetch in input_fetches(nest, arch.dma.halo):
        volume = fetch.new.volume(formats.I)
        transfer("I", "read", inputs.runs(*fetch.new), volume._asdict())
    weights = WeightLayout(layer.weight_shape, formats.W)
    for box in (fetch.box for fetch in weight_fetches(nest)):
        transfer("W", "read", weights.runs(box.filters, box.c), box.volume(formats.W)._asdict())
    results = ActivationLayout(layer.output_shape, formats.O)
    sums = ActivationLayout(layer.output_shape, PartialSums(width))
    for visit in output_visits(nest):
        spilled = sums.runs(*visit.box)
        if visit.resumed:
            transfer("O", "read", spilled, {"psum": spilled.bits})
        if visit.finished:
            volume = visit.box.volume(formats.O)
            transfer("O", "write", results.runs(*visit.box), volume._asdict())
        else:
            transfer("O", "write", spilled, {"psum": spilled.bits})
    for at in odometer(nest):
        tile = Tile(*(span(nest, d, at.get(d, 0)) for d in EVERY_DIM))
        one = array_traffic(layer, tile, arch.pe_array, formats)
        begins, ends = at["C"] == 0, at["C"] == nest.trips["C"] - 1
        elements = one.output_elements
        counts.add("SRAM", "I", "read", "mantissa", one.input_mantissa)
        counts.add("SRAM", "I", "read", "exponent", one.input_exponent)
        counts.add("SRAM", "W", "read", "mantissa", one.weight_mantissa)
        counts.add("SRAM", "W", "read", "exponent", one.weight_exponent)
        counts.add("SRAM", "O", "read", "psum", (one.reduction_folds - begins) * elements * width)
        counts.add("SRAM", "O", "write", "psum", (one.reduction_folds - ends) * elements * width)
        if ends:
            volume = output_box(nest, at).volume(formats.O)
            counts.add("SRAM", "O", "write", "mantissa", volume.mantissa)
            counts.add("SRAM", "O", "write", "exponent", volume.exponent)
    return counts


@pytest.mark.parametrize("burst", ["1 bit", "7 bit", "32 B"])
@pytest.mark.parametrize("seed", often(1, range(4)))
def test_the_closed_form_sums_the_walk(seed: int, burst: str) -> None:
    """Larger layers than sets can hold, at both levels, bursts included."""
    rng = random.Random(f"{seed} {burst}")
    for _ in range(60):
        layer, formats, arch = random_layer(rng), random_formats(rng), random_arch(rng, burst)
        mapping = random_mapping(rng, layer, formats)
        if count_steps(layer, mapping) > 1000:
            continue
        got = model_counts(layer, arch, mapping, formats, FULL)
        assert got == walk(layer, arch, mapping, formats), (layer, arch, mapping, formats)


# --- paper --------------------------------------------------------------------------------------


def by_the_rule(
    tensor: str, loops: list[tuple[str, Fraction]], tile: dict[str, Fraction], layer: ConvLayer
) -> Fraction:
    """Elements moved: DESIGN section 5. `loops` are (dimension, trips), innermost first."""
    relevant = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}[tensor]
    tile, factor, found = dict(tile), Fraction(1), False
    for dim, trips in loops:
        if found:
            factor *= trips
        elif dim in relevant:
            found = True
            if tensor == "I" and dim in "PQ":
                tile[dim] *= trips
            else:
                factor *= trips
    if tensor != "I":
        for dim in relevant:
            factor *= tile[dim]
        return factor
    rows = (tile["P"] - 1) * layer.strides[0] + (tile["R"] - 1) * layer.dilations[0] + 1
    cols = (tile["Q"] - 1) * layer.strides[1] + (tile["S"] - 1) * layer.dilations[1] + 1
    return factor * tile["N"] * tile["G"] * tile["C"] * rows * cols


def paper_by_the_rule(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> dict[Flow, Fraction]:
    """Both levels: loops between tiles, then loops inside a tile around the array's lanes."""
    tile = {d: Fraction(mapping.tile.get(d, extent)) for d, extent in layer.dims.items()}
    loops = [(d, layer.dims[d] / tile[d]) for d in reversed(mapping.order)]
    loops = [(d, trips) for d, trips in loops if trips > 1]
    lanes = dict.fromkeys(tile, Fraction(1))
    for axis in (arch.pe_array.rows, arch.pe_array.cols):
        room = Fraction(axis.size)
        for dim in axis.dim[::-1]:  # a fused axis fills its last letter first
            lanes[dim] = min(room, tile[dim])
            room = max(Fraction(1), room / lanes[dim])
    # outer to inner, the loops that the stationary operand ignores are innermost
    order = {"weight": "GKCRSNPQ", "output": "NGKPQCRS", "input": "NGCPQRSK"}
    inside = [(d, tile[d] / lanes[d]) for d in reversed(order[arch.pe_array.stationary])]
    inside = [(d, trips) for d, trips in inside if trips > 1]
    tiles = Fraction(1)
    for _, trips in loops:
        tiles *= trips
    wanted = {}
    for tensor in ("I", "W", "O"):
        fmt = formats.of(tensor)
        direction = "write" if tensor == "O" else "read"
        for level, elements in (
            ("DRAM", by_the_rule(tensor, loops, tile, layer)),
            ("SRAM", by_the_rule(tensor, inside, lanes, layer) * tiles),
        ):
            wanted[Flow(level, tensor, direction, "mantissa")] = elements * fmt.mantissa_bits
            if storage(fmt).code:
                whole = tensor == "W" and not storage(fmt).by_tap
                share = fmt.block_size * (layer.R * layer.S if whole else 1)
                codes = elements * fmt.exponent_bits / share
                wanted[Flow(level, tensor, direction, "exponent")] = codes
    return wanted


@pytest.mark.parametrize("seed", range(4))
def test_paper_is_its_rule(seed: int) -> None:
    for layer, arch, mapping, formats in cases(seed, 150):
        got = model_counts(layer, arch, mapping, formats, PAPER)
        wanted = paper_by_the_rule(layer, arch, mapping, formats)
        assert got == wanted, (layer, arch.pe_array, mapping, formats)


def test_paper_by_hand() -> None:
    """K=4 C=2 P=Q=4, 3x3, padding 1, tiles of 2 filters and 2 rows, K outside P.

    BFP(8, 3, 4) for I and W, BFP(8, 3, 2) for O, so 5-bit mantissas.

    I: P is present and slides, so the tile widens to 6 x 6 x 2 = 72 elements; K outside: x2 = 144.
       144 x 5 mantissa bits, 144 x 3/4 exponent bits.
    W: P is absent, factor 1; K is present: x2 tiles of 2x2x3x3 = 36. 72 x 5, 72 x 3/36.
    O: P and K are present: x4 tiles of 2x2x4 = 16. 64 x 5, 64 x 3/2.
    """
    layer = ConvLayer("hand", K=4, C=2, P=4, Q=4, R=3, S=3, padding=1)
    formats = LayerFormats(BFP(8, 3, 4), BFP(8, 3, 4), BFP(8, 3, 2))
    counts = model_counts(layer, make_arch(), Mapping("KP", {"K": 2, "P": 2}), formats, PAPER)
    assert at_dram(counts) == {
        ("DRAM", "I", "read", "mantissa"): 720,
        ("DRAM", "I", "read", "exponent"): 108,
        ("DRAM", "W", "read", "mantissa"): 360,
        ("DRAM", "W", "read", "exponent"): 6,
        ("DRAM", "O", "write", "mantissa"): 320,
        ("DRAM", "O", "write", "exponent"): 96,
    }


def test_paper_by_hand_inside_a_tile() -> None:
    """4 inputs x 6 outputs x batch of 5 on 2 x 3 PEs; the batch is innermost, weights stay.

    W: N is absent, factor 1; 2 trips of C and 2 of K around 2 x 3 weights: 24.
    I: 5 trips of N, then 2 of C and 2 of K, around 2 inputs: 40. O: 5 x 2 x 2 around 3: 60.
    """
    layer = ConvLayer.linear("matmul", 4, 6, N=5)
    arch = make_arch(rows=("C", 2), cols=("K", 3))
    counts = model_counts(layer, arch, Mapping(), LayerFormats.uniform(Plain(7)), PAPER)
    assert [counts.total("SRAM", tensor) / 7 for tensor in ("I", "W", "O")] == [40, 24, 60]


def test_paper_takes_fractions_of_tiles_and_of_bits() -> None:
    """5 filters in tiles of 2 are 5/2 trips for the inputs, 3 of which exist."""
    layer = ConvLayer("half", K=5, C=1, P=4, Q=1)
    mapping = Mapping("KP", {"K": 2, "P": 2})
    arch, formats = make_arch(), LayerFormats.uniform(Plain(3))
    assert model_counts(layer, arch, mapping, formats, PAPER).total("DRAM", "I") == 4 * 3 * 2.5
    assert model_counts(layer, arch, mapping, formats, EXACT).total("DRAM", "I") == 4 * 3 * 3


# --- the ladder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_ladder_ends_at_what_is_moved(seed: int) -> None:
    for layer, arch, mapping, formats in cases(seed, 15, "64 bit", work=2e5):
        rungs = ladder(layer, arch, mapping, formats)
        assert [name for name, _, _ in rungs] == ["paper", *(effect.value for effect in Effect)]
        paper = paper_by_the_rule(layer, arch, mapping, formats)
        assert rungs[0][1] == sum(bits for flow, bits in paper.items() if flow.level == "DRAM")
        wanted = dram_counts(as_stored(layer, arch), arch, mapping, formats, bursts=True)
        assert sum(rung for _, rung, _ in rungs) == wanted.total("DRAM")


PLAIN_CASE: Case = (
    ConvLayer("even", K=8, C=8, P=4, Q=4, R=3, S=3),
    make_arch(),
    Mapping("KP", {"K": 4, "P": 2}),
    LayerFormats.uniform(BFP(8, 4, 4)),
)


def changed(layer: dict[str, object], arch: dict[str, str], *mapping: object) -> Case:
    base, _, tiles, formats = PLAIN_CASE
    H = {"H": None, "W": None}
    return (
        replace(base, **(H | layer)),
        make_arch(**arch),
        Mapping(*mapping) if mapping else tiles,  # type: ignore[arg-type]
        formats,
    )


def test_where_no_effect_occurs_the_paper_is_exact() -> None:
    layer, arch, mapping, formats = PLAIN_CASE
    assert all(rung == alone == 0 for _, rung, alone in ladder(*PLAIN_CASE)[1:])
    assert dram_counts(layer, arch, mapping, formats) == at_dram(model_counts(*PLAIN_CASE, PAPER))


@pytest.mark.parametrize(
    ("effect", "case"),
    [
        (Effect.EDGES, changed({"K": 12}, {}, "KP", {"K": 8, "P": 2})),
        (Effect.EDGES, changed({"P": 5}, {}, "PK", {"K": 4, "P": 2})),
        (Effect.PADDING, changed({"padding": 1}, {})),
        (Effect.HALO, changed({}, {"halo": "none"})),
        (Effect.HALO, changed({"R": 1, "stride": (3, 1)}, {})),  # rows between the tiles
        (Effect.PARTIAL_SUMS, changed({}, {}, "CK", {"C": 4, "K": 4})),
        (Effect.BLOCKS, changed({}, {}, "C", {"C": 2})),
        (Effect.BURSTS, changed({}, {"burst": "7 bit"})),
    ],
)
def test_each_rung_alone_explains_its_own_effect(effect: Effect, case: Case) -> None:
    """One thing happens that the paper leaves out: its rung is the whole difference."""
    layer, arch, mapping, formats = case
    moved = dram_counts(layer, arch, mapping, formats, bursts=True)
    paper = model_counts(*case, PAPER)
    difference = moved.total("DRAM") - paper.total("DRAM")
    assert difference != 0
    for name, rung, alone in ladder(*case)[1:]:
        assert (rung, alone) == ((difference, difference) if name == effect.value else (0, 0))
    assert at_dram(model_counts(*case, frozenset([effect]))) == moved


# --- figures that outside tools count -----------------------------------------------------------


def words(counts: Counts) -> dict[tuple[str, str, str], int]:
    """16-bit words at DRAM."""
    return {
        (flow.tensor, flow.direction, flow.kind): int(bits / 16)
        for flow, bits in counts.items()
        if flow.level == "DRAM"
    }


def test_timeloop_on_a_resnet_layer() -> None:
    layer = ConvLayer("timeloop", K=64, C=64, P=56, Q=56, R=3, S=3, H=58, W=58)
    arch = make_arch(
        sram={"capacity": "64 KiB", "width": "128 bit"}, accumulator_bits=16, halo="sliding"
    )
    mapping = Mapping("KPQC", {"K": 16, "C": 16, "P": 28, "Q": 28})
    assert words(model_counts(layer, arch, mapping, WORDS, FULL)) == {
        ("I", "read", "mantissa"): 921600,
        ("W", "read", "mantissa"): 147456,
        ("O", "write", "mantissa"): 200704,
    }


@pytest.mark.parametrize("stationary", ["weight", "output"])
@pytest.mark.parametrize(
    ("K", "mapping", "moved", "cycles"),
    [
        (1, Mapping("P", {"P": 1}), (18, 3, 16), 48),
        (32, Mapping("KP", {"K": 1, "P": 1}), (576, 96, 512), 1536),
    ],
)
def test_timeloop_on_conv1d(
    K: int, mapping: Mapping, moved: tuple[int, int, int], cycles: int, stationary: str
) -> None:
    layer = ConvLayer("conv1d", K=K, C=1, P=16, Q=1, R=3)
    arch = make_arch(rows=("C", 1), cols=("K", 1), stationary=stationary, mac_bits=16)
    counts = model_counts(layer, arch, mapping, WORDS, FULL)
    tensors = (("I", "read"), ("W", "read"), ("O", "write"))
    assert words(counts) == {
        (*tensor, "mantissa"): count for tensor, count in zip(tensors, moved, strict=True)
    }
    nest = check(layer, arch, mapping, WORDS)
    tiles = (Tile(*(span(nest, d, at.get(d, 0)) for d in EVERY_DIM)) for at in odometer(nest))
    # IEEE words of 16 bit have significands of 11, so a 16-bit multiplier takes one pass
    assert sum(array_traffic(layer, t, arch.pe_array, WORDS).cycles for t in tiles) == cycles


def test_scale_sim_on_a_small_layer() -> None:
    layer = ConvLayer("scale-sim", K=8, C=4, P=4, Q=4, R=3, S=3, H=6, W=6)
    arch = make_arch(rows=("PQ", 8), cols=("K", 8), stationary="output")
    counts = model_counts(layer, arch, Mapping(), WORDS, FULL)
    assert words(counts) == {
        ("I", "read", "mantissa"): 144,
        ("W", "read", "mantissa"): 288,
        ("O", "write", "mantissa"): 128,
    }
    assert counts.total("SRAM", "I", "read") == 576 * 16
    assert counts.total("SRAM", "W", "read") == 576 * 16


def test_models_refuse_what_does_not_fit() -> None:
    small = make_arch(sram={"capacity": "100 bit", "width": "8 bit"})
    with pytest.raises(MappingError, match="shared SRAM is short by"):
        model_counts(PLAIN_CASE[0], small, Mapping(), WORDS, PAPER)


def test_compulsory_traffic_by_hand() -> None:
    """Everything once, off chip: 2 groups of 3 channels in blocks of 4, padding not fetched."""
    layer = ConvLayer("once", G=2, C=3, K=4, P=2, Q=2, R=3, S=3, padding=1)
    counts = compulsory_counts(layer, make_arch(burst="64 B"), LayerFormats.uniform(BFP(8, 3, 4)))
    wanted = {
        ("I", "read", "mantissa"): 2 * 2 * 6 * 5,
        ("I", "read", "exponent"): 2 * 2 * 2 * 3,
        ("W", "read", "mantissa"): 8 * 3 * 9 * 5,
        ("W", "read", "exponent"): 8 * 3,
        ("O", "write", "mantissa"): 2 * 2 * 8 * 5,
        ("O", "write", "exponent"): 2 * 2 * 2 * 3,
    }
    found = {(f.level, f.tensor, f.direction, f.kind): bits for f, bits in counts.items() if bits}
    assert found == {("DRAM", *flow): bits for flow, bits in wanted.items()}
