"""Constraints against brute force: the least of all legal mappings that keep to them."""

import math
import random
from dataclasses import replace

import pytest

from bfpsim.arch import Arch, load_arch
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.counts import energy_pj
from bfpsim.mapping.mapper import best_mappings, find_mapping
from bfpsim.mapping.models import EXACT, FULL, model_counts, outer_counts
from bfpsim.mapping.nest import DIMS, Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.rescore import find_mapping as find_rescored
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_formats, random_layer, tight
from tests.long import often
from tests.mapping.every import legal_nests

FORMATS = LayerFormats.uniform(BFP(8, 3, 16))


def random_constraints(rng: random.Random, layer: ConvLayer) -> Constraints:
    """Some dimensions fixed, some bounded, and an order of all or of some."""
    order = None
    if rng.random() < 0.6:
        order = "".join(rng.sample(DIMS, rng.choice([3, 5, 6, 6, 6])))
    tile, most = {}, {}
    for dim in DIMS:
        kind = rng.random()
        if kind < 0.15:
            tile[dim] = rng.randint(1, layer.dims[dim])
        elif kind < 0.35:
            most[dim] = rng.randint(1, layer.dims[dim] + 2)
    return Constraints(order, tile, most)


def keeps(mapping: Mapping, layer: ConvLayer, constraints: Constraints) -> bool:
    """Whether a mapping whose order has exactly the loops that there are keeps to constraints."""
    sizes = {dim: mapping.tile.get(dim, layer.dims[dim]) for dim in DIMS}
    if any(sizes[dim] != size for dim, size in constraints.tile.items()):
        return False
    if any(sizes[dim] > size for dim, size in constraints.max_tile.items()):
        return False
    if constraints.order is None:
        return True
    places = [constraints.order.find(dim) for dim in mapping.order]
    return -1 not in places and places == sorted(places)


def case(seed: int, burst: str) -> tuple[ConvLayer, Arch, LayerFormats, Constraints]:
    rng = random.Random(seed)
    while True:
        layer, formats = random_layer(rng, 4), random_formats(rng)
        dims = [layer.dims[d] for d in DIMS]
        if math.prod(dims) <= 120 and sum(extent > 1 for extent in dims) <= 4:
            arch = tight(random_arch(rng, burst), int(2 ** rng.uniform(7, 14)))
            return layer, arch, formats, random_constraints(rng, layer)


@pytest.mark.parametrize("seed", often(20, range(1000)))
def test_the_answer_is_the_least_of_what_is_allowed(seed: int) -> None:
    layer, arch, formats, constraints = case(seed, "1 bit")
    allowed = [
        int(outer_counts(nest, arch, formats, EXACT).total())
        for mapping, nest in legal_nests(layer, arch, formats)
        if keeps(mapping, layer, constraints)
    ]
    if not allowed:
        with pytest.raises(MappingError, match=r"^random: .+") as error:
            find_mapping(layer, arch, formats, constraints=constraints)
        assert "\n" not in str(error.value)
        return
    found = best_mappings(layer, arch, formats, 3, constraints=constraints)
    assert found[0].cost == min(allowed)
    assert all(keeps(one.mapping, layer, constraints) for one in found)


@pytest.mark.parametrize("seed", often(6, range(5000, 5200)))
def test_energy_is_the_least_of_what_is_allowed(seed: int) -> None:
    layer, arch, formats, constraints = case(seed, "1 bit")
    allowed = [
        math.fsum(
            energy_pj(flow, bits, arch)
            for flow, bits in model_counts(layer, arch, mapping, formats, EXACT).items()
        )
        for mapping, _ in legal_nests(layer, arch, formats)
        if keeps(mapping, layer, constraints)
    ]
    if allowed:
        (found,) = best_mappings(layer, arch, formats, 1, "energy", constraints=constraints)
        assert found.cost == pytest.approx(min(allowed), rel=1e-12)


@pytest.mark.parametrize("seed", often(6, range(7000, 7200)))
@pytest.mark.parametrize("objective", ["latency", "edp"])
def test_cycles_are_the_least_of_what_is_allowed(seed: int, objective: str) -> None:
    """Simulated; under a fixed order the proof is over every size."""
    layer, arch, formats, constraints = case(seed, "64 bit")
    constraints = replace(constraints, order=constraints.order or "NGKCPQ")
    allowed = []
    for mapping, _ in legal_nests(layer, arch, formats):
        if keeps(mapping, layer, constraints):
            run = simulate(layer, arch, mapping, formats)
            allowed.append(run.cycles * (run.energy_pj if objective == "edp" else 1))
    if not allowed:
        with pytest.raises(MappingError, match=r"^random: .+"):
            find_mapping(layer, arch, formats, objective=objective, constraints=constraints)
        return
    (found,) = best_mappings(layer, arch, formats, 1, objective, constraints=constraints)
    assert keeps(found.mapping, layer, constraints)
    assert found.proven
    assert found.cost == pytest.approx(min(allowed), rel=1e-12)


@pytest.mark.parametrize("seed", often(6, range(9000, 9200)))
def test_with_bursts_what_is_found_keeps_to_them_and_costs_what_is_said(seed: int) -> None:
    layer, arch, formats, constraints = case(seed, "64 bit")
    every = {
        mapping: int(outer_counts(nest, arch, formats, FULL).total())
        for mapping, nest in legal_nests(layer, arch, formats)
        if keeps(mapping, layer, constraints)
    }
    if every:
        (found,) = best_mappings(layer, arch, formats, 1, "dram", "full", constraints)
        assert every[found.mapping] == found.cost
        rescored = find_rescored(layer, arch, formats, rescore=3, constraints=constraints)
        assert every[rescored] <= every[find_mapping(layer, arch, formats, constraints=constraints)]


def test_a_size_that_another_makes_superfluous_can_be_fixed() -> None:
    """Tiles of 7 and of 8 columns make two trips each: one is pruned unless it is asked for."""
    layer = ConvLayer("columns", K=16, C=16, P=1, Q=12)
    arch = load_arch("ideal-64k")
    for size in range(1, 13):
        found = find_mapping(layer, arch, FORMATS, constraints=Constraints(tile={"Q": size}))
        assert found.tile.get("Q", 12) == size


def test_no_constraints_change_nothing() -> None:
    layer, arch = ConvLayer("free", K=64, C=64, P=14, Q=14, R=3, S=3, padding=1), "ideal-16k"
    for objective in ("dram", "energy", "latency"):
        choices = [
            best_mappings(layer, load_arch(arch), FORMATS, 4, objective, "full", constraints)
            for constraints in (FREE, Constraints(max_tile={"K": 64, "Q": 99}))
        ]
        assert choices[0] == choices[1]


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            Constraints(tile={"K": 20}),
            r"every O tile cuts a block of 16 channels \(bfp8e3b16\) under tile K=20; "
            "allowed: tiles that end on multiples of it",
        ),
        (Constraints(order=""), r"no mapping fits ideal-64k: .* allowed: at least 12778592 bit "),
        (Constraints(tile={"K": 600}), r"tile K=600; allowed: 1\.\.512"),
        (
            Constraints("K", max_tile={"C": 4}),
            "order='K' lacks C, which has 128 tiles of at most 4; allowed: an order that holds C",
        ),
    ],
    ids=["block", "room", "larger", "order"],
)
def test_what_leaves_nothing_is_refused(constraints: Constraints, message: str) -> None:
    layer = ConvLayer("layer", K=512, C=512, P=7, Q=7, R=3, S=3, padding=1)
    with pytest.raises(MappingError, match=f"^layer: {message}"):
        find_mapping(layer, load_arch("ideal-64k"), FORMATS, constraints=constraints)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "KX"}, "order='KX' names dimension 'X'; allowed: N, G, K, C, P, Q"),
        ({"order": "KK"}, "order='KK' repeats a dimension; allowed: each once"),
        ({"tile": {"R": 1}}, "tile={'R': 1} names dimension 'R'; allowed: N, G, K, C, P, Q"),
        ({"max_tile": {"K": 0}}, "max_tile K=0; allowed: a whole number from 1"),
        ({"max_tile": {"K": True}}, "max_tile K=True; allowed: a whole number from 1"),
        ({"tile": {"K": 9}, "max_tile": {"K": 8}}, "tile K=9; allowed by max_tile: 1..8"),
    ],
)
def test_what_is_no_constraint_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(MappingError) as error:
        Constraints(**fields)
    assert str(error.value) == message
