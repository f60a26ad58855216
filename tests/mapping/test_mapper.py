"""The mapper against brute force: every order, every tile size, every legal mapping."""

import math
import random

import numpy as np
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.mapping import timed
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.closed.levels import inner_counts
from bfpsim.mapping.constraints import Constraints
from bfpsim.mapping.counts import energy_pj
from bfpsim.mapping.fit import check, footprint
from bfpsim.mapping.mapper import ORDERS, best_mappings, find_mapping, front, orders
from bfpsim.mapping.models import EXACT, FULL, model_counts, outer_counts, stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer, load_workload
from tests.generate import random_arch, random_device, random_formats, random_layer, tight
from tests.long import often
from tests.mapping.every import legal_nests


def brute_force(layer, arch, formats, effects) -> dict[Mapping, int]:
    """DRAM bits of every legal mapping."""
    return {
        mapping: int(outer_counts(nest, arch, formats, effects).total())
        for mapping, nest in legal_nests(layer, arch, formats)
    }


def small_case(seed: int, burst: str):
    """A layer with at most 120 tilings, and an SRAM that holds some of them."""
    rng = random.Random(seed)
    while True:
        layer, formats = random_layer(rng, 4), random_formats(rng)
        dims = layer.dims
        tilings = np.prod([dims[d] for d in DIMS])
        loops = sum(dims[d] > 1 for d in DIMS)
        if tilings <= 120 and loops <= 4:
            break
    arch = random_arch(rng, burst)
    return layer, tight(arch, int(2 ** rng.uniform(6, 13))), formats


@pytest.mark.parametrize("seed", often(8, range(60)))
def test_the_answer_is_the_least_of_all_legal_mappings(seed: int) -> None:
    layer, arch, formats = small_case(seed, "1 bit")
    every = brute_force(layer, arch, formats, EXACT)
    if not every:
        with pytest.raises(MappingError, match="no mapping fits"):
            find_mapping(layer, arch, formats)
        return
    found = find_mapping(layer, arch, formats)
    nest = check(stored(layer, arch), arch, found, formats)
    assert outer_counts(nest, arch, formats, EXACT).total() == min(every.values())


@pytest.mark.parametrize("seed", often(4, range(36)))
def test_with_bursts_the_answer_is_the_least_of_the_candidates(seed: int) -> None:
    """Of every candidate size under every order of `orders`, each priced alone."""
    layer, arch, formats = small_case(seed, "64 bit")
    kept = stored(layer, arch)
    grid, costs = grid_of(kept, arch, formats), []
    for at in np.argwhere(grid.legal()):
        for order in orders(kept):
            mapping = Mapping(order, dict(zip(DIMS, grid.tile(at), strict=True)))
            nest = check(kept, arch, mapping, formats)
            costs.append(outer_counts(nest, arch, formats, FULL).total())
    if costs:
        (found,) = best_mappings(layer, arch, formats, 1, model="full")
        nest = check(kept, arch, found.mapping, formats)
        assert found.cost == outer_counts(nest, arch, formats, FULL).total() == min(costs)


@pytest.mark.parametrize("model", ["exact", "full"])
@pytest.mark.parametrize("seed", often(3, range(400, 412)))
def test_reads_and_writes_are_priced_apart(seed: int, model: str) -> None:
    """Flow by flow, over every candidate size (of exact: every size) and order."""
    layer, arch, formats = small_case(seed, "64 bit" if model == "full" else "1 bit")
    rng = random.Random(seed)
    for path in ("dram.energy", *(["sram.energy"] if arch.shared else SPLIT_ENERGIES)):
        prices = {way: f"{rng.choice([0, 0.1, 0.7, 3, 20])} pJ/bit" for way in ("read", "write")}
        arch = replace(arch, path, prices)
    kept = stored(layer, arch)
    if model == "full":
        grid = grid_of(kept, arch, formats, "energy")
        tiles = [dict(zip(DIMS, grid.tile(at), strict=True)) for at in np.argwhere(grid.legal())]
        mappings = [Mapping(order, tile) for tile in tiles for order in orders(kept)]
    else:
        mappings = [mapping for mapping, _ in legal_nests(layer, arch, formats)]
    costs = []
    for mapping in mappings:
        counts = model_counts(layer, arch, mapping, formats, FULL if model == "full" else EXACT)
        costs.append(math.fsum(energy_pj(f, b, arch) for f, b in counts.items()))
    if costs:
        (found,) = best_mappings(layer, arch, formats, 1, "energy", model)
        assert found.cost == pytest.approx(min(costs), rel=1e-12)


SPLIT_ENERGIES = ("sram.input.energy", "sram.weight.energy", "sram.output.energy")


@pytest.mark.parametrize("seed", often(3, range(200, 224)))
def test_the_least_energy_is_found(seed: int) -> None:
    """Priced by the scalar model, over every order and tile size."""
    layer, arch, formats = small_case(seed, "1 bit")
    costs = [
        math.fsum(
            energy_pj(f, b, arch)
            for f, b in model_counts(layer, arch, mapping, formats, EXACT).items()
        )
        for mapping, _ in legal_nests(layer, arch, formats)
    ]
    if costs:
        (found,) = best_mappings(layer, arch, formats, 1, "energy")
        assert found.cost == pytest.approx(min(costs), rel=1e-12)


def simulated(layer, arch, formats) -> dict[Mapping, LayerResult]:
    """Every legal mapping, run with SimPy."""
    return {
        mapping: simulate(layer, arch, mapping, formats)
        for mapping, _ in legal_nests(layer, arch, formats)
    }


@pytest.mark.parametrize("seed", often(4, range(700, 800)))
def test_no_mapping_at_all_is_simulated_faster_on_a_device(seed: int) -> None:
    """With rows, turnaround and refresh in every transfer's time."""
    layer, arch, formats = small_case(seed, "1 bit")
    arch = random_device(random.Random(seed), arch)
    every = simulated(layer, arch, formats)
    if every:
        (fastest,) = best_mappings(layer, arch, formats, 1, "latency")
        assert every[fastest.mapping].cycles == fastest.cost
        assert fastest.cost == min(result.cycles for result in every.values())
        assert fastest.proven


@pytest.mark.parametrize("seed", often(5, [*range(400, 405), *range(406, 640), 405]))
def test_no_mapping_at_all_is_simulated_faster(seed: int) -> None:
    """Every order and tile size, with and without bursts, one slot and two; so for energy x delay.

    And the front is what remains of all of them.
    """
    layer, arch, formats = small_case(seed, "1 bit" if seed % 2 else "64 bit")
    every = simulated(layer, arch, formats)
    if not every:
        return
    (fastest,) = best_mappings(layer, arch, formats, 1, "latency")
    assert fastest.proven
    assert fastest.cost == every[fastest.mapping].cycles == min(r.cycles for r in every.values())
    (least,) = best_mappings(layer, arch, formats, 1, "edp")
    assert least.proven
    products = {m: r.cycles * r.energy_pj for m, r in every.items()}
    assert least.cost == products[least.mapping]
    assert least.cost == pytest.approx(min(products.values()), rel=1e-12)
    points = front(layer, arch, formats)
    assert all(point.proven for point in points)
    costs = sorted({(r.cycles, int(r.counts.total("DRAM"))) for r in every.values()})
    remaining = [
        own for place, own in enumerate(costs) if all(own[1] < b for _, b in costs[:place])
    ]
    assert [(point.cycles, point.dram_bits) for point in points] == remaining
    for point in points:
        result = every[point.mapping]
        assert (point.cycles, point.dram_bits) == (result.cycles, result.counts.total("DRAM"))


@pytest.mark.parametrize("seed", often(2, [660, 663, 661, 662, *range(664, 690)]))
def test_constraints_hold_where_cycles_count(seed: int) -> None:
    """The fastest of all mappings in the order, and of no larger tiles than allowed."""
    layer, arch, formats = small_case(seed, "1 bit")
    every = simulated(layer, arch, formats)
    order = "".join(random.Random(seed).sample(DIMS, 6))
    most = {d: max(1, layer.dims[d] - 1) for d in "KQ"}
    allowed = {
        mapping: result.cycles
        for mapping, result in every.items()
        if [d for d in order if d in mapping.order] == list(mapping.order)
        and all(mapping.tile.get(d, layer.dims[d]) <= size for d, size in most.items())
    }
    limits = Constraints(order, max_tile=most)
    if not allowed:
        with pytest.raises(MappingError):
            best_mappings(layer, arch, formats, 1, "latency", constraints=limits)
        return
    (found,) = best_mappings(layer, arch, formats, 1, "latency", constraints=limits)
    assert found.cost == allowed[found.mapping] == min(allowed.values())


@pytest.mark.parametrize("seed", often(3, range(700, 730)))
@pytest.mark.parametrize("objective", ["dram", "energy"])
def test_of_equal_mappings_the_faster_wins(seed: int, objective: str) -> None:
    layer, arch, formats = small_case(seed, "1 bit")
    try:
        several = best_mappings(layer, arch, formats, 12, objective)
    except MappingError:
        return
    tied = [one for one in several if one.cost == several[0].cost]
    cycles = [simulate(layer, arch, one.mapping, formats).cycles for one in tied]
    assert cycles == sorted(cycles)
    assert simulate(
        layer, arch, find_mapping(layer, arch, formats, objective=objective), formats
    ).cycles == min(cycles)


def test_where_few_runs_are_allowed_the_gap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, formats = load_workload("resnet18").layers[7], LayerFormats.uniform(BFP(8, 3, 16))
    arch = load_arch("ideal-64k-double")
    (proven,) = best_mappings(layer, arch, formats, 1, "latency")
    assert proven.proven
    monkeypatch.setattr(timed, "MOST_RUNS", 2)
    (found,) = best_mappings(layer, arch, formats, 1, "latency")
    assert found.bound <= proven.cost <= found.cost
    assert not found.proven


def test_the_front_from_few_bits_to_few_cycles() -> None:
    """Ten times as fast for 29 % more bits, and what lies between."""
    layer = next(one for one in load_workload("resnet18").layers if "downsample" in one.name)
    points = front(layer, load_arch("ideal-64k-split"), LayerFormats.uniform(Plain(8)))
    assert points[0][1:3] == (1_642_496, 44_762)
    assert points[0].mapping.tile == {"P": 1, "Q": 14}
    assert points[-1][1:3] == (1_269_760, 445_178)
    assert points[-1].mapping.tile == {"P": 1, "Q": 1}
    assert len(points) == 9


@pytest.mark.long
@pytest.mark.parametrize("name", ["ideal-64k", "ideal-64k-double", "ideal-64k-split", "ideal-16k"])
@pytest.mark.parametrize("network", ["resnet18", "mobilenetv2-eca"])
def test_no_objective_beats_latency_in_cycles(network: str, name: str) -> None:
    arch, formats = load_arch(name), LayerFormats.uniform(BFP(8, 3, 16))
    for layer, _ in load_workload(network).unique_layers:
        cycles = {
            objective: simulate(
                layer, arch, best_mappings(layer, arch, formats, 1, objective, "full")[0].mapping,
                formats,
            ).cycles
            for objective in ("latency", "dram", "energy", "edp")
        }  # fmt: skip
        assert cycles["latency"] == min(cycles.values()), layer.name


@pytest.mark.parametrize("seed", often(3, [300, 302, 303, 301, *range(305, 318), 304]))
@pytest.mark.parametrize("model", ["exact", "full"])
def test_the_k_best_ascend_and_are_distinct(seed: int, model: str) -> None:
    layer, arch, formats = small_case(seed, "64 bit")
    effects = FULL if model == "full" else EXACT
    every = brute_force(layer, arch, formats, effects)
    if not every:
        return
    found = best_mappings(layer, arch, formats, 5, "dram", model)
    assert [f.cost for f in found] == sorted(f.cost for f in found)
    assert len({f.mapping for f in found}) == len(found) <= 5
    for f in found:
        assert every[f.mapping] == f.cost


@pytest.mark.long
def test_the_answer_is_the_least_at_length() -> None:
    for seed in range(1000, 1600):
        test_the_answer_is_the_least_of_all_legal_mappings(seed)
        test_with_bursts_the_answer_is_the_least_of_the_candidates(seed)
    for seed in range(2000, 2100):
        test_the_least_energy_is_found(seed)
        for model in ("exact", "full"):
            test_the_k_best_ascend_and_are_distinct(seed, model)


@pytest.mark.parametrize("seed", range(60))
def test_every_point_of_the_grid_is_priced_and_judged_as_alone(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats, arch = random_layer(rng, 6), random_formats(rng), random_arch(rng)
    arch = tight(arch, int(2 ** rng.uniform(8, 15)))
    kept = stored(layer, arch)
    grid = grid_of(kept, arch, formats, rng.choice(["dram", "energy", "latency"]))
    legal = grid.legal()
    order = rng.choice([*ORDERS, "".join(rng.sample(DIMS, 6))])
    bits = np.broadcast_to(sum(grid.outer_bits(order).values()), legal.shape)
    sram = grid.inner_bits(grid.outer_bits(order))
    cycles = np.broadcast_to(grid.compute_cycles, legal.shape)
    for _ in range(15):
        at = tuple(rng.randrange(size) for size in legal.shape)
        mapping = Mapping(order, dict(zip(DIMS, grid.tile(np.array(at)), strict=True)))
        try:
            nest = check(kept, arch, mapping, formats)
        except MappingError:
            assert not legal[at]
            continue
        assert legal[at]
        counts = model_counts(layer, arch, mapping, formats, EXACT)
        assert counts.total("DRAM") == bits[at]
        for tensor in ("I", "W", "O"):
            assert counts.total("SRAM", tensor) == np.broadcast_to(sram[tensor], legal.shape)[at]
        assert inner_counts(nest, arch, formats)[1] == cycles[at]


def test_the_best_known_mapping_of_conv2_x_is_found() -> None:
    """668,160 words by hand; published mappers stop at 718,336 and 854,272."""
    layer = ConvLayer("conv2_x", K=64, C=64, P=56, Q=56, R=3, S=3)
    arch = replace(load_arch("ideal-64k"), "pe_array.accumulator_bits", 16)
    formats = LayerFormats.uniform(Plain(16))
    nest = check(layer, arch, find_mapping(layer, arch, formats), formats)
    assert outer_counts(nest, arch, formats, EXACT).total() <= 668_160 * 16


def test_more_memory_never_moves_more() -> None:
    layer = load_workload("resnet18-fashion").layers[8]
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    moved = []
    for size in range(9_000, 200_000, 9_000):
        arch = tight(load_arch("ideal-64k"), size)
        try:
            nest = check(layer, arch, find_mapping(layer, arch, formats, model="full"), formats)
        except MappingError:
            assert not moved
            continue
        moved.append(int(outer_counts(nest, arch, formats, FULL).total()))
    assert len(moved) > 12
    assert moved == sorted(moved, reverse=True)


def test_ties_are_broken_the_same_way_every_time() -> None:
    layer = ConvLayer("tie", K=4, C=4, P=4, Q=4)
    arch, formats = tight(load_arch("ideal-64k"), 700), LayerFormats.uniform(Plain(8))
    found = {find_mapping(layer, arch, formats) for _ in range(5)}
    assert len(found) == 1


def test_what_the_shortage_names_is_just_enough() -> None:
    layer = ConvLayer("short", K=32, C=40, P=8, Q=8, R=3, S=3, padding=1)
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    with pytest.raises(
        MappingError, match=r"100 usable bit, \d+ too few; allowed: at least \d+"
    ) as e:
        find_mapping(layer, tight(load_arch("ideal-64k"), 100), formats)
    least = int(str(e.value).split("at least ")[1].split()[0])
    find_mapping(layer, tight(load_arch("ideal-64k"), least), formats)
    with pytest.raises(MappingError, match=" 1 too few"):
        find_mapping(layer, tight(load_arch("ideal-64k"), least - 1), formats)


@pytest.mark.parametrize(
    ("layer", "halo"),
    [
        # Tiles of 3 + 1 rows read 4 + 3 stored ones, tiles of 2 + 2 read 4 + 4.
        (ConvLayer("clipped", K=2, C=3, P=4, Q=1, R=5, padding=(2, 0)), "none"),
        (ConvLayer("clipped", K=2, C=3, P=1, Q=5, S=5, padding=(0, 2)), "none"),
        (ConvLayer("clipped", K=2, C=2, P=5, Q=2, R=3, S=2, padding=(1, 0)), "sliding"),
        # Tiles of 8 + 4 channels cut no block of 4, tiles of 6 + 6 cut one.
        (ConvLayer("blocks", K=3, C=12, P=2, Q=2), "sliding"),
    ],
    ids=["rows", "columns", "sliding", "blocks"],
)
def test_the_smallest_size_of_a_trip_count_is_not_always_the_best(layer, halo: str) -> None:
    """At every capacity that changes anything, against brute force."""
    formats = LayerFormats(BFP(8, 6, 4), BFP(8, 6, 4), Plain(8))
    roomy = replace(replace(load_arch("ideal-64k"), "dma.halo", halo), "sram.capacity", "1 MiB")
    every, needs = {}, {}
    for mapping, nest in legal_nests(layer, roomy, formats):
        every[mapping] = int(outer_counts(nest, roomy, formats, EXACT).total())
        needs[mapping] = footprint(nest, roomy, formats).bits
    for capacity in sorted(set(needs.values())):
        least = min(bits for m, bits in every.items() if needs[m] <= capacity)
        (found,) = best_mappings(layer, tight(roomy, capacity), formats, 1)
        assert found.cost == least


@pytest.mark.parametrize(
    "layer",
    [
        ConvLayer("rows", K=4, C=4, P=3, Q=1, R=3, dilation=(3, 1), padding=(3, 0)),
        ConvLayer("both", K=3, C=4, P=2, Q=2, R=3, S=3, dilation=2, padding=2),
        ConvLayer("grouped", G=2, K=2, C=2, P=1, Q=3, S=3, dilation=(1, 3), padding=(0, 3)),
        ConvLayer("small", K=4, C=3, P=2, Q=2, R=3, S=3, padding=1),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("halo", often(1, ["sliding", "none"]))
def test_where_all_windows_read_the_same_rows_c_may_be_outside_k(layer, halo: str) -> None:
    """At every capacity that changes anything, against every order and tile size."""
    formats = LayerFormats(BFP(8, 4, 2), BFP(8, 4, 2), Plain(8))
    roomy = replace(replace(load_arch("ideal-64k"), "dma.halo", halo), "sram.capacity", "1 MiB")
    every, needs = {}, {}
    for mapping, nest in legal_nests(layer, roomy, formats):
        every[mapping] = int(outer_counts(nest, roomy, formats, EXACT).total())
        needs[mapping] = footprint(nest, roomy, formats).bits
    better = False
    for capacity in sorted(set(needs.values())):
        arch = tight(roomy, capacity)
        least = min(bits for m, bits in every.items() if needs[m] <= capacity)
        (found,) = best_mappings(layer, arch, formats, 1)
        assert found.cost == least
        grid = grid_of(layer, arch, formats)
        legal = grid.legal()
        few = [
            np.broadcast_to(sum(grid.outer_bits(o).values()), legal.shape)[legal].min()
            for o in ORDERS
        ]
        better |= found.cost < min(few)
    assert better or layer.name != "rows"


def test_latencies_do_not_overflow() -> None:
    """A clock of 333.333333333333 MHz leaves a fraction of fifteen digits."""
    layer, formats = load_workload("resnet18").layers[7], LayerFormats.uniform(BFP(8, 3, 16))
    costs = []
    for clock in ("333.333333333333 MHz", "333.333333 MHz"):
        arch = replace(replace(load_arch("ideal-64k"), "clock", clock), "dram.bandwidth", "1 GB/s")
        costs.append(best_mappings(layer, arch, formats, 1, "latency")[0].cost)
    assert costs[0] == pytest.approx(costs[1], abs=1)
