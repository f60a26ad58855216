"""The contents of a sweep's store as tables, and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bfpsim.arch import Arch, Traffic
from bfpsim.mapping.counts import COLUMNS, Direction, energy_pj, level_column
from bfpsim.mapping.energy import beyond_movement
from bfpsim.mapping.nest import TENSORS
from bfpsim.search.buffers import constant_prices
from bfpsim.search.store import Entry, StoreError, StoreReader
from bfpsim.search.sweep.check import RecordError
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS, Point
from bfpsim.search.sweep.record import LayerRecord, Record, utilisation_of
from bfpsim.search.sweep.spec import load_spec
from bfpsim.search.sweep.tables import (
    Floor,
    cycle_sums,
    mapping_columns,
    point_labels,
    residency_columns,
    vector_sums,
    without_overlap,
)
from bfpsim.sim.validate import RUNGS
from bfpsim.workloads.files.text import visible

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 1_000  # characters of a reason
_OFTEN = 500  # points between two reports of progress

_Row = dict[str, Any]


class Best(NamedTuple):
    """The point of least energy of a network."""

    point: int
    record: Record


@dataclass(frozen=True, slots=True)
class Findings:
    """A sweep's results and gaps; points are numbered from 0.

    points: point, network, arch, formats, objective and model (if the sweep is given), layers
        (alone or program), a column per axis, capacity_bits (of SRAM), of programs activations,
        stay_on_chip and least_dram_bits, and sums over all layers
    layers: point, network, layer, formats, order, tile (and of each level inside SRAM: acc_order,
        acc_tile), steps, transfers, and the same sums
    gaps: what has no result: point (if the sweep is given), state (failed, missing or unreadable),
        reason, and as far as they are known network, arch, formats and axes; key
    axes: dotted paths at which the architectures differ
    best: of each network, in the order of the points
    others: points in the store that are not the sweep's
    constant_prices: memories that are resized at a constant energy per bit

    The sums:

    - macs; utilisation, spatial_utilisation, temporal_utilisation: shares (`Utilisation`)
    - cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles; compute_cycles =
      steady_cycles + fill_cycles + port_cycles; dram_busy_cycles; seconds. Of programs these
      overlap, and cycles are from start to end; vector_cycles, vector_stall_cycles
    - dram_bits, sram_bits (of each level): simulated; dram_payload_bits: without burst padding;
      compulsory_bits: the payload that no mapping avoids
    - exact_bits, paper_bits: DRAM bits by the models, and edges_bits to bursts_bits: what each rung
      adds, from paper_bits to dram_bits; none of these if a layer was swept without models
    - energy_pj, by Eq. 8; dram_energy_pj, sram_energy_pj (of each level); and of every level and
      tensor (`energy_column`): each the correctly rounded sum of its flows. all_energy_pj: with
      operations, leakage and DRAM background. V, what the vector unit moves, has columns only
      where it moves something. compulsory_energy_pj
    """

    points: pd.DataFrame
    layers: pd.DataFrame
    gaps: pd.DataFrame
    axes: tuple[str, ...]
    best: Mapping[str, Best]
    others: int
    constant_prices: tuple[str, ...]

    @property
    def alike(self) -> int:
        """Points with the labels of an earlier one."""
        names = ("network", "arch", "formats", "objective", "model", "layers", *self.axes)
        return int(self.points.duplicated([n for n in names if n in self.points]).sum())

    @property
    def traffic(self) -> pd.DataFrame:
        """Every flow of the best points: point, and the columns of `LayerResult.traffic`.

        The energies of a point's rows sum up (`math.fsum`) to its energy_pj, to the last bit.
        """
        import pandas as pd

        rows = [
            (point, network, layer.layer, *flow, bits, energy_pj(flow, bits, record.arch))
            for network, (point, record) in self.best.items()
            for layer in record.layers
            for flow, bits in layer.traffic.items()
        ]
        return pd.DataFrame(rows, columns=["point", *COLUMNS])


def read_findings(
    store: str | Path,
    sweep: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    trust: bool = False,
) -> Findings:
    """Read all points of a store, or those of one sweep.

    store: a file that `bfpsim sweep` wrote; without `sweep`, its points come in an order that
        depends on what they are, not on when they were simulated
    sweep: the sweep's YAML file, which knows what is missing and what the failed points were
    progress: called with a few words now and then
    trust: whether the sweep's networks may be functions, as in `load_spec`

    Raises StoreError for a store that cannot be read, SweepError for a wrong sweep.
    """
    path = Path(store)
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "does not exist"
        raise StoreError(f"{path}: {wrong}; allowed: a file that `bfpsim sweep` wrote")
    points = None if sweep is None else plan(load_spec(sweep, trust=trust))
    reading = _Reading()
    with StoreReader(path) as opened:
        held = opened.keys(POINTS)
        keys = sorted(held) if points is None else [point.key for point in points]
        for place, key in enumerate(keys):
            if progress is not None and place % _OFTEN == 0:
                progress(f"reading point {place:,} of {len(keys):,}")
            planned = None if points is None else (place, points[place])
            reading.add(key, opened.get(POINTS, key), planned)
        others = len(held.keys() - keys)
        return reading.findings(opened, planned=points is not None, others=others)


def cheapest(points: pd.DataFrame, by: str) -> pd.DataFrame:
    """The point of least energy for each value of a column, in the values' order.

    Of equals the one with the fewest cycles, then the first.
    """
    order = points.sort_values(["energy_pj", "cycles"], kind="stable")
    return order.drop_duplicates(by).sort_values(by)


def energy_column(level: str, tensor: Traffic) -> str:
    """The column with the energy of one tensor at one level [pJ]."""
    return level_column(level, f"{tensor}_energy_pj")


class _Meter:
    """Sums up layers that ran on an architecture."""

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._levels = tuple(level.name for level in arch.levels)
        self._per_bit: dict[tuple[str, Traffic], dict[Direction, float]] = {
            (level.name, tensor): {"read": price, "write": level.write_pj[tensor]}
            for level in arch.levels
            for tensor, price in level.read_pj.items()
        }

    def sums(self, layers: Sequence[LayerRecord]) -> _Row:
        """The sums that `Findings` explains, over some of the layers."""
        per_bit, levels = self._per_bit, self._levels
        bits, padding = dict.fromkeys(per_bit, 0), dict.fromkeys(levels, 0)
        energies: dict[tuple[str, Traffic], list[float]] = {key: [] for key in per_bit}
        for layer in layers:
            for (level, tensor, direction, kind), moved in layer.traffic.items():
                key, whole = (level, tensor), int(moved)
                bits[key] += whole
                if kind == "burst":
                    padding[level] += whole
                energies[key].append(whole * per_bit[key][direction])
        of_level = {
            level: [pj for key, own in energies.items() if key[0] == level for pj in own]
            for level in levels
        }
        outermost, *inner = levels
        total = {
            level: sum(own for key, own in bits.items() if key[0] == level) for level in levels
        }
        cycles = sum(layer.cycles for layer in layers)
        every = [pj for level in levels for pj in of_level[level]]
        rest = beyond_movement(self._arch, [layer.work for layer in layers])
        floor = Floor.of(layers)
        return {
            "macs": sum(layer.macs for layer in layers),
            **utilisation_of(layers, self._arch).columns(),
            "cycles": cycles,
            **cycle_sums(layers),
            **{f"stall_{t}_cycles": sum(layer.stalls[t] for layer in layers) for t in TENSORS},
            **vector_sums(layers),
            "dram_busy_cycles": sum(layer.dram_busy_cycles for layer in layers),
            "seconds": float(cycles / self._arch.clock),
            level_column(outermost, "bits"): total[outermost],
            level_column(outermost, "payload_bits"): total[outermost] - padding[outermost],
            **{level_column(level, "bits"): total[level] for level in inner},
            "compulsory_bits": floor.bits,
            **_models(layers),
            **{level_column(level, "energy_pj"): math.fsum(of_level[level]) for level in levels},
            **{
                energy_column(*key): math.fsum(pj)
                for key, pj in energies.items()
                if key[1] in TENSORS or pj
            },
            "energy_pj": math.fsum(every),
            "all_energy_pj": math.fsum([*every, *(part.energy_pj for part in rest)]),
            "compulsory_energy_pj": floor.energy_pj(self._arch),
        }


class _Result(NamedTuple):
    """A point's row, the rows of its layers, and its hardware: path -> value."""

    key: str
    row: _Row
    layers: list[_Row]
    hardware: _Row


class _Gap(NamedTuple):
    """The row of a point without a result, and its hardware, empty if that is not known."""

    row: _Row
    hardware: _Row


class _Reading:
    """The part of a store that has been read so far."""

    def __init__(self) -> None:
        self._results: list[_Result] = []
        self._gaps: list[_Gap] = []
        self._hardware: dict[Arch, _Row] = {}

    def add(self, key: str, entry: Entry | None, planned: tuple[int, Point] | None) -> None:
        """Take in what the store holds under a key, and the point that it stands for."""
        row: _Row = {}
        hardware: _Row = {}
        if planned is not None:
            row = point_labels(*planned)
            hardware = self._hardware_of(planned[1].arch)
        gap: _Row
        if entry is None:
            gap = {"state": "missing", "reason": "not simulated yet"}
        elif entry.record is None:
            gap = {"state": "failed", "reason": visible(entry.error or "")[:_LONGEST]}
        else:
            try:
                self._take(key, row, Record.from_json(entry.record))
                return
            except RecordError as error:
                gap = {"state": "unreadable", "reason": str(error)}
        self._gaps.append(_Gap(row | gap | {"key": visible(key)[:_LONGEST]}, hardware))

    def _take(self, key: str, row: _Row, record: Record) -> None:
        arch, layers = record.arch, record.layers
        meter = _Meter(arch)
        formats = {layer.formats for layer in layers if layer.macs}
        row |= {
            "network": record.network,
            "arch": arch.name,
            "formats": formats.pop() if len(formats) == 1 else "by layer",
            "layers": record.how,
            "capacity_bits": _capacity_bits(arch),
            **residency_columns(record),
            **meter.sums(layers),
        }
        sums: dict[int, _Row] = {}  # by the traffic, which layers of one kind share
        for layer in layers:
            if id(layer.traffic) not in sums:
                sums[id(layer.traffic)] = meter.sums((layer,))
        rows = [
            _layer_labels(layer, record) | without_overlap(record, sums[id(layer.traffic)])
            for layer in layers
        ]
        self._results.append(_Result(key, row, rows, self._hardware_of(arch)))

    def _hardware_of(self, arch: Arch) -> _Row:
        """Every value of an architecture, as its file spells it, by dotted path."""
        if arch not in self._hardware:
            data = arch.model_dump()
            del data["name"]
            self._hardware[arch] = dict(_leaves(data, ""))
        return self._hardware[arch]

    def findings(self, store: StoreReader, planned: bool, others: int) -> Findings:
        """Make findings of what has been read; planned: whether points have places in a sweep."""
        everything: list[_Result | _Gap] = [*self._results, *self._gaps]
        axes = _differing([one.hardware for one in everything if one.hardware])
        for some in everything:
            some.row.update({axis: some.hardware.get(axis) for axis in axes})
        if not planned:
            self._results.sort(key=lambda one: (*_what(one.row, axes), one.key))
            for place, one in enumerate(self._results):
                one.row["point"] = place
        layers = [{"point": one.row["point"], **row} for one in self._results for row in one.layers]
        given = ("objective", "model") if planned else ()
        labels = ("network", "arch", "formats", *given, "layers", *axes)
        gap_labels = (*(("point",) if planned else ()), "state", "reason", *labels)
        points = _frame([one.row for one in self._results], ("point", *labels))
        keys = {one.row["point"]: one.key for one in self._results}
        return Findings(
            points,
            _frame(layers, ("point", "network", "layer")),
            _frame([gap.row for gap in self._gaps], gap_labels),
            axes,
            _best(points, keys, store),
            others,
            constant_prices(self._hardware),
        )


def _best(points: pd.DataFrame, keys: Mapping[int, str], store: StoreReader) -> dict[str, Best]:
    best = {}
    if len(points):
        of_each = cheapest(points, "network").sort_values("point")
        for network, point in zip(of_each["network"], of_each["point"], strict=True):
            entry = store.get(POINTS, keys[point])
            if entry is not None and entry.record is not None:  # as it had when it was read
                best[network] = Best(int(point), Record.from_json(entry.record))
    return best


def _layer_labels(layer: LayerRecord, record: Record) -> _Row:
    """A layer and its mapping."""
    return {
        "network": record.network,
        "layer": layer.layer,
        "formats": layer.formats,
        **mapping_columns(layer.mapping, [own.name for own in record.arch.levels[2:]]),
        "steps": layer.steps,
        "transfers": layer.transfers,
    }


def _capacity_bits(arch: Arch) -> int:
    tensors = TENSORS[:1] if arch.shared else TENSORS
    return sum(arch.buffer(tensor).capacity for tensor in tensors)


def _leaves(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The values below a part by their paths, as `replace` takes them; lists of words as text."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        elif isinstance(value, list | tuple) and not all(isinstance(own, str) for own in value):
            parts = {str(own.pop("name", place)): own for place, own in enumerate(map(dict, value))}
            yield from _leaves(parts, f"{path}{key}.")
        elif isinstance(value, list | tuple):
            if value:
                yield f"{path}{key}", ", ".join(value)
        else:
            yield f"{path}{key}", value


def _differing(all_hardware: Sequence[_Row]) -> tuple[str, ...]:
    """Paths at which architectures differ in their values, or have none."""
    paths = dict.fromkeys(path for hardware in all_hardware for path in hardware)
    return tuple(path for path in paths if len({one.get(path) for one in all_hardware}) > 1)


def _what(row: _Row, axes: Sequence[str]) -> tuple[Any, ...]:
    """A key to sort points by: what they are."""
    labels = (str(row[name]) for name in ("network", "formats", "layers"))
    return (*labels, row["capacity_bits"], *(str(row[axis]) for axis in axes))


def _frame(rows: Sequence[_Row], first: Sequence[str]) -> pd.DataFrame:
    """A table of rows that need not have all columns."""
    import pandas as pd

    columns = dict.fromkeys(first) | dict.fromkeys(name for row in rows for name in row)
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in columns:  # whole numbers, or none where a point has no models or no such level
        if frame[name].hasnans and all(isinstance(row.get(name, 0), int) for row in rows):
            frame[name] = frame[name].astype("Int64")
    return frame


def _models(layers: Sequence[LayerRecord]) -> dict[str, Any]:
    known = [layer.models for layer in layers if layer.models is not None]
    if len(known) < len(layers):
        return {}
    return {
        "exact_bits": sum(models.exact for models in known),
        "paper_bits": _total(models.paper for models in known),
        **{f"{rung}_bits": _total(models.rungs[rung] for models in known) for rung in RUNGS},
    }


def _total(fractions: Iterable[Fraction]) -> float:
    """The exact sum, rounded once; `sum` would add each to 0, which costs as much again."""
    return float(reduce(add, fractions))
