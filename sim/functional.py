"""Data on the machine: packed bytes in DRAM, tiles in SRAM, exact integers in the array."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.nest import EVERY_DIM, Nest
from bfpsim.mapping.steps.array import Tile
from bfpsim.mapping.steps.tiles import (
    ActivationBox,
    input_tiles,
    output_tiles,
    unrolled,
    weight_tiles,
)
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.mapping.window import Interval, Window
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.quant.formats.blocks import activation_block
from bfpsim.quant.formats.exact import ExactArray, from_float
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout, indices
from bfpsim.quant.formats.packing import blank, image, interpret, read_fields, unpack, write_fields
from bfpsim.quant.formats.quantize import Quantized, dequantize, quantize_activation, top_exponent
from bfpsim.sim.arithmetic import Operands, accumulate_fp32, convolve
from bfpsim.workloads import ConvLayer

Fields = NDArray[np.int64]
T = TypeVar("T")


class _InputTile(NamedTuple):
    """An I tile in SRAM: fields (n, h, w, channels) and codes (n, h, w, blocks), copied."""

    box: ActivationBox
    fields: Fields
    codes: Fields
    values: ExactArray


class Data:
    """Moves and multiplies a layer's real data; each transfer returns the bits that it copied.

    nest: of the layer as stored in DRAM
    inputs, weights: quantised, (N, H, W, channels) and (filters, C, R, S)
    top: E_top of the output
    """

    def __init__(
        self,
        nest: Nest,
        formats: LayerFormats,
        arch: Arch,
        inputs: Quantized,
        weights: Quantized,
        top: int,
    ) -> None:
        layer = nest.layer
        self._layer, self._formats, self._array = layer, formats, arch.pe_array
        self._input_top, self._weight_top, self._output_top = inputs.top, weights.top, top
        self._input_layout = ActivationLayout(layer.input_shape, formats.I)
        self._weight_layout = WeightLayout(layer.weight_shape, formats.W)
        self._output_layout = ActivationLayout(layer.output_shape, formats.O)
        self._input_dram = image(inputs, self._input_layout)
        self._weight_dram = image(weights, self._weight_layout)
        self._output_dram = blank(self._output_layout.bits)
        self._input_tiles = input_tiles(nest, arch.dma.halo)
        self._weight_tiles = weight_tiles(nest)
        self._output_tiles = output_tiles(nest)
        self._steps = unrolled(nest, len(nest.loops))
        self._spilled: dict[ActivationBox, ExactArray] = {}
        # Resident tiles by their number: one in use, one on its way.
        self._inputs: dict[int, _InputTile] = {}
        self._weights: dict[int, ExactArray] = {}
        self._sums: dict[int, ExactArray | None] = {}
        self.accumulator_width = 1
        """Bits, sign included, of the widest exact partial sum so far."""

    def fetch_input(self, tile: int) -> Moved:
        """Copy the new part of an I tile; the rest is copied from the tile before."""
        new, box = self._input_tiles.fetched.at(tile), self._input_tiles.resident.at(tile)
        fmt, layout = self._formats.I, self._input_layout
        at = layout.field_addresses(new.n, new.h, new.w, new.channels)
        fields = interpret(read_fields(self._input_dram, at, fmt.mantissa_bits), fmt)
        codes = np.empty((*fields.shape[:3], 0), np.int64)
        if fmt.exponent_bits:
            blocks = _blocks(new.channels, fmt.block_size)
            at = layout.code_addresses(new.n, new.h, new.w, blocks)
            codes = read_fields(self._input_dram, at, fmt.exponent_bits)
        moved = Moved(fields.size * fmt.mantissa_bits, codes.size * fmt.exponent_bits)
        if new != box:
            before = self._inputs[tile - 1]
            fields = _slide(before.box, before.fields, box, new, fields)
            codes = _slide(before.box, before.codes, box, new, codes)
        values = _decode(fields, codes, fmt, self._input_top, indices(box.channels), axis=3)
        _keep(self._inputs, tile, _InputTile(box, fields, codes, from_float(values)))
        return moved

    def fetch_weight(self, tile: int) -> Moved:
        """Copy a W tile."""
        box, fmt, layout = self._weight_tiles.at(tile), self._formats.W, self._weight_layout
        at = layout.field_addresses(box.filters, box.c)
        fields = interpret(read_fields(self._weight_dram, at, fmt.mantissa_bits), fmt)
        cut, axis = (box.filters, 0) if layout.depthwise else ((box.c,), 1)
        codes = np.empty(0, np.int64)
        if fmt.exponent_bits:
            blocks = _blocks(cut, fmt.block_size)
            at = layout.code_addresses(indices(box.filters), blocks)
            codes = read_fields(self._weight_dram, at, fmt.exponent_bits)
        moved = Moved(fields.size * fmt.mantissa_bits, codes.size * fmt.exponent_bits)
        codes = codes.reshape(-1, 1, 1, 1) if layout.depthwise else codes[..., None, None]
        values = _decode(fields, codes, fmt, self._weight_top, indices(cut), axis)
        _keep(self._weights, tile, from_float(values))
        return moved

    def restore(self, tile: int) -> Moved:
        """Bring an O tile's partial sums back, or start it from nothing."""
        box, resumed = self._output_tiles.resident.at(tile), self._output_tiles.resumed[tile]
        sums = self._spilled.pop(box) if resumed else None
        self._sums[tile] = sums
        return Moved() if sums is None else self._as_sums(sums)

    def compute(self, step: int) -> None:
        """Convolve the resident tiles and add to the resident sums."""
        number_i, number_w, number_o = (
            int(np.searchsorted(tiles.visits.begins, step, side="right")) - 1
            for tiles in (self._input_tiles, self._weight_tiles, self._output_tiles)
        )
        tile = Tile(*(self._steps[dim].at(step) for dim in EVERY_DIM))
        inputs = self._inputs[number_i]
        operands = Operands(
            inputs.values,
            self._weights[number_w],
            inputs.box.h[0],
            inputs.box.w[0],
            _block(self._formats.I),
            0 if self._weight_layout.depthwise else _block(self._formats.W),
        )
        before = self._sums[number_o]
        if self._array.accumulator == "fp32":
            self._sums[number_o] = accumulate_fp32(self._layer, tile, operands, before)
            return
        product = convolve(self._layer, tile, operands)
        sums = product if before is None else before + product
        self.accumulator_width = max(self.accumulator_width, sums.width)
        self._sums[number_o] = sums

    def drain(self, tile: int) -> Moved:
        """Send an O tile out: packed if it is finished, else its partial sums.

        Sums move at `accumulator_bits` but keep every bit: `accumulator_width` tells whether the
        hardware's accumulator could have.
        """
        fmt, layout = self._formats.O, self._output_layout
        box, sums = self._output_tiles.resident.at(tile), self._sums.pop(tile)
        if sums is None:
            raise RuntimeError(f"O tile {box} left before it was computed")
        if not self._output_tiles.finished[tile]:
            self._spilled[box] = sums
            return self._as_sums(sums)
        q = quantize_activation(sums.to_float(), fmt, self._output_top)
        at = layout.field_addresses(box.n, box.h, box.w, box.channels)
        write_fields(self._output_dram, at, fmt.mantissa_bits, q.fields)
        if fmt.exponent_bits:
            blocks = _blocks(box.channels, fmt.block_size)
            at = layout.code_addresses(box.n, box.h, box.w, blocks)
            write_fields(self._output_dram, at, fmt.exponent_bits, q.codes)
        return Moved(q.fields.size * fmt.mantissa_bits, q.codes.size * fmt.exponent_bits)

    def _as_sums(self, sums: ExactArray) -> Moved:
        return Moved(psum=sums.digits.size * self._array.accumulator_bits)

    def output(self) -> Quantized:
        """The layer's result, unpacked from DRAM."""
        layout = self._output_layout
        packed = self._output_dram[: -(-layout.bits // 8)].tobytes()
        block = activation_block(self._formats.O, layout.shape)
        return unpack(packed, layout, self._output_top, block)


def exact_output(layer: ConvLayer, inputs: Quantized, weights: Quantized) -> ExactArray:
    """The layer's exact sums, computed whole; for the calibration of E_top."""
    extents = layer.dims | {"R": layer.R, "S": layer.S}
    tile = Tile(*((0, extents[dim]) for dim in EVERY_DIM))
    rows, cols = (Window.of(layer, dim).interval((0, layer.dims[dim])) for dim in "PQ")
    values = dequantize(inputs)[:, slice(*rows), slice(*cols)]
    exact_weights = from_float(dequantize(weights))
    operands = Operands(from_float(values), exact_weights, rows[0], cols[0], 0, 0)
    return convolve(layer, tile, operands)


def output_top(layer: ConvLayer, inputs: Quantized, weights: Quantized) -> int:
    """E_top of the layer's output, calibrated from its exact sums."""
    return top_exponent(exact_output(layer, inputs, weights).to_float(), f"{layer.name} output")


def _keep(tiles: dict[int, T], step: int, tile: T) -> None:
    tiles[step] = tile
    if len(tiles) > 2:
        del tiles[min(tiles)]


def _slide(
    resident: ActivationBox, old: Fields, box: ActivationBox, new: ActivationBox, fresh: Fields
) -> Fields:
    """The tile of `box`: rows or columns that were resident, then the fresh ones."""
    if new.h != box.h:
        axis, (low, high), start = 1, box.h, resident.h[0]
    else:
        axis, (low, high), start = 2, box.w, resident.w[0]
    kept = range(low - start, high - start - fresh.shape[axis])
    return np.concatenate([np.take(old, kept, axis=axis), fresh], axis=axis)


def _decode(
    fields: Fields, codes: Fields, fmt: Format, top: int, cells: Fields, axis: int
) -> NDArray[np.float64]:
    """Values of a tile; `cells` are the channels (or filters) along `axis` that blocks cut."""
    if not fmt.exponent_bits:
        return dequantize(Quantized(fields, codes, top, fmt, fields.shape))
    block_of_cell = cells // fmt.block_size
    position = np.searchsorted(np.unique(block_of_cell), block_of_cell)
    exponent = top - np.take(codes, position, axis=axis) - (fmt.mantissa_bits - 2)
    values: NDArray[np.float64] = np.ldexp(fields.astype(np.float64), exponent)
    return values


def _blocks(intervals: Sequence[Interval], size: int) -> Fields:
    """Indices of the blocks touched, ascending."""
    return np.unique(indices(intervals) // size)


def _block(fmt: Format) -> int:
    return fmt.block_size if fmt.exponent_bits else 0
