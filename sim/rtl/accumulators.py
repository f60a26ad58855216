"""Banks of sums, one for each lane at which the array gives them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.element import overflows
from bfpsim.sim.rtl.signals import command


def access(design: Design) -> data.StructLayout:
    """One sum that the outside reads or writes while the array rests."""
    return data.StructLayout(
        {
            "write": 1,
            "bank": range(design.banks),
            "address": range(design.entries),
            "sum": signed(design.sum_bits),
        }
    )


class Accumulators(wiring.Component):
    """Adds each sum to the one that its command names.

    A bank reads while its sum is still on its way, adds and writes in the cycle in which it comes.

    command: as the sequencer gives it; sums: from the array
    busy: whether the array uses the banks; access: what the outside does otherwise
    read: the sum at the address and bank of the cycle before
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        super().__init__(
            {
                "command": In(command(design)),
                "sums": In(data.ArrayLayout(signed(design.sum_bits), design.banks)),
                "busy": In(1),
                "access": In(access(design)),
                "read": Out(signed(design.sum_bits)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        delay = (design.rows if design.kept is None else design.depth) + design.stages
        commands = [self.command]
        for place in range(1, delay + design.banks):
            later = Signal(command(design), name=f"command_{place}")
            m.d.sync += later.eq(commands[-1])
            commands.append(later)
        contents = data.ArrayLayout(signed(design.sum_bits), design.banks)
        values, overflow = Signal(contents), Signal(design.banks)
        for bank in range(design.banks):
            early, now = commands[delay + bank - 1], commands[delay + bank]
            cells = memory.Memory(shape=signed(design.sum_bits), depth=design.entries, init=[])
            m.submodules[f"bank_{bank}"] = cells
            write = cells.write_port()
            read = cells.read_port(transparent_for=[write])
            total = Mux(now.fresh, 0, read.data) + self.sums[bank]
            chosen = self.access.bank == bank
            m.d.comb += [
                read.addr.eq(Mux(self.busy, early.address, self.access.address)),
                write.addr.eq(Mux(self.busy, now.address, self.access.address)),
                write.data.eq(Mux(self.busy, total, self.access.sum)),
                write.en.eq(Mux(self.busy, now.valid, self.access.write & chosen)),
                values[bank].eq(read.data),
                overflow[bank].eq(now.valid & overflows(total, design.sum_bits)),
            ]
        bank = Signal(range(design.banks))
        m.d.sync += bank.eq(self.access.bank)
        m.d.comb += [self.read.eq(values[bank]), self.overflow.eq(Cat(overflow).any())]
        return m
