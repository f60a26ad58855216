"""Machines with levels between SRAM and array, taken literally: sets of elements, and lanes.

Every innermost tile in loop order, with the ranges that it lies in at each level outside. A level's
tile of a tensor changes when its ranges do; what then moves is counted element by element, at both
ends, and lasts what the ports let pass. As slow, and as far from `mapping/`, as `oracle`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from typing import Literal, NamedTuple

from bfpsim.arch import Arch, Level
from bfpsim.mapping.counts import Counts, Direction, Kind
from bfpsim.mapping.nest import Mapping, Tensor
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.workloads import ConvLayer
from tests.mapping.oracle import (
    ArrayReads,
    Elements,
    Ranges,
    activation_bits,
    activation_blocks,
    input_elements,
    output_elements,
    run_array,
    weight_bits,
    weight_elements,
)
from tests.storage import storage

EVERY = "NGKCPQRS"
NAMED_BY: dict[Tensor, str] = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}

Tile = tuple[Ranges, ...]
"""An innermost tile: the ranges that it lies in at every level from SRAM inwards."""

Bits = dict[Kind, int]
Port = tuple[str, Direction]
"""A memory and a direction."""


def tiles_of(layer: ConvLayer, arch: Arch, mapping: Mapping) -> list[Tile]:
    """Every innermost tile, the innermost boundary's loops turning fastest."""
    cuts = [mapping, *(mapping.inner.get(level.name, Mapping()) for level in arch.inner)]

    def inside(outer: Ranges, rest: list[Mapping]) -> Iterator[Tile]:
        if not rest:
            yield ()
            return
        cut, *further = rest
        order = cut.order + "".join(d for d in EVERY if d not in cut.order)
        parts = []
        for d in order:
            size = cut.tile.get(d, len(outer[d]))
            parts.append([outer[d][i : i + size] for i in range(0, len(outer[d]), size)])
        for chosen in product(*parts):
            here = dict(zip(order, chosen, strict=True))
            for tile in inside(here, further):
                yield (here, *tile)

    return list(inside(whole(layer), cuts))


def whole(layer: ConvLayer) -> Ranges:
    sizes = layer.dims | {"R": layer.R, "S": layer.S}
    return {d: range(size) for d, size in sizes.items()}


# --- what a level holds, and for how long -------------------------------------------------------


class Visit(NamedTuple):
    """A tile's stay at a level: its first and last innermost tile, and what of it is new."""

    first: int
    last: int
    box: Elements
    new: Elements
    resumed: bool = False
    finished: bool = False


def box_of(layer: ConvLayer, tensor: Tensor, ranges: Ranges) -> Elements:
    of = {"I": input_elements, "W": weight_elements, "O": output_elements}[tensor]
    return of(layer, ranges)


def visits_at(
    layer: ConvLayer, tiles: list[Tile], depth: int, tensor: Tensor, halo: str
) -> list[Visit]:
    """The tiles of a tensor at a level; SRAM's depth is 0."""
    named = [tuple(tile[depth][d] for d in NAMED_BY[tensor]) for tile in tiles]
    firsts = [i for i in range(len(tiles)) if i == 0 or named[i] != named[i - 1]]
    stays = list(pairwise([*firsts, len(tiles)]))
    boxes: dict[object, Elements] = {}
    for first in firsts:
        boxes.setdefault(named[first], box_of(layer, tensor, tiles[first][depth]))
    summed: dict[object, set[tuple[int, int, int]]] = defaultdict(set)
    all_sums = set(product(range(layer.C), range(layer.R), range(layer.S)))
    visits: list[Visit] = []
    for first, end in stays:
        name, box, keep = named[first], boxes[named[first]], frozenset[tuple[int, ...]]()
        resumed = finished = False
        if tensor == "O":
            resumed = bool(summed[name])
            reductions = {tuple(tile[depth][d] for d in "CRS") for tile in tiles[first:end]}
            for c, r, s in reductions:
                summed[name] |= set(product(c, r, s))
            finished = summed[name] == all_sums
        elif tensor == "I" and visits:
            resident, old = visits[-1].box, named[first - 1]
            moved = [
                (d, was, now)
                for d, was, now in zip(NAMED_BY["I"], old, name, strict=True)
                if was != now
            ]
            dim, was, now = moved[0]
            slides = len(moved) == 1 and dim in "PQRS" and now.start == was.stop
            if box == resident or (slides and halo == "sliding"):
                keep = resident
        visits.append(Visit(first, end - 1, box, box - keep, resumed, finished))
    return visits


# --- bits and cycles ----------------------------------------------------------------------------


@dataclass
class Run:
    """What a layer moves and takes.

    steady, computing, lasting: cycles of every innermost tile: lanes multiplying; with fill and
        drain of the array; with what passes the ports
    """

    counts: Counts = field(default_factory=Counts)
    steady: list[int] = field(default_factory=list)
    computing: list[int] = field(default_factory=list)
    lasting: list[int] = field(default_factory=list)


Passing = list[dict[Port, int]]
"""Bits that pass each port, by innermost tile."""


def run_levels(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Run:
    """A layer as stored, tile by tile; without bursts."""
    tiles = tiles_of(layer, arch, mapping)
    run = Run()
    beside: Passing = [defaultdict(int) for _ in tiles]  # while the array computes
    apart: Passing = [defaultdict(int) for _ in tiles]
    for outer, own, tensor in boundaries(arch):
        depth = arch.levels.index(own) - 1
        buffer = own.buffers[tensor]
        ports: Passing | None = beside if buffer.double_buffered else apart
        if depth == 0:
            ports = beside if arch.dma.port == "shared" else None
        for visit in visits_at(layer, tiles, depth, tensor, arch.dma.halo):
            for end, direction, bits, at in transfers(layer, arch, own, tensor, visit, formats):
                level = outer if end == "outer" else own
                for kind, amount in bits.items():
                    run.counts.add(level.name, tensor, direction, kind, amount)
                if ports is not None and level.name != "DRAM":
                    ports[at][level.memories[tensor], direction] += sum(bits.values())
    for number, tile in enumerate(tiles):
        reads = run_array(layer, tile[-1], arch.pe_array, formats)
        for tensor, direction, bits in exchanged(layer, arch, tile[-1], reads, formats):
            level = holder(arch, tensor)
            for kind, amount in bits.items():
                run.counts.add(level.name, tensor, direction, kind, amount)
            beside[number][level.memories[tensor], direction] += sum(bits.values())
        steady, computing = array_cycles(arch, reads, formats)
        run.steady.append(steady)
        run.computing.append(computing)
        waits = max(computing, slowest(arch, beside[number]))
        run.lasting.append(waits + slowest(arch, apart[number]))
    return run


def transfers(
    layer: ConvLayer, arch: Arch, own: Level, tensor: Tensor, visit: Visit, formats: LayerFormats
) -> list[tuple[Literal["outer", "own"], Direction, Bits, int]]:
    """What a visit moves at both ends of its boundary, and with which innermost tile."""
    if tensor != "O":
        bits = stored_bits(layer, tensor, visit.new, formats)
        return [("outer", "read", bits, visit.first), ("own", "write", bits, visit.first)]
    sums: Bits = {"psum": len(visit.box) * arch.pe_array.accumulator_bits}
    result = stored_bits(layer, "O", visit.box, formats)
    leaves = result if visit.finished else sums
    let_go = leaves if own is not accumulators(arch) else sums  # results are made on their way out
    moved: list[tuple[Literal["outer", "own"], Direction, Bits, int]] = [
        ("own", "read", let_go, visit.last),
        ("outer", "write", leaves, visit.last),
    ]
    if visit.resumed:
        moved += [("outer", "read", sums, visit.first), ("own", "write", sums, visit.first)]
    return moved


def boundaries(arch: Arch) -> list[tuple[Level, Level, Tensor]]:
    """Every pair of a holder and the next one inside it, by tensor."""
    pairs: list[tuple[Level, Level, Tensor]] = []
    for tensor in NAMED_BY:
        holding = [level for level in arch.levels if tensor in level.memories]
        pairs += [(outer, own, tensor) for outer, own in pairwise(holding)]
    return pairs


def holder(arch: Arch, tensor: Tensor) -> Level:
    """Where the array reads and writes a tensor."""
    return [level for level in arch.levels if tensor in level.memories][-1]


def accumulators(arch: Arch) -> Level | None:
    level = holder(arch, "O")
    return level if level.name in {own.name for own in arch.inner} else None


def stored_bits(
    layer: ConvLayer, tensor: Tensor, elements: Elements, formats: LayerFormats
) -> Bits:
    fmt = formats.of(tensor)
    if tensor == "W":
        mantissa, exponent = weight_bits(layer, elements, fmt)
    else:
        mantissa, exponent = activation_bits(elements, fmt)
    return {"mantissa": mantissa, "exponent": exponent}


def exchanged(
    layer: ConvLayer, arch: Arch, ranges: Ranges, reads: ArrayReads, formats: LayerFormats
) -> list[tuple[Tensor, Direction, Bits]]:
    """What the array and the innermost holders exchange for one tile.

    Sums are added to what lies in the level: every one but a tile's first of all finds another
    there. Without accumulators the last one of all leaves as a result instead.
    """
    width, (inputs, weights, _) = arch.pe_array.accumulator_bits, (formats.I, formats.W, formats.O)
    begins = all(ranges[d].start == 0 for d in "CRS")
    ends = all(ranges[d].stop == whole(layer)[d].stop for d in "CRS")
    read = reads.psums - begins * reads.outputs
    written, result = reads.psums, Bits()
    if accumulators(arch) is None and ends:
        written -= reads.outputs
        result = stored_bits(layer, "O", output_elements(layer, ranges), formats)
    return [
        ("I", "read", {
            "mantissa": reads.inputs * inputs.mantissa_bits,
            "exponent": reads.input_codes * inputs.exponent_bits,
        }),
        ("W", "read", {
            "mantissa": reads.weights * weights.mantissa_bits,
            "exponent": reads.weight_codes * weights.exponent_bits,
        }),
        ("O", "read", {"psum": read * width}),
        ("O", "write", {"psum": written * width} | result),
    ]  # fmt: skip


def array_cycles(arch: Arch, reads: ArrayReads, formats: LayerFormats) -> tuple[int, int]:
    """Cycles of one tile: of multiplying alone, and with what filling the array costs."""
    array = arch.pe_array
    pieces = prod(-(-significand(fmt) // array.mac_bits) for fmt in (formats.I, formats.W))
    assert reads.cycles % reads.loads == 0
    each = reads.cycles // reads.loads * pieces
    skew, rows = sum(axis.size - 1 for axis in array.axes), array.axes[0].size
    preload = 0 if array.stationary == "output" else rows
    computing = {
        "none": reads.loads * each,
        "each_fold": reads.loads * (each + skew + preload),
        "overlapped": reads.loads * max(each, rows) + rows + skew,
    }
    return reads.loads * each, computing[array.fill]


def significand(fmt: Format) -> int:
    """Bits of a multiplier operand: floats with their hidden one."""
    return storage(fmt).significand


def slowest(arch: Arch, passing: dict[Port, int]) -> int:
    """Cycles until every port has let its bits pass."""
    cycles = [0]
    for (memory, direction), bits in passing.items():
        buffer = next(
            level.buffers[tensor]
            for level in arch.levels[1:]
            for tensor, name in level.memories.items()
            if name == memory
        )
        width = buffer.ports.read if direction == "read" else buffer.ports.write
        if width is not None:
            cycles.append(-(-bits // width))
    return max(cycles)


# --- what is legal ------------------------------------------------------------------------------


def misfits(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> list[str]:
    """Why a mapping of a layer as stored is not legal; empty if it is."""
    tiles = tiles_of(layer, arch, mapping)
    wrong = [f"{d} is cut" for d in whole_dims(arch) if any(
        tile[-1][d] != whole(layer)[d] for tile in tiles)]  # fmt: skip
    depths = [depth for depth, level in enumerate(arch.levels[1:]) if "O" in level.memories]
    if accumulators(arch) is None:
        depths.append(len(arch.inner))
    for depth in depths:
        ranges = {tuple(tile[depth][d] for d in "GK") for tile in tiles}
        block = storage(formats.O).block
        if block and any(
            cuts_a_block(layer, dict(zip("GK", own, strict=True)), block) for own in ranges
        ):
            wrong.append(f"O tiles at depth {depth} cut blocks")
    if wrong:
        return wrong
    for memory, (need, usable) in rooms(layer, arch, mapping, formats).items():
        if need > usable:
            wrong.append(f"{memory}: {need} of {usable} bit")
    return wrong


def whole_dims(arch: Arch) -> str:
    """The dimensions that an axis takes whole."""
    return "".join(axis.dim for axis in arch.pe_array.axes if axis.over is not None)


def cuts_a_block(layer: ConvLayer, ranges: Ranges, block: int) -> bool:
    pixel = {d: range(1) for d in "NPQ"}
    inside = output_elements(layer, pixel | ranges)
    rest = output_elements(layer, pixel | {"G": range(layer.G), "K": range(layer.K)}) - inside
    return bool(activation_blocks(inside, block) & activation_blocks(rest, block))


def rooms(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> dict[str, tuple[int, int]]:
    """Per memory, what the largest tiles of its tensors take together, and what is usable."""
    tiles = tiles_of(layer, arch, mapping)
    need: dict[str, int] = defaultdict(int)
    usable: dict[str, int] = {}
    for depth, level in enumerate(arch.levels[1:]):
        for tensor, memory in level.memories.items():
            visits = visits_at(layer, tiles, depth, tensor, arch.dma.halo)
            stored = max(
                sum(stored_bits(layer, tensor, visit.box, formats).values()) for visit in visits
            )
            sums = max(len(visit.box) for visit in visits) * arch.pe_array.accumulator_bits
            if tensor == "O" and level is accumulators(arch):
                stored = sums
            elif tensor == "O" and sums_reach(layer, arch, level, tiles, formats):
                stored = max(stored, sums)
            need[memory] += stored
            buffer = level.buffers[tensor]
            usable[memory] = buffer.capacity // (2 if buffer.double_buffered else 1)
    return {memory: (bits, usable[memory]) for memory, bits in need.items()}


def sums_reach(
    layer: ConvLayer, arch: Arch, level: Level, tiles: list[Tile], formats: LayerFormats
) -> bool:
    """Whether the next holder inside, or the array, ever lets go of sums that are not done."""
    inside = arch.levels[arch.levels.index(level) + 1 :]
    for depth, further in enumerate(inside, start=arch.levels.index(level)):
        if "O" in further.memories:
            visits = visits_at(layer, tiles, depth, "O", arch.dma.halo)
            return not all(visit.finished for visit in visits)
    if any(tile[-1][d] != whole(layer)[d] for tile in tiles for d in "CRS"):
        return True
    runs = (run_array(layer, tile[-1], arch.pe_array, formats) for tile in tiles)
    return any(reads.psums > reads.outputs for reads in runs)
