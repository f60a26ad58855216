"""SRAM traffic of the PE array over a whole nest: exact in closed form, and the paper's volume."""

from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from math import prod
from typing import NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.boxes import Interval
from bfpsim.mapping.counts import Counts, Direction
from bfpsim.mapping.dram_model import average_code_bits
from bfpsim.mapping.nest import Nest, Tensor
from bfpsim.mapping.pe_array import (
    Sizes,
    Tile,
    col_taps,
    input_codes,
    row_taps,
    traffic_of,
    weight_codes,
)
from bfpsim.quant.formats import BFP, LayerFormats


class _Channels(NamedTuple):
    """What the costs of a tile depend on in its ranges of G, K and C."""

    G: int
    K: int
    C: int
    input_codes: tuple[tuple[int, ...], ...]
    weight_codes: int
    resumes: bool
    finishes: bool


class ArrayTotals(NamedTuple):
    """The PE array over a whole layer."""

    counts: Counts
    cycles: int


def array_totals(nest: Nest, arch: Arch, formats: LayerFormats) -> ArrayTotals:
    """Sum of the array's cycles and SRAM traffic over all tile steps.

    Tiles that differ only in position cost the same but for padding, which is linear in the taps
    that fall on stored rows and columns: so sizes, cuts and taps are summed per class of tiles.
    """
    layer, array = nest.layer, arch.pe_array
    counts, cycles = Counts(), 0
    by_row = _taps_by_size(nest.spans("P"), lambda p: row_taps(layer, p))
    by_col = _taps_by_size(nest.spans("Q"), lambda q: col_taps(layer, q))
    batches = Counter(high - low for low, high in nest.spans("N"))
    for kind, tiles in _channel_tiles(nest, arch, formats).items():
        for n, n_tiles in batches.items():
            for p, (p_tiles, rows) in by_row.items():
                for q, (q_tiles, cols) in by_col.items():
                    sizes: Sizes = {"N": n, "G": kind.G, "K": kind.K, "C": kind.C, "P": p, "Q": q}
                    sizes |= {"R": layer.R, "S": layer.S}
                    one = traffic_of(
                        sizes, rows, cols, kind.input_codes, kind.weight_codes, array, formats
                    )
                    columns = tiles * n_tiles  # rows and cols already sum over P and Q tiles
                    times = columns * p_tiles * q_tiles
                    cycles += one.cycles * times
                    counts.add("SRAM", "I", "read", "mantissa", one.input_mantissa * columns)
                    counts.add("SRAM", "I", "read", "exponent", one.input_exponent * columns)
                    counts.add("SRAM", "W", "read", "mantissa", one.weight_mantissa * times)
                    counts.add("SRAM", "W", "read", "exponent", one.weight_exponent * times)
                    psums = one.output_elements * times * array.accumulator_bits
                    reads = one.reduction_folds - 1 + kind.resumes
                    writes = one.reduction_folds - kind.finishes
                    counts.add("SRAM", "O", "read", "psum", reads * psums)
                    counts.add("SRAM", "O", "write", "psum", writes * psums)
    elements = prod(layer.output_shape)
    counts.add("SRAM", "O", "write", "mantissa", elements * formats.O.mantissa_bits)
    if isinstance(formats.O, BFP):
        blocks = elements // (layer.G * layer.K) * -(-layer.G * layer.K // formats.O.block_size)
        counts.add("SRAM", "O", "write", "exponent", blocks * formats.O.exponent_bits)
    return ArrayTotals(counts, cycles)


def _taps_by_size(
    spans: list[Interval], taps: Callable[[Interval], tuple[int, ...]]
) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Tile size -> (number of such tiles, their taps summed)."""
    groups: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for span in spans:
        groups[span[1] - span[0]].append(taps(span))
    return {
        size: (len(lines), tuple(map(sum, zip(*lines, strict=True))))
        for size, lines in groups.items()
    }


def _channel_tiles(nest: Nest, arch: Arch, formats: LayerFormats) -> Counter[_Channels]:
    """How many tiles of G, K and C there are of each kind."""
    layer, array = nest.layer, arch.pe_array
    last = nest.trips["C"] - 1
    if layer.C == 1:  # blocks of filters: where a K tile lies decides what it cuts
        filters = [(k, 1) for k in nest.spans("K")]
    else:  # only its size counts
        sizes = Counter(high - low for low, high in nest.spans("K"))
        filters = [((0, size), tiles) for size, tiles in sizes.items()]
    kinds: Counter[_Channels] = Counter()
    for g in nest.spans("G"):
        for index, c in enumerate(nest.spans("C")):
            for k, tiles in filters:
                tile = Tile((0, 1), g, k, c, (0, 1), (0, 1))
                codes = input_codes(layer, tile, array, formats.I)
                kind = _Channels(
                    g[1] - g[0],
                    k[1] - k[0],
                    c[1] - c[0],
                    tuple(map(tuple, codes)),
                    weight_codes(layer, tile, array, formats.W),
                    resumes=index > 0,
                    finishes=index == last,
                )
                kinds[kind] += tiles
    return kinds


# The order of the loops inside a tile, outer to inner, that keeps the operand in place.
INSIDE = {"weight": "GKCRSNPQ", "output": "NGKPQCRS", "input": "NGCPQRSK"}
INSIDE_RELEVANT = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}


def paper_array_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> Counts:
    """DM_S of the paper: Eq. 5's rule once more, the array's unrolling as the inner tile.

    Per DRAM tile (real-valued trips), loops inside it in the order of the dataflow: absent loops
    inside the innermost relevant one are free, a sliding one widens the tile, all others multiply.
    """
    layer, array = nest.layer, arch.pe_array
    sizes = {d: Fraction(s) for d, s in (nest.tile | {"R": layer.R, "S": layer.S}).items()}
    inner = dict.fromkeys(sizes, Fraction(1))
    for axis in (array.rows, array.cols):
        lanes = Fraction(axis.size)
        for dim in reversed(axis.dim):  # the last letter is the innermost of a fused dimension
            inner[dim] = min(lanes, sizes[dim])
            lanes = max(Fraction(1), lanes / inner[dim])
    steps = prod((Fraction(layer.dims[d], nest.tile[d]) for d in nest.tile), start=Fraction(1))
    counts = Counts()
    tensors: tuple[Tensor, ...] = ("I", "W", "O")
    for tensor in tensors:
        direction: Direction = "write" if tensor == "O" else "read"
        fmt = formats.of(tensor)
        box = dict(inner)
        times, waiting, widened = Fraction(1), Fraction(1), ""
        for dim in INSIDE[array.stationary]:
            trips = sizes[dim] / inner[dim]
            if trips == 1:
                continue
            if dim in INSIDE_RELEVANT[tensor]:
                times, waiting, widened = times * waiting * trips, Fraction(1), dim
            else:
                waiting *= trips
        if tensor == "I" and widened in ("P", "Q"):
            box[widened] = sizes[widened]
            times /= sizes[widened] / inner[widened]
        elements = _elements(tensor, box, nest) * times * steps
        positions = layer.R * layer.S if tensor == "W" else 1
        code = average_code_bits(fmt, positions)
        counts.add("SRAM", tensor, direction, "mantissa", elements * fmt.mantissa_bits)
        counts.add("SRAM", tensor, direction, "exponent", elements * code)
    return counts


def _elements(tensor: str, box: dict[str, Fraction], nest: Nest) -> Fraction:
    """Elements of a tensor that the box of loop dimensions covers."""
    if tensor == "W":
        return box["G"] * box["K"] * box["C"] * box["R"] * box["S"]
    if tensor == "O":
        return box["N"] * box["G"] * box["K"] * box["P"] * box["Q"]
    (sr, sc), (dr, dc) = nest.layer.strides, nest.layer.dilations
    rows = (box["P"] - 1) * sr + (box["R"] - 1) * dr + 1
    cols = (box["Q"] - 1) * sc + (box["S"] - 1) * dc + 1
    return box["N"] * box["G"] * box["C"] * rows * cols
