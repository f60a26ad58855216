"""An algebra for solvers of integer programs: sums of products of tables over tile sizes.

Every factor of the movement formula depends on the tile size of one dimension (with groups, of
two), its conditions too: "no loop inside has several trips" is a product of tables. So cost and
room are sums of products of one table per dimension, which a solver can be given whole, without a
case left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.closed.leaves import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A whole number times a table over tile sizes for each of some dimensions."""

    factor: int
    tables: dict[str, Vector]

    def __mul__(self, other: Product) -> Product:
        both = self.tables | other.tables
        for dim in self.tables.keys() & other.tables.keys():
            both[dim] = self.tables[dim] * other.tables[dim]
        vanishes = not all(table.any() for table in both.values())
        return Product(0 if vanishes else self.factor * other.factor, both)


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """A sum of products. Whole numbers are sums, too."""

    terms: tuple[Product, ...]

    def __add__(self, other: Products | int) -> Products:
        return Products(self.terms + _sum(other).terms)

    def __mul__(self, other: Products | int) -> Products:
        products = (a * b for a in self.terms for b in _sum(other).terms)
        return Products(tuple(term for term in products if term.factor))

    def __sub__(self, other: Products | int) -> Products:
        return self + _sum(other) * -1

    __radd__ = __add__
    __rmul__ = __mul__

    def merged(self) -> Products:
        """The same sum with equal products taken together: what cancels is gone."""
        factors: dict[tuple[tuple[str, bytes], ...], int] = {}
        tables = {}
        for term in self.terms:
            key = tuple((dim, term.tables[dim].tobytes()) for dim in sorted(term.tables))
            factors[key] = factors.get(key, 0) + term.factor
            tables[key] = term.tables
        return Products(tuple(Product(f, tables[key]) for key, f in factors.items() if f))

    def at(self, place: dict[str, int]) -> int:
        """The value at one tile size of every dimension, given by its number."""
        return sum(
            term.factor * prod(int(table[place[dim]]) for dim, table in term.tables.items())
            for term in self.terms
        )


def over_sizes(dims: str, table: NDArray[Any]) -> Products:
    """A table over the tile sizes of at most two dimensions that have several, as a sum."""
    values = table.astype(np.int64)
    several = "".join(d for d, sizes in zip(dims, values.shape, strict=True) if sizes > 1)
    values = values.squeeze()
    if (values == values.flat[0]).all():
        return _sum(int(values.flat[0]))
    if len(several) == 1:
        return Products((Product(1, {several: values}),))
    rows = np.eye(len(values), dtype=np.int64)
    parts = (
        over_sizes(several[0], row) * over_sizes(several[1], of)
        for row, of in zip(rows, values, strict=True)
    )
    return sum(parts, Products(()))


def _sum(value: Products | int) -> Products:
    if isinstance(value, Products):
        return value
    return Products((Product(value, {}),) if value else ())
