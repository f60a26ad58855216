"""Prices of every triple of formats equal the mapper's, the scalar models', the simulator's."""

import math
import random
from contextlib import suppress
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from bfpsim.arch import Arch, load_arch, replace
from bfpsim.mapping.closed.levels import inner_counts
from bfpsim.mapping.fit import check, footprint
from bfpsim.mapping.mapper import best_mappings, orders
from bfpsim.mapping.models import EXACT, PAPER, model_counts, stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, make_nest
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import BFP, E2M1, MX, NVFP4, Format, LayerFormats, candidates
from bfpsim.search.bitwidth import pricing
from bfpsim.search.bitwidth.costs import Costs, packed, unpacked
from bfpsim.search.bitwidth.pricing import model_costs, pool_costs
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_layer, tight
from tests.long import often

FORMATS = (
    BFP(8, 2, 1), BFP(8, 3, 2), BFP(8, 6, 2), BFP(8, 2, 4), BFP(8, 3, 4), BFP(8, 5, 4), MX(E2M1),
    NVFP4(),
)  # fmt: skip


def case(seed: int):
    rng = random.Random(seed)
    layer = random_layer(rng, 6)
    return rng, layer, tight(random_arch(rng), int(2 ** rng.uniform(8, 13)))


def priced_apart(arch: Arch, seed: int) -> Arch:
    """Reads and writes at different prices, in every second case."""
    prices = {"read": "3 pJ/bit", "write": "0.7 pJ/bit"}
    paths = ["sram"] if arch.shared else [f"sram.{part}" for part in ("input", "weight", "output")]
    for path in ["dram", *paths] if seed % 2 else []:
        arch = replace(arch, f"{path}.energy", prices)
    return arch


@pytest.mark.parametrize("objective", ["dram", "energy", "latency"])
@pytest.mark.parametrize("seed", often(3, [0, 1, 4, 3, 2]))
def test_the_exact_models_prices_are_the_mappers(seed: int, objective: str) -> None:
    rng, layer, arch = case(seed)
    arch = priced_apart(arch, seed)
    try:
        costs = model_costs(layer, arch, FORMATS, objective)["exact"]
    except MappingError:
        costs = None
    every = range(len(FORMATS))
    for triple in rng.sample(list(product(every, every, every)), 12):
        formats = LayerFormats(*(FORMATS[f] for f in triple))
        try:
            (found,) = best_mappings(layer, arch, formats, 1, objective)
        except MappingError:
            assert costs is None or np.isinf(costs.prices(*([f] for f in triple))).all()
            continue
        assert costs is not None
        price, mapping = costs.best(*triple)
        if objective == "latency":  # a floor: array or channel busy, whichever is more
            counts = model_counts(layer, arch, mapping, formats, EXACT)
            nest = make_nest(stored(layer, arch), mapping)
            channel = math.ceil(counts.total("DRAM") / arch.dram_bits_per_cycle)
            assert price == max(inner_counts(nest, arch, formats)[1], channel) <= found.cost
        else:
            assert price == pytest.approx(found.cost, rel=1e-12)
        assert costs.prices(*([f] for f in triple)) == price
        check(stored(layer, arch), arch, mapping, formats)  # legal


@pytest.mark.parametrize("seed", often(2, range(6)))
def test_the_papers_prices_are_the_least_over_sizes_and_orders(seed: int) -> None:
    rng, layer, arch = case(seed + 50)
    layer = random_layer(rng, 3)
    formats = FORMATS[:2]
    try:
        costs = model_costs(layer, arch, formats, "dram")["paper"]
    except MappingError:
        return
    from bfpsim.mapping.candidates import candidate_sizes

    kept = stored(layer, arch)
    sizes = candidate_sizes(kept, arch, [LayerFormats.uniform(f) for f in formats], "dram")
    for triple in product(range(2), repeat=3):
        own = LayerFormats(*(formats[f] for f in triple))
        least = float("inf")
        for tile in product(*(sizes[d].tolist() for d in DIMS)):
            cut = {d: s for d, s in zip(DIMS, tile, strict=True) if s < kept.dims[d]}
            for order in orders(kept):
                try:
                    counts = model_counts(layer, arch, Mapping(order, cut), own, PAPER)
                except MappingError:
                    break
                least = min(least, float(Fraction(counts.total("DRAM"))))
        found = costs.prices(*([f] for f in triple))
        assert found == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("seed", often(2, range(6)))
def test_a_pools_prices_are_the_simulators(seed: int) -> None:
    rng, layer, arch = case(seed + 100)
    arch = priced_apart(arch, seed)
    every = range(len(FORMATS))
    pool = []
    for f in every:
        try:
            found = best_mappings(layer, arch, LayerFormats.uniform(FORMATS[f]), 2, "dram", "full")
        except MappingError:
            continue
        pool += [one.mapping for one in found]
    energy = pool_costs(layer, arch, FORMATS, "energy", pool, "full")
    dram = pool_costs(layer, arch, FORMATS, "dram", pool, "full")
    for triple in rng.sample(list(product(every, every, every)), 8):
        formats = LayerFormats(*(FORMATS[f] for f in triple))
        for at, mapping in enumerate(pool):
            alone = dram.at(np.array([at]))
            price = alone.prices(*([f] for f in triple))[0, 0, 0]
            try:
                result = simulate(layer, arch, mapping, formats)
            except MappingError:
                assert np.isinf(price)
                continue
            assert price == result.counts.total("DRAM")
            priced = energy.at(np.array([at])).prices(*([f] for f in triple))
            assert priced == pytest.approx(result.energy_pj, rel=1e-12)


@pytest.mark.parametrize("formats", [FORMATS[:6], FORMATS[6:]], ids=["bfp", "scaled"])
@pytest.mark.parametrize("seed", range(6))
def test_rooms_are_the_footprints_of_the_mappings(seed: int, formats: tuple[Format, ...]) -> None:
    _, layer, arch = case(seed + 300)
    try:
        costs = model_costs(layer, arch, formats, "dram")["exact"]
    except MappingError:
        return
    for at in range(len(costs.mappings)):
        nest = make_nest(stored(layer, arch), costs.mappings[at])
        for f, fmt in enumerate(formats):
            need = footprint(nest, arch, LayerFormats.uniform(fmt))
            assert [costs.room[t][f, at] for t in "IWO"] == [need.I, need.W, need.O]


def all_of(moved: list[np.ndarray]) -> np.ndarray:
    return np.arange(moved[0].shape[1])


@pytest.mark.parametrize("objective", ["dram", "latency"])
@pytest.mark.parametrize("first", often(1, range(400, 450, 5)))
def test_no_price_is_lost_by_leaving_mappings_out(first: int, objective: str, monkeypatch) -> None:
    """Beside all tilings and orders, in buffers that partial sums fill."""
    for seed in range(first, first + 5):
        rng = random.Random(seed)
        layer = random_layer(rng, 4)
        arch = replace(random_arch(rng), "pe_array.accumulator_bits", rng.choice([8, 32, 64]))
        arch = tight(replace(arch, "pe_array.accumulator", "exact"), int(2 ** rng.uniform(7, 11)))
        with monkeypatch.context() as patched:
            patched.setattr(
                pricing, "undominated", lambda _, rows, *more: np.arange(rows[0].shape[1])
            )
            patched.setattr(Costs, "undominated", lambda own: own)
            try:
                every = model_costs(layer, arch, FORMATS, objective)
            except MappingError:
                continue
        some = range(len(FORMATS))
        for model, costs in model_costs(layer, arch, FORMATS, objective).items():
            assert len(costs.mappings) < len(every[model].mappings)
            assert np.array_equal(
                costs.prices(some, some, some), every[model].prices(some, some, some)
            )


@pytest.mark.parametrize("seed", often(1, range(200, 208)))
def test_superfluous_mappings_change_no_price(seed: int) -> None:
    rng, layer, arch = case(seed)
    pool = set()
    for fmt in FORMATS:
        try:
            found = best_mappings(layer, arch, LayerFormats.uniform(fmt), 30)
        except MappingError:
            continue
        pool |= {one.mapping for one in found}
    ordered = sorted(pool, key=str)
    rng.shuffle(ordered)
    for objective in ("dram", "latency"):
        costs = pool_costs(layer, arch, FORMATS, objective, ordered, "full")
        every = range(len(FORMATS))
        thin = costs.undominated()
        assert np.array_equal(costs.prices(every, every, every), thin.prices(every, every, every))


def test_costs_survive_being_packed() -> None:
    _, layer, arch = case(3)
    layer = random_layer(random.Random(1), 5)
    costs = model_costs(layer, tight(arch, 20000), candidates(8)[:6], "energy")["exact"]
    again = unpacked(packed(costs), layer, costs.arch, costs.formats, "energy")
    every = range(6)
    assert np.array_equal(costs.prices(every, every, every), again.prices(every, every, every))
    assert [costs.mappings[at] for at in range(len(costs.mappings))] == [
        again.mappings[at] for at in range(len(costs.mappings))
    ]


LEVELLED = ("edge-64k", "gemmini-16", "ethos-u55-256", "eyeriss-v1")


def level_pool(seed: int, arch: Arch, objective: Objective) -> tuple[ConvLayer, list[Mapping]]:
    layer = random_layer(random.Random(seed), 5)
    pool = []
    for fmt in FORMATS:
        formats = LayerFormats.uniform(fmt)
        with suppress(MappingError):
            pool.append(best_mappings(layer, arch, formats, 1, objective, "full")[0].mapping)
    return layer, pool


@pytest.mark.parametrize(
    ("name", "objective", "seed"),
    often(
        3,
        # Each machine once, and both objectives, before all of them at length.
        sorted(
            product(LEVELLED, ("dram", "energy"), range(4)),
            key=lambda one: (one[2], LEVELLED.index(one[0]) % 2 == (one[1] == "dram")),
        ),
    ),
)
def test_pools_with_levels_inside_cost_what_the_simulator_reports(
    name: str, objective: Objective, seed: int
) -> None:
    """Every triple of formats under mappings of others: bit for bit, and refused where it is."""
    arch = load_arch(name)
    every = range(len(FORMATS))
    layer, pool = level_pool(seed, arch, objective)
    costs = pool_costs(layer, arch, FORMATS, objective, pool, "full")
    bounds = model_costs(layer, arch, FORMATS, objective)
    assert list(bounds) == ["exact"]
    for triple in random.Random(seed).sample(list(product(every, repeat=3)), 6):
        formats, places = LayerFormats(*(FORMATS[f] for f in triple)), [[f] for f in triple]
        for at, mapping in enumerate(pool):
            price = costs.at(np.array([at])).prices(*places).item()
            try:
                result = simulate(layer, arch, mapping, formats)
            except MappingError:
                assert np.isinf(price)
                continue
            simulated = {"dram": result.counts.total("DRAM"), "energy": result.energy_pj}
            assert price == pytest.approx(simulated[objective], rel=1e-12)
        least = best_mappings(layer, arch, formats, 1, objective)[0].cost
        assert bounds["exact"].prices(*places).item() <= least * (1 + 1e-12)


def test_tight_levels_inside_refuse_a_pools_mapping() -> None:
    """A mapping of narrow results whose wide ones no longer fit a level that holds results."""
    arch = load_arch("edge-64k")
    layer = ConvLayer("one", K=16, C=16, P=8, Q=8)
    mapping = best_mappings(layer, arch, LayerFormats.uniform(BFP(8, 2, 1)), 1)[0].mapping
    narrow = replace(arch, "levels.ibuf.capacity", "1408 B")  # 2 x 5632 bit
    costs = pool_costs(layer, narrow, (BFP(4, 2, 1), BFP(16, 2, 1)), "dram", [mapping], "full")
    prices = costs.prices([0, 1], [0], [0]).ravel()
    for price, fmt in zip(prices, costs.formats, strict=True):
        formats = LayerFormats(fmt, costs.formats[0], costs.formats[0])
        try:
            assert price == simulate(layer, narrow, mapping, formats).counts.total("DRAM")
        except MappingError:
            assert np.isinf(price)
    assert np.isfinite(prices).tolist() == [True, False]


def test_cycles_of_filling_are_not_multiplied_by_passes() -> None:
    """The bound of the cycles stays below the simulator's in every triple of formats."""
    arch = replace(load_arch("ideal-64k"), "pe_array.fill", "each_fold")
    arch = replace(arch, "pe_array.mac_bits", 4)
    layer, formats = ConvLayer("one", K=40, C=40, P=2, Q=2), (BFP(8, 2, 1), BFP(8, 6, 4))
    pool = [Mapping()]
    costs = pool_costs(layer, arch, formats, "latency", pool, "full")
    found = model_costs(layer, arch, formats, "latency")["exact"]
    for triple in product(range(2), repeat=3):
        own = LayerFormats(*(formats[f] for f in triple))
        result = simulate(layer, arch, pool[0], own)
        bound = costs.prices(*([f] for f in triple)).item()
        assert result.compute_cycles <= bound <= result.cycles
        assert found.prices(*([f] for f in triple)).item() <= bound
