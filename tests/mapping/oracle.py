"""What the design says, taken literally: sets of elements, bits and lanes, step by step.

Slow and plain on purpose. It takes layers, formats and mappings as data and shares no rule with
`mapping/` or `quant/`: odometer, windows, blocks, addresses and lanes are all its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

from bfpsim.arch import Arch, Axis, PEArray
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.workloads import ConvLayer
from tests.storage import storage

Ranges = dict[str, range]
Element = tuple[int, ...]
Elements = frozenset[Element]


class Step(NamedTuple):
    """One tile step: its number, the tile number and the range of every dimension."""

    number: int
    at: dict[str, int]
    ranges: Ranges


def odometer(layer: ConvLayer, mapping: Mapping) -> Iterator[Step]:
    """Every tile step, the last loop of the order turning fastest."""
    size = {d: mapping.tile.get(d, layer.dims[d]) for d in "NGKCPQ"}
    cuts = {d: [range(layer.dims[d])[i : i + size[d]] for i in range(0, layer.dims[d], size[d])]
            for d in size}  # fmt: skip
    order = mapping.order + "".join(d for d in "NGKCPQ" if d not in mapping.order)
    for number, digits in enumerate(product(*(range(len(cuts[d])) for d in order))):
        at = dict(zip(order, digits, strict=True))
        yield Step(number, at, {d: cuts[d][at[d]] for d in order})


def count_steps(layer: ConvLayer, mapping: Mapping) -> int:
    steps = 1
    for d, size in mapping.tile.items():
        steps *= -(-layer.dims[d] // size)
    return steps


# --- elements, blocks and addresses -------------------------------------------------------------


def window_span(
    outputs: range, stride: int, taps: range, dilation: int, before: int, extent: int
) -> list[int]:
    """First to last index that the outputs' windows touch, without what is not stored."""
    touched = [o * stride + tap * dilation - before for o in outputs for tap in taps]
    return [i for i in range(min(touched), max(touched) + 1) if 0 <= i < extent]


def taps(layer: ConvLayer, ranges: Ranges) -> tuple[range, range]:
    """Ranges of R and S: whole where a tile does not name them."""
    return ranges.get("R", range(layer.R)), ranges.get("S", range(layer.S))


def input_elements(layer: ConvLayer, ranges: Ranges) -> Elements:
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    top, _, left, _ = layer.paddings
    r, s = taps(layer, ranges)
    rows = window_span(ranges["P"], sr, r, dr, top, layer.height)
    cols = window_span(ranges["Q"], sc, s, dc, left, layer.width)
    channels = [g * layer.C + c for g in ranges["G"] for c in ranges["C"]]
    return frozenset(product(ranges["N"], rows, cols, channels))


def weight_elements(layer: ConvLayer, ranges: Ranges) -> Elements:
    filters = [g * layer.K + k for g in ranges["G"] for k in ranges["K"]]
    return frozenset(product(filters, ranges["C"], *taps(layer, ranges)))


def output_elements(layer: ConvLayer, ranges: Ranges) -> Elements:
    channels = [g * layer.K + k for g in ranges["G"] for k in ranges["K"]]
    return frozenset(product(ranges["N"], ranges["P"], ranges["Q"], channels))


def activation_blocks(elements: Iterable[Element], size: int) -> set[Element]:
    return {(n, h, w, ch // size) for n, h, w, ch in elements}


def weight_blocks(
    layer: ConvLayer, elements: Iterable[Element], size: int, by_tap: bool = False
) -> set[Element]:
    places = ((k, c, r, s) if by_tap else (k, c, 0, 0) for k, c, r, s in elements)
    if layer.C == 1:
        return {(k // size, r, s) for k, _, r, s in places}
    return {(k, c // size, r, s) for k, c, r, s in places}


def activation_bits(elements: Elements, fmt: Format) -> tuple[int, int]:
    """(mantissa bits, exponent bits) of elements of I or O and of all blocks they touch."""
    own = storage(fmt)
    codes = len(activation_blocks(elements, own.block)) if own.code else 0
    return len(elements) * own.element, codes * own.code


def weight_bits(layer: ConvLayer, elements: Elements, fmt: Format) -> tuple[int, int]:
    own = storage(fmt)
    codes = len(weight_blocks(layer, elements, own.block, own.by_tap)) if own.code else 0
    return len(elements) * own.element, codes * own.code


class Packed:
    """Bit addresses of a tensor, found by writing it out block by block."""

    def __init__(self) -> None:
        self.element: dict[Element, range] = {}
        self.code: dict[Element, range] = {}
        self.end = 0

    def _take(self, bits: int) -> range:
        self.end += bits
        return range(self.end - bits, self.end)

    @classmethod
    def activation(cls, shape: tuple[int, ...], fmt: Format | int) -> "Packed":
        packed = cls()
        channels = range(shape[3])
        for n, h, w in product(*map(range, shape[:3])):
            if isinstance(fmt, int) or not storage(fmt).code:
                width = fmt if isinstance(fmt, int) else storage(fmt).element
                for ch in channels:
                    packed.element[n, h, w, ch] = packed._take(width)
                continue
            for block in range(0, len(channels), fmt.block_size):
                packed.code[n, h, w, block // fmt.block_size] = packed._take(fmt.exponent_bits)
                for ch in channels[block : block + fmt.block_size]:
                    packed.element[n, h, w, ch] = packed._take(fmt.mantissa_bits)
        return packed

    @classmethod
    def weight(cls, shape: tuple[int, ...], fmt: Format) -> "Packed":
        packed = cls()
        filters, channels, r, s = map(range, shape)
        own = storage(fmt)
        size = own.block or max(len(filters), len(channels))
        taps = list(product(r, s)) if own.by_tap else [(0, 0)]
        if len(channels) == 1:
            for first in range(0, len(filters), size):
                for tap in taps:
                    packed.code[first // size, *tap] = packed._take(own.code)
                for at in product(filters[first : first + size], channels, r, s):
                    packed.element[at] = packed._take(fmt.mantissa_bits)
            return packed
        for k in filters:
            for first in range(0, len(channels), size):
                for tap in taps:
                    packed.code[k, first // size, *tap] = packed._take(own.code)
                for i, j, c in product(r, s, channels[first : first + size]):
                    packed.element[k, c, i, j] = packed._take(fmt.mantissa_bits)
        return packed

    def padding(self, elements: Iterable[Element], blocks: Iterable[Element], burst: int) -> int:
        """Bits moved beyond the payload when every contiguous run is rounded out to bursts."""
        bits = {bit for e in elements for bit in self.element[e]}
        bits |= {bit for b in blocks for bit in self.code[b]}
        bursts = 0
        for first in (bit for bit in bits if bit - 1 not in bits):
            last = first
            while last + 1 in bits:
                last += 1
            bursts += last // burst - first // burst + 1
        return bursts * burst - len(bits)


# --- movement: section 4, rules 1 to 6 ----------------------------------------------------------


class Fetch(NamedTuple):
    step: int
    box: Elements
    new: Elements


class Visit(NamedTuple):
    begin: int
    end: int
    box: Elements
    resumed: bool
    finished: bool


def fetches_of_input(layer: ConvLayer, mapping: Mapping, halo: str) -> list[Fetch]:
    """Fetches that move something, by rules 2 and 3."""
    boxes: dict[tuple[int, ...], Elements] = {}
    fetches: list[Fetch] = []
    resident: Elements | None = None
    before: dict[str, int] = {}
    for step in odometer(layer, mapping):
        index = {d: step.at[d] for d in "NGCPQ"}
        if index == before:
            continue
        key = tuple(index.values())
        box = boxes.get(key) or boxes.setdefault(key, input_elements(layer, step.ranges))
        if box != resident:
            moved = [d for d in index if before.get(d) != index[d]]
            slides = moved in (["P"], ["Q"]) and index[moved[0]] == before.get(moved[0], -1) + 1
            keep = resident if resident and slides and halo == "sliding" else frozenset()
            fetches.append(Fetch(step.number, box, box - keep))
        resident, before = box, index
    return [fetch for fetch in fetches if fetch.new]


def fetches_of_weight(layer: ConvLayer, mapping: Mapping) -> list[Fetch]:
    boxes: dict[tuple[int, ...], Elements] = {}
    fetches: list[Fetch] = []
    for step in odometer(layer, mapping):
        key = tuple(step.at[d] for d in "GKC")
        box = boxes.get(key) or boxes.setdefault(key, weight_elements(layer, step.ranges))
        if not fetches or box != fetches[-1].box:
            fetches.append(Fetch(step.number, box, box))
    return fetches


def visits_of_output(layer: ConvLayer, mapping: Mapping) -> list[Visit]:
    boxes: dict[tuple[int, ...], Elements] = {}
    summed: dict[Elements, set[int]] = defaultdict(set)  # channels of C summed so far, per tile
    stays: list[tuple[int, Elements, bool]] = []
    visits: list[Visit] = []

    def leave(end: int) -> None:
        begin, box, resumed = stays[-1]
        visits.append(Visit(begin, end, box, resumed, summed[box] == set(range(layer.C))))

    end = 0
    for step in odometer(layer, mapping):
        key = tuple(step.at[d] for d in "NGKPQ")
        box = boxes.get(key) or boxes.setdefault(key, output_elements(layer, step.ranges))
        if not stays or box != stays[-1][1]:
            if stays:
                leave(step.number)
            stays.append((step.number, box, bool(summed[box])))
        summed[box] |= set(step.ranges["C"])
        end = step.number + 1
    leave(end)
    return visits


def dram_counts(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats, bursts: bool = False
) -> Counts:
    """DRAM traffic of a layer as stored, fetch by fetch."""
    counts = Counts()
    burst = arch.dram.burst if bursts else 1
    width = arch.pe_array.accumulator_bits

    def move(tensor, direction, bits, packed, elements, blocks) -> None:  # type: ignore[no-untyped-def]
        counts.add("DRAM", tensor, direction, "mantissa", bits[0])
        counts.add("DRAM", tensor, direction, "exponent", bits[1])
        if packed:
            padding = packed.padding(elements, blocks, burst)
            counts.add("DRAM", tensor, direction, "burst", padding)

    def blocks_of(elements: Elements, fmt: Format) -> set[Element]:
        own = storage(fmt)
        return activation_blocks(elements, own.block) if own.code else set()

    packed = Packed.activation(layer.input_shape, formats.I) if bursts else None
    for fetch in fetches_of_input(layer, mapping, arch.dma.halo):
        bits = activation_bits(fetch.new, formats.I)
        move("I", "read", bits, packed, fetch.new, blocks_of(fetch.new, formats.I))
    packed = Packed.weight(layer.weight_shape, formats.W) if bursts else None
    for fetch in fetches_of_weight(layer, mapping):
        own = storage(formats.W)
        blocks = weight_blocks(layer, fetch.new, own.block, own.by_tap) if own.code else set()
        move("W", "read", weight_bits(layer, fetch.new, formats.W), packed, fetch.new, blocks)
    packed = Packed.activation(layer.output_shape, formats.O) if bursts else None
    sums = Packed.activation(layer.output_shape, width) if bursts else None
    for visit in visits_of_output(layer, mapping):
        if visit.resumed:
            counts.add("DRAM", "O", "read", "psum", len(visit.box) * width)
            move("O", "read", (0, 0), sums, visit.box, ())
        if not visit.finished:
            counts.add("DRAM", "O", "write", "psum", len(visit.box) * width)
            move("O", "write", (0, 0), sums, visit.box, ())
        if visit.finished:
            bits = activation_bits(visit.box, formats.O)
            move("O", "write", bits, packed, visit.box, blocks_of(visit.box, formats.O))
    return counts


def with_padding_stored(layer: ConvLayer) -> ConvLayer:
    """The same layer on an input tensor that holds its padding."""
    top, bottom, left, right = layer.paddings
    return ConvLayer(
        layer.name, layer.K, layer.C, layer.P, layer.Q, layer.R, layer.S, layer.N, layer.G,
        layer.strides, 0, layer.dilations,
        layer.height + top + bottom, layer.width + left + right,
    )  # fmt: skip


# --- the PE array, cycle by cycle ---------------------------------------------------------------


class ArrayReads(NamedTuple):
    cycles: int
    inputs: int
    input_codes: int
    weights: int
    weight_codes: int
    outputs: int
    psums: int
    """Sums that leave the array, over all outputs: contributions that were not joined inside."""
    loads: int
    """How often what is stationary is put into the PEs."""


DEPENDS = {"input": "NGCPQRS", "weight": "GKCRS", "output": "NGKPQ"}

Lane = dict[str, int]


def folds_of(axis: Axis, ranges: Ranges) -> list[list[Lane]]:
    """The fillings of an axis, each a list of what its lanes compute."""

    def cut(lanes: list[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
        return [lanes[i : i + size] for i in range(0, len(lanes), size)]

    whole = list(product(*(ranges[d] for d in axis.dim)))
    over = axis.over or ""
    spare = list(product(*(ranges[d] for d in over)))  # one empty lane where nothing fills up
    names = axis.dim + over
    return [
        [dict(zip(names, lane + above, strict=True)) for above in upper for lane in lower]
        for lower in cut(whole, axis.size)
        for upper in cut(spare, max(1, axis.size // len(whole)))
    ]


def run_array(
    layer: ConvLayer, ranges: Ranges, array: PEArray, formats: LayerFormats
) -> ArrayReads:
    """Every fold of all axes, every time step of the other dimensions, every lane.

    Streaming operands are read each cycle, once per distinct element (that is broadcast). The
    stationary one is read once per fold. Elements of I are im2col elements, padding left out.
    A block's code is read once per fold that uses it, each time the mantissas are gone through.
    """
    ranges = ranges | dict(zip("RS", taps(layer, ranges), strict=True))
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    top, _, left, _ = layer.paddings
    spatial = "".join(axis.dim + (axis.over or "") for axis in array.axes)
    timed = [d for d in "NGKCPQRS" if d not in spatial]
    block_i, block_w = storage(formats.I).block, storage(formats.W).block
    by_tap = storage(formats.W).by_tap

    cycles = inputs = weights = 0
    held: set[object] = set()  # the stationary operand's reads
    loads: set[object] = set()
    codes_i: set[object] = set()
    codes_w: set[object] = set()
    psums: dict[Element, set[object]] = defaultdict(set)
    at: dict[str, int] = {}
    for fold, filling in enumerate(product(*(folds_of(axis, ranges) for axis in array.axes))):
        lanes = [{d: i for part in lane for d, i in part.items()} for lane in product(*filling)]
        for time in product(*(ranges[d] for d in timed)):
            at.update(zip(timed, time, strict=True))
            pass_i = at["K"] if "K" in timed and array.stationary != "input" else None
            pass_w = tuple(at[d] for d in timed if d in "NPQ")
            if array.stationary == "weight":
                pass_w = ()
            reduced = tuple(at[d] for d in timed if d in "CRS")
            cycles += 1
            loads.add((fold, *(at[d] for d in timed if d in DEPENDS[array.stationary])))
            now_i: set[Element] = set()
            now_w: set[Element] = set()
            for lane in lanes:
                at.update(lane)
                n, g, k, c, p, q, r, s = (at[d] for d in "NGKCPQRS")
                h, w = p * sr + r * dr - top, q * sc + s * dc - left
                if 0 <= h < layer.height and 0 <= w < layer.width:
                    now_i.add((n, g, c, p, q, r, s))
                    if block_i:
                        block = (g * layer.C + c) // block_i
                        codes_i.add((fold, pass_i, n, p, q, r, s, block))
                now_w.add((g, k, c, r, s))
                if block_w:
                    f = g * layer.K + k
                    of = f // block_w if layer.C == 1 else (f, c // block_w)
                    codes_w.add((fold, pass_w, of, (r, s) if by_tap else None))
                left_in = None if array.stationary == "output" else (fold, reduced)
                psums[n, g, k, p, q].add(left_in)
            if array.stationary == "input":
                held |= {(fold, e) for e in now_i}
            else:
                inputs += len(now_i)
            if array.stationary == "weight":
                held |= {(fold, e) for e in now_w}
            else:
                weights += len(now_w)
    inputs += len(held) if array.stationary == "input" else 0
    weights += len(held) if array.stationary == "weight" else 0
    leaving = sum(map(len, psums.values()))
    return ArrayReads(
        cycles, inputs, len(codes_i), weights, len(codes_w), len(psums), leaving, len(loads)
    )
