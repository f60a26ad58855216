"""The mapper inside SRAM against every way to cut the levels there."""

import random
from collections.abc import Callable, Iterator
from itertools import permutations, product

import numpy as np
import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.closed.level_grid import LevelGrid
from bfpsim.mapping.closed.levels import inner_counts
from bfpsim.mapping.constraints import Constraints
from bfpsim.mapping.counts import energy_pj
from bfpsim.mapping.fit import check, check_output_blocks
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.mapper import best_mappings, find_mapping
from bfpsim.mapping.nest import DIMS, EVERY_DIM, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_formats, random_layer, random_mapping
from tests.long import often

HELD = (["O"], ["I"], ["W"], ["I", "W"], ["I", "W", "O"])


def with_levels(arch: Arch, levels: list[dict[str, object]], **array: object) -> Arch:
    data = arch.model_dump()
    data["pe_array"] |= array
    return Arch.model_validate(data | {"levels": levels})


@pytest.mark.parametrize("seed", often(15, range(200)))
def test_the_grid_is_every_tiling_by_itself(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats = random_layer(rng, 5), random_formats(rng)
    level = {"name": "buf", "tensors": ["I", "W", "O"], "capacity": "1 MiB"}
    fill = rng.choice(["none", "each_fold", "overlapped"])
    arch = with_levels(random_arch(rng), [level], fill=fill)
    outer = make_nest(layer, random_mapping(rng, layer, formats))
    sizes = {
        dim: np.array(sorted(rng.sample(range(1, most + 1), rng.randint(1, min(3, most)))))
        for dim, most in outer.tile.items()
    }
    grid = LevelGrid(outer, arch, formats, sizes)
    order = "".join(rng.sample(EVERY_DIM, len(EVERY_DIM)))
    width, elements = arch.pe_array.accumulator_bits, int(np.prod(layer.output_shape))
    outside = {d: size for d, size in outer.tile.items() if d in DIMS}
    for _ in range(5):
        place = tuple(rng.randrange(n) for n in grid.shape)

        def at(values: object, place: tuple[int, ...] = place) -> int:
            return int(np.broadcast_to(values, grid.shape)[place])

        mapping = Mapping(outer.order, outside, {"buf": Mapping(order, grid.tile(place))})
        nest = make_nest(layer, mapping, ["buf"])
        counts, cycles = inner_counts(nest, arch, formats)
        for tensor in ("I", "W"):
            assert counts.total("buf", tensor, "write") == at(grid.fetched(tensor, order))
            assert counts.total("buf", tensor, "read") == at(grid.array_reads[tensor])
        written = at(grid.contributions) * elements + at(grid.visited(order)) - elements
        assert counts.total("buf", "O", "write") == written * width
        assert cycles == at(grid.busy_cycles)
        assert nest.innermost.steps == at(grid.tiles)
        try:
            check_output_blocks(nest.innermost, formats)
        except MappingError:
            assert not at(grid.whole_blocks)
        else:
            assert at(grid.whole_blocks)


def ways(nest: Nest) -> Iterator[Mapping]:
    """Every order and tile of one boundary."""
    for sizes in product(*(range(1, nest.tile[dim] + 1) for dim in EVERY_DIM)):
        tile = {d: s for d, s in zip(EVERY_DIM, sizes, strict=True) if s < nest.tile[d]}
        for order in permutations(tile):
            yield Mapping("".join(order), tile)


def inside_pj(nest: Nest, arch: Arch, formats: LayerFormats) -> float:
    counts, _ = inner_counts(nest, arch, formats)
    return sum(energy_pj(flow, bits, arch) for flow, bits in counts.items())


def small_layer(rng: random.Random) -> ConvLayer:
    while True:
        layer = random_layer(rng, 3)
        if np.prod([*layer.dims.values(), layer.R, layer.S]) <= 60:
            return layer


@pytest.mark.parametrize("seed", often(15, range(300)))
def test_one_level_is_cut_at_the_least_energy(seed: int) -> None:
    """The least of every tile size and every order, R and S cut too where nothing else fits.

    Where a fold with all taps does not fit they may be cut, too; never to cost more than without.
    """
    rng = random.Random(seed)
    layer, formats = small_layer(rng), random_formats(rng)
    outer = random_mapping(rng, layer, formats)
    level = {
        "name": "buf",
        "tensors": rng.choice(HELD),
        "capacity": f"{rng.choice([40, 80, 160, 320, 640])} bit",
        "energy": rng.choice(["0.02 pJ/bit", "0.1 pJ/bit"]),
    }
    arch = with_levels(random_arch(rng), [level])
    every, whole = [], []
    for inner in ways(make_nest(layer, outer)):
        try:
            nest = check(layer, arch, Mapping(outer.order, outer.tile, {"buf": inner}), formats)
        except MappingError:
            continue
        every.append(inside_pj(nest, arch, formats))
        if not set(inner.tile) & {"R", "S"}:
            whole.append(every[-1])
    mapper = InnerMapper(arch, formats)
    got = mapper.best(make_nest(layer, outer))
    assert mapper.fits(make_nest(layer, outer)) == (got is not None)
    if got is None:
        assert not every
        return
    nest = check(layer, arch, Mapping(outer.order, outer.tile, got.mappings), formats)
    assert inside_pj(nest, arch, formats) == pytest.approx(got.cost)
    if whole and set(got.mappings["buf"].tile) & {"R", "S"}:  # where a fold takes no whole tap
        assert min(every) <= got.cost * (1 + 1e-6)
        assert got.cost < min(whole)
    else:
        assert got.cost == pytest.approx(min(whole or every))


def inside_nests(outer: Mapping, layer: ConvLayer, names: list[str]) -> Iterator[Mapping]:
    """Every way to cut two levels."""
    for first in ways(make_nest(layer, outer)):
        one = Mapping(outer.order, outer.tile, {names[0]: first})
        for second in ways(make_nest(layer, one, names[:1]).innermost):
            yield Mapping(outer.order, outer.tile, {names[0]: first, names[1]: second})


@pytest.mark.parametrize("seed", often(8, range(200)))
def test_two_levels_are_cut_at_the_least_energy(seed: int) -> None:
    rng = random.Random(seed)
    while True:
        layer = random_layer(rng, 3)
        if np.prod([*layer.dims.values(), layer.R, layer.S]) <= 24:
            break
    formats, outer = random_formats(rng), random_mapping(rng, layer, random_formats(rng))
    outer = Mapping(outer.order, {d: s for d, s in outer.tile.items() if d not in "GK"})
    held = rng.sample(HELD, 2)
    levels = [
        {
            "name": name,
            "tensors": tensors,
            "capacity": f"{rng.choice([40, 80, 160, 320, 640])} bit",
            "energy": rng.choice(["0.02 pJ/bit", "0.1 pJ/bit"]),
        }
        for name, tensors in zip(("one", "two"), held, strict=True)
    ]
    arch = with_levels(random_arch(rng), levels)
    whole = []
    for mapping in inside_nests(outer, layer, ["one", "two"]):
        if any(set(own.tile) & {"R", "S"} for own in mapping.inner.values()):
            continue
        try:
            nest = check(layer, arch, mapping, formats)
        except MappingError:
            continue
        whole.append(inside_pj(nest, arch, formats))
    mapper = InnerMapper(arch, formats)
    got = mapper.best(make_nest(layer, outer))
    assert mapper.fits(make_nest(layer, outer)) == (got is not None)
    if got is None or not whole:
        assert got is None or any(set(own.tile) & {"R", "S"} for own in got.mappings.values())
        assert not whole
        return
    mapping = Mapping(outer.order, outer.tile, got.mappings)
    nest = check(layer, arch, mapping, formats)
    assert inside_pj(nest, arch, formats) == pytest.approx(got.cost)
    assert got.cost == pytest.approx(min(whole))
    assert got.bound <= got.cost * (1 + 1e-9)


def made(**parts: object) -> Arch:
    base = {
        "name": "made",
        "clock": "500 MHz",
        "dram": {"bandwidth": "6.4 GB/s", "latency": "100 ns", "burst": "32 B"},
        "sram": {"capacity": "24 KiB", "width": "128 bit"},
    }
    return Arch.model_validate(base | parts)


@pytest.mark.parametrize("objective", ["dram", "energy", "latency", "edp"])
@pytest.mark.parametrize(("dim", "over"), [("P", "K"), ("C", "K"), ("R", "PQ")])
def test_what_an_axis_takes_whole_is_not_cut(dim: str, over: str, objective: Objective) -> None:
    array = {
        "axes": [{"size": 12, "dim": dim, "over": over}],
        "stationary": "weight",
        "mac_bits": 8,
        "accumulator_bits": 32,
    }
    arch, formats = made(pe_array=array), LayerFormats.uniform(Plain(8))
    layer = ConvLayer("conv", K=24, C=16, P=14, Q=14, R=3, S=3, padding=1)
    check(layer, arch, find_mapping(layer, arch, formats, objective=objective), formats)
    if dim in "PC":
        with pytest.raises(MappingError, match=f"because an axis of made takes {dim} whole"):
            find_mapping(layer, arch, formats, constraints=Constraints(max_tile={dim: 2}))


def test_fewest_cycles_are_not_called_proven_where_other_insides_are_faster() -> None:
    levels = [
        {"name": "l0", "tensors": ["W"], "capacity": "30000 bit", "ports": {"write": "1 bit"}},
        {"name": "l1", "tensors": ["I", "W"], "capacity": "400 bit", "ports": {"write": "13 bit"}},
    ]
    array = {"axes": [{"size": 1, "dim": "G"}], "stationary": "weight"}
    arch = made(levels=levels, pe_array=array | {"mac_bits": 3, "accumulator_bits": 16})
    formats = LayerFormats.uniform(Plain(8))
    layer = ConvLayer("l", G=2, K=2, C=2, P=1, Q=1, R=3, S=2)
    (found,) = best_mappings(layer, arch, formats, 1, "latency")
    other = simulate(layer, arch, Mapping(inner={"l0": Mapping("G", {"G": 1})}), formats)
    assert found.bound <= other.cycles
    assert found.cost == simulate(layer, arch, found.mapping, formats).cycles


def test_an_error_names_the_levels_that_are_short() -> None:
    levels = [{"name": "acc", "tensors": ["O"], "capacity": "8 bit"}]
    array = {"axes": [{"size": 4, "dim": "C"}], "stationary": "weight"}
    arch = made(levels=levels, pe_array=array | {"mac_bits": 8, "accumulator_bits": 32})
    layer = ConvLayer("conv", K=2, C=2, P=1, Q=1)
    for objective in ("dram", "latency"):
        with pytest.raises(MappingError, match="usable: acc 8 bit; allowed: levels that hold one"):
            find_mapping(layer, arch, LayerFormats.uniform(Plain(8)), objective=objective)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Mapping(inner=5), "inner=5; allowed: a dict"),
        (lambda: Mapping(tile=None), "tile=None; allowed: a dict"),
        (lambda: Mapping(["K"]), "order=\\['K'\\]; allowed: a str"),
        (lambda: Constraints(tile=5), "tile=5; allowed: a dict"),
        (lambda: Constraints(order=["K", "C"]), "order=\\['K', 'C'\\]; allowed: a str"),
    ],
)
def test_parts_of_another_type_are_refused(make: Callable[[], object], wrong: str) -> None:
    with pytest.raises(MappingError, match=wrong):
        make()
