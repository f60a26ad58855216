"""The machine in Amaranth's simulator, running layers as they are mapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

from amaranth.sim import Simulator

from bfpsim.arch import Arch
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import LayerFormats
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import Quantized
from bfpsim.sim.rtl.design import design_of
from bfpsim.sim.rtl.engine import Engine
from bfpsim.sim.rtl.session import Session, TileRun
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, eq=False)
class LayerRun:
    """A layer on the machine.

    tiles: in the order they ran
    sums: of the whole output, (N, P, Q, channels)
    quantized: the output as the requantiser made it
    overflow: whether a sum, if only on the way, did not fit into the accumulators. Sums wrap
        around: where the last one fits it is right all the same
    """

    tiles: tuple[TileRun, ...]
    sums: ExactArray
    quantized: Quantized
    overflow: bool

    @property
    def cycles(self) -> int:
        """That the machine was busy with all tiles."""
        return sum(run.cycles for run in self.tiles)

    @property
    def beats(self) -> int:
        """Cycles, of all tiles, in which the first PE multiplied."""
        return sum(run.beats for run in self.tiles)


class Twin:
    """A machine, compiled once, that runs one layer after another.

    Parameters and errors are those of `design_of`.
    """

    def __init__(
        self,
        arch: Arch,
        formats: LayerFormats,
        *,
        stages: int = 0,
        entries: int | None = None,
    ) -> None:
        self.arch = arch
        self.design = design_of(arch, formats, stages=stages, entries=entries)
        self._simulator: Simulator | None = None
        self._session: Session | None = None

    def run(
        self,
        layer: ConvLayer,
        mapping: Mapping,
        inputs: Quantized,
        weights: Quantized,
        top: int,
        stalls: Iterator[bool] = repeat(False),  # noqa: B008 - it has no state
    ) -> LayerRun:
        """Run a layer as it is mapped.

        inputs, weights: (N, H, W, channels) and (filters, C, R, S), in the formats of I and W
        top: E_top of the output
        stalls: whether memory has nothing to give, cycle by cycle; the machine waits then

        Raises MappingError for a mapping that is not legal, for tiles larger than the
        accumulators, and for innermost tiles of O that cut blocks; FormatError for other operands.
        """
        session = Session(self.design, self.arch, layer, mapping, inputs, weights, top, stalls)
        self._session = session
        if self._simulator is None:
            self._simulator = Simulator(self._engine)
            self._simulator.add_clock(1 / float(self.arch.clock))
            self._simulator.add_testbench(self._bench)
        else:
            self._simulator.reset()
        self._simulator.run()
        return LayerRun(tuple(session.runs), session.sums, session.quantized, session.overflow)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.design)

    async def _bench(self, ctx: Any) -> None:
        assert self._session is not None
        await self._session.run(ctx, self._engine)
