"""Which tile sizes of each dimension can be part of a best mapping.

Two sizes of a dimension that make equally many tiles lead to the same loops, and to the same cost
of everything else. So the size that costs no more in any sum over its tiles, and takes no more room
in any buffer, makes the other one superfluous. Usually one size per number of tiles remains, the
smallest; where tiles cut blocks, or padding is clipped, there may be more.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.profiles import array_input_bits, array_weight_bits, axis_sums, fold_sums
from bfpsim.mapping.ragged import Vector
from bfpsim.mapping.tile_bits import channel_tables, result_tables, weight_tables
from bfpsim.mapping.windows import window_profile
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

Objective = Literal["dram", "energy", "latency"]


def candidate_sizes(
    layer: ConvLayer, arch: Arch, formats: Sequence[LayerFormats], objective: Objective
) -> dict[str, Vector]:
    """Tile sizes that no other size of their dimension makes superfluous, ascending.

    formats: a size is superfluous if it is so in all of these, and so in every mixture of them
    objective: "dram" ignores what the PE array costs; where its axes fuse several of N, P and Q,
        the other objectives keep every size of those.
    """
    every = {dim: np.arange(1, layer.dims[dim] + 1) for dim in "NGKCPQ"}
    array_counts = objective != "dram"
    costs = [_Costs(layer, arch, each, every, array_counts) for each in formats]
    found = {}
    for dim, sizes in every.items():
        fused = any(
            dim in a.dim and len(a.dim) > 1 for a in (arch.pe_array.rows, arch.pe_array.cols)
        )
        if array_counts and fused and dim in "NPQ":
            found[dim] = sizes
        else:
            trips = -(-layer.dims[dim] // sizes)
            rows = np.concatenate([each.of(dim) for each in costs], axis=1)
            found[dim] = sizes[undominated(trips, rows)]
    return found


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
        g, k, c = (sizes[dim] for dim in "GKC")
        one = np.ones(1, np.int64)
        pixel, pixel_largest = channel_tables(layer, g, c, formats.I)
        results, whole_blocks = result_tables(layer, g, k, formats.O)
        of_gc = [pixel["every", "every"], pixel_largest]
        of_gk = [results, 1 - whole_blocks.astype(np.int64)]
        of_c: list[Vector] = []
        if layer.C == 1:  # blocks of filters
            of_gk += [table[:, :, 0] for table in weight_tables(layer, g, k, one, formats.W)]
        else:  # in proportion to the filters, so those of one suffice
            of_c += [table[0, 0] for table in weight_tables(layer, one, one, c, formats.W)]
        if array_counts:
            array = arch.pe_array
            of_gc.append(array_input_bits(layer, array, formats.I, g, c))
            if layer.C == 1:
                of_gk.append(array_weight_bits(layer, array, formats.W, g, k, one)[:, :, 0])
            else:
                of_c.append(array_weight_bits(layer, array, formats.W, one, one, c)[0, 0])
        folds = fold_sums(layer, arch.pe_array, c)
        of_c += [folds.largest, folds.every] if array_counts else [folds.largest]
        self._columns = {
            "G": [column for table in (*of_gc, *of_gk) for column in table.T],
            "K": [column for table in of_gk for column in table],
            "C": [column for table in of_gc for column in table] + of_c,
            "N": [],
            "P": self._window("P"),
            "Q": self._window("Q"),
        }

    def of(self, dim: str) -> Vector:
        """Costs of the tile sizes of a dimension, one row each."""
        columns = [self._sizes[dim], *self._columns[dim]]
        if self._array_counts:
            columns.append(axis_sums(self._layer, self._arch.pe_array, dim, self._sizes[dim]))
        return np.stack(columns, axis=1)

    def _window(self, dim: str) -> list[Vector]:
        """Of P or Q: a sweep that slides and one that does not, and what clipping spares."""
        p = window_profile(self._layer, dim, self._sizes[dim])
        return [p.every, p.first + p.fresh, p.largest, -p.same, -p.wrapped]
