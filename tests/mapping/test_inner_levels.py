"""Machines of two to five levels against sets and lanes: exact = simulated, 0 bits apart.

Random layers, arrays of one to three axes, fills, ports and nests at every boundary.
"""

import random
import re
from collections.abc import Iterator
from itertools import groupby, pairwise
from math import prod
from typing import NamedTuple

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.closed.levels import inner_counts, steady_cycles
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import FULL, model_counts
from bfpsim.mapping.nest import Mapping, MappingError, make_nest
from bfpsim.mapping.steps.price import streams_of
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import (
    make_arch,
    random_formats,
    random_layer,
    random_machine,
    random_nested_mapping,
)
from tests.long import often
from tests.mapping.level_oracle import misfits, rooms, run_levels, tiles_of
from tests.mapping.oracle import dram_counts, with_padding_stored


class Point(NamedTuple):
    """A layer as stored, and what `simulate` takes."""

    stored: ConvLayer
    layer: ConvLayer
    arch: Arch
    mapping: Mapping
    formats: LayerFormats


def points(seed: int, count: int, burst: str = "1 bit") -> Iterator[Point]:
    """Random points, legal or not, small enough to enumerate."""
    rng = random.Random(seed)
    while count:
        layer, formats = random_layer(rng, rng.choice([3, 4, 4, 6, 9])), random_formats(rng)
        arch = random_machine(rng, burst)
        stored = with_padding_stored(layer) if arch.dma.padding == "fetch" else layer
        mapping = random_nested_mapping(rng, layer, formats, arch)
        if layer.macs <= 2500 and len(tiles_of(layer, arch, mapping)) <= 300:
            count -= 1
            yield Point(stored, layer, arch, mapping, formats)


def legal(seed: int, count: int, burst: str = "1 bit") -> Iterator[Point]:
    for point in points(seed, count, burst):
        if not misfits(point.stored, *point[2:]):
            yield point


SEEDS = often(10, range(300))


@pytest.mark.parametrize("seed", SEEDS)
def test_simulated_exact_and_enumerated_are_one(seed: int) -> None:
    """Bits at every level, tensor, direction and kind, and the cycles that the array is busy."""
    for point in legal(seed, 12):
        wanted = run_levels(point.stored, *point[2:])
        result = simulate(*point[1:])
        assert result.counts == wanted.counts, point
        assert model_counts(*point[1:], FULL) == wanted.counts, point
        assert result.compute_cycles == sum(wanted.lasting), point


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_lasts_as_long_as_its_tiles(seed: int) -> None:
    """Cycles of multiplying, of filling and draining, and of what passes the ports."""
    for stored, _, arch, mapping, formats in legal(1000 + seed, 20):
        wanted = run_levels(stored, arch, mapping, formats)
        nest = make_nest(stored, mapping, [level.name for level in arch.inner])
        steps = streams_of(nest, arch, formats).steps
        tiles = iter(zip(wanted.steady, wanted.computing, wanted.lasting, strict=True))
        by_step = groupby(tiles_of(stored, arch, mapping), key=lambda tile: tile[0])
        cycles = [[sum(c) for c in zip(*(next(tiles) for _ in own), strict=True)]
                  for _, own in by_step]  # fmt: skip
        what = (stored, arch, mapping, formats)
        assert [list(steps[i][:3]) for i in range(len(steps))] == cycles, what
        assert steady_cycles(nest, arch, formats) == sum(wanted.steady), what
        assert inner_counts(nest, arch, formats)[1] == sum(wanted.computing), what


@pytest.mark.parametrize("seed", often(3, range(100)))
def test_bursts_round_what_dram_moves_and_nothing_inside(seed: int) -> None:
    for stored, layer, arch, mapping, formats in legal(2000 + seed, 4, burst="7 B"):
        wanted = Counts(run_levels(stored, arch, mapping, formats).counts)
        whole = dram_counts(stored, arch, mapping, formats, bursts=True)
        wanted.merge({flow: bits for flow, bits in whole.items() if flow.kind == "burst"})
        point = layer, arch, mapping, formats
        assert simulate(*point).counts == wanted, point
        assert model_counts(*point, FULL) == wanted, point


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_level_reads_the_next_one_writes(seed: int) -> None:
    """I and W at every boundary; sums come back as often as they leave; a result leaves once."""
    for _, layer, arch, mapping, formats in legal(3000 + seed, 12):
        counts = simulate(layer, arch, mapping, formats).counts
        what = layer, arch, mapping, formats
        for tensor in ("I", "W"):
            held = [level.name for level in arch.levels if level.holds(tensor)]
            for outer, own in pairwise(held):
                for kind in ("mantissa", "exponent"):
                    read = counts.total(outer, tensor, "read", kind)
                    assert read == counts.total(own, tensor, "write", kind), what
        held = [level.name for level in arch.levels if level.holds("O")]
        results = prod(layer.output_shape) * formats.O.mantissa_bits
        for level in held:
            read, written = (counts.total(level, "O", way, "psum") for way in ("read", "write"))
            assert read == written, what
            made = arch.accumulators is None or level != arch.accumulators.name
            for way in ("read", "write"):
                leaves = made and (way == "write" or level != "DRAM")
                assert counts.total(level, "O", way, "mantissa") == results * leaves, what


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mapping_is_legal_exactly_if_its_tiles_fit(seed: int) -> None:
    """Every memory a bit too small, to the bit, or roomy."""
    rng = random.Random(seed)
    for stored, _, roomy, mapping, formats in points(4000 + seed, 15):
        sizes = {}
        for memory, (need, _) in rooms(stored, roomy, mapping, formats).items():
            if rng.random() < 0.6:
                size = need + rng.choice([-1, 0, 0, 0, 1, need])
                sizes[memory] = max(1, size)
        arch = with_usable(roomy, sizes)
        wrong = misfits(stored, arch, mapping, formats)
        if wrong:
            with pytest.raises(MappingError):
                check(stored, arch, mapping, formats)
        else:
            check(stored, arch, mapping, formats)


SUGGESTION = re.compile(r"([NGKCPQ])=(\d+)(?: \(order (\w+)\))?")


@pytest.mark.parametrize("seed", often(10, range(150)))
def test_what_a_refusal_allows_is_legal_at_every_level(seed: int) -> None:
    """SRAM too small: each offer fits, cuts no block, and leaves whole what an axis takes whole."""
    rng = random.Random(seed)
    for stored, _, roomy, mapping, formats in legal(5000 + seed, 6):
        sizes = {
            memory: max(1, int(need * rng.uniform(0.4, 0.99)))
            for memory, (need, _) in rooms(stored, roomy, mapping, formats).items()
            if memory.startswith("SRAM")
        }
        arch = with_usable(roomy, sizes)
        if not misfits(stored, arch, mapping, formats):
            continue
        with pytest.raises(MappingError, match="is short by") as refusal:
            check(stored, arch, mapping, formats)
        for dim, size, order in SUGGESTION.findall(str(refusal.value).partition("allowed: ")[2]):
            inner = {
                name: Mapping(own.order, own.tile | {dim: min(own.tile.get(dim, 99), int(size))})
                for name, own in mapping.inner.items()
            }
            tile = mapping.tile | {dim: int(size)}
            smaller = Mapping(order or mapping.order, tile, inner)
            assert not misfits(stored, arch, smaller, formats), (stored, arch, mapping, formats)


def with_usable(arch: Arch, sizes: dict[str, int]) -> Arch:
    """The architecture with so many usable bits per memory."""
    data = arch.model_dump(mode="json")
    parts = {level["name"]: level for level in data["levels"]}
    parts |= {f"SRAM {name[0].upper()}": data["sram"].get(name)
              for name in ("input", "weight", "output")}  # fmt: skip
    parts["SRAM"] = data["sram"]
    for memory, size in sizes.items():
        halves = 2 if parts[memory]["double_buffered"] else 1
        parts[memory]["capacity"] = f"{size * halves} bit"
    return Arch.model_validate(data)


# --- by hand ------------------------------------------------------------------------------------

ACCUMULATORS = {"name": "acc", "tensors": ["O"], "capacity": "16 KiB"}


def test_accumulators_under_a_weight_stationary_array() -> None:
    """conv2_1 of ResNet-18 in bfp8 on 16 x 16 of C x K: 4 rows of 16 channels fill 16 KiB.

    SRAM gives I to each of 4 folds of K at each of 9 taps, those in the padding left out, and W to
    each of 14 tiles of rows; it takes O once. The accumulators take a sum for each of 4 x 9 folds
    of the reduction, find one there for each but the first, and let go of the last: with results
    89 bits a cycle between SRAM and array, in place of 1,095.
    """
    layer = ConvLayer("conv2_1", K=64, C=64, P=56, Q=56, R=3, S=3, padding=1)
    formats, arch = LayerFormats.uniform(BFP(8, 3, 16)), make_arch(levels=[ACCUMULATORS])
    mapping = Mapping(inner={"acc": Mapping("KP", {"K": 16, "P": 4})})
    result = simulate(layer, arch, mapping, formats)
    read = 4 * (3 * 56 - 2) ** 2 * (64 * 5 + 4 * 3) + 14 * (64 * 64 * 9 * 5 + 64 * 4 * 3)
    results, sums = 56 * 56 * (64 * 5 + 4 * 3), 64 * 56 * 56 * 4 * 9 * 32
    counts = result.counts
    moved = [counts.total("SRAM", tensor, "read") for tensor in ("I", "W")]
    assert sum(moved) == read
    assert counts.total("SRAM", "O") == 2 * results  # to DRAM as well
    assert counts.total("acc", "O", "write") == counts.total("acc", "O", "read") == sums
    assert result.compute_cycles == layer.macs // 256
    assert round((read + results) / result.compute_cycles) == 89
    with pytest.raises(MappingError, match="allowed: 131072 bit"):
        check(layer, arch, Mapping(inner={"acc": Mapping("KP", {"K": 16, "P": 5})}), formats)


@pytest.mark.parametrize(("double", "cycles"), [(False, 12), (True, 8)])
def test_what_a_level_gives_away_comes_on_top_of_a_single_buffer(double: bool, cycles: int) -> None:
    """4 x 2 inputs by 2 x 2 weights in 4 cycles; 8 sums of 32 bits take 8 to write at 32 bits a
    cycle, and 4 to leave at 64."""
    ports = {"write": "32 bit", "read": "64 bit"}
    level = ACCUMULATORS | {"ports": ports, "double_buffered": double}
    arch = make_arch(levels=[level], rows=("C", 2), cols=("K", 2))
    layer = ConvLayer.linear("matmul", 2, 2, N=4)
    result = simulate(layer, arch, Mapping(), LayerFormats.uniform(Plain(8)))
    assert result.compute_cycles == cycles


@pytest.mark.parametrize(
    ("size", "loads"),
    [(12, 2), (11, 3), (3, 8), (2, 2 * 8)],  # 4 and 3 filters of 8 at once, or one; R in two folds
)
def test_an_axis_takes_its_dimension_whole_as_often_as_there_is_room(size: int, loads: int) -> None:
    """R = 3 over K = 8, and 5 rows of outputs for each load."""
    layer = ConvLayer("over", K=8, C=1, P=5, Q=1, R=3)
    arch = make_arch(axes=[{"dim": "R", "size": size, "over": "K"}])
    result = simulate(layer, arch, Mapping(), LayerFormats.uniform(Plain(8)))
    assert result.compute_cycles == loads * 5
    cut = make_arch(axes=[{"dim": "R", "size": size, "over": "K"}], levels=[ACCUMULATORS])
    inner = {"acc": Mapping("R", {"R": 1})}
    with pytest.raises(MappingError, match="an axis of made takes R whole"):
        check(layer, cut, Mapping(inner=inner), LayerFormats.uniform(Plain(8)))
