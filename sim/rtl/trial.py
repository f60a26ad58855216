"""Random layers on the machine and in the simulator, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import LayerFormats
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import quantize_activation, quantize_weight
from bfpsim.sim.functional import exact_output
from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.twin import Twin
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True)
class Trial:
    """A layer on both.

    cycles: that the simulator's array computes; expected: those and what a tile takes more, known
    beforehand; rtl_cycles: that the machine took
    sums, results: whether all of them are equal; overflow: whether the machine flagged a sum
    """

    layer: ConvLayer
    mapping: Mapping
    tiles: int
    cycles: int
    expected: int
    rtl_cycles: int
    sums: bool
    results: bool
    overflow: bool

    @property
    def agrees(self) -> bool:
        """Whether cycles are as expected, and sums and results equal unless one was flagged."""
        return self.rtl_cycles == self.expected and (self.overflow or (self.sums and self.results))


def trials(
    arch: Arch,
    formats: LayerFormats,
    count: int,
    *,
    stages: int = 0,
    entries: int | None = None,
    seed: int = 0,
) -> Iterator[Trial]:
    """Run random layers, some larger than the array, in random tiles; raises as `design_of`."""
    twin = Twin(arch, formats, stages=stages, entries=entries)
    rng = np.random.default_rng(seed)
    done = 0
    while done < count:
        layer = _layer(rng, twin.design)
        try:
            trial = _trial(twin, layer, _mapping(rng, layer, formats), rng)
        except MappingError:
            continue
        yield trial
        done += 1


def _trial(twin: Twin, layer: ConvLayer, mapping: Mapping, rng: np.random.Generator) -> Trial:
    """One layer; raises MappingError if the mapping does not suit."""
    formats = twin.design.formats
    spreads = [rng.integers(-3, 4, shape) for shape in (layer.input_shape, layer.weight_shape)]
    values = [np.ldexp(rng.normal(size=spread.shape), spread) for spread in spreads]
    inputs = quantize_activation(values[0], formats.I, name="input", rng=rng)
    weights = quantize_weight(values[1], formats.W, name="weight", rng=rng)
    simulated = simulate(layer, twin.arch, mapping, formats, (inputs, weights))
    result = simulated.quantized
    assert result is not None
    run = twin.run(layer, simulated.mapping, inputs, weights, result.top)
    difference = exact_output(layer, inputs, weights) + ExactArray(
        -run.sums.digits, run.sums.exponent
    )
    computing = simulated.steady_cycles + simulated.fill_cycles
    return Trial(
        layer,
        simulated.mapping,
        len(run.tiles),
        computing,
        computing + len(run.tiles) * twin.design.beyond_model,
        run.cycles,
        not difference.digits.any(),
        np.array_equal(run.quantized.fields, result.fields)
        and np.array_equal(run.quantized.codes, result.codes),
        run.overflow,
    )


def _layer(rng: np.random.Generator, design: Design) -> ConvLayer:
    """A layer of which an axis takes up to two folds and a part of one."""
    wide = 2 * max(design.rows, design.cols) + 2
    K, C = (int(rng.integers(1, wide)) for _ in range(2))
    P, Q, R, S = (int(rng.integers(1, high)) for high in (5, 5, 4, 4))
    return ConvLayer("random", K=K, C=C, P=P, Q=Q, R=R, S=S, padding=((R - 1) // 2, (S - 1) // 2))


def _mapping(rng: np.random.Generator, layer: ConvLayer, formats: LayerFormats) -> Mapping:
    """Random tiles of it, whose outputs end on blocks."""
    tile = {dim: int(rng.integers(1, layer.dims[dim] + 1)) for dim in "KCP" if rng.random() < 0.3}
    if "K" in tile:
        size = formats.O.block_size
        tile["K"] = min(layer.K, -(-tile["K"] // size) * size)
    return Mapping("".join(rng.permutation(["P", "K", "C"])), tile)
