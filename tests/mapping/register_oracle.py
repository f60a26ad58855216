"""Registers taken literally: every PE by itself, what it holds, and every multiply-accumulate.

Innermost tiles in loop order; each PE is told which products are its own, and keeps what it was
given until something else comes. It shares no rule with `mapping/`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

from bfpsim.arch import Arch
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.workloads import ConvLayer
from tests.mapping.oracle import output_elements
from tests.storage import storage

EVERY = "NGKCPQRS"
NAMED_BY = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}

Ranges = dict[str, range]
Point = dict[str, int]
PE = tuple[int, ...]


def whole(layer: ConvLayer) -> Ranges:
    return {d: range(size) for d, size in layer.dims.items()}


def tiles_of(layer: ConvLayer, arch: Arch, mapping: Mapping) -> list[tuple[int, Ranges]]:
    """Every innermost tile, and the step of SRAM that it belongs to."""
    cuts = [mapping, *(mapping.inner.get(level.name, Mapping()) for level in arch.levels[2:])]

    def inside(outer: Ranges, rest: list[Mapping]) -> Iterator[Ranges]:
        if not rest:
            yield outer
            return
        cut, *further = rest
        order = cut.order + "".join(d for d in EVERY if d not in cut.order)
        parts = []
        for d in order:
            size = cut.tile.get(d, len(outer[d]))
            parts.append([outer[d][i : i + size] for i in range(0, len(outer[d]), size)])
        for chosen in product(*parts):
            yield from inside(dict(zip(order, chosen, strict=True)), further)

    steps = inside(whole(layer), cuts[:1])
    return [(step, tile) for step, own in enumerate(steps) for tile in inside(own, cuts[1:])]


def products_by_pe(layer: ConvLayer, arch: Arch, tile: Ranges) -> dict[PE, list[Point]]:
    """The multiply-accumulates of every PE: lanes take a (fused) dimension in turn."""
    lanes: list[tuple[str, int]] = []
    for axis in arch.pe_array.axes:
        if axis.over:
            room = axis.size // prod(layer.dims[d] for d in axis.dim)
            lanes.append((axis.over, max(1, room)))
        lanes.append((axis.dim, axis.size))
    per_pe: dict[PE, list[Point]] = defaultdict(list)
    for values in product(*(tile[d] for d in EVERY)):
        at = dict(zip(EVERY, values, strict=True))
        pe = []
        for dims, size in lanes:
            number = 0
            for d in dims:
                number = number * len(tile[d]) + at[d] - tile[d].start
            pe.append(number % size)
        per_pe[tuple(pe)].append(at)
    return per_pe


def timed(arch: Arch, dims: str) -> bool:
    spatial = {d for axis in arch.pe_array.axes for d in axis.dim + (axis.over or "")}
    return not spatial & set(dims)


class Inputs:
    """Rows, columns and channels of I that products read, by PE or of the whole array."""

    def __init__(self, layer: ConvLayer, arch: Arch) -> None:
        self.layer, self.arch = layer, arch

    def line(self, at: Point, dims: str) -> int:
        """The row (PR) or column (QS) that a product reads; it may be padding."""
        side = "PQ".index(dims[0])
        step, apart = self.layer.strides[side], self.layer.dilations[side]
        before = self.layer.paddings[2 * side]
        return at[dims[0]] * step + at[dims[1]] * apart - before

    def stored(self, line: int, dims: str) -> bool:
        return 0 <= line < (self.layer.height if dims == "PR" else self.layer.width)

    def reach(self, tile: Ranges, dims: str) -> list[int]:
        """First to last stored row or column of a tile."""
        ends = [
            self.line({dims[0]: out, dims[1]: tap}, dims)
            for out in tile[dims[0]]
            for tap in tile[dims[1]]
        ]
        return [i for i in range(min(ends), max(ends) + 1) if self.stored(i, dims)]

    def slots(self, tile: Ranges, products: list[Point], padding: bool = False) -> set[Any]:
        """What a PE has of a tile: (n, row, column, channel).

        Where a window runs in time a PE has all of it, else a row for each output and tap.
        """
        lines: dict[str, Any] = {}
        for dims in ("PR", "QS"):
            if timed(self.arch, dims):
                reach = self.reach(tile, dims)
                lines[dims] = lambda at, reach=reach: reach
            else:
                lines[dims] = lambda at, dims=dims: (
                    [(at[dims[0]], at[dims[1]])]
                    if padding or self.stored(self.line(at, dims), dims)
                    else []
                )
        return {
            (at["N"], row, col, at["G"] * self.layer.C + at["C"])
            for at in products
            for row in lines["PR"](at)
            for col in lines["QS"](at)
        }

    def box(self, tile: Ranges) -> frozenset[Any]:
        rows, cols = self.reach(tile, "PR"), self.reach(tile, "QS")
        channels = [g * self.layer.C + c for g in tile["G"] for c in tile["C"]]
        return frozenset(product(tile["N"], rows, cols, channels))


@dataclass
class Run:
    """counts: at the registers, and what passes between them and the next holders outside

    held: the most elements, and codes, that a PE has of each tensor
    """

    counts: Counts = field(default_factory=Counts)
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys("IWO", 0))
    codes: dict[str, int] = field(default_factory=lambda: dict.fromkeys("IWO", 0))


def run_registers(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Run:
    run, tiles = Run(), [tile for _, tile in tiles_of(layer, arch, mapping)]
    outside = {
        t: next(own.name for own in reversed(arch.levels[:-1]) if own.holds(t)) for t in "IWO"
    }  # type: ignore[arg-type]
    _operands(run, layer, arch, tiles, outside, formats)
    _sums(run, layer, arch, tiles, outside, formats)
    return run


def blocks_of(layer: ConvLayer, tensor: str, elements: Any, fmt: Format) -> int:
    size, by_tap = storage(fmt).block, storage(fmt).by_tap
    if not size:
        return 0
    if tensor == "I":
        return len({(n, row, col, ch // size) for n, row, col, ch in elements})
    places = {(f, c, r * by_tap, s * by_tap) for f, c, r, s in elements}
    if layer.C == 1:
        return len({(f // size, r, s) for f, _, r, s in places})
    return len({(f, c // size, r, s) for f, c, r, s in places})


def _operands(run, layer, arch, tiles, outside, formats) -> None:  # type: ignore[no-untyped-def]
    inputs = Inputs(layer, arch)
    held: dict[str, dict[PE, set[Any]]] = {"I": defaultdict(set), "W": defaultdict(set)}
    before: dict[str, Any] = {}

    def move(level: str, tensor: str, way: str, elements: Any) -> None:
        fmt = formats.of(tensor)
        run.counts.add(level, tensor, way, "mantissa", len(elements) * fmt.mantissa_bits)
        codes = blocks_of(layer, tensor, elements, fmt) * fmt.exponent_bits
        run.counts.add(level, tensor, way, "exponent", codes)
        if level == "registers":  # a code is read once, when it comes
            run.counts.add(level, tensor, "read", "exponent", codes)

    for tile in tiles:
        per_pe = products_by_pe(layer, arch, tile)
        for tensor in "IW":
            name = {d: tile[d] for d in NAMED_BY[tensor]}
            fmt = formats.of(tensor)
            keeps = name == before.get(tensor)
            if tensor == "I" and "I" in before and not keeps:
                keeps = stays(inputs, arch, before["I"], name)
            if name != before.get(tensor):
                box = inputs.box(tile) if tensor == "I" else weights(layer, per_pe)
                kept = inputs.box(before["I"]) if tensor == "I" and keeps else frozenset()
                move(outside[tensor], tensor, "read", box - kept)
            for pe, own in per_pe.items():
                if tensor == "I":
                    needed = inputs.slots(tile, own)
                    room = inputs.slots(tile, own, padding=True)
                    reads = sum(
                        all(inputs.stored(inputs.line(at, d), d) for d in ("PR", "QS"))
                        for at in own
                    )
                else:
                    needed = room = weights(layer, {pe: own})
                    reads = len(own)
                run.held[tensor] = max(run.held[tensor], len(room))
                codes = blocks_of(layer, tensor, room, fmt)
                run.codes[tensor] = max(run.codes[tensor], codes)
                if keeps:
                    move("registers", tensor, "write", needed - held[tensor][pe])
                else:
                    move("registers", tensor, "write", needed)
                held[tensor][pe] = needed
                run.counts.add("registers", tensor, "read", "mantissa", reads * fmt.mantissa_bits)
            before[tensor] = name


def stays(inputs: Inputs, arch: Arch, old: Ranges, new: Ranges) -> bool:
    """Whether what PEs have of the tile before stays."""
    moved = [d for d in new if old[d] != new[d]]
    if len(moved) == 1 and moved[0] in "PQRS" and arch.dma.halo == "sliding":
        dim = moved[0]
        window = "PR" if dim in "PR" else "QS"
        if timed(arch, window) and new[dim].start == old[dim].stop:
            return True
    alike = inputs.box(old) == inputs.box(new)
    return alike and all(timed(arch, "PR" if d in "PR" else "QS") for d in moved if d in "PQRS")


def weights(layer: ConvLayer, per_pe: dict[PE, list[Point]]) -> set[Any]:
    return {
        (at["G"] * layer.K + at["K"], at["C"], at["R"], at["S"])
        for own in per_pe.values()
        for at in own
    }


def _sums(run, layer, arch, tiles, outside, formats) -> None:  # type: ignore[no-untyped-def]
    width = arch.pe_array.accumulator_bits
    everything = set(product(range(layer.C), range(layer.R), range(layer.S)))
    summed: dict[Any, set[Any]] = defaultdict(set)
    sums: dict[PE, set[Any]] = defaultdict(set)
    back: set[Any] = set()
    name: Any = None

    def leave() -> None:
        elements = output_elements(layer, name)
        for own in sums.values():
            run.counts.add("registers", "O", "read", "psum", len(own) * width)
            run.held["O"] = max(run.held["O"], len(own))
        if summed[key(name)] == everything:
            fmt = formats.O
            run.counts.add(
                outside["O"], "O", "write", "mantissa", len(elements) * fmt.mantissa_bits
            )
            codes = 0
            if storage(fmt).code:
                codes = len({(n, p, q, ch // fmt.block_size) for n, p, q, ch in elements})
            run.counts.add(outside["O"], "O", "write", "exponent", codes * fmt.exponent_bits)
        else:
            run.counts.add(outside["O"], "O", "write", "psum", len(elements) * width)

    def key(ranges: Ranges) -> Any:
        return tuple(ranges.values())

    for tile in tiles:
        own_name = {d: tile[d] for d in NAMED_BY["O"]}
        if own_name != name:
            if name is not None:
                leave()
            name, sums, back = own_name, defaultdict(set), set()
            if summed[key(name)]:
                back = set(output_elements(layer, name))
                run.counts.add(outside["O"], "O", "read", "psum", len(back) * width)
                run.counts.add("registers", "O", "write", "psum", len(back) * width)
        for pe, own in products_by_pe(layer, arch, tile).items():
            for at in own:
                element = (at["N"], at["P"], at["Q"], at["G"] * layer.K + at["K"])
                if element in sums[pe] or element in back:
                    run.counts.add("registers", "O", "read", "psum", width)
                back.discard(element)
                sums[pe].add(element)
                run.counts.add("registers", "O", "write", "psum", width)
        summed[key(name)] |= set(product(tile["C"], tile["R"], tile["S"]))
    leave()
