"""The tiling problem over real tile sizes in Pyomo, by the paper's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.closed.paper import Tiling, code_bits
from bfpsim.mapping.nest import DIMS, RELEVANT, TENSORS, Tensor
from bfpsim.mapping.room import claims
from bfpsim.mapping.solver.scip import Outcome, run_scip
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

Powers = tuple[tuple[str, int], ...]
"""Of each dimension's tile size, by name; none of 0."""


@dataclass(frozen=True, eq=False)
class Posynomial:
    """A sum of coefficients times powers of tile sizes; numbers are sums, too."""

    terms: Mapping[Powers, float]

    def __add__(self, other: Posynomial | float) -> Posynomial:
        terms = dict(self.terms)
        for powers, factor in _sum(other).terms.items():
            terms[powers] = terms.get(powers, 0.0) + factor
        return Posynomial({powers: factor for powers, factor in terms.items() if factor})

    def __mul__(self, other: Posynomial | float) -> Posynomial:
        total = Posynomial({})
        for own, a in self.terms.items():
            for powers, b in _sum(other).terms.items():
                total = total + Posynomial({_times(own, powers, 1): a * b})
        return total

    def __truediv__(self, other: Posynomial) -> Posynomial:
        ((powers, factor),) = other.terms.items()
        return Posynomial({_times(own, powers, -1): a / factor for own, a in self.terms.items()})

    def __sub__(self, other: Posynomial | float) -> Posynomial:
        return self + _sum(other) * -1.0

    __radd__ = __add__
    __rmul__ = __mul__


def _sum(value: Posynomial | float) -> Posynomial:
    if isinstance(value, Posynomial):
        return value
    return Posynomial({(): float(value)} if value else {})


def _times(first: Powers, second: Powers, sign: int) -> Powers:
    powers = dict(first)
    for dim, power in second:
        powers[dim] = powers.get(dim, 0) + sign * power
    return tuple(sorted((dim, power) for dim, power in powers.items() if power))


class RealTiling:
    """Real tile sizes, least DRAM traffic under a loop order by the paper's Eq. 2-6.

    Trips are N / T, and every loop counts as present. Cost and footprints are then sums of
    monomials in the tile sizes. In the logarithms of the sizes each is convex, if windows overlap
    or touch, so that SCIP closes the gap at once. A stride beyond the filter makes a monomial
    negative, the problem nonconvex, and the search long.
    """

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats, order: str) -> None:
        import pyomo.environ as pyo

        self._layer, self._formats = layer, formats
        self._dims = [d for d in DIMS if layer.dims[d] > 1]
        self._loops = "".join(d for d in order if d in self._dims)
        whole = {d: _sum(n) for d, n in (layer.dims | {"R": layer.R, "S": layer.S}).items()}
        tile = whole | {d: Posynomial({((d, 1),): 1.0}) for d in self._dims}
        self._tiling = Tiling(layer, whole, tile, {d: int(d not in self._dims) for d in whole})
        self.model = pyo.ConcreteModel()
        self.model.log = pyo.Var(self._dims, bounds=lambda _, d: (0, log(layer.dims[d])))
        self.model.rule = pyo.ConstraintList()
        self._too_large = False
        for claim in claims(arch, self.footprints()):
            self._fit(claim.taken, claim.usable)
        cost = self.dram_bits()
        # Each whole tensor once: a unit that makes the optimum a small number.
        self._unit = cost.terms.get(()) or next(iter(cost.terms.values()))
        self.model.cost = pyo.Objective(expr=self._sum(cost, self._unit))

    def solve(self, seconds: float) -> Outcome:
        """Real tile sizes, their cost and the bound [bit] by the paper's model, and the status."""
        if self._too_large:
            return None, float("inf"), float("inf"), "infeasible"
        objective, bound, status = run_scip(self.model, seconds)
        tile = None
        if objective < float("inf"):
            tile = {d: float(np.exp(self.model.log[d].value)) for d in self._dims}
        return tile, objective * self._unit, bound * self._unit, status

    def footprints(self) -> dict[Tensor, Posynomial]:
        """Resident tiles [bit]: elements by Eq. 6, without clipping, O as results."""
        return {t: self._elements(t) * self._width(t) for t in TENSORS}

    def _elements(self, tensor: Tensor) -> Posynomial:
        """Of a tile."""
        tile, elements = self._tiling.tile, _sum(1)
        dims = RELEVANT[tensor]
        if tensor == "I":
            dims = "NGC"
            for outputs, taps in ("PR", "QS"):
                elements *= Window.of(self._layer, outputs).span(tile[outputs], tile[taps])
        for dim in dims:
            elements *= tile[dim]
        return elements

    def _width(self, tensor: Tensor) -> float:
        """Bits per element by Eq. 6."""
        positions = self._layer.R * self._layer.S if tensor == "W" else 1
        fmt = self._formats.of(tensor)
        return float(fmt.mantissa_bits + code_bits(fmt, positions))

    def dram_bits(self) -> Posynomial:
        """Off-chip traffic [bit]: Eq. 2-6."""
        bits = _sum(0)
        for tensor in TENSORS:
            bits += self._tiling.elements(tensor, self._loops) * self._width(tensor)
        return bits

    def _fit(self, footprint: Posynomial, usable: int) -> None:
        share = self._sum(footprint, usable)
        if not isinstance(share, float):
            self.model.rule.add(share <= 1)
        elif share > 1:  # nothing to choose, and too large
            self._too_large = True

    def _sum(self, posynomial: Posynomial, unit: float) -> Any:
        from pyomo.environ import exp

        total: Any = 0.0
        for powers, factor in posynomial.terms.items():
            logs = [power * self.model.log[dim] for dim, power in powers]
            total += factor / unit * (exp(sum(logs)) if logs else 1.0)
        return total
