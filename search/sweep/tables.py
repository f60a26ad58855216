"""Records as tidy tables: a row per point, per layer, and per flow of bits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.counts import COLUMNS, energy_pj
from bfpsim.mapping.nest import TENSORS
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.record import LayerRecord, Models, Record
from bfpsim.sim.validate import RUNGS

if TYPE_CHECKING:
    import pandas as pd

Types = Mapping[str, str]
"""Column -> its pandas type, the same for every part of a table, and able to hold nothing."""

_TEXT, _WHOLE, _REAL, _BOOL = "string", "Int64", "Float64", "boolean"

_SUMS: dict[str, str] = {
    **dict.fromkeys(("macs", "cycles", "compute_cycles"), _WHOLE),
    **{f"stall_{tensor}_cycles": _WHOLE for tensor in TENSORS},
    **dict.fromkeys(("dram_busy_cycles", "dram_bits", "dram_payload_bits", "sram_bits"), _WHOLE),
    **{f"compulsory_{tensor}_bits": _WHOLE for tensor in TENSORS},
    **dict.fromkeys(("compulsory_bits", "exact_bits", "exact_sram_bits"), _WHOLE),
    **dict.fromkeys(("paper_bits", "paper_sram_bits"), _REAL),
    **{f"{rung}_bits": _REAL for rung in RUNGS},
    **dict.fromkeys(("dram_energy_pj", "sram_energy_pj", "energy_pj"), _REAL),
    **dict.fromkeys(("compulsory_energy_pj", "seconds"), _REAL),
}
_NAMES = ("network", "arch", "formats", "objective", "model")
_LAYERS: dict[str, str] = {
    "point": _WHOLE,
    **dict.fromkeys(("network", "layer", "formats", "order", "tile"), _TEXT),
    **dict.fromkeys(("steps", "transfers"), _WHOLE),
    **_SUMS,
}
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

    points: point, network, arch, formats, objective, model, a column per axis, error (empty if
        there is none), capacity_bits (of all buffers), and the sums over its layers:

        - macs; cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles;
          dram_busy_cycles; seconds
        - dram_bits, sram_bits: simulated; dram_payload_bits: without burst padding
        - compulsory_bits, and of each tensor: the payload that no mapping avoids
        - exact_bits, paper_bits, exact_sram_bits, paper_sram_bits: by the models; and of each
          rung, from edges_bits to bursts_bits: what it adds, from paper_bits to dram_bits. Empty
          for a sweep without ladder
        - dram_energy_pj, sram_energy_pj, energy_pj: simulated, by Eq. 8; compulsory_energy_pj
    layers: point, network, layer, formats, order, tile, steps, transfers, and the same columns
    traffic: point, network, layer, level, tensor, direction, kind, bits, energy_pj
    """

    points: pd.DataFrame
    layers: pd.DataFrame
    traffic: pd.DataFrame


def level_column(level: str, what: str) -> str:
    """The column of a memory level with this: "dram_bits"."""
    return f"{level.lower()}_{what}"


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


def tables(results: Iterable[PointResult], axes: Types) -> Tables:
    """The tables of some points; parts of one sweep, with its `axis_types`, fit together."""
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
        **_SUMS,
    }
    return Tables(_frame(points, point_types), _frame(layers, _LAYERS), _frame(traffic, _TRAFFIC))


def sums(record: Record) -> dict[str, Any]:
    """The figures of a record's layers together, under the names that `Tables` explains."""
    layers, arch = record.layers, record.arch
    stalls = {f"stall_{t}_cycles": sum(layer.stalls[t] for layer in layers) for t in TENSORS}
    floors = {t: sum(layer.compulsory[t] for layer in layers) for t in TENSORS}
    compulsory = sum(floors.values())
    outer, inner = (level.name for level in arch.levels)
    return {
        "macs": sum(layer.macs for layer in layers),
        "cycles": record.cycles,
        "compute_cycles": sum(layer.compute_cycles for layer in layers),
        **stalls,
        "dram_busy_cycles": sum(layer.dram_busy_cycles for layer in layers),
        "dram_bits": record.bits(outer),
        "dram_payload_bits": record.bits(outer) - record.bits(outer, "burst"),
        "sram_bits": record.bits(inner),
        **{f"compulsory_{tensor}_bits": bits for tensor, bits in floors.items()},
        "compulsory_bits": compulsory,
        **_models([layer.models for layer in layers]),
        "dram_energy_pj": record.energy_pj(outer),
        "sram_energy_pj": record.energy_pj(inner),
        "energy_pj": record.energy_pj(),
        "compulsory_energy_pj": compulsory * arch.dram.energy,
        "seconds": float(record.cycles / arch.clock),
    }


def _models(models: Sequence[Models | None]) -> dict[str, Any]:
    """Bits by the models; nothing without them."""
    known = [one for one in models if one is not None]
    if len(known) < len(models):
        return {}
    return {
        "exact_bits": sum(one.exact for one in known),
        "exact_sram_bits": sum(one.exact_sram for one in known),
        "paper_bits": float(sum(one.paper for one in known)),
        "paper_sram_bits": float(sum(one.paper_sram for one in known)),
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
    }


def _point_row(result: PointResult) -> dict[str, Any]:
    place, point, record, error = result
    return {
        **point_labels(place, point),
        **{axis: _cell(value) for axis, value in point.axes},
        "error": error,
        "capacity_bits": _capacity(point.arch),
        **({} if record is None else sums(record)),
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
        "order": layer.order,
        "tile": " ".join(f"{dim}={size}" for dim, size in layer.tile.items()),
        "steps": layer.steps,
        "transfers": layer.transfers,
        **sums(replace(record, layers=(layer,))),
    }


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
