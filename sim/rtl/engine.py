"""The whole machine: sequencer, PEs, accumulators, requantiser. Operands come from outside."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import EnableInserter, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bfpsim.sim.rtl.accumulators import Accumulators, access
from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.grid import Grid, ports
from bfpsim.sim.rtl.requantiser import UNIT_BITS, Requantiser
from bfpsim.sim.rtl.sequencer import TILE, WANTED, Sequencer
from bfpsim.sim.rtl.signals import base, operand


class Engine(wiring.Component):
    """Multiplies tiles of a layer, accumulates their sums, gives results.

    enable: while it is low everything stands still, as if time had not passed
    tile, start, busy: a tile begins in the cycle after `start`, and is whole when `busy` falls
    preload, stream: which operands are wanted now, at `kept` and at `across` and `down`; they are
        taken in the same cycle
    access, read: one sum, while the array rests; what is read comes a cycle later
    send, last: what is read goes to the requantiser, too; last: it ends a block
    base: the largest code of I and that of W with any mantissa but 0, added
    unit, top: exponents of a sum's last bit and of the output's top
    result_valid, mantissa, code: results; as many cycles as the block has elements, after it is in
    overflow: since the last tile that did not resume, a sum did not fit
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        fmt = design.formats.O
        members: dict[str, Any] = {
            "enable": In(1, init=1),
            "tile": In(TILE),
            "start": In(1),
            "busy": Out(1),
            "stream": Out(WANTED),
            "access": In(access(design)),
            "read": Out(signed(design.sum_bits)),
            "send": In(1),
            "last": In(1),
            "base": In(base(design)),
            "unit": In(signed(UNIT_BITS)),
            "top": In(signed(8)),
            "result_valid": Out(1),
            "mantissa": Out(signed(fmt.mantissa_bits)),
            "code": Out(max(1, fmt.exponent_bits)),
            "overflow": Out(1),
        }
        if design.kept is not None:
            members["preload"] = Out(WANTED)
        for name, port_format, lanes in ports(design):
            members[name] = In(data.ArrayLayout(operand(port_format), lanes))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self.design
        sequencer, grid = Sequencer(design), Grid(design)
        accumulators, requantiser = Accumulators(design), Requantiser(design)
        m.submodules.sequencer, m.submodules.grid = sequencer, grid
        m.submodules.accumulators, m.submodules.requantiser = accumulators, requantiser
        sent, last = Signal(), Signal()
        m.d.sync += [sent.eq(self.send), last.eq(self.last)]
        m.d.comb += [
            sequencer.tile.eq(self.tile),
            sequencer.start.eq(self.start),
            self.busy.eq(sequencer.busy),
            self.stream.eq(sequencer.stream),
            grid.beat.eq(sequencer.beat),
            grid.base.eq(self.base),
            accumulators.command.eq(sequencer.command),
            accumulators.sums.eq(grid.sums),
            accumulators.busy.eq(sequencer.busy),
            accumulators.access.eq(self.access),
            self.read.eq(accumulators.read),
            requantiser.valid.eq(sent),
            requantiser.last.eq(last),
            requantiser.sum.eq(accumulators.read),
            requantiser.unit.eq(self.unit),
            requantiser.top.eq(self.top),
            self.result_valid.eq(requantiser.result_valid),
            self.mantissa.eq(requantiser.mantissa),
            self.code.eq(requantiser.code),
        ]
        for name, _, _ in ports(design):
            m.d.comb += getattr(grid, name).eq(getattr(self, name))
        if design.kept is not None:
            m.d.comb += [
                self.preload.eq(sequencer.preload),
                grid.preloading.eq(sequencer.preload.valid),
                grid.row.eq(sequencer.preload.index),
            ]
        with m.If(self.start & ~sequencer.busy & ~self.tile.resume):
            m.d.sync += self.overflow.eq(0)
        with m.Elif(grid.overflow | accumulators.overflow):
            m.d.sync += self.overflow.eq(1)
        return EnableInserter(self.enable)(m)
