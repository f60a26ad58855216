"""Which tile sizes of each dimension can be part of a best mapping.

Two sizes of a dimension that make equally many tiles lead to the same loops, and to the same cost
of everything else. So the size that costs no more in any sum over its tiles, and takes no more room
in any buffer, makes the other one superfluous. Usually one size per number of tiles remains, the
smallest; where tiles cut blocks, or padding is clipped, there may be more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, PEArray
from bfpsim.mapping.closed.array import (
    WHOLE,
    axis_sums,
    fold_sums,
    input_reads,
    one_size,
    weight_reads,
)
from bfpsim.mapping.closed.exact import (
    Cell,
    largest,
    tile_sizes,
    totals,
    whole_blocks,
    window_sums,
)
from bfpsim.mapping.closed.grid import Grid, leaves_of
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


def grid_of(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    objective: Objective = "dram",
    constraints: Constraints = FREE,
) -> Grid:
    """The grid of all tile sizes that can be part of a best mapping for an objective."""
    sizes = candidate_sizes(layer, arch, [formats], objective, constraints)
    return Grid(layer, arch, formats, sizes)


def candidate_sizes(
    layer: ConvLayer,
    arch: Arch,
    formats: Sequence[LayerFormats],
    objective: Objective,
    constraints: Constraints = FREE,
) -> dict[str, Vector]:
    """Tile sizes that no other allowed size of their dimension makes superfluous, ascending.

    formats: a size is superfluous if it is so in all of these, and so in every mixture of them
    objective: "dram" ignores what the PE array costs; where its axes fuse several of N, P and Q,
        the other objectives keep every size of those.
    """
    every = allowed_sizes(layer, arch, constraints)
    array_counts = objective != "dram"
    costs = [_Costs(layer, arch, each, every, array_counts) for each in formats]
    found = {}
    for dim, sizes in every.items():
        if array_counts and dim in "NPQ" and is_fused(arch.pe_array, dim):
            found[dim] = sizes
        else:
            trips = -(-layer.dims[dim] // sizes)
            rows = np.concatenate([each.of(dim) for each in costs], axis=1)
            found[dim] = sizes[undominated(trips, rows)]
    return found


def allowed_sizes(layer: ConvLayer, arch: Arch, constraints: Constraints) -> dict[str, Vector]:
    """The tile sizes that constraints and the array allow, by dimension of `DIMS`, ascending.

    An axis with `over` takes its `dim` whole. Raises MappingError as `Constraints.sizes`, or where
    no constraint allows that.
    """
    sizes = constraints.sizes(layer)
    for axis in arch.pe_array.axes:
        for dim in axis.dim if axis.over is not None else "":
            if dim not in sizes:
                continue
            sizes[dim] = sizes[dim][sizes[dim] == layer.dims[dim]]
            if not len(sizes[dim]):
                raise MappingError(
                    f"{layer.name}: {constraints} leaves no whole {dim}; allowed: tile "
                    f"{dim}={layer.dims[dim]}, because an axis of {arch.name} takes {dim} whole"
                )
    return sizes


def is_fused(array: PEArray, dim: str) -> bool:
    """Whether lanes unroll a dimension together with others, so that its cycles are no factor."""
    unrolled = [own for axis in array.axes for own in (axis.dim, axis.over) if own is not None]
    return any(dim in own and len(own) > 1 for own in unrolled)


def undominated(trips: Vector, costs: Vector) -> NDArray[np.bool_]:
    """Rows that no row with equal trips beats or ties in every cost; of ties, the first."""
    keep = np.zeros(len(trips), bool)
    # Ascending by sum, so that no row beats one before it; of ties the first comes first.
    ascending = np.lexsort((np.arange(len(trips)), costs.sum(axis=1), trips))
    for rows in np.split(ascending, np.flatnonzero(np.diff(trips[ascending])) + 1):
        left = rows
        while len(left):
            keep[left[0]] = True
            left = left[1:][(costs[left[1:]] < costs[left[0]]).any(axis=1)]
    return keep


class _Costs:
    """Per dimension, a row of costs for every tile size; whatever a mapping costs grows with each.

    Where a cost depends on two dimensions, each of them has a column for every size of the other.
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        sizes: dict[str, Vector],
        array_counts: bool,
    ) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        self._sizes, self._array_counts = sizes, array_counts
        self._leaves = leaves_of(layer, sizes)
        leaves, array = self._leaves, arch.pe_array
        tiles = {t: tile_sizes(t, layer, leaves, Cell.of(formats.of(t))) for t in ("I", "W", "O")}
        g, k, c = (sizes[dim] for dim in "GKC")
        of_gc = [each("GC", leaves, tiles["I"]["GC"]) for each in (totals, largest)]
        whole = whole_blocks(layer, g, k, formats.O.block_size).astype(np.int64)
        of_gk = [largest("GK", leaves, tiles["O"]["GK"]), 1 - whole]
        of_c: list[Vector] = []
        if layer.C == 1:  # blocks of filters
            filters = tiles["W"]["GKRS"]
            of_gk += [each("GKRS", leaves, filters)[:, :, 0, 0] for each in (totals, largest)]
        else:  # in proportion to the filters, so those of one suffice
            of_c += [each("CRS", leaves, tiles["W"]["CRS"])[:, 0, 0] for each in (totals, largest)]
        if array_counts:
            by_g, by_k, by_c = (one_size(own) for own in (g, k, c))
            of_gc.append(input_reads(layer, array, formats.I, by_g, by_c).bits(formats.I))
            if layer.C == 1:
                reads = weight_reads(layer, array, formats.W, by_g, by_k, (WHOLE,))
                of_gk.append(reads.bits(formats.W)[:, :, 0])
            else:
                reads = weight_reads(layer, array, formats.W, (WHOLE,), (WHOLE,), by_c)
                of_c.append(reads.bits(formats.W)[0, 0])
        folds = fold_sums(layer, array, leaves)
        of_c += [folds.largest, folds.every] if array_counts else [folds.largest]
        self._columns = {
            "G": [column for table in (*of_gc, *of_gk) for column in table.T],
            "K": [column for table in of_gk for column in table],
            "C": [column for table in of_gc for column in table] + of_c,
            "N": [],
            "P": window_sums(layer, "P", leaves["P"]),
            "Q": window_sums(layer, "Q", leaves["Q"]),
        }

    def of(self, dim: str) -> Vector:
        """Costs of the tile sizes of a dimension, one row each."""
        columns = [self._sizes[dim], *self._columns[dim]]
        if self._array_counts:
            columns.append(axis_sums(self._layer, self._arch.pe_array, dim, self._leaves))
        return np.stack(columns, axis=1)
