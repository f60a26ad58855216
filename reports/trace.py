"""A run's timeline as a file in Chrome's trace event format, which Perfetto opens.

A thread per port, with a slice for everything it did; the PE array's slices lie in one slice per
layer and fill it. A counter per buffer. Of a program the operations have a thread of their own, in
which each lasts as long as the program's end moves on with it; counters tell slots from what stays.
While an operation of the vector unit waits, the unit drains outputs of products: its waits have a
thread of their own.
One microsecond of the trace is one cycle: whole numbers, so durations add up to the simulated
cycles at any clock.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from gzip import GzipFile
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bfpsim.reports.levels import OUTERMOST
from bfpsim.sim.occupancy import occupancy
from bfpsim.sim.program import ProgramResult
from bfpsim.sim.result import LayerResult, NetworkResult
from bfpsim.sim.room import held
from bfpsim.sim.timeline import Slice, Unit
from bfpsim.workloads.files.atomic import replacing

Event = dict[str, Any]

MOST_SLICES = 1_000_000
"""Beyond this viewers become slow."""
SUFFIXES = (".json", ".json.gz")

_THREADS: dict[Unit, str] = {
    "array": "PE array",
    "dma I": "DMA I",
    "dma W": "DMA W",
    "dma O": "DMA O",
    "vector": "vector unit",
    "dma V": "DMA V",
    "dram": f"{OUTERMOST} channel",
}
_TID = {unit: number for number, unit in enumerate(_THREADS, start=1)}
_OF_PROGRAMS: tuple[Unit, ...] = ("vector", "dma V")
_OPERATIONS = len(_THREADS) + 1
_WAITING = len(_THREADS) + 2
_PID = 1
_GZIP_LEVEL = 6


def write_trace(
    result: LayerResult | NetworkResult | ProgramResult, path: str | Path, most: int = MOST_SLICES
) -> None:
    """Write the timeline of a layer, of a network's layers one after the other, or of a program.

    path: ends in .json or .json.gz
    most: slices of ports that are written, the first ones; if there are more, `UserWarning` says
        how many. Layers have their slice all the same.

    Equal results make equal bytes. Raises ValueError for another path, OSError if the file cannot
    be written.
    """
    if isinstance(result, ProgramResult):
        slices = sum(len(own.timeline) for own in result.operations)
        events = _program_events(result, most)
    else:
        layers = result.layers if isinstance(result, NetworkResult) else (result,)
        slices = sum(len(layer.timeline) * layer.repeats for layer in layers)
        events = _events(result, layers, most)
    about = {
        "network": result.network,
        "arch": result.arch.name,
        "time": "1 us is 1 cycle",
        "clock_hz": float(result.arch.clock),
        "cycles": result.cycles,
        "slices": slices,
        "slices_left_out": max(0, slices - most),
    }
    head = json.dumps({"displayTimeUnit": "ms", "otherData": about})[:-1]
    with _open(Path(path)) as file:
        file.write(head.encode() + b', "traceEvents": [')
        separator = b"\n"
        for event in events:
            file.write(separator + json.dumps(event, separators=(",", ":")).encode())
            separator = b",\n"
        file.write(b"\n]}\n")
    if slices > most:
        warnings.warn(
            f"{path}: holds the first {most:,} of {slices:,} slices; trace fewer layers for the "
            "others",
            stacklevel=2,
        )


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO | GzipFile]:
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: allowed: a name that ends in {' or '.join(SUFFIXES)}")
    with replacing(path) as file:
        if path.name.endswith(".gz"):
            # No name and no time in it, so that equal traces make equal bytes.
            with GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                yield packed
        else:
            yield file


def _events(
    result: LayerResult | NetworkResult, layers: tuple[LayerResult, ...], most: int
) -> Iterator[Event]:
    process = f"{result.arch.name}: {result.network}" if result.network else result.arch.name
    yield from _threads(process, {u: n for u, n in _THREADS.items() if u not in _OF_PROGRAMS})
    start = 0
    for layer in layers:
        cycles = layer.cycles // layer.repeats
        for run in range(layer.repeats):
            yield _layer_event(layer, run, start, cycles)
            for piece in islice(layer.timeline, most):
                yield _slice_event(piece, start)
            for cycle, bits in occupancy(layer, most) if most else ():
                yield from _counter_events(layer, start + cycle, bits)
            most = max(0, most - len(layer.timeline))
            start += cycles


def _program_events(result: ProgramResult, most: int) -> Iterator[Event]:
    yield from _threads(f"{result.arch.name}: {result.network}", _THREADS)
    for tid, name in ((_OPERATIONS, "operations"), (_WAITING, "vector operation waits")):
        yield _metadata("thread_name", tid, {"name": name})
        yield _metadata("thread_sort_index", tid, {"sort_index": tid})
    for own in result.operations:
        if own.cycles:
            args = {
                "unit": own.operation.unit,
                "tiles": "" if own.tiles is None else str(own.tiles),
            }
            slice_ = _complete(
                "array", own.name, "operation", own.end - own.cycles, own.cycles, args
            )
            yield slice_ | {"tid": _OPERATIONS}
        for piece in islice(own.timeline, most):
            event = _slice_event(piece, 0)
            waits = piece.unit == "vector" and piece.activity.startswith("wait")
            yield event | {"tid": _WAITING} if waits else event
        most = max(0, most - len(own.timeline))
    for cycle, memory, bits in held(result.changes):
        yield _counter(f"{memory} [bit]", cycle, bits)


def _threads(process: str, threads: dict[Unit, str]) -> Iterator[Event]:
    yield _metadata("process_name", 0, {"name": process})
    for unit, name in threads.items():
        yield _metadata("thread_name", _TID[unit], {"name": name})
        yield _metadata("thread_sort_index", _TID[unit], {"sort_index": _TID[unit]})


def _metadata(name: str, tid: int, args: Event) -> Event:
    return {"name": name, "ph": "M", "pid": _PID, "tid": tid, "args": args}


def _layer_event(layer: LayerResult, run: int, start: int, cycles: int) -> Event:
    """The slice that those of the PE array lie in."""
    args = {"mapping": str(layer.mapping), "formats": str(layer.formats)}
    if layer.repeats > 1:
        args["run"] = f"{run + 1} of {layer.repeats}"
    return _complete("array", layer.layer.name, "layer", start, cycles, args)


def _slice_event(piece: Slice, start: int) -> Event:
    if piece.unit == "array":
        name, args = str(piece.activity), {"step": piece.tile}
    else:
        name = f"{piece.activity} {piece.stream}"
        args = {"tile": piece.tile, "bits": piece.bits}
    kind = piece.unit.partition(" ")[0]
    return _complete(piece.unit, name, kind, start + piece.start, piece.end - piece.start, args)


def _complete(
    unit: Unit, name: str, kind: str, start: int, cycles: int, args: dict[str, Any]
) -> Event:
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "pid": _PID,
        "tid": _TID[unit],
        "ts": start,
        "dur": cycles,
        "args": args,
    }


def _counter_events(layer: LayerResult, start: int, held: dict[Any, int]) -> Iterator[Event]:
    """A shared buffer's bits, in all and by tensor; or those of each tensor's buffer."""
    sram = layer.arch.levels[1]
    buffers = {f"{sram.memories[own]} [bit]": {"held": bits} for own, bits in held.items()}
    if layer.arch.shared:
        buffers = {f"{sram.name} [bit]": {"held": sum(held.values()), **held}}
    for name, args in buffers.items():
        yield _counter(name, start, args)


def _counter(name: str, start: int, args: Mapping[Any, int]) -> Event:
    return {"name": name, "cat": "sram", "ph": "C", "pid": _PID, "ts": start, "args": args}
