"""Traffic inside SRAM in closed form: the levels between it and the array, and the array's side.

At every boundary the rules are those of the outermost one, over the loops of all boundaries outside
it. `mapping.steps.inside` counts the same step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from bfpsim.arch import Arch, Level
from bfpsim.mapping.array import passes, sums_lie_outside
from bfpsim.mapping.closed import exact, paper
from bfpsim.mapping.closed.array import (
    AllLeaves,
    Factors,
    Reads,
    array_profile,
    busy_cycles,
    fold_sums,
    input_reads,
    weight_reads,
)
from bfpsim.mapping.closed.grid import whole_number
from bfpsim.mapping.closed.registers import RegisterTiles
from bfpsim.mapping.closed.traffic import leaves_of_nest, moved_cells
from bfpsim.mapping.counts import Counts, Direction, Kind
from bfpsim.mapping.nest import TENSORS, Nest, Tensor
from bfpsim.quant.formats import ActivationLayout, LayerFormats


def inner_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> tuple[Counts, int]:
    """All that moves inside SRAM over a whole nest, and the cycles that the array computes.

    The cycles have filling and draining in them, no waiting for ports.
    """
    counts = Counts()
    outside: dict[Tensor, Level] = dict.fromkeys(TENSORS, arch.levels[1])
    for level, own in zip(arch.levels[2:], nest.inner, strict=True):
        if level is arch.registers:
            _add_registers(counts, outside, level, own, arch, formats)
            break
        for tensor in level.memories:
            if tensor == "O":
                _add_outputs(counts, outside[tensor], level, own, arch, formats)
            else:
                _add_fetches(counts, tensor, outside[tensor], level, own, arch, formats)
            outside[tensor] = level
    inner = nest.innermost
    leaves = leaves_of_nest(inner)
    if arch.registers is None:
        _add_array(counts, outside, inner, leaves, arch, formats)
    busy = busy_cycles(nest.layer, arch.pe_array, leaves, passes(arch.pe_array, formats))
    return counts, _value(busy.loads) + _value(busy.tiles) * busy.fill


def steady_cycles(nest: Nest, arch: Arch, formats: LayerFormats) -> int:
    """Cycles in which the array's lanes multiply, over a whole nest."""
    profile = array_profile(nest.layer, arch.pe_array, leaves_of_nest(nest.innermost))
    return _value(profile.steady) * passes(arch.pe_array, formats)


def held_bits(nest: Nest, place: int, arch: Arch, formats: LayerFormats) -> dict[Tensor, int]:
    """What the largest tile of each tensor takes at a level, by its number from DRAM's 0 [bit].

    O takes `accumulator_bits` per element in accumulators, and elsewhere while unfinished sums lie
    there; then its format's bits, if those are more.
    """
    own, level = (nest, *nest.inner)[place - 1], arch.levels[place]
    sums = level is arch.accumulators or sums_lie_outside(nest, arch, place)
    return tile_bits(own, level, arch, formats, sums)


def tile_bits(
    nest: Nest, level: Level, arch: Arch, formats: LayerFormats, sums: bool
) -> dict[Tensor, int]:
    """What the largest tile of each tensor takes at a level, given the level's own nest [bit].

    In registers, what the fullest PE's share of it does.

    sums: whether unfinished sums of O lie there
    """
    leaves, held = leaves_of_nest(nest), {}
    if level is arch.registers:
        tiles = RegisterTiles(nest.layer, arch, formats, leaves, whole_number)
        return {tensor: int(tiles.share(tensor)) for tensor in level.memories}
    for tensor in level.memories:
        cell = exact.Cell.of(formats.of(tensor))
        sizes = exact.tile_sizes(tensor, nest.layer, leaves, cell)
        most = {dims: exact.largest(dims, leaves, of).item() for dims, of in sizes.items()}
        if tensor == "O" and sums:
            channels = int(leaves["G"].lengths.max() * leaves["K"].lengths.max())
            unfinished = channels * arch.pe_array.accumulator_bits
            most["GK"] = unfinished if level is arch.accumulators else max(most["GK"], unfinished)
        held[tensor] = prod(most.values())
    return held


def _add_fetches(
    counts: Counts,
    tensor: Tensor,
    outside: Level,
    level: Level,
    nest: Nest,
    arch: Arch,
    formats: LayerFormats,
) -> None:
    """What a level takes in of I or W."""
    cell = exact.Cell.of(formats.of(tensor))
    kinds: tuple[tuple[Kind, exact.Cell], ...] = (
        ("mantissa", cell.mantissas),
        ("exponent", cell.codes),
    )
    for kind, part in kinds:
        if part.element or part.code:
            bits = moved_cells(nest, tensor, part, arch.dma.halo == "sliding")
            counts.add(outside.name, tensor, "read", kind, bits)
            counts.add(level.name, tensor, "write", kind, bits)


def _add_outputs(
    counts: Counts, outside: Level, level: Level, nest: Nest, arch: Arch, formats: LayerFormats
) -> None:
    """What a level takes in of O, and gives away."""
    shape, width = nest.layer.output_shape, arch.pe_array.accumulator_bits
    visited = moved_cells(nest, "O", exact.ELEMENTS, sliding=True)
    spilled = (visited - prod(shape)) * width
    mantissas = prod(shape) * formats.O.mantissa_bits
    codes = ActivationLayout(shape, formats.O).bits - mantissas
    counts.add(outside.name, "O", "read", "psum", spilled)
    counts.add(level.name, "O", "write", "psum", spilled)
    counts.add(outside.name, "O", "write", "psum", spilled)
    counts.add(outside.name, "O", "write", "mantissa", mantissas)
    counts.add(outside.name, "O", "write", "exponent", codes)
    if level is arch.accumulators:
        counts.add(level.name, "O", "read", "psum", visited * width)
        return
    counts.add(level.name, "O", "read", "psum", spilled)
    counts.add(level.name, "O", "read", "mantissa", mantissas)
    counts.add(level.name, "O", "read", "exponent", codes)


def _add_registers(
    counts: Counts,
    outside: Mapping[Tensor, Level],
    level: Level,
    nest: Nest,
    arch: Arch,
    formats: LayerFormats,
) -> None:
    """What the registers take in, in all PEs, and give away; what multiply-accumulates do there."""
    layer, order, width = nest.layer, nest.order, arch.pe_array.accumulator_bits
    tiles = RegisterTiles(layer, arch, formats, leaves_of_nest(nest), whole_number)
    operands: tuple[tuple[Tensor, int], ...] = (("I", tiles.inputs), ("W", layer.macs))
    for tensor, reads in operands:
        fmt, cell = formats.of(tensor), exact.Cell.of(formats.of(tensor))
        mantissas = int(tiles.written(tensor, order, code=False)) * fmt.mantissa_bits
        fetched = int(tiles.fetched(tensor, order, cell.mantissas))
        counts.add(outside[tensor].name, tensor, "read", "mantissa", fetched)
        counts.add(level.name, tensor, "write", "mantissa", mantissas)
        counts.add(level.name, tensor, "read", "mantissa", reads * fmt.mantissa_bits)
        if fmt.exponent_bits:
            codes = int(tiles.written(tensor, order, code=True)) * fmt.exponent_bits
            fetched = int(tiles.fetched(tensor, order, cell.codes))
            counts.add(outside[tensor].name, tensor, "read", "exponent", fetched)
            counts.add(level.name, tensor, "write", "exponent", codes)
            counts.add(level.name, tensor, "read", "exponent", codes)
    _add_outputs(counts, outside["O"], level, nest, arch, formats)
    visited, summed = int(tiles.visited(order)), int(tiles.summed(order))
    # PEs that share a sum give it away apart. A PE's first sum of a visit finds none there, but
    # where it came back.
    back = visited - prod(layer.output_shape)
    counts.add(level.name, "O", "read", "psum", (summed - visited) * width)
    counts.add(level.name, "O", "read", "psum", (layer.macs - summed + back) * width)
    counts.add(level.name, "O", "write", "psum", layer.macs * width)


def _add_array(
    counts: Counts,
    holders: Mapping[Tensor, Level],
    nest: Nest,
    leaves: AllLeaves,
    arch: Arch,
    formats: LayerFormats,
) -> None:
    """What the array exchanges with the innermost holder of each tensor."""
    layer, array = nest.layer, arch.pe_array
    profile = array_profile(layer, array, leaves)
    g, k, c, r, s = (nest.cuts(dim) for dim in "GKCRS")
    operands: tuple[tuple[Tensor, Reads, Factors], ...] = (
        ("I", input_reads(layer, array, formats.I, (g,), (c,), (r, s)), profile.input_passes),
        ("W", weight_reads(layer, array, formats.W, (g,), (k,), (c,), (r, s)),
         profile.weight_passes),
    )  # fmt: skip
    for tensor, reads, rounds in operands:
        fmt, name, times = formats.of(tensor), holders[tensor].name, _value(rounds)
        mantissas = reads.elements * fmt.mantissa_bits * times
        counts.add(name, tensor, "read", "mantissa", mantissas)
        codes = reads.codes.item() * fmt.exponent_bits * times
        counts.add(name, tensor, "read", "exponent", codes)
    elements, level = prod(layer.output_shape), holders["O"]
    contributions = fold_sums(layer, array, leaves).every.item()
    sums = elements * array.accumulator_bits
    counts.add(level.name, "O", "read", "psum", (contributions - 1) * sums)
    if level is arch.accumulators:
        counts.add(level.name, "O", "write", "psum", contributions * sums)
        return
    counts.add(level.name, "O", "write", "psum", (contributions - 1) * sums)
    mantissas = elements * formats.O.mantissa_bits
    codes = ActivationLayout(layer.output_shape, formats.O).bits - mantissas
    counts.add(level.name, "O", "write", "mantissa", mantissas)
    counts.add(level.name, "O", "write", "exponent", codes)


def _value(factors: Factors) -> int:
    return prod(int(table.item()) for _, table in factors)


def paper_inner_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> Counts:
    """The paper's rule once more at every boundary inside SRAM, counted at its outer level [bit].

    With no level inside SRAM that is DM_S: the loops inside its tile, with the array's unrolling as
    the inner tile. At a further level the inner tile is that level's.
    """
    counts = Counts()
    holders: dict[Tensor, tuple[Level, Nest]] = dict.fromkeys(TENSORS, (arch.levels[1], nest))
    for level, own in zip(arch.levels[2:], nest.inner, strict=True):
        for tensor in level.memories:
            outside, around = holders[tensor]
            tiles = paper.between(around, own)
            order = "".join(dict.fromkeys(own.order[len(around.loops) :]))
            elements = tiles.elements(tensor, order) * paper.tiles_of(around)
            _add_paper(counts, outside, tensor, elements, nest, formats)
            holders[tensor] = (level, own)
    elements_of = paper.array_elements(paper.of_nest(nest.innermost), arch.pe_array)
    if arch.registers is not None:  # each multiply-accumulate takes its operands from there
        elements_of = dict.fromkeys(elements_of, nest.layer.macs)
    for tensor, (level, _) in holders.items():
        _add_paper(counts, level, tensor, elements_of[tensor], nest, formats)
    return counts


def _add_paper(
    counts: Counts, level: Level, tensor: Tensor, elements: Any, nest: Nest, formats: LayerFormats
) -> None:
    direction: Direction = "write" if tensor == "O" else "read"
    fmt = formats.of(tensor)
    positions = nest.layer.R * nest.layer.S if tensor == "W" else 1
    counts.add(level.name, tensor, direction, "mantissa", elements * fmt.mantissa_bits)
    codes = elements * paper.code_bits(fmt, positions)
    counts.add(level.name, tensor, direction, "exponent", codes)
