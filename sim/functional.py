"""Data on the machine: packed bytes in DRAM, tiles at every level, exact integers in the array."""

from __future__ import annotations

import numpy as np

from bfpsim.arch import Arch, Traffic
from bfpsim.mapping.array import reduction_folds
from bfpsim.mapping.counts import KINDS, Counts, Direction, Flow
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, TENSORS, Nest, Tensor
from bfpsim.mapping.registers import on_lanes
from bfpsim.mapping.steps.array import Tile
from bfpsim.mapping.steps.tiles import (
    ActivationBox,
    Vector,
    input_tiles,
    output_tiles,
    unrolled,
    weight_tiles,
)
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.mapping.window import Interval, Window
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import Quantized, top_exponent
from bfpsim.sim.arithmetic import Operands, accumulate_fp32, convolve
from bfpsim.sim.copies import FilterBox, InputCopy, Source, WeightCopy, exactly
from bfpsim.sim.outputs import Forms, Part, Sink
from bfpsim.sim.residents import Inputs, Outputs, Weights, filter_box
from bfpsim.workloads import ConvLayer

_Tiles = tuple[Inputs | Weights | Outputs, ...]


class Data:
    """Moves and multiplies a layer's real data; each transfer returns the bits that it copied.

    nest: of the layer as stored in DRAM
    inputs, weights: what tiles of I and W are copied from, outside SRAM
    outputs: where results and sums go that leave SRAM
    forms: what O moves as
    """

    def __init__(
        self,
        nest: Nest,
        formats: LayerFormats,
        arch: Arch,
        inputs: Source[ActivationBox, InputCopy],
        weights: Source[FilterBox, WeightCopy],
        outputs: Sink,
        forms: Forms,
    ) -> None:
        self._layer, self._pe_array, self._formats = nest.layer, arch.pe_array, formats
        self._forms = forms
        self._levels: dict[Traffic, list[str]] = {
            tensor: [level.name for level in arch.levels[1:] if level.holds(tensor)]
            for tensor in TENSORS
        }
        self._inputs: list[Inputs] = []
        self._weights: list[Weights] = []
        self._outputs: list[Outputs] = []
        for level, own in zip(arch.levels[1:], (nest, *nest.inner), strict=True):
            name, starts = level.name, _starts(nest.innermost, own)
            if level.holds("I"):
                outer_i = self._inputs[-1] if self._inputs else inputs
                apart = on_lanes(arch.pe_array) if level is arch.registers else ()
                tiles_i = input_tiles(own, arch.dma.halo, apart)
                self._inputs.append(Inputs(name, tiles_i, starts, outer_i))
            if level.holds("W"):
                outer_w = self._weights[-1] if self._weights else weights
                self._weights.append(Weights(name, weight_tiles(own), starts, outer_w))
            if level.holds("O"):
                outer_o = self._outputs[-1] if self._outputs else outputs
                sums = level is arch.accumulators
                tiles_o = output_tiles(own)
                self._outputs.append(Outputs(name, tiles_o, starts, outer_o, self._forms, sums))
        self._by_dma: _Tiles = (self._inputs[0], self._weights[0], self._outputs[0])
        self._inner: _Tiles = (*self._inputs[1:], *self._weights[1:], *self._outputs[1:])
        self._first = _starts(nest.innermost, nest).tolist()
        self._in_pes = None if arch.registers is None else arch.registers.name
        self._makes_results = arch.accumulators is None
        self._array = _ArrayTiles(nest.innermost, arch)
        self.accumulator_width = 1
        """Bits, sign included, of the widest exact partial sum so far."""
        self.inside = Counts()
        """Bits that moved so far between SRAM, the levels inside and the array, of flows that are
        copied."""

    def fetch_input(self, tile: int) -> Moved:
        """Copy the new part of an I tile into SRAM; the rest is copied from the tile before."""
        return self._inputs[0].fetch(tile)

    def fetch_weight(self, tile: int) -> Moved:
        """Copy a W tile into SRAM."""
        return self._weights[0].fetch(tile)

    def restore(self, tile: int) -> Moved:
        """Bring an O tile's partial sums back into SRAM, or start it from nothing."""
        return self._outputs[0].fetch(tile)

    def compute(self, step: int) -> None:
        """Take the innermost tiles of a step one after the other: bring, multiply, send out.

        Sums move at `accumulator_bits` but keep every bit: `accumulator_width` tells whether the
        hardware's accumulator could have.
        """
        for tile in range(self._first[step], self._first[step + 1]):
            for own in self._by_dma:
                own.use(tile)
            for own in self._inner:
                if own.use(tile):
                    moved = own.fetch(own.used)
                    self._count(own.outside.level, own.tensor, "read", moved)
                    self._count(own.level, own.tensor, "write", moved)
            self._multiply(tile)
            for sums in reversed(self._outputs[1:]):
                if sums.last_use(tile):
                    read, written = sums.evict(sums.used)
                    self._count(sums.level, "O", "read", read)
                    self._count(sums.outside.level, "O", "write", written)

    def drain(self, tile: int) -> Moved:
        """Send an O tile out of SRAM: its results, packed, or its partial sums."""
        _, written = self._outputs[0].evict(tile)
        return written

    def copies(self, flow: Flow) -> bool:
        """Whether the bits of a flow on chip are copied here. What the array reads of I and W is
        not: it reads an element as often as its dataflow demands. Neither is what each PE has in
        its registers: they are one memory here."""
        if flow.level == self._in_pes:
            return False
        levels = self._levels[flow.tensor]
        read_by_array = flow.tensor != "O" and flow.direction == "read"
        return flow.level in (levels[:-1] if read_by_array else levels)

    def _multiply(self, tile: int) -> None:
        """Convolve what the array reads, and add to the sums where they lie."""
        array, formats = self._pe_array, self._formats
        inputs, weights, holder = self._inputs[-1], self._weights[-1], self._outputs[-1]
        ranges = self._array.ranges(tile)
        seen, filters, box = self._array.boxes(tile)
        operands = Operands(
            inputs.tile.values(seen),
            weights.tile.values(filters),
            seen.h[0],
            seen.w[0],
            _block(formats.I),
            0 if weights.tile.depthwise else _block(formats.W),
        )
        before = holder.tile.get(box)
        if before is not None and not isinstance(before, ExactArray):
            raise RuntimeError(
                f"{holder.level} holds no sums of {box}, which the array goes on with"
            )
        if array.accumulator == "fp32":
            sums = accumulate_fp32(self._layer, ranges, operands, before)
        else:
            product = convolve(self._layer, ranges, operands)
            sums = product if before is None else before + product
            self.accumulator_width = max(self.accumulator_width, sums.width)
        # Between its folds sums leave the array and come back.
        folds = self._array.folds(ranges)
        each = sums.digits.size * array.accumulator_bits
        self._count(holder.level, "O", "read", Moved(psum=(folds - (before is None)) * each))
        part: Part = sums
        if self._makes_results and self._array.finishes(ranges):
            part = self._forms.result(box, sums)
            folds -= 1
            self._count(holder.level, "O", "write", self._forms.moved(box, part))
        self._count(holder.level, "O", "write", Moved(psum=folds * each))
        holder.take(box, part)

    def _count(self, level: str, tensor: Tensor, direction: Direction, moved: Moved) -> None:
        if level == self._in_pes:
            return
        for kind, bits in zip(KINDS, moved, strict=True):
            self.inside.add(level, tensor, direction, kind, bits)


class _ArrayTiles:
    """The tiles that the array takes: their ranges, and what they read and make."""

    def __init__(self, nest: Nest, arch: Arch) -> None:
        self._extents, self._pe_array = nest.extents, arch.pe_array
        self._folds: dict[tuple[Interval, Interval, Interval], int] = {}
        self._ranges = unrolled(nest, len(nest.loops))
        self._inputs = input_tiles(nest, arch.dma.halo)
        self._weights, self._outputs = weight_tiles(nest), output_tiles(nest)
        self._numbers = [
            np.searchsorted(tiles.visits.begins, np.arange(nest.steps), side="right") - 1
            for tiles in (self._inputs, self._weights, self._outputs)
        ]

    def ranges(self, tile: int) -> Tile:
        """Of every dimension."""
        return Tile(*(self._ranges[dim].at(tile) for dim in EVERY_DIM))

    def boxes(self, tile: int) -> tuple[ActivationBox, FilterBox, ActivationBox]:
        """Of I, W and O."""
        i, w, o = (int(own[tile]) for own in self._numbers)
        inputs, outputs = self._inputs.resident.at(i), self._outputs.resident.at(o)
        return inputs, filter_box(self._weights, w), outputs

    def folds(self, ranges: Tile) -> int:
        """Contributions to each output of a tile that leave the array apart from each other."""
        reduced = ranges.C, ranges.R, ranges.S
        if reduced not in self._folds:
            self._folds[reduced] = reduction_folds(self._pe_array, ranges.sizes, self._extents)
        return self._folds[reduced]

    def finishes(self, ranges: Tile) -> bool:
        """Whether the reduction of a tile's outputs ends with it."""
        return all(getattr(ranges, dim)[1] == self._extents[dim] for dim in REDUCTION)


def _starts(innermost: Nest, nest: Nest) -> Vector:
    """The innermost tile at which each step of a nest outside begins, and their end."""
    return np.append(unrolled(innermost, len(nest.loops)).begins, innermost.steps)


def exact_output(layer: ConvLayer, inputs: Quantized, weights: Quantized) -> ExactArray:
    """The layer's exact sums, computed whole; for the calibration of E_top."""
    extents = layer.dims | {"R": layer.R, "S": layer.S}
    tile = Tile(*((0, extents[dim]) for dim in EVERY_DIM))
    rows, cols = (Window.of(layer, dim).interval((0, layer.dims[dim])) for dim in "PQ")
    values = exactly(inputs)
    seen = values.with_digits(values.digits[:, slice(*rows), slice(*cols)])
    operands = Operands(seen, exactly(weights), rows[0], cols[0], 0, 0)
    return convolve(layer, tile, operands)


def output_top(layer: ConvLayer, inputs: Quantized, weights: Quantized) -> int:
    """E_top of the layer's output, calibrated from its exact sums."""
    return top_exponent(exact_output(layer, inputs, weights).to_float(), f"{layer.name} output")


def _block(fmt: Format) -> int:
    return fmt.block_size if fmt.exponent_bits else 0
