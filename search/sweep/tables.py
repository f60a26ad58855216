"""Records as tidy tables: a row per point, per layer, and per flow of bits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.counts import COLUMNS, energy_pj, level_column
from bfpsim.mapping.nest import TENSORS, Mapping, Tensor
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.record import LayerRecord, Models, Record, utilisation_of
from bfpsim.sim.validate import RUNGS

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.sim.program import OperationResult
    from bfpsim.sim.result import LayerResult

Types = Table[str, str]
"""Column -> its pandas type, the same for every part of a table, and able to hold nothing."""

_TEXT, _WHOLE, _REAL, _BOOL = "string", "Int64", "Float64", "boolean"

_NAMES = ("network", "arch", "formats", "objective", "model", "layers")
_RESIDENCY = ("activations", "stay_on_chip", "least_dram_bits")
_TRAFFIC: dict[str, str] = {
    "point": _WHOLE,
    **dict.fromkeys(COLUMNS, _TEXT),
    "bits": _WHOLE,
    "energy_pj": _REAL,
}


class PointResult(NamedTuple):
    """A point, its place in the sweep, and its record or the error."""

    place: int
    point: Point
    record: Record | None
    error: str | None


class Tables(NamedTuple):
    """A sweep's results; `point` is a point's place in the sweep, from 0.

    points: point, network, arch, formats, objective, model, layers (alone or program), a column per
        axis, error (empty if there is none), capacity_bits (of SRAM), of programs activations,
        stay_on_chip and least_dram_bits (that no other choice is below), and the sums over its
        layers:

        - macs; utilisation, spatial_utilisation, temporal_utilisation: shares (`Utilisation`)
        - cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles;
          compute_cycles = steady_cycles + fill_cycles + port_cycles; dram_busy_cycles; seconds.
          Of programs these overlap, and cycles are from start to end; vector_cycles and
          vector_stall_cycles: that the vector unit works, and waits for its own operations
        - dram_bits, sram_bits, and of each level inside SRAM: simulated; dram_payload_bits:
          without burst padding
        - compulsory_bits, and of each tensor: the payload that no mapping avoids; of programs, at
          any capacity
        - exact_bits, paper_bits, exact_sram_bits, paper_sram_bits (and of each level inside): by
          the models; and of each rung, from edges_bits to bursts_bits: what it adds, from
          paper_bits to dram_bits. Empty for a sweep without ladder, and of programs
        - dram_energy_pj, sram_energy_pj (and of each level inside), energy_pj: simulated, by
          Eq. 8; all_energy_pj: with multiplications, leakage and DRAM background;
          compulsory_energy_pj
    layers: point, network, layer, formats, order, tile (and of each level inside SRAM: acc_order,
        acc_tile), steps, transfers, and the same columns; of programs their operations, whose
        cycles are those by which the end moves on, without shares of them
    traffic: point, network, layer, level, tensor, direction, kind, bits, energy_pj
    """

    points: pd.DataFrame
    layers: pd.DataFrame
    traffic: pd.DataFrame


def axis_types(points: Iterable[Point]) -> dict[str, str]:
    """The hardware axes of a sweep, each with the type of all its values."""
    values: dict[str, set[type]] = {}
    for point in points:
        for axis, value in point.axes:
            values.setdefault(axis, set()).add(type(value))
    known = {bool: _BOOL, int: _WHOLE, float: _REAL}
    return {
        axis: known.get(next(iter(types)), _TEXT) if len(types) == 1 else _TEXT
        for axis, types in values.items()
    }


def level_names(points: Iterable[Point]) -> tuple[str, ...]:
    """The memory levels of a sweep's architectures, outermost first; not every one has them all."""
    archs = dict.fromkeys(point.arch for point in points)
    return tuple(dict.fromkeys(level.name for arch in archs for level in arch.levels))


def mapping_columns(mapping: Mapping, levels: Sequence[str]) -> dict[str, str]:
    """A mapping as text by column: order, tile, and of each level inside SRAM acc_order, acc_tile.

    levels: the names of those inside SRAM
    """
    columns = {"order": mapping.order, "tile": _tile_text(mapping)}
    for level in levels:
        own = mapping.inner.get(level, _WHOLE_TILE)
        columns[level_column(level, "order")] = own.order
        columns[level_column(level, "tile")] = _tile_text(own)
    return columns


_WHOLE_TILE = Mapping()


def _tile_text(mapping: Mapping) -> str:
    return " ".join(f"{dim}={size}" for dim, size in mapping.tile.items())


def tables(results: Iterable[PointResult], axes: Types, levels: Sequence[str]) -> Tables:
    """The tables of some points.

    axes, levels: `axis_types` and `level_names` of the whole sweep, whose parts fit together
    """
    points, layers = [], []
    traffic: list[dict[str, Any]] = []
    for one in results:
        points.append(_point_row(one))
        if one.record is not None:
            for layer in one.record.layers:
                layers.append(_layer_row(one.place, one.record, layer))
                traffic += _traffic_rows(one.place, one.record, layer)
    point_types = {
        "point": _WHOLE,
        **dict.fromkeys(_NAMES, _TEXT),
        **axes,
        "error": _TEXT,
        "capacity_bits": _WHOLE,
        **dict.fromkeys(_RESIDENCY, _WHOLE),
        **_sum_types(levels),
    }
    mapping = mapping_columns(_WHOLE_TILE, levels[2:])
    layer_types = {
        "point": _WHOLE,
        **dict.fromkeys(("network", "layer", "formats", *mapping), _TEXT),
        **dict.fromkeys(("steps", "transfers"), _WHOLE),
        **_sum_types(levels),
    }
    return Tables(
        _frame(points, point_types), _frame(layers, layer_types), _frame(traffic, _TRAFFIC)
    )


def _sum_types(levels: Sequence[str]) -> dict[str, str]:
    """The columns of `sums`, of architectures with these levels."""
    outer, *inside = levels
    moved = (level_column(outer, "bits"), level_column(outer, "payload_bits"))
    columns: dict[str, Sequence[str]] = {
        _WHOLE: (
            *("cycles", "compute_cycles", "steady_cycles", "fill_cycles", "port_cycles"),
            *(f"stall_{tensor}_cycles" for tensor in TENSORS),
            *("vector_cycles", "vector_stall_cycles"),
            *("dram_busy_cycles", *moved, *(level_column(level, "bits") for level in inside)),
            *(f"compulsory_{tensor}_bits" for tensor in TENSORS),
            *(
                "compulsory_V_bits",
                "compulsory_bits",
                "exact_bits",
                *(_model_column("exact", own) for own in inside),
            ),
        ),
        _REAL: (
            *("paper_bits", *(_model_column("paper", own) for own in inside)),
            *(f"{rung}_bits" for rung in RUNGS),
            *(level_column(level, "energy_pj") for level in levels),
            *("energy_pj", "all_energy_pj", "compulsory_energy_pj", "seconds"),
        ),
    }
    shares = ("utilisation", "spatial_utilisation", "temporal_utilisation")
    first = {"macs": _WHOLE, **dict.fromkeys(shares, _REAL)}
    return first | {name: kind for kind, names in columns.items() for name in names}


def _model_column(model: str, level: str) -> str:
    return f"{model}_{level_column(level, 'bits')}"


def sums(record: Record) -> dict[str, Any]:
    """The figures of a record's layers together, under the names that `Tables` explains."""
    layers, arch = record.layers, record.arch
    stalls = {f"stall_{t}_cycles": sum(layer.stalls[t] for layer in layers) for t in TENSORS}
    floor = Floor.of(layers)
    outer, *inside = (level.name for level in arch.levels)
    return {
        "macs": sum(layer.macs for layer in layers),
        **utilisation_of(layers, arch).columns(),
        "cycles": record.cycles,
        **cycle_sums(layers),
        **stalls,
        **vector_sums(layers),
        "dram_busy_cycles": sum(layer.dram_busy_cycles for layer in layers),
        level_column(outer, "bits"): record.bits(outer),
        level_column(outer, "payload_bits"): record.bits(outer) - record.bits(outer, "burst"),
        **{level_column(level, "bits"): record.bits(level) for level in inside},
        **{f"compulsory_{tensor}_bits": bits for tensor, bits in floor.tensors.items()},
        "compulsory_V_bits": floor.read + floor.written,
        "compulsory_bits": floor.bits,
        **_models([layer.models for layer in layers]),
        **{level_column(one, "energy_pj"): record.energy_pj(one) for one in (outer, *inside)},
        "energy_pj": record.energy_pj(),
        "all_energy_pj": record.energy.all_pj,
        "compulsory_energy_pj": floor.energy_pj(arch),
        "seconds": float(record.cycles / arch.clock),
    }


def cycle_sums(layers: Sequence[LayerRecord | LayerResult | OperationResult]) -> dict[str, int]:
    """The cycles that the PE array is busy in, and what they are made of, by column."""
    return {
        "compute_cycles": sum(layer.compute_cycles for layer in layers),
        "steady_cycles": sum(layer.steady_cycles for layer in layers),
        "fill_cycles": sum(layer.fill_cycles for layer in layers),
        "port_cycles": sum(layer.port_cycles for layer in layers),
    }


def vector_sums(layers: Sequence[LayerRecord]) -> dict[str, int]:
    """What the vector unit did, by column: nothing for layers alone."""
    known = [layer.vector for layer in layers if layer.vector is not None]
    return {
        "vector_cycles": sum(own.cycles for own in known),
        "vector_stall_cycles": sum(own.stall_cycles for own in known),
    }


def residency_columns(record: Record) -> dict[str, int]:
    """What a program kept on chip, by column; nothing for layers alone."""
    kept = record.residency
    if kept is None:
        return {}
    return dict(zip(_RESIDENCY, (kept.activations, kept.stay, kept.least_dram_bits), strict=True))


class Floor(NamedTuple):
    """The payload off chip that no mapping avoids [bit].

    tensors: I and W that are read, O that is written
    read, written: of V
    """

    tensors: dict[Tensor, int]
    read: int
    written: int

    @classmethod
    def of(cls, layers: Sequence[LayerRecord]) -> Floor:
        """The sum over some layers."""
        known = [layer.vector for layer in layers if layer.vector is not None]
        return cls(
            {t: sum(layer.compulsory[t] for layer in layers) for t in TENSORS},
            sum(own.least_read for own in known),
            sum(own.least_written for own in known),
        )

    @property
    def bits(self) -> int:
        """All of it."""
        return sum(self.tensors.values()) + self.read + self.written

    def energy_pj(self, arch: Arch) -> float:
        """Its energy off chip [pJ]."""
        dram = arch.levels[0]
        own = [dram.pj(t, bits, bits if t == "O" else 0) for t, bits in self.tensors.items()]
        vector = self.read * dram.read_pj["V"] + self.written * dram.write_pj["V"]
        return float(sum(own) + vector)


def _models(models: Sequence[Models | None]) -> dict[str, Any]:
    """Bits by the models; nothing without them."""
    known = [one for one in models if one is not None]
    if len(known) < len(models):
        return {}
    return {
        "exact_bits": sum(one.exact for one in known),
        **{
            _model_column("exact", level): sum(one.exact_inside[level] for one in known)
            for level in known[0].exact_inside
        },
        "paper_bits": float(sum(one.paper for one in known)),
        **{
            _model_column("paper", level): float(sum(one.paper_inside[level] for one in known))
            for level in known[0].paper_inside
        },
        **{f"{rung}_bits": float(sum(one.rungs[rung] for one in known)) for rung in RUNGS},
    }


def point_labels(place: int, point: Point) -> dict[str, Any]:
    """The labels of a point in a sweep, beside its hardware."""
    return {
        "point": place,
        "network": point.network.name,
        "arch": point.arch.name,
        "formats": point.formats_name,
        "objective": point.objective,
        "model": point.model,
        "layers": point.layers,
    }


def _point_row(result: PointResult) -> dict[str, Any]:
    place, point, record, error = result
    return {
        **point_labels(place, point),
        **{axis: _cell(value) for axis, value in point.axes},
        "error": error,
        "capacity_bits": _capacity(point.arch),
        **({} if record is None else residency_columns(record) | sums(record)),
    }


def _cell(value: object) -> object:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _capacity(arch: Arch) -> int:
    if arch.shared:
        return arch.buffer("I").capacity
    return sum(arch.buffer(tensor).capacity for tensor in TENSORS)


def _layer_row(place: int, record: Record, layer: LayerRecord) -> dict[str, Any]:
    return {
        "point": place,
        "network": record.network,
        "layer": layer.layer,
        "formats": layer.formats,
        **mapping_columns(layer.mapping, [own.name for own in record.arch.levels[2:]]),
        "steps": layer.steps,
        "transfers": layer.transfers,
        **without_overlap(record, sums(replace(record, layers=(layer,)))),
    }


def without_overlap(record: Record, row: dict[str, Any]) -> dict[str, Any]:
    """The sums of one layer, but of a program without shares of a time that others share."""
    shares = () if record.residency is None else ("utilisation", "temporal_utilisation")
    return {name: value for name, value in row.items() if name not in shares}


def _traffic_rows(place: int, record: Record, layer: LayerRecord) -> Iterator[dict[str, Any]]:
    for flow, bits in layer.traffic.items():
        yield {
            "point": place,
            "network": record.network,
            "layer": layer.layer,
            **flow._asdict(),
            "bits": bits,
            "energy_pj": energy_pj(flow, bits, record.arch),
        }


def _frame(rows: list[dict[str, Any]], types: Types) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(types)).astype(dict(types))
