"""Analytical data movement: the paper's model, the exact one, and the ladder between them.

`paper` is Eq. 2-6 of BitQ, made precise as in MOpt (ASPLOS'21). `exact` is the closed form of the
movement rules without bursts. They differ by effects that can each be switched on alone; with all
of them the model equals the simulator bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Literal

from bfpsim.arch import Arch, ArchSource, load_arch
from bfpsim.mapping.closed.levels import inner_counts, paper_inner_counts
from bfpsim.mapping.closed.traffic import (
    EXACT,
    FULL,
    PAPER,
    Effect,
    Effects,
    Payload,
    times,
)
from bfpsim.mapping.counts import Counts, Direction, to_frame
from bfpsim.mapping.fit import check, stored
from bfpsim.mapping.inner import with_insides
from bfpsim.mapping.nest import Mapping, MappingError, Nest, Tensor
from bfpsim.mapping.sources import (
    FormatsSource,
    MappingsSource,
    formats_by_layer,
    mappings_by_layer,
)
from bfpsim.mapping.steps.bursts import input_padding, result_padding, sums_padding, weight_padding
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import ActivationLayout, LayerFormats, WeightLayout, layer_formats
from bfpsim.workloads import ConvLayer, NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EXACT",
    "FULL",
    "PAPER",
    "Effect",
    "compulsory_counts",
    "full_counts",
    "ladder",
    "model_counts",
    "nest_counts",
    "outer_counts",
    "predict",
    "stored",
]


def model_counts(
    layer: ConvLayer,
    arch: Arch,
    mapping: Mapping,
    formats: LayerFormats,
    effects: Effects,
) -> Counts:
    """Bits moved by a legal mapping, as `nest_counts`; raises MappingError as `check` does."""
    nest = check(stored(layer, arch), arch, mapping, formats)
    return nest_counts(nest, arch, formats, effects)


def nest_counts(nest: Nest, arch: Arch, formats: LayerFormats, effects: Effects) -> Counts:
    """Bits moved by a nest of the stored layer, at every level, with the given effects modelled.

    What the array exchanges is the paper's volume for `PAPER` and exact for any other set.
    """
    counts = outer_counts(nest, arch, formats, effects)
    if effects == PAPER:
        counts.merge(paper_inner_counts(nest, arch, formats))
    else:
        _pass_inwards(counts, arch)
        counts.merge(inner_counts(nest, arch, formats)[0])
    return counts


def outer_counts(nest: Nest, arch: Arch, formats: LayerFormats, effects: Effects) -> Counts:
    """Bits moved at the outermost level for a nest of the stored layer, with effects modelled."""
    counts = Payload(nest, arch, formats).counts(effects)
    if Effect.BURSTS in effects:
        counts.merge(_burst_counts(nest, arch, formats))
    return counts


def full_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> tuple[Counts, int]:
    """What the simulator moves for a nest of the stored layer, and the cycles that it computes."""
    counts = outer_counts(nest, arch, formats, FULL)
    _pass_inwards(counts, arch)
    inner, cycles = inner_counts(nest, arch, formats)
    counts.merge(inner)
    return counts, cycles


def ladder(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> list[tuple[str, Fraction, Fraction]]:
    """Off-chip bits from `paper` to simulated: (rung, bits it adds to those below, and alone).

    The first entry is ("paper", its total, its total); the second column sums to the total with
    bursts.
    """
    nest = check(stored(layer, arch), arch, mapping, formats)
    bursts = Fraction(_burst_counts(nest, arch, formats).total())
    payload = Payload(nest, arch, formats)

    def moved(effects: Iterable[Effect]) -> Fraction:
        given = frozenset(effects)
        bits = Fraction(payload.counts(given).total())
        return bits + bursts if Effect.BURSTS in given else bits

    paper = moved(PAPER)
    rungs = [("paper", paper, paper)]
    below = paper
    climbed: list[Effect] = []
    for effect in Effect:
        climbed.append(effect)
        here = moved(climbed)
        rungs.append((effect.value, here - below, moved([effect]) - paper))
        below = here
    return rungs


def _pass_inwards(counts: Counts, arch: Arch) -> None:
    """Count at the level inside what the outermost one reads and writes, bursts apart."""
    outer, inner = (level.name for level in arch.levels[:2])
    for flow, bits in list(counts.items()):
        if flow.level == outer and flow.kind != "burst":
            opposite: Direction = "write" if flow.direction == "read" else "read"
            counts.add(inner, flow.tensor, opposite, flow.kind, bits)


def _burst_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> Counts:
    """What whole bursts move beyond the payload."""
    counts, burst, level = Counts(), arch.dram.burst, arch.levels[0].name
    inputs = input_padding(nest, formats.I, burst, arch.dma.halo)
    counts.add(level, "I", "read", "burst", inputs)
    weights = weight_padding(nest, formats.W, burst) * times(nest, "W")
    counts.add(level, "W", "read", "burst", weights)
    counts.add(level, "O", "write", "burst", result_padding(nest, formats.O, burst))
    spills = times(nest, "O") - 1
    if spills:
        sums = sums_padding(nest, arch.pe_array.accumulator_bits, burst) * spills
        counts.add(level, "O", "write", "burst", sums)
        counts.add(level, "O", "read", "burst", sums)
    return counts


def compulsory_counts(layer: ConvLayer, arch: Arch, formats: LayerFormats) -> Counts:
    """Off-chip payload that no mapping avoids: every needed element once, bursts apart.

    I's stored rows and columns that some output needs (not those that strides step over), W, and
    O as a result.
    """
    layer, level = stored(layer, arch), arch.levels[0].name
    rows, cols = (Window.of(layer, d).lines(layer.dims[d]) for d in "PQ")
    needed = (layer.N, rows, cols, layer.G * layer.C)
    counts = Counts()
    once: tuple[tuple[Tensor, Direction, ActivationLayout | WeightLayout], ...] = (
        ("I", "read", ActivationLayout(needed, formats.I)),
        ("W", "read", WeightLayout(layer.weight_shape, formats.W)),
        ("O", "write", ActivationLayout(layer.output_shape, formats.O)),
    )
    for tensor, direction, layout in once:
        mantissas = prod(layout.shape) * formats.of(tensor).mantissa_bits
        counts.add(level, tensor, direction, "mantissa", mantissas)
        counts.add(level, tensor, direction, "exponent", layout.bits - mantissas)
    return counts


def predict(
    layer: ConvLayer | NetworkSource,
    arch: ArchSource,
    mapping: Mapping | MappingsSource,
    formats: FormatsSource,
    model: Literal["paper", "exact", "full"] = "exact",
    *,
    network: str = "",
) -> pd.DataFrame:
    """Bits moved by a mapping according to a model, without simulating it, as a table.

    model: "paper" is Eq. 2-6 of BitQ; "exact" the closed form of the movement rules without
        bursts; "full" with bursts, which equals the simulator bit for bit
    layer: or a network, with mappings and formats as `simulate_network` takes them: all its layers
    network: the name that the table shows

    On a machine with levels inside SRAM a mapping that says nothing of them gets the insides of
    least movement energy, as in `simulate`.

    Columns as `LayerResult.traffic`. The paper's bits may be fractions.
    Raises MappingError for a mapping that is not legal, ValueError for another model.
    """
    if model not in _EFFECTS:
        raise ValueError(f"model={model!r}; allowed: {', '.join(_EFFECTS)}")
    effects, arch = _EFFECTS[model], load_arch(arch)
    if isinstance(layer, ConvLayer):
        if not isinstance(mapping, Mapping):
            raise MappingError(
                f"mapping {mapping!r:.80} of the layer {layer.name!r}; allowed: a Mapping"
            )
        own_formats = layer_formats(formats)
        mapping = with_insides(layer, arch, mapping, own_formats)
        counts = model_counts(layer, arch, mapping, own_formats, effects)
        return to_frame([(network, layer.name, counts)], arch)
    whole = load_workload(layer)
    given, chosen = mappings_by_layer(mapping, whole, arch), formats_by_layer(formats, whole)
    rows = []
    for own in whole.layers:
        if own.name not in given:
            raise MappingError(
                f"mappings of {whole.name} lack {own.name!r}; allowed: one for each layer, as of "
                "find_mapping(network, arch, formats)"
            )
        of_layer = chosen if isinstance(chosen, LayerFormats) else chosen[own.name]
        full = with_insides(own, arch, given[own.name], of_layer)
        counts = model_counts(own, arch, full, of_layer, effects)
        rows.append((network or whole.name, own.name, counts.scaled(whole.repeats[own.name])))
    return to_frame(rows, arch)


_EFFECTS = {"paper": PAPER, "exact": EXACT, "full": FULL}
