"""What happens when: loads of what stays, elements that stream, where their sums belong."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.signals import COUNT_BITS, beat, command

TILE = data.StructLayout(
    {
        "groups": COUNT_BITS, "loads": COUNT_BITS, "length": COUNT_BITS, "beats": COUNT_BITS,
        "resume": 1,
    }
)  # fmt: skip
"""A tile as the array takes it; to be held until it is done.

groups: of loads whose sums are accumulated; loads: in a group, 1 where sums stay
length: elements that stream per load; beats: that times the passes
resume: whether the accumulators' contents are to be added to
"""

WANTED = data.StructLayout({"valid": 1, "load": COUNT_BITS, "index": COUNT_BITS})
"""Which operands a port takes in this cycle: the load, and its row that stays or its element."""


class Sequencer(wiring.Component):
    """Counts a tile's loads and their elements.

    busy: from the cycle after `start` to the one in which the last sum is accumulated
    preload: the row of what stays that goes in now; stream: the element that does
    command: for the first bank, as if sums took no time to come out
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        super().__init__(
            {
                "tile": In(TILE),
                "start": In(1),
                "busy": Out(1),
                "preload": Out(WANTED),
                "stream": Out(WANTED),
                "beat": Out(beat(design)),
                "command": Out(command(design)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        overlapped, keeps_operand = design.fill == "overlapped", design.kept is not None
        rows, beats = design.rows, self.tile.beats
        at, load = Signal(COUNT_BITS + 1), Signal(COUNT_BITS)
        group, reduction = Signal(COUNT_BITS), Signal(COUNT_BITS)
        base = Signal(range(design.entries))
        period, begin = Signal(COUNT_BITS + 2), rows if keeps_operand and not overlapped else 0
        if overlapped:
            m.d.comb += period.eq(Mux(beats > rows, beats, rows))
        else:
            m.d.comb += period.eq(begin + beats + design.skew)
        group_ends = reduction == self.tile.loads - 1
        ends = group_ends & (group == self.tile.groups - 1)
        tail = design.beyond_model + (design.skew if overlapped else 0)
        if overlapped and not keeps_operand:
            tail += rows
        streaming = Signal()
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    at.eq(0), load.eq(0), group.eq(0), reduction.eq(0), base.eq(0)
                ]  # fmt: skip
                m.next = "PRELOAD" if overlapped and keeps_operand else "RUN"
            if overlapped and keeps_operand:
                with m.State("PRELOAD"):
                    m.d.sync += at.eq(at + 1)
                    m.d.comb += [
                        self.busy.eq(1),
                        self.preload.valid.eq(1),
                        self.preload.index.eq(rows - 1 - at),
                    ]
                    with m.If(at == rows - 1):
                        m.d.sync += at.eq(0)
                        m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += at.eq(at + 1)
                m.d.comb += [
                    self.busy.eq(1), streaming.eq((at >= begin) & (at < begin + beats))
                ]  # fmt: skip
                if keeps_operand and overlapped:
                    m.d.comb += [
                        self.preload.valid.eq((at + rows >= period) & ~ends),
                        self.preload.load.eq(load + 1),
                        self.preload.index.eq(period - 1 - at),
                    ]
                elif keeps_operand:
                    m.d.comb += [
                        self.preload.valid.eq(at < rows),
                        self.preload.load.eq(load),
                        self.preload.index.eq(rows - 1 - at),
                    ]
                with m.If(at == period - 1):
                    m.d.sync += [at.eq(0), load.eq(load + 1), reduction.eq(reduction + 1)]
                    with m.If(group_ends):
                        step = self.tile.length if keeps_operand else rows
                        m.d.sync += [reduction.eq(0), group.eq(group + 1), base.eq(base + step)]
                    with m.If(ends):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += at.eq(at + 1)
                m.d.comb += self.busy.eq(1)
                with m.If(at == tail - 1):
                    m.next = "IDLE"
        element, number = Signal(COUNT_BITS), Signal(range(design.passes))
        m.d.comb += [
            self.stream.valid.eq(streaming),
            self.stream.load.eq(load),
            self.stream.index.eq(element),
            self.beat.valid.eq(streaming),
            self.beat.first.eq(element == 0),
            self.beat.last.eq(element == self.tile.length - 1),
            self.beat.final.eq(number == design.passes - 1),
            self.beat.number.eq(number),
        ]
        with m.If(streaming):
            m.d.sync += number.eq(number + 1)
            with m.If(self.beat.final):
                m.d.sync += [number.eq(0), element.eq(Mux(self.beat.last, 0, element + 1))]
        if keeps_operand:
            m.d.comb += [
                self.command.valid.eq(streaming & self.beat.final),
                self.command.fresh.eq((reduction == 0) & ~self.tile.resume),
                self.command.address.eq(base + element),
            ]
        else:
            self._shift_out(m, base, streaming & self.beat.last & self.beat.final)
        return m

    def _shift_out(self, m: Module, base: Signal, complete: Signal) -> None:
        """A load's sums come out row by row, the lowest first, from the cycle after the last beat.

        complete: whether this is the last beat
        """
        rows = self._design.rows
        shifting, row, first = Signal(), Signal(range(rows)), Signal.like(base)
        m.d.comb += [
            self.command.valid.eq(shifting),
            self.command.fresh.eq(~self.tile.resume),
            self.command.address.eq(first + row),
        ]
        with m.If(complete):
            m.d.sync += [shifting.eq(1), row.eq(rows - 1), first.eq(base)]
        with m.Elif(row == 0):
            m.d.sync += shifting.eq(0)
        with m.Else():
            m.d.sync += row.eq(row - 1)
