"""From a store to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bfpsim.reports.store.choice import cheapest
from bfpsim.reports.store.findings import Best, Findings
from bfpsim.reports.store.measures import measures, prices
from bfpsim.search.store import Entry, StoreError, StoreReader
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS, Point
from bfpsim.search.sweep.record import TENSORS, LayerRecord, Record
from bfpsim.search.sweep.spec import load_spec

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch

_OFTEN = 500  # points between two reports of progress

_Row = dict[str, Any]


def read_findings(
    store: str | Path,
    sweep: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Findings:
    """Read all points of a store, or those of one sweep.

    store: a file that `bfpsim sweep` wrote; without `sweep`, its points come in an order that
        depends on what they are, not on when they were simulated
    sweep: the sweep's YAML file, which knows what is missing and what the failed points were
    progress: called with a few words now and then

    Raises StoreError for a store that cannot be read, SweepError for a wrong sweep.
    """
    path = Path(store)
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "does not exist"
        raise StoreError(f"{path}: {wrong}; allowed: a file that `bfpsim sweep` wrote")
    points = None if sweep is None else plan(load_spec(sweep))
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
    """What has been read of a store so far."""

    def __init__(self) -> None:
        self._results: list[_Result] = []
        self._gaps: list[_Gap] = []
        self._hardware: dict[Arch, _Row] = {}

    def add(self, key: str, entry: Entry | None, planned: tuple[int, Point] | None) -> None:
        """Take in what the store holds under a key, and the point that it stands for."""
        row: _Row = {}
        hardware: _Row = {}
        if planned is not None:
            row = _labels(*planned)
            hardware = self._hardware_of(planned[1].arch)
        gap: _Row
        if entry is None:
            gap = {"state": "missing", "reason": "not simulated yet"}
        elif entry.record is None:
            gap = {"state": "failed", "reason": entry.error}
        else:
            try:
                record = Record.from_json(entry.record)
            except (LookupError, TypeError, ValueError):
                gap = {"state": "unreadable", "reason": "no record of this version of bfpsim"}
            else:
                self._take(key, row, record)
                return
        self._gaps.append(_Gap(row | gap | {"key": key}, hardware))

    def _take(self, key: str, row: _Row, record: Record) -> None:
        arch, layers, per_bit = record.arch, record.layers, prices(record.arch)
        formats = {layer.formats for layer in layers}
        row |= {
            "network": record.network,
            "arch": arch.name,
            "formats": formats.pop() if len(formats) == 1 else "by layer",
            "capacity_bits": _capacity_bits(arch),
            **measures(layers, arch, per_bit),
        }
        sums: dict[int, _Row] = {}  # by the traffic, which layers of one kind share
        for layer in layers:
            if id(layer.traffic) not in sums:
                sums[id(layer.traffic)] = measures((layer,), arch, per_bit)
        rows = [_mapped(layer, record) | sums[id(layer.traffic)] for layer in layers]
        self._results.append(_Result(key, row, rows, self._hardware_of(arch)))

    def _hardware_of(self, arch: Arch) -> _Row:
        """Every value of an architecture, as its file spells it, by dotted path."""
        if arch not in self._hardware:
            data = arch.model_dump()
            del data["name"]
            self._hardware[arch] = dict(_leaves(data, ""))
        return self._hardware[arch]

    def findings(self, store: StoreReader, planned: bool, others: int) -> Findings:
        """What has been read; planned: whether points have their places in a sweep."""
        everything: list[_Result | _Gap] = [*self._results, *self._gaps]
        axes = _differing([one.hardware for one in everything if one.hardware])
        for some in everything:
            some.row.update({axis: some.hardware.get(axis) for axis in axes})
        if not planned:
            self._results.sort(key=lambda one: (*_what(one.row, axes), one.key))
            for place, one in enumerate(self._results):
                one.row["point"] = place
        layers = [{"point": one.row["point"], **row} for one in self._results for row in one.layers]
        labels = ("network", "arch", "formats", *(("objective", "model") if planned else ()), *axes)
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
        )


def _best(points: pd.DataFrame, keys: Mapping[int, str], store: StoreReader) -> dict[str, Best]:
    found = {}
    if len(points):
        of_each = cheapest(points, "network").sort_values("point")
        for network, point in zip(of_each["network"], of_each["point"], strict=True):
            entry = store.get(POINTS, keys[point])
            if entry is not None and entry.record is not None:  # as it had when it was read
                found[network] = Best(int(point), Record.from_json(entry.record))
    return found


def _labels(place: int, point: Point) -> _Row:
    """What a sweep says about a point, beside its hardware."""
    return {
        "point": place,
        "network": point.network.name,
        "arch": point.arch.name,
        "formats": point.formats_name,
        "objective": point.objective,
        "model": point.model,
    }


def _mapped(layer: LayerRecord, record: Record) -> _Row:
    """A layer and its mapping."""
    return {
        "network": record.network,
        "layer": layer.layer,
        "formats": layer.formats,
        "order": layer.order,
        "tile": " ".join(f"{dim}={size}" for dim, size in layer.tile.items()),
        "steps": layer.steps,
        "transfers": layer.transfers,
    }


def _capacity_bits(arch: Arch) -> int:
    tensors = TENSORS[:1] if arch.shared else TENSORS
    return sum(arch.buffer(tensor).capacity for tensor in tensors)


def _leaves(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _differing(all_hardware: Sequence[_Row]) -> tuple[str, ...]:
    """Paths whose values, or absence, tell architectures apart."""
    paths = dict.fromkeys(path for hardware in all_hardware for path in hardware)
    return tuple(path for path in paths if len({one.get(path) for one in all_hardware}) > 1)


def _what(row: _Row, axes: Sequence[str]) -> tuple[Any, ...]:
    """What a point is, as a key to sort by."""
    labels = (str(row[name]) for name in ("network", "formats"))
    return (*labels, row["capacity_bits"], *(str(row[axis]) for axis in axes))


def _frame(rows: Sequence[_Row], first: Sequence[str]) -> pd.DataFrame:
    """A table of rows that need not have all columns."""
    import pandas as pd

    columns = dict.fromkeys(first) | dict.fromkeys(name for row in rows for name in row)
    frame = pd.DataFrame(rows, columns=list(columns))
    if "exact_bits" in columns:  # whole numbers, or none where a point has no models
        frame["exact_bits"] = frame["exact_bits"].astype("Int64")
    return frame
