"""Data on the machine: packed bytes in DRAM, tiles in SRAM, exact integers in the array."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import PEArray
from bfpsim.mapping.boxes import ActivationBox, Interval, Volume, input_cols, input_rows
from bfpsim.mapping.movement import InputFetch, OutputVisit, WeightFetch
from bfpsim.mapping.nest import DIMS, Nest
from bfpsim.mapping.pe_array import Tile
from bfpsim.quant.formats import BFP, Format, LayerFormats
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
        array: PEArray,
        inputs: Quantized,
        weights: Quantized,
        top: int,
    ) -> None:
        layer = nest.layer
        self._layer, self._formats, self._array = layer, formats, array
        self._input_top, self._weight_top, self._output_top = inputs.top, weights.top, top
        self._input_layout = ActivationLayout(layer.input_shape, formats.I)
        self._weight_layout = WeightLayout(layer.weight_shape, formats.W)
        self._output_layout = ActivationLayout(layer.output_shape, formats.O)
        self._input_dram = image(inputs, self._input_layout)
        self._weight_dram = image(weights, self._weight_layout)
        self._output_dram = blank(self._output_layout.bits)
        self._spilled: dict[ActivationBox, ExactArray] = {}
        # Resident tiles by the step of their fetch or visit: one in use, one on its way.
        self._inputs: dict[int, _InputTile] = {}
        self._weights: dict[int, ExactArray] = {}
        self._sums: dict[int, ExactArray | None] = {}
        self._periods = (nest.period("I"), nest.period("W"), nest.period("O"))
        self.accumulator_width = 1
        """Bits, sign included, of the widest exact partial sum so far."""

    def fetch_input(self, fetch: InputFetch) -> Volume:
        """Copy the new part of an I tile; the rest is copied from the tile before."""
        new, box, fmt, layout = fetch.new, fetch.box, self._formats.I, self._input_layout
        at = layout.field_addresses(new.n, new.h, new.w, new.channels)
        fields = interpret(read_fields(self._input_dram, at, fmt.mantissa_bits), fmt)
        codes = np.empty((*fields.shape[:3], 0), np.int64)
        if isinstance(fmt, BFP):
            blocks = _blocks(new.channels, fmt.block_size)
            at = layout.code_addresses(new.n, new.h, new.w, blocks)
            codes = read_fields(self._input_dram, at, fmt.exponent_bits)
        moved = Volume(fields.size * fmt.mantissa_bits, codes.size * fmt.exponent_bits)
        if new != box:
            before = self._inputs[max(self._inputs)]
            fields = _slide(before.box, before.fields, box, new, fields)
            codes = _slide(before.box, before.codes, box, new, codes)
        values = _decode(fields, codes, fmt, self._input_top, indices(box.channels), axis=3)
        _keep(self._inputs, fetch.step, _InputTile(box, fields, codes, from_float(values)))
        return moved

    def fetch_weight(self, fetch: WeightFetch) -> Volume:
        """Copy a W tile."""
        box, fmt, layout = fetch.box, self._formats.W, self._weight_layout
        at = layout.field_addresses(box.filters, box.c)
        fields = interpret(read_fields(self._weight_dram, at, fmt.mantissa_bits), fmt)
        cut, axis = (box.filters, 0) if layout.depthwise else ((box.c,), 1)
        codes = np.empty(0, np.int64)
        if isinstance(fmt, BFP):
            blocks = _blocks(cut, fmt.block_size)
            at = layout.code_addresses(indices(box.filters), blocks)
            codes = read_fields(self._weight_dram, at, fmt.exponent_bits)
        moved = Volume(fields.size * fmt.mantissa_bits, codes.size * fmt.exponent_bits)
        codes = codes.reshape(-1, 1, 1, 1) if layout.depthwise else codes[..., None, None]
        values = _decode(fields, codes, fmt, self._weight_top, indices(cut), axis)
        _keep(self._weights, fetch.step, from_float(values))
        return moved

    def restore(self, visit: OutputVisit) -> int:
        """Bring an O tile's partial sums back, or start it from nothing."""
        sums = self._spilled.pop(visit.box) if visit.resumed else None
        self._sums[visit.begin] = sums
        return 0 if sums is None else sums.digits.size * self._array.accumulator_bits

    def compute(self, step: int, tile: Tile) -> None:
        """Convolve the resident tiles and add to the resident sums."""
        input_step, weight_step, visit = (step - step % period for period in self._periods)
        inputs = self._inputs[input_step]
        operands = Operands(
            inputs.values,
            self._weights[weight_step],
            inputs.box.h[0],
            inputs.box.w[0],
            _block(self._formats.I),
            0 if self._weight_layout.depthwise else _block(self._formats.W),
        )
        before = self._sums[visit]
        if self._array.accumulator == "fp32":
            self._sums[visit] = accumulate_fp32(self._layer, tile, operands, before)
            return
        product = convolve(self._layer, tile, operands)
        sums = product if before is None else before + product
        self.accumulator_width = max(self.accumulator_width, sums.width)
        self._sums[visit] = sums

    def spill(self, visit: OutputVisit) -> int:
        """Send an O tile's partial sums out.

        They move at `accumulator_bits` but keep every bit: `accumulator_width` tells whether the
        hardware's accumulator could have.
        """
        sums = self._take_sums(visit)
        self._spilled[visit.box] = sums
        return sums.digits.size * self._array.accumulator_bits

    def store(self, visit: OutputVisit) -> Volume:
        """Quantise a finished O tile and send it out packed."""
        box, fmt, layout = visit.box, self._formats.O, self._output_layout
        q = quantize_activation(self._take_sums(visit).to_float(), fmt, self._output_top)
        at = layout.field_addresses(box.n, box.h, box.w, box.channels)
        write_fields(self._output_dram, at, fmt.mantissa_bits, q.fields)
        if isinstance(fmt, BFP):
            blocks = _blocks(box.channels, fmt.block_size)
            at = layout.code_addresses(box.n, box.h, box.w, blocks)
            write_fields(self._output_dram, at, fmt.exponent_bits, q.codes)
        return Volume(q.fields.size * fmt.mantissa_bits, q.codes.size * fmt.exponent_bits)

    def output(self) -> Quantized:
        """The layer's result, unpacked from DRAM."""
        layout = self._output_layout
        packed = self._output_dram[: -(-layout.bits // 8)].tobytes()
        block = activation_block(self._formats.O, layout.shape)
        return unpack(packed, layout, self._output_top, block)

    def _take_sums(self, visit: OutputVisit) -> ExactArray:
        sums = self._sums.pop(visit.begin)
        if sums is None:
            raise RuntimeError(f"O tile {visit.box} left before it was computed")
        return sums


def exact_output(layer: ConvLayer, inputs: Quantized, weights: Quantized) -> ExactArray:
    """The layer's exact sums, computed whole; for the calibration of E_top."""
    tile = Tile(*((0, layer.dims[dim]) for dim in DIMS))
    rows, cols = input_rows(layer, tile.P), input_cols(layer, tile.Q)
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
    if not isinstance(fmt, BFP):
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
    return fmt.block_size if isinstance(fmt, BFP) else 0
