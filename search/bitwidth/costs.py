"""What the mappings of a layer cost in every format, tensor by tensor.

Neither DRAM nor SRAM traffic of a tensor depends on the formats of the other two. So one array per
tensor, (formats, mappings), prices every triple of formats: a mapping costs the sum of three
entries, and is legal if the room it takes, a sum of three likewise, is there.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.nest import Mapping, MappingError, Tensor
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.room import fits, inner_claims
from bfpsim.quant.formats import TENSORS, Format, LayerFormats
from bfpsim.search.bitwidth.dominance import undominated
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, eq=False)
class Costs:
    """Mappings of one layer in every format.

    moved: by tensor, (formats, mappings): DRAM bits, or pJ over all levels if the objective is
        energy
    room: by tensor, (formats, mappings): of the largest resident tile in SRAM [bit]
    inner_room: by level inside SRAM, the same of the tensors that it holds
    whole: (formats of O, mappings): whether O's blocks stay whole
    busy: of the objective latency, by passes of the array, (mappings,): cycles that it computes
    """

    layer: ConvLayer
    arch: Arch
    objective: Objective
    formats: tuple[Format, ...]
    moved: dict[Tensor, Values]
    room: dict[Tensor, Values]
    inner_room: dict[str, dict[Tensor, Values]]
    whole: NDArray[np.bool_]
    busy: dict[int, Values]
    mappings: tuple[Mapping, ...]

    def best(self, i: int, w: int, o: int) -> tuple[float, Mapping]:
        """The least cost of any legal mapping for a triple of formats, and the first that has it.

        Raises MappingError if none is legal.
        """
        costs = self._legal(i, w, o)
        at = int(costs.argmin())
        return float(costs[at]), self.mappings[at]

    def ranked(self, i: int, w: int, o: int) -> Iterator[tuple[float, Mapping]]:
        """Every legal mapping for a triple of formats with its cost, cheapest first.

        Raises MappingError, with the first, if none is legal.
        """
        costs = self._legal(i, w, o)
        for at in np.argsort(costs, kind="stable"):
            if not np.isfinite(costs[at]):
                break
            yield float(costs[at]), self.mappings[at]

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
        costs[~self.whole[of_o] | ~self._fits(i, w, of_o)] = np.inf
        return costs

    def _cycles(self, bits: Values, i: int, w: int) -> Values:
        """The cycles that no schedule beats: PE array busy, or DRAM channel busy."""
        one = LayerFormats(self.formats[i], self.formats[w], self.formats[i])
        timing = Timing.of(self.arch)
        rate = timing.rate / timing.refresh
        channel = np.ceil(bits * rate.denominator / rate.numerator)
        cycles: Values = np.maximum(channel, self.busy[passes(self.arch.pe_array, one)])
        return cycles

    def _fits(self, i: int, w: int, o: list[int]) -> NDArray[np.bool_]:
        def of(room: dict[Tensor, Values]) -> dict[Tensor, Values]:
            rows: dict[Tensor, int | list[int]] = {"I": i, "W": w, "O": o}
            return {tensor: values[rows[tensor]] for tensor, values in room.items()}

        legal = fits(self.arch, of(self.room))
        for level in self.arch.levels[2:]:
            if level.name in self.inner_room:
                for claim in inner_claims(level, of(self.inner_room[level.name])):
                    legal = legal & (claim.taken <= claim.usable)
        return legal

    def at(self, places: NDArray[np.intp] | NDArray[np.bool_]) -> Costs:
        """The same for some of the mappings."""

        def of(room: dict[Tensor, Values]) -> dict[Tensor, Values]:
            return {t: values[:, places] for t, values in room.items()}

        return replace(
            self,
            moved=of(self.moved),
            room=of(self.room),
            inner_room={level: of(own) for level, own in self.inner_room.items()},
            whole=self.whole[:, places],
            busy={n: values[places] for n, values in self.busy.items()},
            mappings=tuple(self.mappings[at] for at in np.arange(len(self.mappings))[places]),
        )

    def joined(self, other: Costs) -> Costs:
        """The mappings of both."""
        inner = {
            level: _joined(own, other.inner_room[level]) for level, own in self.inner_room.items()
        }
        return replace(
            self,
            moved=_joined(self.moved, other.moved),
            room=_joined(self.room, other.room),
            inner_room=inner,
            whole=np.hstack((self.whole, other.whole)),
            busy={n: np.hstack((own, other.busy[n])) for n, own in self.busy.items()},
            mappings=self.mappings + other.mappings,
        )

    def undominated(self) -> Costs:
        """Without mappings that another one makes superfluous; the least cost of a triple stays."""
        moved, room = ([own[t] for t in TENSORS] for own in (self.moved, self.room))
        busy = np.stack(list(self.busy.values())) if self.busy else None
        return self.at(undominated(self.arch, moved, room, self.whole, busy))


def _joined(first: dict[Tensor, Values], then: dict[Tensor, Values]) -> dict[Tensor, Values]:
    return {t: np.hstack((values, then[t])) for t, values in first.items()}


def mapping_record(mapping: Mapping) -> dict[str, object]:
    """A mapping as JSON can hold it, for `mapping_of`."""
    return asdict(mapping)


def mapping_of(record: Any) -> Mapping:
    """The mapping that `mapping_record` took apart."""
    inner = {level: Mapping(own["order"], own["tile"]) for level, own in record["inner"].items()}
    return Mapping(record["order"], record["tile"], inner)


_TABLES = ("moved", "room")


def packed(costs: Costs) -> str:
    """The arrays as text (npz in base64), for `unpacked`; without room inside SRAM."""
    arrays = {f"{name}_{t}": getattr(costs, name)[t] for name in _TABLES for t in TENSORS}
    arrays |= {f"busy_{n}": values for n, values in costs.busy.items()}
    arrays["whole"] = costs.whole
    arrays["mappings"] = np.array(json.dumps([mapping_record(own) for own in costs.mappings]))
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
    busy = {
        int(name.removeprefix("busy_")): values
        for name, values in arrays.items()
        if name.startswith("busy_")
    }
    mappings = tuple(mapping_of(own) for own in json.loads(str(arrays["mappings"])))
    whole = arrays["whole"]
    return Costs(layer, arch, objective, tuple(formats), moved, room, {}, whole, busy, mappings)
