"""SCIP against the mapper, the exact model point by point, and the paper's model."""

import random

import numpy as np
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.products import Products, over_sizes
from bfpsim.mapping.closed.traffic import EXACT, PAPER
from bfpsim.mapping.fit import check
from bfpsim.mapping.mapper import ORDERS, best_mappings, orders
from bfpsim.mapping.models import outer_counts, stored
from bfpsim.mapping.nest import DIMS, MappingError
from bfpsim.mapping.solver.solve import solve
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.workloads import ConvLayer, load_workload
from tests.generate import random_arch, random_formats, random_layer, tight
from tests.long import often
from tests.mapping.every import legal_nests

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))
RESNET18 = list(
    {
        (layer.K, layer.C, layer.P, layer.R, layer.strides): layer
        for layer in reversed(load_workload("resnet18").layers)
    }.values()
)[::-1]


def random_case(seed: int):
    rng = random.Random(seed)
    layer, formats, arch = random_layer(rng, 6), random_formats(rng), random_arch(rng)
    return rng, layer, tight(arch, int(2 ** rng.uniform(8, 14))), formats


def is_optimal(layer, arch, formats, solution) -> None:
    """The mapper's optimum in every class, proven, at mappings that cost what is claimed."""
    kept = stored(layer, arch)
    grid = grid_of(kept, arch, formats)
    legal = grid.legal()
    assert [s.order for s in solution.per_class] == list(orders(kept))
    for s in (*solution.per_class, solution):
        nest = check(kept, arch, s.mapping, formats)
        assert outer_counts(nest, arch, formats, EXACT).total() == s.dram_bits == s.objective
        assert s.status == "optimal"
        assert s.dram_bits * (1 - 2e-9) - 1 < s.bound <= s.dram_bits
        assert s.gap == (s.dram_bits - s.bound) / s.dram_bits
    for s in solution.per_class:
        least = np.broadcast_to(sum(grid.outer_bits(s.order).values()), legal.shape)[legal].min()
        assert s.dram_bits == least
    (found,) = best_mappings(layer, arch, formats, 1)
    assert solution.dram_bits == found.cost


@pytest.mark.parametrize("seed", often(30, range(150)))
def test_the_tables_say_what_the_grid_says(seed: int) -> None:
    """Groups, strides, dilations, and boxes that clipping makes equal included."""
    rng, layer, arch, formats = random_case(seed)
    kept = stored(layer, arch)
    grid = grid_of(kept, arch, formats)
    sums = Grid(kept, arch, formats, grid.sizes, over_sizes)
    order = rng.choice([*ORDERS, "".join(rng.sample(DIMS, 6))])
    shape = grid.legal().shape
    bits = np.broadcast_to(sum(grid.outer_bits(order).values()), shape)
    cost = sum(sums.outer_bits(order).values(), Products(())).merged()
    places = list(np.ndindex(shape))
    for at in rng.sample(places, min(len(places), 40)):
        place = dict(zip(DIMS, at, strict=True))
        assert cost.at(place) == bits[at]
        for tensor, tile in grid.room.items():
            assert sums.room[tensor].at(place) == np.broadcast_to(tile, shape)[at]


# 6 and 11 would take ten seconds each.
@pytest.mark.parametrize("seed", often(5, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]))
def test_scip_proves_the_optimum_of_small_layers(seed: int) -> None:
    _, layer, arch, formats = random_case(seed)
    if grid_of(stored(layer, arch), arch, formats).legal().any():
        is_optimal(layer, arch, formats, solve(layer, arch, formats))
        return
    with pytest.raises(MappingError, match="no mapping fits"):
        solve(layer, arch, formats)


@pytest.mark.long
def test_scip_proves_the_optimum_of_small_layers_at_length() -> None:
    for seed in (6, 11, *range(100, 400)):
        test_scip_proves_the_optimum_of_small_layers(seed)


@pytest.mark.parametrize("formats", [BFP8, LayerFormats.uniform(Plain(16))], ids=["bfp8", "16"])
@pytest.mark.parametrize("number", often(1, [3, 8, 11]))
def test_scip_proves_the_optimum_of_layers_of_resnet18(number: int, formats) -> None:
    layer, arch = RESNET18[number], load_arch("ideal-64k")
    is_optimal(layer, arch, formats, solve(layer, arch, formats))


@pytest.mark.long
@pytest.mark.parametrize("formats", [BFP8, LayerFormats.uniform(Plain(16))], ids=["bfp8", "16"])
@pytest.mark.parametrize("name", ["ideal-64k", "ideal-64k-split", "ideal-64k-double"])
@pytest.mark.parametrize("layer", RESNET18, ids=lambda layer: layer.name)
def test_scip_proves_the_optimum_of_resnet18(layer: ConvLayer, name: str, formats) -> None:
    arch = load_arch(name)
    is_optimal(layer, arch, formats, solve(layer, arch, formats, seconds=300))


def paper_costs(layer, arch, formats) -> list[float]:
    """The paper's cost of every legal mapping."""
    return [
        float(outer_counts(nest, arch, formats, PAPER).total())
        for _, nest in legal_nests(layer, arch, formats)
    ]


@pytest.mark.parametrize("padding", often(1, [1, 0]))
@pytest.mark.parametrize(
    ("layer", "bits"),
    [
        (ConvLayer("overlap", K=4, C=5, P=4, Q=3, R=3, S=3), 1_400),
        (ConvLayer("gaps", K=4, C=4, P=3, Q=4, stride=2), 500),
        (ConvLayer("grouped", K=2, C=2, P=3, Q=3, R=2, S=2, G=3), 700),
        (ConvLayer("dilated", K=4, C=2, P=4, Q=4, R=2, S=3, dilation=2, N=2), 900),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_no_mapping_costs_less_than_the_relaxation(layer, bits: int, padding: int) -> None:
    """By the paper's model, in which padding is fetched and stored."""
    arch = replace(tight(load_arch("ideal-64k"), bits), "dma.padding", "fetch")
    layer = ConvLayer(**{f: getattr(layer, f) for f in ("name", *"KCPQRSNG", "stride", "dilation")},
                      padding=padding if layer.R > 1 else 0)  # fmt: skip
    formats = LayerFormats.uniform(BFP(8, 3, 2))
    solution = solve(layer, arch, formats, solver="relaxed")
    costs = paper_costs(layer, arch, formats)
    assert solution.status == "optimal"
    assert solution.bound <= min(costs)
    assert solution.objective <= min(costs) * (1 + 1e-6)
    assert 0 <= solution.gap < 1e-5


@pytest.mark.parametrize("layer", [RESNET18[0], RESNET18[5]], ids=lambda layer: layer.name)
def test_the_relaxation_rounds_to_a_legal_mapping(layer: ConvLayer) -> None:
    arch = load_arch("ideal-64k")
    solution = solve(layer, arch, BFP8, solver="relaxed")
    for s in (*solution.per_class, solution):
        nest = check(layer, arch, s.mapping, BFP8)
        assert outer_counts(nest, arch, BFP8, EXACT).total() == s.dram_bits
        assert s.status == "optimal"
    assert solution.dram_bits >= best_mappings(layer, arch, BFP8, 1)[0].cost
    assert solution.bound == min(s.bound for s in solution.per_class)
    assert solution.seconds == sum(s.seconds for s in solution.per_class)


def test_a_whole_layer_that_fits_relaxes_to_each_tensor_once() -> None:
    layer = ConvLayer("fits", K=8, C=16, P=4, Q=5, R=3, S=3)
    once = 8 * (16 * 6 * 7 + 8 * 16 * 9 + 8 * 4 * 5)
    formats, arch = LayerFormats.uniform(Plain(8)), load_arch("ideal-64k")
    assert solve(layer, arch, formats, solver="relaxed").objective == pytest.approx(once)
    assert solve(layer, arch, formats).dram_bits == once


def test_a_time_limit_is_kept_and_told() -> None:
    """The bound stands, and the mapping is legal, however early SCIP stops."""
    layer, arch = RESNET18[2], load_arch("ideal-64k")
    solution = solve(layer, arch, BFP8, "GKCNQP", seconds=0.01)
    optimum = solve(layer, arch, BFP8, "GKCNQP").dram_bits
    assert solution.status == "time limit"
    assert solution.seconds < 30  # model building included
    assert 0 <= solution.bound <= optimum <= solution.dram_bits == solution.objective
    assert solution.gap == (solution.dram_bits - solution.bound) / solution.dram_bits
    check(layer, arch, solution.mapping, BFP8)
    hurried = solve(layer, arch, BFP8, "GKNPQC", "relaxed", 1e-9)
    assert hurried.seconds < 30  # whether or not SCIP was done before it looked at the clock
    assert 0 <= hurried.bound <= hurried.objective
    check(layer, arch, hurried.mapping, BFP8)


def test_what_cannot_be_solved_is_refused() -> None:
    layer, arch = RESNET18[5], load_arch("ideal-64k")
    with pytest.raises(MappingError, match="order='KPQC'; allowed: GKNPQC, GNCQPK"):
        solve(layer, arch, BFP8, "KPQC")
    with pytest.raises(ValueError, match="solver='cplex'; allowed: scip, relaxed"):
        solve(layer, arch, BFP8, solver="cplex")
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"seconds=.*; allowed: a number above 0"):
            solve(layer, arch, BFP8, seconds=seconds)
    for solver in ("scip", "relaxed"):
        with pytest.raises(MappingError, match=r"100 usable bit, .* too few; allowed: at least"):
            solve(layer, tight(arch, 100), BFP8, solver=solver)


def test_the_paper_needs_room_for_padding() -> None:
    layer = ConvLayer("padded", K=1, C=1, P=1, Q=1, R=3, S=3, padding=1)
    arch, formats = tight(load_arch("ideal-64k"), 8 + 72 + 32), LayerFormats.uniform(Plain(8))
    assert solve(layer, arch, formats).dram_bits == 8 + 72 + 8
    with pytest.raises(MappingError, match="by the paper's model no tile fits"):
        solve(layer, arch, formats, solver="relaxed")
