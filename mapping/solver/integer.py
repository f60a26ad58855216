"""The tiling problem as an integer program in Pyomo, by the exact model."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.closed.products import Products
from bfpsim.mapping.nest import DIMS
from bfpsim.mapping.room import claims
from bfpsim.mapping.solver.scip import Outcome, run_scip

_JOINT = ("P", "Q")
"""Both cut every tensor but W: choosing their sizes jointly makes areas, and trips, exact."""

_CHAIN = "PQNKCG"
"""The order in which the factors of a product are multiplied."""


class IntegerTiling:
    """One candidate tile size per dimension, least DRAM payload under a loop order: linear.

    A product of tables is the value of one table, spread over the candidates of the next: shares
    that add up to it, of which only that of the chosen candidate may differ from 0. Tables are
    divided by their largest entry, so that every share lies in 0..1 and SCIP's tolerances mean the
    same everywhere. Nothing is rounded but floats: for whole choices the model is exact.

    grid: of sums of products; whole_blocks: by sizes of G and K, whether O's blocks stay whole
    cost: of the loop order [bit]
    limit: no more than this many bits [bit]; the cost of some legal mapping
    """

    def __init__(
        self, grid: Grid, whole_blocks: NDArray[np.bool_], cost: Products, arch: Arch, limit: int
    ) -> None:
        import pyomo.environ as pyo

        self.model = pyo.ConcreteModel()
        self._sizes = {d: len(sizes) for d, sizes in grid.sizes.items() if len(sizes) > 1}
        choices = [(d, i) for d, count in self._sizes.items() for i in range(count)]
        self.model.choice = pyo.Var(choices, domain=pyo.Binary)
        self.model.share = pyo.VarList(domain=pyo.NonNegativeReals)
        self.model.rule = pyo.ConstraintList()
        for dim in self._sizes:
            self._rule(sum(self._choices(dim)) == 1)
        self._joint = self._pairs() if all(d in self._sizes for d in _JOINT) else {}
        self._known: dict[tuple[tuple[str, bytes], ...], tuple[Any, float]] = {}
        for claim in claims(arch, grid.room):
            self._at_most_one(self._sum(claim.taken, claim.usable))
        self._end_on_blocks(whole_blocks)
        self._unit = limit
        bits = self._sum(cost, self._unit)
        if not isinstance(bits, float):  # else every tiling costs the same
            self._rule(bits <= 1 + 1e-6)  # no tighter than what floats can tell
        self.model.cost = pyo.Objective(expr=bits)

    def solve(self, seconds: float) -> Outcome:
        """Candidate numbers of the dimensions, their cost and the bound [bit], and the status."""
        objective, bound, status = run_scip(self.model, seconds)
        place = None
        if objective < float("inf"):
            place = {
                d: int(np.argmax([self.model.choice[d, i].value for i in range(self._sizes[d])]))
                if d in self._sizes
                else 0
                for d in DIMS
            }
        return place, objective * self._unit, bound * self._unit, status

    def _rule(self, expression: Any) -> None:
        self.model.rule.add(expression)

    def _choices(self, dim: str) -> list[Any]:
        return [self.model.choice[dim, i] for i in range(self._sizes[dim])]

    def _at_most_one(self, share: Any) -> None:
        if not isinstance(share, float):  # a lone float has been judged with the legal tilings
            self._rule(share <= 1)

    def _end_on_blocks(self, whole_blocks: NDArray[np.bool_]) -> None:
        """Pairs of G and K tiles that cut a block of O exclude each other."""
        for g, whole in enumerate(whole_blocks):
            cut = np.flatnonzero(~whole)
            if not len(cut):
                continue
            ks = [self.model.choice["K", int(k)] for k in cut] if "K" in self._sizes else [1]
            if "G" in self._sizes:
                self._rule(sum(ks) + self.model.choice["G", g] <= 1)
            elif "K" in self._sizes:
                self._rule(sum(ks) == 0)

    def _pairs(self) -> dict[tuple[int, int], Any]:
        """Shares of the pairs of candidates of `_JOINT`, which add up to either's choices."""
        first, second = (self._choices(d) for d in _JOINT)
        pairs = {(i, j): self._share() for i in range(len(first)) for j in range(len(second))}
        for i, chosen in enumerate(first):
            self._rule(sum(pairs[i, j] for j in range(len(second))) == chosen)
        for j, chosen in enumerate(second):
            self._rule(sum(pairs[i, j] for i in range(len(first))) == chosen)
        return pairs

    def _share(self) -> Any:
        return self.model.share.add()

    def _sum(self, products: Products, unit: int) -> Any:
        """A sum of products in units."""
        total: Any = 0.0
        for term in products.terms:
            tables = [(d, term.tables[d]) for d in _CHAIN if d in term.tables]
            scale = term.factor * prod(int(t.max()) for _, t in tables) / unit
            total += scale * self._product(tables)[0] if tables else scale
        return total

    def _product(self, tables: Sequence[tuple[str, Vector]]) -> tuple[Any, float]:
        """A product of tables, each divided by its largest entry; and the least it can be."""
        key = tuple((d, values.tobytes()) for d, values in tables)
        if key not in self._known:
            dim, values = tables[-1]
            values = values / values.max()
            least = float(values.min())
            if len(tables) == 1:
                value = _weighted(values, self._choices(dim))
            elif len(tables) == 2 and self._joint and (tables[0][0], dim) == _JOINT:
                before = tables[0][1] / tables[0][1].max()
                least *= float(before.min())
                of_pairs = np.multiply.outer(before, values).ravel()
                value = _weighted(of_pairs, list(self._joint.values()))
            else:
                before, floor = self._product(tables[:-1])
                least *= floor
                value = _weighted(values, self._spread(before, floor, self._choices(dim)))
            if len(tables) > 1:  # named once, for it may be used often
                named = self._share()
                self._rule(named == value)
                value = named
            self._known[key] = value, least
        return self._known[key]

    def _spread(self, value: Any, least: float, choices: list[Any]) -> list[Any]:
        """Shares of a value in least..1: all of it goes to the chosen candidate."""
        shares = [self._share() for _ in choices]
        self._rule(sum(shares) == value)
        for share, chosen in zip(shares, choices, strict=True):
            self._rule(share <= chosen)
            if least > 0:
                self._rule(share >= least * chosen)
        return shares


def _weighted(weights: Any, variables: Sequence[Any]) -> Any:
    pairs = zip(weights.tolist(), variables, strict=True)
    return sum(weight * variable for weight, variable in pairs if weight)
