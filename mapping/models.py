"""Analytical data movement: the paper's model, the exact one, and the ladder between them.

`paper` is Eq. 2-6 of BitQ, made precise as in MOpt (ASPLOS'21). `exact` is a closed form of the
movement rules without bursts. They differ by effects that can each be switched on alone; with all
of them the model equals the simulator bit for bit.
"""

from collections.abc import Iterable
from fractions import Fraction

from bfpsim.arch import Arch
from bfpsim.mapping.array_model import array_totals, paper_array_counts
from bfpsim.mapping.boxes import Volume, input_box, output_box, weight_box
from bfpsim.mapping.capacity import check
from bfpsim.mapping.counts import Counts, Direction
from bfpsim.mapping.dram_model import EXACT, FULL, PAPER, Effect, dram_counts, stored
from bfpsim.mapping.nest import DIMS, Mapping, Tensor, make_nest
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

__all__ = [
    "EXACT",
    "FULL",
    "PAPER",
    "Effect",
    "compulsory_counts",
    "ladder",
    "model_counts",
    "stored",
]


def model_counts(
    layer: ConvLayer,
    arch: Arch,
    mapping: Mapping,
    formats: LayerFormats,
    effects: frozenset[Effect],
) -> Counts:
    """Bits moved by a legal mapping, at both levels, with the given effects modelled.

    SRAM counts are the paper's array-side volume for `PAPER` and exact for any other set.
    Raises MappingError as `check` does.
    """
    layer = stored(layer, arch)
    nest = check(layer, arch, mapping, formats)
    counts = dram_counts(nest, arch, formats, effects)
    if effects == PAPER:
        counts.merge(paper_array_counts(nest, arch, formats))
    else:
        dma_side(counts)
        counts.merge(array_totals(nest, arch, formats).counts)
    return counts


def ladder(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> list[tuple[str, Fraction, Fraction]]:
    """DRAM bits from `paper` to simulated: (rung, bits it adds to those below, bits it adds alone).

    The first entry is ("paper", its total, its total); the second column sums to the total with
    bursts.
    """
    layer = stored(layer, arch)
    nest = check(layer, arch, mapping, formats)

    def dram(effects: Iterable[Effect]) -> Fraction:
        return Fraction(dram_counts(nest, arch, formats, frozenset(effects)).total())

    paper = dram(PAPER)
    rungs = [("paper", paper, paper)]
    below = paper
    climbed: list[Effect] = []
    for effect in Effect:
        climbed.append(effect)
        here = dram(climbed)
        rungs.append((effect.value, here - below, dram([effect]) - paper))
        below = here
    return rungs


def dma_side(counts: Counts) -> None:
    """What DMA fills into and drains from the SRAM: the payload that DRAM reads and writes."""
    for flow, bits in list(counts.items()):
        if flow.level == "DRAM" and flow.kind != "burst":
            opposite: Direction = "write" if flow.direction == "read" else "read"
            counts.add("SRAM", flow.tensor, opposite, flow.kind, bits)


def compulsory_counts(layer: ConvLayer, arch: Arch, formats: LayerFormats) -> Counts:
    """DRAM payload that no mapping avoids: every needed element once, bursts apart.

    I's stored rows and columns that some output needs (not those that strides step over), W, and
    O as a result.
    """
    layer = stored(layer, arch)
    nest = make_nest(layer, Mapping())
    at = dict.fromkeys(DIMS, 0)
    needed = input_box(nest, at)._replace(h=(0, _lines(layer, "P")), w=(0, _lines(layer, "Q")))
    counts = Counts()
    once: tuple[tuple[Tensor, Direction, Volume], ...] = (
        ("I", "read", needed.volume(formats.I)),
        ("W", "read", weight_box(nest, at).volume(formats.W)),
        ("O", "write", output_box(nest, at).volume(formats.O)),
    )
    for tensor, direction, volume in once:
        counts.add("DRAM", tensor, direction, "mantissa", volume.mantissa)
        counts.add("DRAM", tensor, direction, "exponent", volume.exponent)
    return counts


def _lines(layer: ConvLayer, dim: str) -> int:
    """Stored input rows (P) or columns (Q) that some output needs."""
    axis, taps, before, extent = (
        (0, layer.R, 0, layer.height) if dim == "P" else (1, layer.S, 2, layer.width)
    )
    lines = {
        output * layer.strides[axis] + tap * layer.dilations[axis] - layer.paddings[before]
        for output in range(layer.dims[dim])
        for tap in range(taps)
    }
    return len(lines & set(range(extent)))
