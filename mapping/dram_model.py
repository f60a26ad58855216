"""Analytical DRAM traffic, from the paper's model to the movement rules, effect by effect."""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from fractions import Fraction
from math import prod

from bfpsim.arch import Arch
from bfpsim.mapping.boxes import Interval, channel_intervals, input_cols, input_rows
from bfpsim.mapping.bursts import input_padding, result_padding, sums_padding, weight_padding
from bfpsim.mapping.counts import Counts, Kind
from bfpsim.mapping.nest import RELEVANT, Nest, Tensor
from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer


class Effect(Enum):
    """A rung: one thing that happens and that the paper's model leaves out. In ladder order."""

    EDGES = "edges"
    """Whole trips and edge tiles: the last tile of a dimension is cut to what is left."""
    PADDING = "padding"
    """Padding is not stored, so it is not fetched."""
    HALO = "halo"
    """Exactly the overlap that rule 3 keeps: none without sliding, and no rows between strides."""
    PARTIAL_SUMS = "partial_sums"
    """Unfinished outputs move at `accumulator_bits`, and are read back."""
    BLOCKS = "cut_blocks"
    """Exponents of short and cut blocks, not SE / BS per element."""
    BURSTS = "bursts"
    """DRAM moves whole bursts."""


PAPER: frozenset[Effect] = frozenset()
EXACT = frozenset(Effect) - {Effect.BURSTS}
FULL = frozenset(Effect)


def stored(layer: ConvLayer, arch: Arch) -> ConvLayer:
    """The layer as stored in DRAM: with `padding: fetch`, padding is part of the tensor."""
    if arch.dma.padding == "skip" or not any(layer.paddings):
        return layer
    top, bottom, left, right = layer.paddings
    return replace(layer, padding=0, H=layer.height + top + bottom, W=layer.width + left + right)


def dram_counts(
    nest: Nest, arch: Arch, formats: LayerFormats, effects: frozenset[Effect]
) -> Counts:
    """DRAM bits of a nest of the stored layer, with the given effects modelled.

    Fractions where the paper's real-valued trips leave them; integers with all of `EXACT`.
    """
    counts = Counts()
    _input(counts, nest, arch, formats.I, effects)
    _weight(counts, nest, formats.W, effects)
    _output(counts, nest, arch, formats.O, effects)
    if Effect.BURSTS in effects:
        _bursts(counts, nest, arch, formats)
    return counts


def _trips(nest: Nest, dim: str, effects: frozenset[Effect]) -> Fraction:
    """N / T as the paper has it, or whole tiles."""
    if Effect.EDGES in effects:
        return Fraction(nest.trips[dim])
    return Fraction(nest.layer.dims[dim], nest.tile[dim])


def _refetches(nest: Nest, tensor: Tensor, effects: frozenset[Effect]) -> Fraction:
    """Times the whole tensor moves: irrelevant trips outside the innermost relevant loop."""
    times, waiting = Fraction(1), Fraction(1)
    for loop in nest.loops:
        if loop.dim in RELEVANT[tensor]:
            times, waiting = times * waiting, Fraction(1)
        else:
            waiting *= _trips(nest, loop.dim, effects)
    return times


def refetches(nest: Nest, tensor: Tensor) -> int:
    """Times the whole tensor moves under the movement rules (of I, halos apart)."""
    return int(_refetches(nest, tensor, FULL))


def average_code_bits(fmt: Format, positions: int = 1) -> Fraction:
    """Exponent bits per element by Eq. 6: SE / BS, for weights SE / (BS R S)."""
    return (
        Fraction(fmt.exponent_bits, fmt.block_size * positions)
        if isinstance(fmt, BFP)
        else Fraction(0)
    )


def _weight(counts: Counts, nest: Nest, fmt: Format, effects: frozenset[Effect]) -> None:
    layer = nest.layer
    times = _refetches(nest, "W", effects)
    elements = prod(layer.weight_shape)
    counts.add("DRAM", "W", "read", "mantissa", elements * fmt.mantissa_bits * times)
    if Effect.BLOCKS in effects and isinstance(fmt, BFP):
        if layer.C == 1:
            blocks = sum(
                touched(channel_intervals(g, k, layer.K), fmt.block_size)
                for g in nest.spans("G")
                for k in nest.spans("K")
            )
        else:
            cuts = sum(touched((c,), fmt.block_size) for c in nest.spans("C"))
            blocks = layer.G * layer.K * cuts
        codes = Fraction(blocks * fmt.exponent_bits)
    else:
        codes = elements * average_code_bits(fmt, layer.R * layer.S)
    counts.add("DRAM", "W", "read", "exponent", codes * times)


def _output(
    counts: Counts, nest: Nest, arch: Arch, fmt: Format, effects: frozenset[Effect]
) -> None:
    layer = nest.layer
    times = _refetches(nest, "O", effects)
    elements = prod(layer.output_shape)
    if Effect.BLOCKS in effects and isinstance(fmt, BFP):
        pixels = layer.N * layer.P * layer.Q
        codes = Fraction(pixels * -(-layer.G * layer.K // fmt.block_size) * fmt.exponent_bits)
    else:
        codes = elements * average_code_bits(fmt)
    results = Fraction(1) if Effect.PARTIAL_SUMS in effects else times
    counts.add("DRAM", "O", "write", "mantissa", elements * fmt.mantissa_bits * results)
    counts.add("DRAM", "O", "write", "exponent", codes * results)
    if Effect.PARTIAL_SUMS in effects:
        spilled = (times - 1) * elements * arch.pe_array.accumulator_bits
        counts.add("DRAM", "O", "write", "psum", spilled)
        counts.add("DRAM", "O", "read", "psum", spilled)


def _input(counts: Counts, nest: Nest, arch: Arch, fmt: Format, effects: frozenset[Effect]) -> None:
    layer = nest.layer
    tiles = [[channel_intervals(g, c, layer.C) for c in nest.spans("C")] for g in nest.spans("G")]
    elements = [[Fraction(sum(b - a for a, b in t)) for t in row] for row in tiles]
    if Effect.BLOCKS in effects and isinstance(fmt, BFP):
        codes = [[Fraction(touched(t, fmt.block_size)) for t in row] for row in tiles]
        code_bits = Fraction(fmt.exponent_bits)
    else:
        codes, code_bits = elements, average_code_bits(fmt)
    kinds: tuple[tuple[Kind, list[list[Fraction]], Fraction], ...] = (
        ("mantissa", elements, Fraction(fmt.mantissa_bits)),
        ("exponent", codes, code_bits),
    )
    for kind, channels, bits in kinds:
        moved = _factored(nest, channels, effects)
        if Effect.HALO in effects:
            whole = effects | {Effect.EDGES}
            moved += _by_transition(nest, channels, arch.dma.halo == "sliding", whole)
            moved -= _factored(nest, channels, whole)
        counts.add("DRAM", "I", "read", kind, moved * bits)


def _factored(nest: Nest, channels: list[list[Fraction]], effects: frozenset[Effect]) -> Fraction:
    """Pixels x channels by the paper's rule: I's innermost loop, if P or Q, widens the tile."""
    layer = nest.layer
    relevant = [loop.dim for loop in nest.loops if loop.dim in RELEVANT["I"]]
    widened = relevant[-1] if relevant else ""
    extent = Fraction(layer.N)
    for dim in "PQ":
        tiles = [(0, layer.dims[dim])] if dim == widened else nest.spans(dim)
        if dim == widened or nest.trips[dim] == 1:
            length = Fraction(_needed(layer, dim, (0, layer.dims[dim])))
        elif Effect.EDGES in effects:
            length = Fraction(sum(_needed(layer, dim, tile) for tile in tiles))
        else:
            length = _needed(layer, dim, (0, nest.tile[dim])) * _trips(nest, dim, effects)
        if Effect.PADDING in effects:
            length -= sum(_needed(layer, dim, tile) - _stored(layer, dim, tile) for tile in tiles)
        extent *= length
    return extent * sum(sum(row, Fraction(0)) for row in channels) * _refetches(nest, "I", effects)


def _needed(layer: ConvLayer, dim: str, outputs: Interval) -> int:
    """Input rows (P) or columns (Q) that outputs reach over, padding included."""
    low, high = _reach(layer, dim, outputs)
    return high - low


def _stored(layer: ConvLayer, dim: str, outputs: Interval) -> int:
    low, high = (input_rows if dim == "P" else input_cols)(layer, outputs)
    return high - low


def _reach(layer: ConvLayer, dim: str, outputs: Interval) -> Interval:
    """Input rows or columns that outputs reach over, before clipping."""
    axis, taps, before = (0, layer.R, 0) if dim == "P" else (1, layer.S, 2)
    low = outputs[0] * layer.strides[axis] - layer.paddings[before]
    high = (outputs[1] - 1) * layer.strides[axis] - layer.paddings[before]
    return low, high + (taps - 1) * layer.dilations[axis] + 1


def _by_transition(
    nest: Nest, channels: list[list[Fraction]], sliding: bool, effects: frozenset[Effect]
) -> Fraction:
    """Pixels x channels moved under rule 3, summed over the kinds of step between boxes.

    Each loop that advances makes one kind: loops outside it stand anywhere, loops inside it wrap
    from their last tile to their first. So every kind's sum factors into one sum per dimension.
    """
    layer = nest.layer
    if Effect.PADDING in effects:
        rows = [input_rows(layer, p) for p in nest.spans("P")]
        cols = [input_cols(layer, q) for q in nest.spans("Q")]
    else:
        rows = [_reach(layer, "P", p) for p in nest.spans("P")]
        cols = [_reach(layer, "Q", q) for q in nest.spans("Q")]
    batch = [b - a for a, b in nest.spans("N")]

    def box(at: dict[str, Sequence[int]]) -> Fraction:
        channel_sum = sum((channels[g][c] for g in at["G"] for c in at["C"]), Fraction(0))
        return channel_sum * sum(batch[n] for n in at["N"])

    def lengths(spans: list[Interval], chosen: Sequence[int]) -> int:
        return sum(spans[i][1] - spans[i][0] for i in chosen)

    first: dict[str, Sequence[int]] = dict.fromkeys("NGCPQ", range(1))
    total = box(first) * lengths(rows, range(1)) * lengths(cols, range(1))
    relevant = [i for i, loop in enumerate(nest.loops) if loop.dim in RELEVANT["I"]]
    if not relevant:
        return total
    innermost = relevant[-1]
    for advancing, loop in enumerate(nest.loops[: innermost + 1]):
        at: dict[str, Sequence[int]] = dict(first)
        times = 1
        for outer in nest.loops[:advancing]:
            if outer.dim in at:
                at[outer.dim] = range(outer.trips)
            else:
                times *= outer.trips
        if loop.dim in at:
            at[loop.dim] = range(1, loop.trips)
        else:
            times *= loop.trips - 1
        wrapping = [inner.dim for inner in nest.loops[advancing + 1 :] if inner.dim in at]
        if sliding and advancing == innermost and loop.dim in "PQ":
            spans = rows if loop.dim == "P" else cols
            new = sum(max(0, spans[i][1] - max(spans[i - 1][1], spans[i][0])) for i in at[loop.dim])
            other, others = (cols, at["Q"]) if loop.dim == "P" else (rows, at["P"])
            total += times * box(at) * new * lengths(other, others)
            continue
        pixels = lengths(rows, at["P"]) * lengths(cols, at["Q"])
        changed = set(wrapping) | ({loop.dim} & set(at))
        if changed <= set("PQ"):  # clipping can make the old box and the new one the same
            same_rows = _unchanged(rows, "P", at, loop.dim, wrapping)
            same_cols = _unchanged(cols, "Q", at, loop.dim, wrapping)
            pixels -= lengths(rows, same_rows) * lengths(cols, same_cols)
        total += times * box(at) * pixels
    return total


def _unchanged(
    spans: list[Interval],
    dim: str,
    at: dict[str, Sequence[int]],
    advancing: str,
    wrapping: list[str],
) -> list[int]:
    """New tile numbers of `dim` whose span equals the one before the step."""
    if dim in wrapping:
        return [i for i in at[dim] if spans[i] == spans[-1]]
    if dim == advancing:
        return [i for i in at[dim] if spans[i] == spans[i - 1]]
    return list(at[dim])


def _bursts(counts: Counts, nest: Nest, arch: Arch, formats: LayerFormats) -> None:
    burst = arch.dram.burst
    counts.add("DRAM", "I", "read", "burst", input_padding(nest, formats.I, burst, arch.dma.halo))
    weights = weight_padding(nest, formats.W, burst) * refetches(nest, "W")
    counts.add("DRAM", "W", "read", "burst", weights)
    counts.add("DRAM", "O", "write", "burst", result_padding(nest, formats.O, burst))
    spills = refetches(nest, "O") - 1
    if spills:
        sums = sums_padding(nest, arch.pe_array.accumulator_bits, burst) * spills
        counts.add("DRAM", "O", "write", "burst", sums)
        counts.add("DRAM", "O", "read", "burst", sums)
