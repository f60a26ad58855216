"""A program's operations under their mappings, made ready for the machine, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.mapping.array import sums_lie_outside
from bfpsim.mapping.fit import check_inside, footprint, stored
from bfpsim.mapping.nest import MappingError, Nest, Tensor
from bfpsim.mapping.steps.dependence import Completion
from bfpsim.mapping.steps.price import Priced, Stay, box_transfers, stays_from, streams_of
from bfpsim.mapping.steps.tiles import (
    Boxes,
    Channels,
    Mask,
    Ranges,
    Vector,
    input_tiles,
    output_tiles,
)
from bfpsim.mapping.steps.vector import vector_tiles
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.mapping.vector import VectorTiling
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.sim.stage import Feed, Kept, Output, Sink, Slot, Stage, Turn, Wait
from bfpsim.workloads.program import Operation, Program, View

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.nest import Mapping as Tiling

_OPERANDS: tuple[Tensor, ...] = ("I", "W")


@dataclass(frozen=True, eq=False)
class Plan:
    """How a program runs: what stays on chip, and how each operation is cut.

    formats: by product; stored: the format of every activation
    mappings: by product; tilings: by vector operation
    resident: activations that stay from their first writer to their last reader
    in_place: operation -> the activation whose room its output takes over
    """

    program: Program
    formats: Mapping[str, LayerFormats]
    stored: Mapping[str, Format]
    mappings: Mapping[str, Tiling]
    tilings: Mapping[str, VectorTiling]
    resident: frozenset[str] = frozenset()
    in_place: Mapping[str, str] = field(default_factory=dict)


def stages_of(plan: Plan, arch: Arch) -> list[Stage]:
    """Every operation's stage, in program order.

    Raises MappingError as `check` does.
    """
    staging = _Staging(plan, arch)
    stages = [staging.stage(place) for place in range(len(plan.program.operations))]
    _check_room(stages, plan, arch)
    return stages


def _check_room(stages: list[Stage], plan: Plan, arch: Arch) -> None:
    """Raise MappingError if an operation does not fit beside what stays meanwhile."""
    memories = arch.levels[1].memories
    capacities = {name: arch.buffer(tensor).capacity for tensor, name in memories.items()}
    kept = {stage.keeps.name: stage.keeps for stage in stages if stage.keeps is not None}
    ends = {name: plan.program.lifetime(name) for name in kept}
    for stage in stages:
        slots = [feed.slot for feed in stage.feeds.values()]
        slots += [stage.output.slot] if stage.output is not None else []
        tiles, stays = dict.fromkeys(capacities, 0), dict.fromkeys(capacities, 0)
        for slot in slots:
            if slot is not None:
                tiles[slot.memory] += slot.bits * slot.tiles
        for name, (first, last) in ends.items():
            replaced = stage.keeps is not None and stage.keeps.in_place == name
            if first <= stage.place <= last and not replaced:
                stays[kept[name].memory] += kept[name].bits
        for memory, capacity in capacities.items():
            if tiles[memory] + stays[memory] > capacity:
                raise MappingError(
                    f"{stage.name}: its tiles take {tiles[memory]} bit of {memory} beside "
                    f"{stays[memory]} bit of activations that stay; allowed: {capacity} bit in "
                    f"all in {arch.name}"
                )


class _Staging:
    """Stages being made: what each operation's output tiles finish is known to those behind it."""

    def __init__(self, plan: Plan, arch: Arch) -> None:
        self._plan, self._arch, self._program = plan, arch, plan.program
        self._completions: dict[int, Completion | None] = {}
        self._tiles: dict[int, int] = {}
        """Finished tiles of each operation."""
        self._kept: set[str] = set()

    def stage(self, place: int) -> Stage:
        operation = self._program.operations[place]
        if operation.unit == "host":
            self._tiles[place] = 1
            waits = tuple(
                wait
                for view in (*operation.reads, *operation.addends)
                for wait in self._waits(view, None, 1)
            )
            nothing: Priced[Turn] = Priced(np.zeros(0, np.int64), ())
            return Stage(place, operation.name, "host", {}, nothing, (), (), None, None, (), waits)
        if operation.unit == "vector":
            return self._vector(place, operation)
        return self._product(place, operation)

    def _product(self, place: int, operation: Operation) -> Stage:
        plan, arch = self._plan, self._arch
        given = operation.layer
        assert given is not None
        formats, layer = plan.formats[operation.name], stored(given, arch)
        nest = check_inside(layer, arch, plan.mappings[operation.name], formats)
        inside: set[Tensor] = {
            tensor
            for tensor, view in zip(_OPERANDS, operation.reads, strict=False)
            if view.activation in plan.resident
        }
        streams = streams_of(nest, arch, formats, inside)
        need, times = footprint(nest, arch, formats), operation.repeats
        names = arch.levels[1].memories
        outputs = output_tiles(nest)
        sink = self._sink(operation, nest)

        whole = times > 1 or layer is not given  # padding that is stored moves the boxes
        feeds: dict[str, Feed] = {}
        for number, tensor in enumerate(_OPERANDS):
            stays = _repeated(streams.stays[tensor], times)
            waits: tuple[Wait, ...] = ()
            if number < len(operation.reads):
                apart = tensor == "I" and not whole
                boxes = input_tiles(nest, arch.dma.halo).resident if apart else None
                waits = self._waits(operation.reads[number], boxes, len(stays))
            bits = need.I if tensor == "I" else need.W
            slot = None
            if tensor not in inside:
                slot = Slot(names[tensor], bits, self._slots(tensor))
            feeds[tensor] = Feed(tensor, stays, slot, waits, np.arange(len(stays)))

        finished = np.tile(outputs.finished, times)
        addends = self._addends(operation, outputs.resident, outputs.finished, feeds)
        work = self._work(operation, outputs.resident, outputs.finished, times)
        stays = _repeated(streams.stays["O"], times)
        room = need.O
        if sink in ("in place", "mean") and not sums_lie_outside(nest, arch):
            stays, room = _weightless(stays), 0
        output = Output(
            "O",
            stays,
            finished,
            sink,
            Slot(names["O"], room, self._slots("O")),
            work,
            addends,
            self._mean(operation),
        )
        self._note(place, operation, outputs.resident, outputs.finished, times, whole)
        turns = Priced(
            np.tile(streams.steps.kinds, times),
            tuple(Turn(step.lasting, step.begins, step.ends) for step in streams.steps.prices),
        )
        return Stage(
            place,
            operation.name,
            "array",
            feeds,
            turns,
            streams.steps.prices,
            streams.flows,
            output,
            self._keeps(operation),
            self._frees(operation),
            loops=(*nest.turns, nest.steps),
        )

    def _vector(self, place: int, operation: Operation) -> Stage:
        plan, arch = self._plan, self._arch
        tiles = vector_tiles(operation, plan.tilings[operation.name], arch, plan.stored)
        names, lanes = arch.levels[1].memories, _lanes(arch)
        feeds: dict[str, Feed] = {}
        begins: list[list[str]] = [[] for _ in range(tiles.steps)]
        ends: list[list[str]] = [[] for _ in range(tiles.steps)]
        for number, operand in enumerate(tiles.operands):
            name, slot = f"V{number}", None
            if operand.view.activation not in plan.resident:
                slot = Slot(names["I"], _largest(operand.stays), self._slots("I"))
            boxes = operand.resident if operand.placed else None
            waits = self._waits(operand.view, boxes, len(operand.stays))
            feeds[name] = Feed("V", operand.stays, slot, waits, operand.begins)
            _mark(begins, operand.begins, name)
            _mark(ends, operand.ends - 1, name)
        results = tiles.results
        _mark(begins, results.begins, "O")
        _mark(ends, results.ends - 1, "O")
        count = len(results.stays)
        stays, sink, room = results.stays, self._written(operation), _largest(results.stays)
        if sink == "in place":
            stays, room = _weightless(stays), 0
        output = Output(
            "V", stays, np.ones(count, bool), sink, Slot(names["O"], room, self._slots("O")),
            np.zeros(count, np.int64),
        )  # fmt: skip
        self._tiles[place] = count
        self._completions[place] = Completion.of(results.resident)
        cycles = (-(-tiles.work // lanes)).tolist()
        every = [
            Turn(*own) for own in zip(cycles, map(tuple, begins), map(tuple, ends), strict=True)
        ]
        prices = {turn: number for number, turn in enumerate(dict.fromkeys(every))}
        turns = Priced(np.array([prices[turn] for turn in every], np.int64), tuple(prices))
        keeps, frees = self._keeps(operation), self._frees(operation)
        return Stage(place, operation.name, "vector", feeds, turns, (), (), output, keeps, frees)

    def _written(self, operation: Operation) -> Sink:
        """Where a vector operation's results go."""
        resident = operation.writes.activation in self._plan.resident
        return "in place" if resident else "off chip"

    def _slots(self, tensor: Tensor) -> int:
        return 2 if self._arch.buffer(tensor).double_buffered else 1

    def _sink(self, operation: Operation, nest: Nest) -> Sink:
        if operation.mean:
            return "mean"
        if operation.writes.activation not in self._plan.resident:
            return "off chip"
        return "beside" if sums_lie_outside(nest, self._arch) else "in place"

    def _mean(self, operation: Operation) -> Stay | None:
        """What a mean takes as it is written: in SRAM (`arrives`), and off chip (`leaves`)."""
        if not operation.mean:
            return None
        view = operation.writes
        fmt = self._plan.stored[view.activation]
        layout = ActivationLayout(view.shape, fmt)
        elements = view.elements * fmt.mantissa_bits
        codes = layout.bits - elements
        burst = self._arch.dram.burst
        made = Moved(elements, codes)
        if view.activation in self._plan.resident:
            return Stay(layout.bits, made, Moved())
        return Stay(layout.bits, made, made._replace(burst=-layout.bits % burst))

    def _addends(
        self, operation: Operation, outputs: Boxes, finished: Mask, feeds: dict[str, Feed]
    ) -> tuple[str, ...]:
        """Add the feeds of what is added to finished tiles of the output; their names."""
        names = []
        own = _some(outputs, finished)
        for number, view in enumerate(operation.addends):
            fmt = self._plan.stored[view.activation]
            layout = ActivationLayout(view.shape, fmt)
            bits = box_transfers(own, layout, fmt, self._arch)
            held = sum(column for column in bits[:2] if column is not None)
            stays = _repeated(stays_from(np.asarray(held), bits), operation.repeats)
            slot = None
            if view.activation not in self._plan.resident:
                memory = self._arch.levels[1].memories["I"]
                slot = Slot(memory, int(np.max(held)), self._slots("I"))
            boxes = own if operation.repeats == 1 else None
            waits = self._waits(view, boxes, len(stays))
            name = f"V{number}"
            feeds[name] = Feed("V", stays, slot, waits, np.arange(len(stays)))
            names.append(name)
        return tuple(names)

    def _work(self, operation: Operation, outputs: Boxes, finished: Mask, times: int) -> Vector:
        """Cycles of the vector unit for each output tile as it drains."""
        lanes = _lanes(self._arch)
        total = self._program.vector_work[operation.name]
        elements = _elements(outputs)
        whole = int(elements[finished].sum()) * times
        each, rest = divmod(total, whole)
        if rest:
            raise RuntimeError(f"{operation.name}: {total} vector operations on {whole} elements")
        cycles: Vector = np.where(finished, -(-elements * each // lanes), 0)
        return np.tile(cycles, times)

    # --- dependence ------------------------------------------------------------------------------

    def _note(
        self, place: int, operation: Operation, boxes: Boxes, finished: Mask, times: int,
        whole: bool,
    ) -> None:  # fmt: skip
        """Remember when the parts of an operation's output are finished."""
        self._tiles[place] = 1 if operation.mean else int(finished.sum()) * times
        apart = operation.mean or times > 1
        self._completions[place] = None if apart else Completion.of(boxes, finished)

    def _waits(self, view: View, boxes: Boxes | None, tiles: int) -> tuple[Wait, ...]:
        """What tiles of a view wait for; without boxes, each for all that writes it."""
        waits = []
        for place in self._program.writers[view.activation]:
            written = self._program.operations[place].writes
            low, high = written.first, written.first + written.shape[3]
            if high <= view.first or low >= view.first + view.shape[3]:
                continue
            completion = self._completions.get(place)
            if completion is None or boxes is None or written.shape[:3] != view.shape[:3]:
                needs = np.full(tiles, self._tiles[place])
            else:
                needs = completion.tiles_before(boxes, view.first - written.first)
            waits.append(Wait(place, needs))
        return tuple(waits)

    # --- what stays ------------------------------------------------------------------------------

    def _keeps(self, operation: Operation) -> Kept | None:
        name = operation.writes.activation
        if name not in self._plan.resident or name in self._kept:
            return None
        self._kept.add(name)
        shape, fmt = self._program.activations[name].shape, self._plan.stored[name]
        bits = ActivationLayout(shape, fmt).bits
        memory = self._arch.levels[1].memories["I"]
        return Kept(name, memory, bits, self._plan.in_place.get(operation.name))

    def _frees(self, operation: Operation) -> tuple[str, ...]:
        views = (*operation.reads, *operation.addends)
        return tuple(
            dict.fromkeys(v.activation for v in views if v.activation in self._plan.resident)
        )


def _lanes(arch: Arch) -> int:
    return 1 if arch.vector is None else arch.vector.lanes


def _largest(stays: Priced[Stay]) -> int:
    return max(stay.held for stay in stays.prices)


def _mark(steps: list[list[str]], at: Vector, name: str) -> None:
    for step in at.tolist():
        steps[step].append(name)


def _repeated(stays: Priced[Stay], times: int) -> Priced[Stay]:
    return stays if times == 1 else Priced(np.tile(stays.kinds, times), stays.prices)


def _weightless(stays: Priced[Stay]) -> Priced[Stay]:
    """Tiles that take no room of their own."""
    return replace(stays, prices=tuple(stay._replace(held=0) for stay in stays.prices))


def _elements(boxes: Boxes) -> Vector:
    lengths = [sum(high - low for low, high in own) for own in boxes.channels.intervals]
    elements: Vector = boxes.pixels * np.array(lengths, np.int64)[boxes.channels.which]
    return elements


def _some(boxes: Boxes, chosen: Mask) -> Boxes:
    """Some of the boxes."""
    if chosen.all():
        return boxes
    n, h, w = (Ranges(own.low[chosen], own.high[chosen]) for own in (boxes.n, boxes.h, boxes.w))
    own = boxes.channels
    channels = Channels(own.groups, own.inner, own.which[chosen], own.per_group)
    return Boxes(n, h, w, channels)
