"""The array in RTL against the simulator's: every sum, every result, every cycle."""

import random
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

import bfpsim as bs
from bfpsim.arch import Arch, replace
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.steps.array import tile_cycles
from bfpsim.quant.formats import BFP, Format, FormatError, LayerFormats, Plain, Rounding
from bfpsim.quant.formats.blocks import activation_block, block_count, weight_block
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import Quantized, quantize_activation, quantize_weight
from bfpsim.sim.functional import exact_output, output_top
from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.twin import LayerRun, Twin
from tests.generate import make_arch, random_layer, random_mapping
from tests.long import often

AXES = {
    "weight": [("C", "K"), ("K", "C"), ("CRS", "K"), ("K", "RS"), ("R", "K"), ("K", "SC")],
    "output": [("PQ", "K"), ("K", "PQ"), ("P", "K"), ("NPQ", "K"), ("K", "QN"), ("K", "N")],
    "input": [("C", "PQ"), ("PQ", "CRS"), ("RS", "P"), ("Q", "C")],
}
WIDEST = 128  # bits of a sum in an architecture's file
MOST_CYCLES = 300


def random_operands(rng: random.Random) -> Format:
    """Blocks of any size and rounding, and words."""
    if rng.random() < 0.2:
        return Plain(rng.choice([2, 4, 7, 8, 12]))
    mantissa, exponent = rng.choice([2, 3, 4, 5, 8, 11]), rng.randint(1, 5)
    rounding = rng.choice([Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TRUNCATE])
    return BFP(mantissa + exponent, exponent, rng.choice([1, 2, 3, 4, 8, 16]), rounding)


def random_twin(rng: random.Random) -> Twin:
    """Any dataflow, fill, size and widths; sums wide enough for 2^14 products, or not."""
    formats = LayerFormats(random_operands(rng), random_operands(rng), random_operands(rng))
    stationary = rng.choice(["weight", "output", "input"])
    rows, cols = rng.choice(AXES[stationary])
    reach = sum((1 << fmt.exponent_bits) - 1 for fmt in (formats.I, formats.W))
    exact = formats.I.mantissa_bits + formats.W.mantissa_bits + reach + 14
    narrow = rng.random() < 0.15
    arch = make_arch(
        rows=(rows, rng.randint(1, 5)),
        cols=(cols, rng.randint(1, 5)),
        stationary=stationary,
        fill=rng.choice(["each_fold", "overlapped"]),
        mac_bits=rng.choice([3, 4, 8]),
        accumulator_bits=min(rng.randint(8, 24) if narrow else exact, WIDEST),
        padding=rng.choice(["skip", "fetch"]),
    )
    return Twin(arch, formats, stages=rng.choice([0, 0, 1, 2]), entries=512)


def random_quantized(rng: random.Random, layer: bs.ConvLayer, fmt: Format, name: str) -> Quantized:
    """A tensor of given values, or of any fields and codes that its format has."""
    seed = np.random.default_rng(rng.getrandbits(32))
    shape = layer.input_shape if name == "input" else layer.weight_shape
    if rng.random() < 0.4:
        values = np.ldexp(seed.normal(size=shape), seed.integers(-9, 9, shape))
        values *= seed.random(shape) < 0.8
        quantizer = quantize_activation if name == "input" else quantize_weight
        return quantizer(values, fmt, None, name)
    block = (activation_block if name == "input" else weight_block)(fmt, shape)
    limit = (1 << (fmt.mantissa_bits - 1)) - 1
    fields = seed.choice([-limit, 0, limit, 1], shape)
    fields = np.where(seed.random(shape) < 0.7, seed.integers(-limit, limit + 1, shape), fields)
    blocks = tuple(-(-extent // size) for extent, size in zip(shape, block, strict=True))
    codes = seed.integers(0, 1 << fmt.exponent_bits, blocks)
    assert codes.size == block_count(shape, block)
    return Quantized(
        fields,
        codes if fmt.exponent_bits else np.empty(0, np.int64),
        rng.randint(-9, 9),
        fmt,
        block,
    )


def digits_at(sums: ExactArray, exponent: int) -> list[int]:
    """Exact sums as whole multiples of 2^exponent."""
    shift = sums.exponent - exponent
    digits = [int(own) for own in sums.digits.ravel()]
    if shift < 0:
        assert all(own % (1 << -shift) == 0 for own in digits)
        return [own >> -shift for own in digits]
    return [own << shift for own in digits]


def wrapped(value: int, bits: int) -> int:
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def run_layers(rng: random.Random, twin: Twin, layers: int) -> Iterator[LayerRun]:
    """Layers on both, compared."""
    arch, formats, design = twin.arch, twin.design.formats, twin.design
    tried = done = 0
    while done < layers and (tried := tried + 1) < 50 * layers:
        layer = random_layer(rng, largest=5)
        mapping = random_mapping(rng, layer, formats)
        try:
            sizes = bs.simulate(layer, arch, mapping, formats)
        except MappingError:
            continue
        if sizes.compute_cycles > MOST_CYCLES:
            continue
        operands = [
            random_quantized(rng, layer, fmt, name)
            for fmt, name in ((formats.I, "input"), (formats.W, "weight"))
        ]
        top = output_top(layer, *operands)
        top = min(127, max(-128, top + rng.choice([0, 0, 0, -3, 2])))
        simulated = bs.simulate(layer, arch, mapping, formats, operands, output_top=top)
        stalls = (rng.random() < 0.3 for _ in count()) if rng.random() < 0.3 else None
        run = twin.run(layer, mapping, *operands, top, *([stalls] if stalls else []))
        compare(design, arch, layer, run, simulated, exact_output(layer, *operands))
        yield run
        done += 1


def compare(
    design: Design,
    arch: Arch,
    layer: bs.ConvLayer,
    run: LayerRun,
    simulated: bs.LayerResult,
    exact: ExactArray,
) -> None:
    free = replace(arch, "pe_array.fill", "none").pe_array
    for tile in run.tiles:
        assert tile.beats == tile_cycles(layer, tile.tile, free, design.formats).cycles
        own = tile_cycles(layer, tile.tile, arch.pe_array, design.formats)
        assert (tile.beats, tile.cycles) == (own.steady, own.cycles + constant(arch, design))
    assert run.beats == simulated.steady_cycles
    assert run.cycles == simulated.compute_cycles + len(run.tiles) * constant(arch, design)
    wanted = digits_at(exact, run.sums.exponent)
    sums = [int(own) for own in run.sums.digits.ravel()]
    assert sums == [wrapped(own, design.sum_bits) for own in wanted]
    if sums == wanted:
        assert np.array_equal(run.quantized.fields, simulated.quantized.fields)
        assert np.array_equal(run.quantized.codes, simulated.quantized.codes)
    else:
        assert run.overflow
    products = layer.C * layer.R * layer.S
    if design.exact_terms >= products:
        assert not run.overflow


def constant(arch: Arch, design: Design) -> int:
    """What docs/rtl.md says that a tile takes beyond the simulator's cycles."""
    array = arch.pe_array
    shift_out = array.stationary == "output" and array.fill == "each_fold"
    return 1 + design.stages + (array.axes[0].size if shift_out else 0)


@pytest.mark.parametrize("seed", often(6, range(400)))
def test_random_tiles(seed: int) -> None:
    rng = random.Random(seed)
    list(run_layers(rng, random_twin(rng), 2 if seed < 6 else 8))


@pytest.mark.parametrize("fill", ["each_fold", "overlapped"])
@pytest.mark.parametrize(
    ("stationary", "rows", "cols", "cycles"),
    [
        # 5 outputs, 4 channels, 3 filters on 2 x 2: 2 folds x 2 folds, streams of 5.
        ("weight", "C", "K", {"each_fold": 4 * (2 + 5 + 2), "overlapped": 2 + 4 * 5 + 2}),
        # 3 folds of outputs x 2 of filters, streams of 4; the last two rows are shifted out.
        ("output", "Q", "K", {"each_fold": 6 * (4 + 2) + 2, "overlapped": 6 * 4 + 2 + 2}),
        # 2 folds of channels x 3 of outputs, streams of 3 filters.
        ("input", "C", "Q", {"each_fold": 6 * (2 + 3 + 2), "overlapped": 2 + 6 * 3 + 2}),
    ],
)
def test_cycles_by_hand(stationary: str, rows: str, cols: str, cycles, fill: str) -> None:
    layer = bs.ConvLayer("small", K=3, C=4, P=1, Q=5)
    formats = LayerFormats.uniform(BFP(6, 2, 4))
    arch = make_arch(rows=(rows, 2), cols=(cols, 2), stationary=stationary, fill=fill)
    inputs = quantize_activation(np.ones(layer.input_shape), formats.I)
    weights = quantize_weight(np.ones(layer.weight_shape), formats.W)
    run = Twin(arch, formats).run(layer, bs.Mapping(), inputs, weights, 2)
    assert run.cycles == cycles[fill] + 1  # the last sum is accumulated
    assert set(run.sums.to_float().ravel()) == {4.0}


def on_both(twin: Twin, layer: bs.ConvLayer, seed: int) -> LayerRun:
    """A layer in one tile, any fields and codes; compared."""
    rng, arch, formats = random.Random(seed), twin.arch, twin.design.formats
    inputs = random_quantized(rng, layer, formats.I, "input")
    weights = random_quantized(rng, layer, formats.W, "weight")
    simulated = bs.simulate(layer, arch, bs.Mapping(), formats, (inputs, weights))
    run = twin.run(layer, bs.Mapping(), inputs, weights, simulated.quantized.top)
    compare(twin.design, arch, layer, run, simulated, exact_output(layer, inputs, weights))
    return run


@pytest.mark.parametrize(
    ("stationary", "axes", "size", "layer", "mac_bits"),
    [
        # Each load is one element: a bank adds to the sum that it has just written.
        ("weight", ("C", "K"), (1, 2), {"K": 2, "C": 6, "P": 1}, 8),
        # As many passes as rows: the next weight arrives while the first pass is still going on.
        ("weight", ("C", "K"), (4, 2), {"K": 3, "C": 9, "P": 1}, 4),
        ("input", ("C", "Q"), (4, 3), {"K": 1, "C": 9, "Q": 5}, 4),
        ("weight", ("C", "K"), (3, 1), {"K": 2, "C": 7, "P": 3}, 8),
        # Sums of one load are shifted out in just the time of the next.
        ("output", ("Q", "K"), (3, 2), {"K": 5, "C": 3, "Q": 7}, 8),
        ("output", ("K", "Q"), (5, 2), {"K": 7, "C": 1, "Q": 4}, 8),
    ],
)
def test_loads_without_a_cycle_between(stationary, axes, size, layer, mac_bits: int) -> None:
    rows, cols = zip(axes, size, strict=True)
    arch = make_arch(
        rows=rows, cols=cols, stationary=stationary, fill="overlapped", mac_bits=mac_bits,
        accumulator_bits=40,
    )  # fmt: skip
    layer = bs.ConvLayer("tight", **{"P": 1, "Q": 1} | layer)
    twin = Twin(arch, LayerFormats.uniform(BFP(10, 2, 4)))
    for seed in range(2):
        on_both(twin, layer, seed)


@pytest.mark.parametrize("stationary", ["weight", "output"])
def test_sums_that_do_not_fit_are_flagged(stationary: str) -> None:
    rows, cols = ("C", "K") if stationary == "weight" else ("Q", "K")
    layer = bs.ConvLayer("wide", K=2, C=8, P=1, Q=2)
    formats, flags = LayerFormats.uniform(BFP(7, 2, 2)), []
    for bits in (30, 10):
        arch = make_arch(
            rows=(rows, 2), cols=(cols, 2), stationary=stationary, fill="each_fold",
            accumulator_bits=bits,
        )  # fmt: skip
        flags.append(on_both(Twin(arch, formats), layer, 1).overflow)
    assert flags == [False, True]


def test_levels_inside_sram() -> None:
    """Sums leave the accumulators unfinished and come back; I passes a buffer of its own."""
    base = make_arch(rows=("C", 3), cols=("K", 2), fill="overlapped", accumulator_bits=40)
    levels = [
        {"name": "acc", "tensors": ["O"], "capacity": "480 bit"},
        {"name": "near", "tensors": ["I"], "capacity": "1 KiB"},
    ]
    arch = Arch.model_validate(base.model_dump() | {"levels": levels})
    layer = bs.ConvLayer("deep", K=4, C=7, P=3, Q=2, R=2)
    formats = LayerFormats.uniform(BFP(7, 3, 2))
    inner = {"acc": bs.Mapping("CPK", {"C": 2, "P": 1, "K": 2}), "near": bs.Mapping("R", {"R": 1})}
    mapping = bs.Mapping("PC", {"P": 2, "C": 5}, inner)
    rng = random.Random(3)
    inputs = random_quantized(rng, layer, formats.I, "input")
    weights = random_quantized(rng, layer, formats.W, "weight")
    twin = Twin(arch, formats)
    assert twin.design.entries == 480 // (40 * 2)
    simulated = bs.simulate(layer, arch, mapping, formats, (inputs, weights))
    run = twin.run(layer, mapping, inputs, weights, simulated.quantized.top)
    assert len(run.tiles) > 20
    compare(twin.design, arch, layer, run, simulated, exact_output(layer, inputs, weights))


@pytest.fixture(scope="module")
def small() -> Twin:
    arch = make_arch(rows=("C", 2), cols=("K", 2), fill="overlapped")
    return Twin(arch, LayerFormats.uniform(BFP(6, 2, 2)), entries=8)


@pytest.mark.parametrize(
    ("layer", "inner", "message"),
    [
        ({"K": 4, "Q": 5}, {}, "a tile has 10 sums per bank of accumulators; allowed in RTL: 8"),
        ({"K": 4, "Q": 2}, {"K": 3}, "cuts a block of 2"),
    ],
)
def test_tiles_that_it_cannot_take(small: Twin, layer, inner, message: str) -> None:
    own = bs.ConvLayer("own", **{"C": 2, "P": 1} | layer)
    fmt = small.design.formats.I
    inputs = quantize_activation(np.ones(own.input_shape), fmt)
    weights = quantize_weight(np.ones(own.weight_shape), fmt)
    with pytest.raises(MappingError, match=message):
        small.run(own, bs.Mapping("K", inner), inputs, weights, 0)


def test_innermost_tiles_end_on_blocks() -> None:
    base = make_arch(rows=("C", 2), cols=("K", 2), fill="overlapped")
    levels = [
        {"name": name, "tensors": [tensor], "capacity": "1 KiB"}
        for name, tensor in (("acc", "O"), ("near", "I"))
    ]
    arch = Arch.model_validate(base.model_dump() | {"levels": levels})
    fmt = BFP(6, 2, 2)
    layer = bs.ConvLayer("own", K=4, C=2, P=1, Q=1)
    inputs = quantize_activation(np.ones(layer.input_shape), fmt)
    weights = quantize_weight(np.ones(layer.weight_shape), fmt)
    mapping = bs.Mapping(inner={"near": bs.Mapping("K", {"K": 1})})
    with pytest.raises(MappingError, match="innermost tiles of O cut blocks of bfp6e2b2"):
        Twin(arch, LayerFormats.uniform(fmt)).run(layer, mapping, inputs, weights, 0)


def test_operands_in_other_formats(small: Twin) -> None:
    layer = bs.ConvLayer("own", K=2, C=2, P=1, Q=1)
    inputs = quantize_activation(np.ones(layer.input_shape), BFP(8, 3, 2))
    weights = quantize_weight(np.ones(layer.weight_shape), BFP(6, 2, 2))
    with pytest.raises(FormatError, match=r"own input is bfp8e3b2 of shape .*; allowed: bfp6e2b2"):
        small.run(layer, bs.Mapping(), inputs, weights, 0)
