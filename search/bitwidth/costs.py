"""What the mappings of a layer cost in every format, tensor by tensor.

Neither DRAM nor SRAM traffic of a tensor depends on the formats of the other two. So one array per
tensor, (formats, mappings), prices every triple of formats: a mapping costs the sum of three
entries, and is legal if the room it takes, a sum of three likewise, is there.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, Tensor
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.room import fits
from bfpsim.quant.formats import TENSORS, Format, LayerFormats
from bfpsim.search.bitwidth.dominance import undominated
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, eq=False)
class Costs:
    """Mappings of one layer in every format.

    moved: by tensor, (formats, mappings): DRAM bits, or pJ over both levels if the objective is
        energy
    room: by tensor, (formats, mappings): of the largest resident tile [bit]
    whole: (formats of O, mappings): whether O's blocks stay whole
    busy: (mappings,): cycles of the PE array in one pass
    tiles: (mappings, 6): tile sizes, in the order of `DIMS`
    orders: (mappings,): loop orders
    """

    layer: ConvLayer
    arch: Arch
    objective: Objective
    formats: tuple[Format, ...]
    moved: dict[Tensor, Values]
    room: dict[Tensor, Values]
    whole: NDArray[np.bool_]
    busy: Values
    tiles: NDArray[np.int64]
    orders: NDArray[np.str_]

    def mapping(self, at: int) -> Mapping:
        """The mapping in a place."""
        sizes = dict(zip(DIMS, self.tiles[at].tolist(), strict=True))
        tile = {d: size for d, size in sizes.items() if size < self.layer.dims[d]}
        return Mapping("".join(d for d in str(self.orders[at]) if d in tile), tile)

    def best(self, i: int, w: int, o: int) -> tuple[float, Mapping]:
        """The least cost of any legal mapping for a triple of formats, and the first that has it.

        Raises MappingError if none is legal.
        """
        costs = self._legal(i, w, o)
        at = int(costs.argmin())
        return float(costs[at]), self.mapping(at)

    def ranked(self, i: int, w: int, o: int) -> Iterator[tuple[float, Mapping]]:
        """Every legal mapping for a triple of formats with its cost, cheapest first.

        Raises MappingError, with the first, if none is legal.
        """
        costs = self._legal(i, w, o)
        for at in np.argsort(costs, kind="stable"):
            if not np.isfinite(costs[at]):
                break
            yield float(costs[at]), self.mapping(int(at))

    def prices(self, i: Sequence[int], w: Sequence[int], o: Sequence[int]) -> Values:
        """The least cost of any legal mapping, for these formats of I, W and O: (i, w, o).

        Infinite where none is legal.
        """
        rows = [[self._priced(a, b, o).min(axis=1) for b in w] for a in i]
        return np.array(rows).reshape(len(i), len(w), len(o))

    def _legal(self, i: int, w: int, o: int) -> Values:
        """What each mapping costs, (mappings,); raises MappingError if none is legal."""
        costs: Values = self._priced(i, w, [o])[0]
        if not np.isfinite(costs).any():
            names = ", ".join(str(self.formats[f]) for f in (i, w, o))
            raise MappingError(
                f"{self.layer.name}: no mapping fits {self.arch.name} in {names}; allowed: other "
                "formats, or a larger buffer"
            )
        return costs

    def _priced(self, i: int, w: int, o: Sequence[int]) -> Values:
        """(formats of O, mappings); infinite where a mapping is not legal."""
        of_o = list(o)
        costs: Values = self.moved["O"][of_o] + (self.moved["I"][i] + self.moved["W"][w])
        if self.objective == "latency":
            costs = self._cycles(costs, i, w)
        costs[~self.whole[of_o] | ~self._fits(i, w, self.room["O"][of_o])] = np.inf
        return costs

    def _cycles(self, bits: Values, i: int, w: int) -> Values:
        """The cycles that no schedule beats: PE array busy, or DRAM channel busy."""
        one = LayerFormats(self.formats[i], self.formats[w], self.formats[i])
        rate = self.arch.dram_bits_per_cycle
        channel = np.ceil(bits * rate.denominator / rate.numerator)
        cycles: Values = np.maximum(channel, self.busy * passes(self.arch.pe_array, one))
        return cycles

    def _fits(self, i: int, w: int, room_o: Values) -> NDArray[np.bool_]:
        return fits(self.arch, {"I": self.room["I"][i], "W": self.room["W"][w], "O": room_o})

    def at(self, mappings: NDArray[np.intp] | NDArray[np.bool_]) -> Costs:
        """The same for some of the mappings."""
        return replace(
            self,
            moved={t: values[:, mappings] for t, values in self.moved.items()},
            room={t: values[:, mappings] for t, values in self.room.items()},
            whole=self.whole[:, mappings],
            busy=self.busy[mappings],
            tiles=self.tiles[mappings],
            orders=self.orders[mappings],
        )

    def joined(self, other: Costs) -> Costs:
        """The mappings of both."""
        return replace(
            self,
            moved={t: np.hstack((self.moved[t], other.moved[t])) for t in TENSORS},
            room={t: np.hstack((self.room[t], other.room[t])) for t in TENSORS},
            whole=np.hstack((self.whole, other.whole)),
            busy=np.hstack((self.busy, other.busy)),
            tiles=np.vstack((self.tiles, other.tiles)),
            orders=np.hstack((self.orders, other.orders)),
        )

    def undominated(self) -> Costs:
        """Without mappings that another one makes superfluous; the least cost of a triple stays."""
        moved, room = ([own[t] for t in TENSORS] for own in (self.moved, self.room))
        busy = self.busy if self.objective == "latency" else None
        return self.at(undominated(self.arch, moved, room, self.whole, busy))


_TABLES = ("moved", "room")


def packed(costs: Costs) -> str:
    """The arrays as text (npz in base64), for `unpacked`."""
    arrays = {f"{name}_{t}": getattr(costs, name)[t] for name in _TABLES for t in TENSORS}
    for name in ("whole", "busy", "tiles", "orders"):
        arrays[name] = getattr(costs, name)
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return b64encode(file.getvalue()).decode("ascii")


def unpacked(
    text: str, layer: ConvLayer, arch: Arch, formats: Sequence[Format], objective: Objective
) -> Costs:
    """What `packed` made a text of."""
    with np.load(BytesIO(b64decode(text)), allow_pickle=False) as file:
        arrays = dict(file)
    moved, room = ({t: arrays[f"{name}_{t}"] for t in TENSORS} for name in _TABLES)
    own = (arrays[name] for name in ("whole", "busy", "tiles", "orders"))
    return Costs(layer, arch, objective, tuple(formats), moved, room, *own)
