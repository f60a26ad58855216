"""Choices in the order of what they cost, priced part by part and no further than need be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]

IMPOSSIBLE = 1 << 60
"""A part that rules a choice out."""


class Part:
    """A part of what choices cost beyond what is known of them.

    keys: of each choice; where they are equal the part is
    times: how often a choice has the part
    price: of a choice
    """

    def __init__(self, keys: Vector, times: Vector | int, price: Callable[[int], int]) -> None:
        self._keys, self._times, self._price = keys, np.broadcast_to(times, keys.shape), price
        self.unknown = self._times > 0

    def add(self, choice: int, costs: Vector) -> None:
        """Add the part of a choice to the costs of all that have the same."""
        alike = np.flatnonzero((self._keys == self._keys[choice]) & self.unknown)
        costs[alike] += self._times[alike] * self._price(choice)
        self.unknown[alike] = False


class Ranking:
    """Choices by cost; of equal ones the first comes first.

    costs: without the parts; rooms: that each takes; parts: in the order in which to price them
    """

    def __init__(self, costs: Vector, rooms: Vector, parts: Sequence[Part]) -> None:
        self._costs, self._rooms, self._parts = costs.copy(), rooms, parts

    def least(self, room: int, count: int) -> tuple[float, Vector]:
        """The least cost in so much room, and some of the choices that have it, at most `count`.

        (infinite, none) if nothing fits.
        """
        fitting = np.flatnonzero(self._rooms <= room)
        while fitting.size:
            costs = self._costs[fitting]
            least = costs.min()
            if least >= IMPOSSIBLE:
                break
            tied = fitting[costs == least]
            first = tied[:count]
            unknown = np.zeros(len(first), bool)
            for part in self._parts:
                unknown |= part.unknown[first]
            if not unknown.any():
                return int(least), first
            choice = int(first[unknown.argmax()])
            next(part for part in self._parts if part.unknown[choice]).add(choice, self._costs)
        return math.inf, fitting[:0]
