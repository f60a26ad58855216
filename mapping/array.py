"""How the PE array unrolls loop dimensions, which both homes of its rules build on.

Rows and columns each unroll one dimension, or a fused one such as PQ or CRS; the array runs
through it in folds of its size. The other dimensions run in time, one step a cycle.
"""

from math import prod

from bfpsim.arch import PEArray
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, Tensor
from bfpsim.quant.formats import LayerFormats

Sizes = dict[str, int]
"""Extent of every loop dimension, R and S included."""

STATIONARY: dict[str, Tensor] = {"weight": "W", "input": "I", "output": "O"}

INSIDE = {"weight": "GKCRSNPQ", "output": "NGKPQCRS", "input": "NGCPQRSK"}
"""The order of the loops inside a tile, outer to inner, that keeps the operand in place."""


def passes(array: PEArray, formats: LayerFormats) -> int:
    """Passes of a multiplication whose operands are wider than `mac_bits`, taken piecewise."""
    return prod(-(-f.significand_bits // array.mac_bits) for f in (formats.I, formats.W))


def folds(axis_dims: str, axis_size: int, sizes: Sizes) -> int:
    """Times the axis must be filled to cover its (fused) dimension."""
    return -(-prod(sizes[d] for d in axis_dims) // axis_size)


def in_time(array: PEArray) -> str:
    """The dimensions that no axis unrolls."""
    return "".join(d for d in EVERY_DIM if d not in array.rows.dim + array.cols.dim)


def reduction_folds(array: PEArray, sizes: Sizes) -> int:
    """Contributions to one output that leave the array apart from each other."""
    if array.stationary == "output":
        return 1
    unrolled = array.rows.dim + array.cols.dim
    steps = prod(sizes[d] for d in REDUCTION if d not in unrolled)
    in_space = prod(
        folds(axis.dim, axis.size, sizes)
        for axis in (array.rows, array.cols)
        if axis.dim[0] in REDUCTION
    )
    return steps * in_space
