"""Bounds of cycles over whole grids: never above the simulation, of no tile size."""

import random
from itertools import product

import numpy as np
import pytest

from bfpsim.arch import replace
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.closed.cycles import Edges, least_cycles
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.models import FULL, outer_counts, stored
from bfpsim.mapping.nest import DIMS, Mapping, make_nest
from bfpsim.mapping.padded import LeastPadding
from bfpsim.sim.accelerator import Accelerator
from tests.generate import random_arch, random_device, random_formats, random_layer
from tests.long import often


def setting(seed: int, largest: int):
    rng = random.Random(seed)
    layer, formats = random_layer(rng, largest), random_formats(rng)
    arch = random_arch(rng, rng.choice(["1 bit", "32 B"]))
    if rng.random() < 0.3:
        arch = replace(arch, "dma.width", rng.choice(["3 bit", "16 bit", "100 bit"]))
    if rng.random() < 0.4:
        arch = random_device(rng, arch)
    return rng, layer, stored(layer, arch), arch, formats


@pytest.mark.parametrize("part", often(1, range(8)))
def test_no_run_is_shorter_than_its_bound_and_no_transfer_pads_less(part: int) -> None:
    checked = 0
    for seed in range(part * 60, (part + 1) * 60):
        rng, layer, kept, arch, formats = setting(seed, 6)
        grid = Grid(kept, arch, formats, {d: np.arange(1, kept.dims[d] + 1) for d in DIMS})
        order = "".join(rng.sample(DIMS, 6))
        legal, padding = grid.legal(), LeastPadding(kept, arch, formats).of(grid, order)
        ends = Edges.of(kept, arch, formats, grid.sizes)
        bound = least_cycles(kept, arch, grid, order, grid.outer_bits(order), padding, ends)
        bounds, padded = (
            np.broadcast_to(own, legal.shape) for own in (bound, sum(padding.values()))
        )
        for _ in range(6):
            at = tuple(rng.randrange(size) for size in legal.shape)
            if legal[at]:
                mapping = Mapping(order, dict(zip(DIMS, grid.tile(np.array(at)), strict=True)))
                cycles = Accelerator(layer, arch, mapping, formats).run().cycles
                assert bounds[at] <= cycles, (seed, mapping)
                counts = outer_counts(make_nest(kept, mapping), arch, formats, FULL)
                assert padded[at] <= counts.total(kind="burst"), (seed, mapping)
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("part", often(1, range(4)))
def test_a_classs_bound_holds_for_every_size_with_as_many_tiles(part: int) -> None:
    """Of the sizes that suffice for bits, the least bound is below every run of the class."""
    for seed in range(part * 20, (part + 1) * 20):
        rng, layer, kept, arch, formats = setting(seed + 5000, 5)
        order = "".join(rng.sample(DIMS, 6))
        grid = grid_of(kept, arch, formats, "latency")
        padding = LeastPadding(kept, arch, formats).of_classes(grid, order)
        ends = Edges.of_classes(kept, arch, formats, grid.sizes)
        bound = least_cycles(kept, arch, grid, order, grid.outer_bits(order), padding, ends)
        legal = grid.legal()
        bounds = np.broadcast_to(bound, legal.shape)
        least: dict[tuple[int, ...], int] = {}
        for at in np.argwhere(legal):
            key = trips(kept, grid.tile(at))
            least[key] = min(least.get(key, 1 << 62), int(bounds[tuple(at)]))
        every = list(product(*(range(1, kept.dims[d] + 1) for d in DIMS)))
        for sizes in rng.sample(every, min(12, len(every))):
            mapping = Mapping(order, dict(zip(DIMS, sizes, strict=True)))
            alone = Grid.of_nest(make_nest(kept, mapping), arch, formats)
            if alone.legal():
                cycles = Accelerator(layer, arch, mapping, formats).run().cycles
                assert least[trips(kept, sizes)] <= cycles, (seed, mapping)


def trips(layer, sizes) -> tuple[int, ...]:
    return tuple(-(-layer.dims[d] // size) for d, size in zip(DIMS, sizes, strict=True))
