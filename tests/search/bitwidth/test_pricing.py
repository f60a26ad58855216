"""Prices of every triple of formats equal the mapper's, the scalar models', the simulator's."""

import math
import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from bfpsim.arch import Arch, replace
from bfpsim.mapping.closed.levels import inner_counts
from bfpsim.mapping.fit import check, footprint
from bfpsim.mapping.mapper import best_mappings, orders
from bfpsim.mapping.models import EXACT, PAPER, model_counts, stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, make_nest
from bfpsim.quant.formats import BFP, LayerFormats, candidates
from bfpsim.search.bitwidth import pricing
from bfpsim.search.bitwidth.costs import Costs, packed, unpacked
from bfpsim.search.bitwidth.pricing import model_costs, pool_costs
from bfpsim.sim.simulate import simulate
from tests.generate import random_arch, random_layer, tight
from tests.long import often

FORMATS = (BFP(8, 2, 1), BFP(8, 3, 2), BFP(8, 6, 2), BFP(8, 2, 4), BFP(8, 3, 4), BFP(8, 5, 4))


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
@pytest.mark.parametrize("seed", range(5))
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


@pytest.mark.parametrize("seed", often(3, range(6)))
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


@pytest.mark.parametrize("seed", often(3, range(6)))
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


@pytest.mark.parametrize("seed", range(6))
def test_rooms_are_the_footprints_of_the_mappings(seed: int) -> None:
    _, layer, arch = case(seed + 300)
    try:
        costs = model_costs(layer, arch, FORMATS, "dram")["exact"]
    except MappingError:
        return
    for at in range(len(costs.mappings)):
        nest = make_nest(stored(layer, arch), costs.mappings[at])
        for f, fmt in enumerate(FORMATS):
            need = footprint(nest, arch, LayerFormats.uniform(fmt))
            assert [costs.room[t][f, at] for t in "IWO"] == [need.I, need.W, need.O]


def all_of(moved: list[np.ndarray]) -> np.ndarray:
    return np.arange(moved[0].shape[1])


@pytest.mark.parametrize("objective", ["dram", "latency"])
@pytest.mark.parametrize("first", often(1, [400, 425]))
def test_no_price_is_lost_by_leaving_mappings_out(first: int, objective: str, monkeypatch) -> None:
    """Beside all tilings and orders, in buffers that partial sums fill."""
    for seed in range(first, first + 25):
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


@pytest.mark.parametrize("first", often(1, [200, 202, 204, 206]))
def test_superfluous_mappings_change_no_price(first: int) -> None:
    for seed in range(first, first + 2):
        rng, layer, arch = case(seed)
        pool = set()
        for fmt in FORMATS:
            try:
                found = best_mappings(layer, arch, LayerFormats.uniform(fmt), 30)
            except MappingError:
                continue
            pool |= {one.mapping for one in found}
        if not pool:
            continue
        ordered = sorted(pool, key=str)
        rng.shuffle(ordered)
        for objective in ("dram", "latency"):
            costs = pool_costs(layer, arch, FORMATS, objective, ordered, "full")
            every = range(len(FORMATS))
            thin = costs.undominated()
            assert np.array_equal(
                costs.prices(every, every, every), thin.prices(every, every, every)
            )


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
