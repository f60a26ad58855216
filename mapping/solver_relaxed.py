"""The tiling problem over real tile sizes in Pyomo, by the paper's model."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod
from typing import Any, NamedTuple

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.nest import DIMS, RELEVANT, Tensor
from bfpsim.mapping.solver_scip import Outcome, run_scip
from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.workloads import ConvLayer


class Monomial(NamedTuple):
    """A coefficient [bit] times powers of tile sizes."""

    factor: float
    powers: Mapping[str, int]


Posynomial = list[Monomial]


class RealTiling:
    """Real tile sizes, least DRAM traffic under a loop order by the paper's Eq. 2-6.

    Trips are N / T, and every loop counts as present. Cost and footprints are then sums of
    monomials in the tile sizes. In the logarithms of the sizes each is convex, if windows overlap
    or touch, so that SCIP closes the gap at once. A stride beyond the filter makes a monomial
    negative, the problem nonconvex, and the search long.
    """

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats, order: str) -> None:
        import pyomo.environ as pyo

        self._layer, self._formats, self._order = layer, formats, order
        self._dims = [d for d in DIMS if layer.dims[d] > 1]
        self.model = pyo.ConcreteModel()
        self.model.log = pyo.Var(self._dims, bounds=lambda _, d: (0, log(layer.dims[d])))
        self.model.rule = pyo.ConstraintList()
        self._too_large = False
        footprints = self.footprints()
        if arch.shared:
            together = [m for part in footprints.values() for m in part]
            self._fit(together, arch.usable_bits("I"))
        else:
            for tensor, part in footprints.items():
                self._fit(part, arch.usable_bits(tensor))
        cost = self.dram_bits()
        # Each whole tensor once: a unit that makes the optimum a small number.
        self._unit = sum(m.factor for m in cost if not any(m.powers.values())) or cost[0].factor
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
        layer, formats = self._layer, self._formats
        taps = layer.R * layer.S
        area = _times(self._window("P"), self._window("Q"))
        inputs = Monomial(_bits(formats.I), _power("NGC", 1))
        return {
            "I": _times([inputs], area),
            "W": [Monomial(_bits(formats.W, taps) * taps, _power("GKC", 1))],
            "O": [Monomial(_bits(formats.O), _power("NGKPQ", 1))],
        }

    def dram_bits(self) -> Posynomial:
        """DRAM traffic [bit]: Eq. 2-5."""
        layer, formats, dims = self._layer, self._formats, self._layer.dims
        taps = layer.R * layer.S
        innermost = max(RELEVANT["I"], key=self._order.index)
        inputs = [Monomial(_bits(formats.I) * layer.N * layer.G * layer.C, {})]
        for dim in "PQ":
            if dim == innermost:  # partial reuse: the tile, widened to the whole extent
                whole = sum(m.factor * dims[dim] ** m.powers.get(dim, 0) for m in self._window(dim))
                inputs = _times(inputs, [Monomial(whole, {})])
            else:
                inputs = _times(inputs, _times(self._window(dim), self._trips(dim)))
        weights = _bits(formats.W, taps) * taps * layer.G * layer.K * layer.C
        outputs = _bits(formats.O) * prod(layer.output_shape)
        return [
            *_times(inputs, self._refetches("I")),
            *_times([Monomial(weights, {})], self._refetches("W")),
            *_times([Monomial(outputs, {})], self._refetches("O")),
        ]

    def _window(self, dim: str) -> Posynomial:
        """Input rows (columns) of a tile of P (Q): (T - 1) stride + reach of the filter."""
        axis, taps = (0, self._layer.R) if dim == "P" else (1, self._layer.S)
        stride, reach = self._layer.strides[axis], (taps - 1) * self._layer.dilations[axis] + 1
        slope = Monomial(stride, {dim: 1})
        return [slope] if reach == stride else [slope, Monomial(reach - stride, {})]

    def _trips(self, dims: str) -> Posynomial:
        return [Monomial(prod(self._layer.dims[d] for d in dims), _power(dims, -1))]

    def _refetches(self, tensor: Tensor) -> Posynomial:
        """Trips of the loops outside the tensor's innermost that it does not depend on."""
        innermost = max(self._order.index(d) for d in RELEVANT[tensor])
        return self._trips("".join(d for d in self._order[:innermost] if d not in RELEVANT[tensor]))

    def _fit(self, footprint: Posynomial, usable: int) -> None:
        share = self._sum(footprint, usable)
        if not isinstance(share, float):
            self.model.rule.add(share <= 1)
        elif share > 1:  # nothing to choose, and too large
            self._too_large = True

    def _sum(self, posynomial: Posynomial, unit: float) -> Any:
        from pyomo.environ import exp

        total: Any = 0.0
        for factor, powers in posynomial:
            logs = [p * self.model.log[d] for d, p in powers.items() if p and d in self._dims]
            total += factor / unit * (exp(sum(logs)) if logs else 1.0)
        return total


def _bits(fmt: Format, positions: int = 1) -> float:
    """Bits per element by Eq. 6."""
    codes = fmt.exponent_bits / (fmt.block_size * positions) if isinstance(fmt, BFP) else 0.0
    return fmt.mantissa_bits + codes


def _power(dims: str, exponent: int) -> dict[str, int]:
    return dict.fromkeys(dims, exponent)


def _times(first: Posynomial, second: Posynomial) -> Posynomial:
    return [
        Monomial(a * b, {d: p.get(d, 0) + q.get(d, 0) for d in p | q})  # type: ignore[operator]
        for a, p in first
        for b, q in second
    ]
