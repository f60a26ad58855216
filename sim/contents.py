"""What a program's memories hold: activations packed, of which parts are written, one by one.

Tiles are copied out of them and into them as the machine moves tiles. Reading what is not there yet
is a defect of the model, so it raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.counts import Counts, Flow
from bfpsim.mapping.fit import check_inside, stored
from bfpsim.mapping.nest import TENSORS, Tensor
from bfpsim.mapping.steps.tiles import ActivationBox, OutputTiles, output_tiles, visits_of
from bfpsim.mapping.steps.vector import vector_tiles
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.mapping.window import Interval
from bfpsim.quant.formats import ActivationLayout, Format, FormatError, WeightLayout
from bfpsim.quant.formats.layout import indices
from bfpsim.quant.formats.packing import blank
from bfpsim.quant.formats.quantize import quantize_weight
from bfpsim.sim.copies import (
    FilterBox,
    InputCopy,
    PackedWeight,
    WeightCopy,
    read_box,
    write_box,
)
from bfpsim.sim.functional import Data
from bfpsim.sim.outputs import Forms, Part, Raw, RawForms, Result, pieces, values_of
from bfpsim.sim.staging import Plan
from bfpsim.workloads import ConvLayer, LayerWeights, Node
from bfpsim.workloads.program import Activation, Operation, View

Values = NDArray[np.float64]
Evaluate = Callable[[Node, Sequence[Values]], Values]
"""The output of a node that is no product, of its inputs' values (N, H, W, channels)."""


class Store:
    """An activation as it is stored: packed, and which of its elements were written."""

    def __init__(self, activation: Activation, fmt: Format, top: int) -> None:
        self.activation, self.fmt, self.top = activation, fmt, top
        layout = ActivationLayout(activation.shape, fmt)
        self._memory = blank(layout.bits)
        self._written = np.zeros(activation.shape, bool)

    def part(self, box: ActivationBox, shape: tuple[int, int, int]) -> InputCopy:
        """A copy of a box; `shape`: of its pixels, in the same order as the activation's."""
        if not self._marks(box, shape).all():
            raise RuntimeError(f"{self.activation.name} is read in {box} before it is written")
        return self._copy(box, shape)

    def _copy(self, box: ActivationBox, shape: tuple[int, int, int]) -> InputCopy:
        fields, codes = read_box(self._memory, self._layout(shape), self.fmt, box)
        return InputCopy(box, fields, codes, self.fmt, self.top)

    def write(self, box: ActivationBox, result: Result, shape: tuple[int, int, int]) -> None:
        """Write a box of results that ends on blocks."""
        write_box(self._memory, self._layout(shape), self.fmt, box, *result)
        self._mark(box, shape, True)

    def forget(self, box: ActivationBox, shape: tuple[int, int, int]) -> None:
        """Something else was written over a box."""
        self._mark(box, shape, False)

    def values(self, view: View) -> Values:
        """All values of a view, those that are not there as NaN."""
        N, H, W, C = view.shape
        box = ActivationBox((0, N), (0, H), (0, W), ((view.first, view.first + C),))
        there = self._marks(box, view.shape[:3])
        return np.where(there, self._copy(box, view.shape[:3]).values(box).to_float(), np.nan)

    def last_values(self) -> Values:
        """All that was written, also what something else was written over since then."""
        box = _all_of(self.activation.shape)
        return self._copy(box, self.activation.shape[:3]).values(box).to_float()

    @property
    def complete(self) -> bool:
        """Whether all of it is written."""
        return bool(self._written.all())

    def _layout(self, shape: tuple[int, int, int]) -> ActivationLayout:
        return ActivationLayout((*shape, self.activation.shape[3]), self.fmt)

    def _marks(self, box: ActivationBox, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        marks = self._written.reshape(*shape, -1)
        pixels = marks[slice(*box.n), slice(*box.h), slice(*box.w)]
        own: NDArray[np.bool_] = pixels[..., indices(box.channels)]
        return own

    def _mark(self, box: ActivationBox, shape: tuple[int, int, int], written: bool) -> None:
        marks = self._written.reshape(*shape, -1)
        pixels = marks[slice(*box.n), slice(*box.h), slice(*box.w)]
        pixels[..., indices(box.channels)] = written


class Window:
    """A view of a store, or one head of one sample of it, under the coordinates of its reader.

    image, first: the sample and the channel of the store that its own 0 are
    """

    level = "DRAM"

    def __init__(self, store: Store, view: View, image: int = 0, first: int = 0) -> None:
        self.store, self._shape = store, view.shape[:3]
        self._image, self._first = image, view.first + first

    def part(self, box: ActivationBox) -> InputCopy:
        """A copy of a box."""
        copy = self.store.part(self._placed(box), self._shape)
        return InputCopy(box, copy.fields, copy.codes, copy.fmt, copy.top)

    def write(self, box: ActivationBox, values: Values) -> Moved:
        """Quantise values and write them; the bits written."""
        store = self.store
        forms = Forms(store.fmt, store.top, 0)
        result = forms.quantized(values)
        store.write(self._placed(box), result, self._shape)
        return forms.moved(box, result)

    def forget(self, box: ActivationBox) -> None:
        """Something else was written over a box."""
        self.store.forget(self._placed(box), self._shape)

    def values(self, box: ActivationBox) -> Values:
        """The values in a box."""
        return self.part(box).values(box).to_float()

    def _placed(self, box: ActivationBox) -> ActivationBox:
        def moved(range_: Interval, by: int) -> Interval:
            return range_[0] + by, range_[1] + by

        channels = tuple(moved(own, self._first) for own in box.channels)
        return ActivationBox(moved(box.n, self._image), box.h, box.w, channels)


class _Padded:
    """A product's I with the zeros around it that `padding: fetch` brings."""

    level = "DRAM"

    def __init__(self, inside: Window, layer: ConvLayer) -> None:
        self._inside, self._layer = inside, layer

    def part(self, box: ActivationBox) -> InputCopy:
        """A copy of a box of the padded tensor."""
        layer = self._layer
        h, rows = _overlap(box.h, layer.paddings[0], layer.height)
        w, columns = _overlap(box.w, layer.paddings[2], layer.width)
        copy = self._inside.part(ActivationBox(box.n, h, w, box.channels))
        around = ((0, 0), rows, columns, (0, 0))
        codes = np.pad(copy.codes, around, constant_values=copy.fmt.zero_code)
        return replace(copy, box=box, fields=np.pad(copy.fields, around), codes=codes)


def _overlap(padded: Interval, before: int, size: int) -> tuple[Interval, Interval]:
    """What a range with so much padding before it covers of an axis, and its padding at each end.

    size: of the axis
    """
    low, high = (min(max(edge - before, 0), size) for edge in padded)
    length = padded[1] - padded[0]
    first = min(length, max(0, before - padded[0]))
    return (low, high), (first, length - first - (high - low))


class Moving(Protocol):
    """The data of one stage: each transfer returns the bits that it copied."""

    inside: Counts
    """Bits that moved so far between SRAM, the levels inside and the array."""

    def fetch(self, name: str, tile: int) -> Moved:
        """Copy a tile of a feed into SRAM."""

    def restore(self, tile: int) -> Moved:
        """Bring an output tile's sums back into SRAM, or start it from nothing."""

    def compute(self, step: int) -> None:
        """Take one tile step."""

    def drain(self, tile: int) -> Moved:
        """Send an output tile out of its slot; finished, the vector unit has it on its way."""

    def close(self) -> Moved:
        """Write what was summed up over the whole output, if anything was."""

    def copies(self, flow: Flow) -> bool:
        """Whether the bits of a flow on chip are copied here."""


class Contents:
    """All activations of a program, and the data of its operations.

    values: of what the network reads: its inputs, and constants, by activation
    weights: of layers
    tops: E_top of every activation
    evaluate: computes every node that is no product

    Raises FormatError where a product reads an activation in another format than it is stored in.
    """

    def __init__(
        self,
        plan: Plan,
        arch: Arch,
        weights: Mapping[str, LayerWeights],
        values: Mapping[str, Values],
        tops: Mapping[str, int],
        evaluate: Evaluate,
    ) -> None:
        self.plan, self.arch, self._evaluate = plan, arch, evaluate
        self.weights = weights
        self.stores: dict[str, Store] = {}
        for name, activation in plan.program.activations.items():
            store = Store(activation, plan.stored[name], tops[name])
            self.stores[name] = store
            if name in values:
                whole = View(name, activation.shape)
                Window(store, whole).write(_all_of(activation.shape), values[name])
        self._check_formats()

    def output(self, name: str) -> Values:
        """The values of an activation as it was written last (N, H, W, channels)."""
        return self.stores[name].last_values()

    def of(self, place: int) -> Moving:
        """The data of the operation at a place."""
        operation = self.plan.program.operations[place]
        if operation.unit == "array":
            return _Product(self, operation)
        return _Tiled(self, operation) if operation.unit == "vector" else _Host(self, operation)

    def addends(self, operation: Operation, image: int, first: int) -> list[Window]:
        """What is added to an output, in the coordinates of one of its repeats."""
        return [
            Window(self.stores[view.activation], view, image, first) for view in operation.addends
        ]

    def finished(self, operation: Operation, values: Values, addends: Sequence[Values]) -> Values:
        """What the vector unit makes of a box of a product, or of all of another operation."""
        core = operation.nodes[0]
        known = {core.name: values}
        left = iter(addends)
        for node in operation.nodes[1:]:
            if operation.mean and node is operation.nodes[-1]:
                break
            operands = [known[name] if name in known else next(left) for name in node.inputs]
            if node.function == "add_parameter":
                operands.append(next(left))
            values = known[node.name] = self.compute(node, operands)
        return values

    def compute(self, node: Node, operands: Sequence[Values]) -> Values:
        """A node's output; a learned parameter that is added is its last operand."""
        if node.function == "add_parameter":
            return operands[0] + operands[1]
        # In one order in memory, so that sums and powers do not depend on tiles.
        return self._evaluate(node, [np.ascontiguousarray(own) for own in operands])

    def _check_formats(self) -> None:
        for operation in self.plan.program.operations:
            if operation.layer is None:
                continue
            formats, view = self.plan.formats[operation.name], operation.reads[0]
            kept = self.plan.stored[view.activation]
            if kept != formats.I:
                raise FormatError(
                    f"{operation.name} reads {view.activation} as {formats.I}, which is stored as "
                    f"{kept}; allowed: one format for all that write and read an activation"
                )
            together = view.shape[0] != operation.repeats and operation.nodes[0].op == "matmul"
            if together and kept.exponent_bits and operation.layer.C % kept.block_size:
                raise FormatError(
                    f"{operation.name}: heads of {operation.layer.C} channels cut blocks of "
                    f"{kept.block_size} ({kept}); allowed: blocks that divide them"
                )


class _Product:
    """The data of a product: a run of its own for each repeat."""

    def __init__(self, contents: Contents, operation: Operation) -> None:
        self._contents, self._operation = contents, operation
        layer = operation.layer
        assert layer is not None
        arch, plan = contents.arch, contents.plan
        self._formats = plan.formats[operation.name]
        self._nest = check_inside(
            stored(layer, arch), arch, plan.mappings[operation.name], self._formats
        )
        self._outputs: OutputTiles = output_tiles(self._nest)
        self._layer = layer
        self._lengths = {tensor: len(visits_of(self._nest, tensor)) for tensor in TENSORS}
        self._runs: dict[int, tuple[Data, _Outlet]] = {}
        self._fetched: dict[str, deque[Values]] = {}
        self._resident = {
            f"V{number}": view.activation in plan.resident
            for number, view in enumerate(operation.addends)
        }
        self._map: Values | None = None
        if operation.mean:
            shape = layer.output_shape
            self._map = np.full(shape, np.nan)
        self.inside = Counts()

    def fetch(self, name: str, tile: int) -> Moved:
        if name == "I":
            run, local = self._run("I", tile)
            return run.fetch_input(local)
        if name == "W":
            run, local = self._run("W", tile)
            return run.fetch_weight(local)
        finished = np.flatnonzero(self._outputs.finished)
        repeat, local = divmod(tile, len(finished))
        box = self._outputs.resident.at(int(finished[local]))
        copy = self._addends(repeat)[int(name[1:])].part(box)
        self._fetched.setdefault(name, deque()).append(copy.values(box).to_float())
        return copy.moved

    def restore(self, tile: int) -> Moved:
        run, local = self._run("O", tile)
        return run.restore(local)

    def compute(self, step: int) -> None:
        run, local = self._run("steps", step)
        run.compute(local)

    def drain(self, tile: int) -> Moved:
        repeat, local = divmod(tile, self._length("O"))
        run, outlet = self._runs[repeat]
        if self._outputs.finished[local]:
            box = self._outputs.resident.at(local)
            outlet.addends = [
                window.values(box) if self._resident[name] else self._fetched[name].popleft()
                for name, window in zip(self._resident, self._addends(repeat), strict=True)
            ]
        moved = run.drain(local)
        if local == self._length("O") - 1:
            self.inside.merge(run.inside)
            if repeat:
                del self._runs[repeat - 1]
        return moved

    def close(self) -> Moved:
        operation = self._operation
        if self._map is None:
            return Moved()
        mean = self._contents.compute(operation.nodes[-1], [self._map])
        view = operation.writes
        return Window(self._contents.stores[view.activation], view).write(_all_of(view.shape), mean)

    def copies(self, flow: Flow) -> bool:
        run, _ = next(iter(self._runs.values()))
        return run.copies(flow)

    def finish(self, box: ActivationBox, values: Values, outlet: _Outlet) -> None:
        """Take a finished box through the vector unit to where it is stored."""
        operation, contents = self._operation, self._contents
        own = contents.weights.get(operation.name)
        if own is not None and operation.nodes[0].op != "matmul":
            values = values + own.bias[indices(box.channels)]
        values = contents.finished(operation, values, outlet.addends)
        if self._map is not None:
            n, h, w = (slice(*edge) for edge in (box.n, box.h, box.w))
            part = self._map[n, h, w]
            part[..., indices(box.channels)] = values
            return
        in_place = contents.plan.in_place.get(operation.name)
        for view, window in zip(operation.addends, self._addends(outlet.repeat), strict=True):
            if view.activation == in_place:
                window.forget(box)
        outlet.window.write(box, values)

    def _length(self, name: Tensor | Literal["steps"]) -> int:
        if name == "steps":
            return self._nest.steps
        return self._lengths[name]

    def _run(self, name: Tensor | Literal["steps"], number: int) -> tuple[Data, int]:
        repeat, local = divmod(number, self._length(name))
        return self._start(repeat)[0], local

    def _start(self, repeat: int) -> tuple[Data, _Outlet]:
        if repeat not in self._runs:
            self._runs[repeat] = self._make(repeat)
        return self._runs[repeat]

    def _window(self, view: View, repeat: int, channels: int) -> Window:
        """What a repeat has of a view: one sample, or so many channels of it for each head."""
        store, times = self._contents.stores[view.activation], self._operation.repeats
        if self._operation.nodes[0].op != "matmul":
            return Window(store, view)
        image, head = divmod(repeat, times // view.shape[0])
        return Window(store, view, image, head * channels)

    def _addends(self, repeat: int) -> list[Window]:
        views = self._operation.addends
        return [self._window(view, repeat, self._layer.K) for view in views]

    def _make(self, repeat: int) -> tuple[Data, _Outlet]:
        contents, operation, layer = self._contents, self._operation, self._layer
        formats = self._formats
        window = self._window(operation.reads[0], repeat, layer.C)
        padded = self._nest.layer.input_shape != layer.input_shape
        inputs = _Padded(window, layer) if padded else window
        forms = RawForms(formats.O, 0, contents.arch.pe_array.accumulator_bits)
        window = self._window(operation.writes, repeat, layer.K)
        outlet = _Outlet(self, forms, window, repeat)
        data = Data(
            self._nest,
            formats,
            contents.arch,
            inputs,
            _Filters(lambda: self._filters(repeat)),
            outlet,
            forms,
        )
        return data, outlet

    def _filters(self, repeat: int) -> PackedWeight:
        """W of a repeat, packed: weights, or the second operand once all of it is written."""
        contents, operation, fmt = self._contents, self._operation, self._formats.W
        if len(operation.reads) > 1:
            store = contents.stores[operation.reads[1].activation]
            filters = _second_operand(store, operation, repeat)
        else:
            filters = np.asarray(contents.weights[operation.name].weight, np.float64)
        weights = quantize_weight(filters, fmt, None, f"{operation.name} weight")
        return PackedWeight(weights, WeightLayout(self._layer.weight_shape, fmt))


class _Filters:
    """W outside SRAM, packed as its first tile is asked for."""

    level = "DRAM"

    def __init__(self, pack: Callable[[], PackedWeight]) -> None:
        self._pack = pack
        self._packed: PackedWeight | None = None

    def part(self, box: FilterBox) -> WeightCopy:
        """A copy of a box."""
        self._packed = self._packed or self._pack()
        return self._packed.part(box)


class _Outlet:
    """Where a product's tiles leave SRAM: unfinished sums for later, the others to be finished."""

    level = "DRAM"

    def __init__(self, product: _Product, forms: RawForms, window: Window, repeat: int) -> None:
        self._product, self._forms, self.window, self.repeat = product, forms, window, repeat
        self._sums: dict[ActivationBox, Part] = {}
        self.addends: list[Values] = []

    def give(self, box: ActivationBox) -> Part:
        """Hand the sums of a box back."""
        return self._sums.pop(box)

    def take(self, box: ActivationBox, part: Part) -> None:
        """Keep sums; finish what is whole."""
        if all(isinstance(piece, Raw) for _, piece in pieces(box, part)):
            self._product.finish(box, values_of(box, part), self)
        else:
            self._sums[box] = part


class _Whole:
    """What an operation of the vector unit or of the host makes of all that is there."""

    def __init__(self, contents: Contents, operation: Operation) -> None:
        self._contents, self._operation = contents, operation
        self._views = (*operation.reads, *operation.addends)
        self._stores = [contents.stores[view.activation] for view in self._views]
        self._known: Values | None = None

    def values(self) -> Values:
        """The output, NaN where it depends on what is not written yet."""
        if self._known is not None:
            return self._known
        complete = all(store.complete for store in self._stores)
        contents, operation = self._contents, self._operation
        operands = [store.values(v) for store, v in zip(self._stores, self._views, strict=True)]
        core, count = operation.nodes[0], len(operation.reads)
        with np.errstate(invalid="ignore"):
            values = contents.compute(core, operands[:count])
            values = contents.finished(operation, values, operands[count:])
        if complete:
            self._known = values
        return values

    def cut(self, box: ActivationBox) -> Values:
        """A box of the output."""
        n, h, w = (slice(*edge) for edge in (box.n, box.h, box.w))
        values: Values = self.values()[n, h, w][..., indices(box.channels)]
        if np.isnan(values).any():
            raise RuntimeError(f"{self._operation.name} makes {box} before all of it is there")
        return values

    def write(self, box: ActivationBox, values: Values) -> Moved:
        """Store a box of the output; in place, what lay there is gone."""
        contents, view = self._contents, self._operation.writes
        in_place = contents.plan.in_place.get(self._operation.name)
        for store, own in zip(self._stores, self._views, strict=True):
            if own.activation == in_place:
                Window(store, own).forget(box)
        return Window(contents.stores[view.activation], view).write(box, values)


class _Tiled:
    """The data of an operation of the vector unit."""

    def __init__(self, contents: Contents, operation: Operation) -> None:
        plan = contents.plan
        self._whole = _Whole(contents, operation)
        self._tiles = vector_tiles(
            operation, plan.tilings[operation.name], contents.arch, plan.stored
        )
        self._windows = [
            Window(contents.stores[own.view.activation], own.view) for own in self._tiles.operands
        ]
        self._made: deque[Values] = deque()
        self.inside = Counts()

    def fetch(self, name: str, tile: int) -> Moved:
        place = int(name[1:])
        box = self._tiles.operands[place].fetched.at(tile)
        return self._windows[place].part(box).moved

    def restore(self, tile: int) -> Moved:
        return Moved()

    def compute(self, step: int) -> None:
        results = self._tiles.results
        tile = int(np.searchsorted(results.ends, step + 1))
        if tile < len(results.ends) and results.ends[tile] == step + 1:
            self._made.append(self._whole.cut(results.resident.at(tile)))

    def drain(self, tile: int) -> Moved:
        return self._whole.write(self._tiles.results.resident.at(tile), self._made.popleft())

    def close(self) -> Moved:
        return Moved()

    def copies(self, flow: Flow) -> bool:
        return False


class _Host:
    """The data of an operation of the host, which has all of it at once."""

    def __init__(self, contents: Contents, operation: Operation) -> None:
        self._whole, self._shape = _Whole(contents, operation), operation.writes.shape
        self.inside = Counts()

    def fetch(self, name: str, tile: int) -> Moved:
        return Moved()

    def restore(self, tile: int) -> Moved:
        return Moved()

    def compute(self, step: int) -> None:
        box = _all_of(self._shape)
        self._whole.write(box, self._whole.cut(box))

    def drain(self, tile: int) -> Moved:
        return Moved()

    def close(self) -> Moved:
        return Moved()

    def copies(self, flow: Flow) -> bool:
        return False


def _second_operand(store: Store, operation: Operation, repeat: int) -> Values:
    """The second operand of a repeat of a product of activations, as (K, C, 1, 1)."""
    layer, view = operation.layer, operation.reads[1]
    assert layer is not None
    values = store.values(view)
    if np.isnan(values).any():
        raise RuntimeError(f"{operation.name} multiplies by what is not written yet")
    heads = operation.repeats // len(values)
    image, head = divmod(repeat, heads)
    tokens = values.shape[1] * values.shape[2]
    right = values[image].reshape(tokens, heads, -1)[:, head]
    if tokens == layer.C:  # as values, not as keys: turned round
        right = right.T
    filters: Values = right.reshape(layer.K, layer.C, 1, 1)
    return filters


def _all_of(shape: tuple[int, int, int, int]) -> ActivationBox:
    N, H, W, C = shape
    return ActivationBox((0, N), (0, H), (0, W), ((0, C),))
