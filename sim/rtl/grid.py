"""The PEs side by side, and the registers at their edges that make operands a slanting front."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ShapeLike, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bfpsim.quant.formats import Format
from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.element import OperandPE, SumPE
from bfpsim.sim.rtl.signals import base, beat, operand, preload


class Skew(wiring.Component):
    """Delays lane i by i cycles."""

    def __init__(self, layout: ShapeLike, lanes: int) -> None:
        self._layout, self._lanes = layout, lanes
        vector = data.ArrayLayout(layout, lanes)
        super().__init__({"lanes": In(vector), "skewed": Out(vector)})

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        for lane in range(self._lanes):
            value = self.lanes[lane]
            for delay in range(lane):
                later = Signal(self._layout, name=f"lane{lane}_delay{delay + 1}")
                m.d.sync += later.eq(value)
                value = later
            m.d.comb += self.skewed[lane].eq(value)
        return m


class Grid(wiring.Component):
    """A systolic array: operands go in at the left and at the top, sums come out at one side.

    beat: what the first PE does now; others do it as many cycles later as they are steps away
    base: of exponents, constant in a layer
    kept: a row of what stays, and the number of the row where it is to stay
    across, down: what streams, a lane for each row or column
    sums: where they leave, the last PE's of each bank's lane; skewed
    overflow: a sum did not fit
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        members = {
            "beat": In(beat(design)),
            "base": In(base(design)),
            "sums": Out(data.ArrayLayout(signed(design.sum_bits), design.banks)),
            "overflow": Out(1),
        }
        for name, fmt, lanes in ports(design):
            members[name] = In(data.ArrayLayout(operand(fmt), lanes))
        if design.kept is not None:
            members |= {"preloading": In(1), "row": In(range(design.rows))}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        pes = {
            (r, c): SumPE(design, r == design.rows - 1)
            if design.kept is None
            else OperandPE(design)
            for r in range(design.rows)
            for c in range(design.cols)
        }
        for (r, c), pe in pes.items():
            m.submodules[f"pe_{r}_{c}"] = pe
            m.d.comb += pe.base.eq(self.base)
        m.d.comb += self.overflow.eq(Cat(*(pe.overflow for pe in pes.values())).any())
        if design.kept is None:
            self._keep_sums(m, pes)
        else:
            self._keep_operands(m, pes, design.kept)
        return m

    def _keep_operands(self, m: Module, pes: dict[tuple[int, int], OperandPE], fmt: Format) -> None:
        design = self._design
        m.submodules.kept_skew = entry = Skew(preload(fmt, design.rows), design.cols)
        for c in range(design.cols):
            m.d.comb += [
                entry.lanes[c].valid.eq(self.preloading),
                entry.lanes[c].hops.eq(self.row),
                entry.lanes[c].operand.eq(self.kept[c]),
            ]
        down = design.sums_move_down
        lanes = design.rows if down else design.cols
        beats = self._beats(m, lanes)
        stream = self._skewed(m, "across" if down else "down")
        for (r, c), pe in pes.items():
            above, left = pes.get((r - 1, c)), pes.get((r, c - 1))
            upstream, before = (left, above) if down else (above, left)
            lane = r if down else c
            m.d.comb += [
                pe.preload.eq(entry.skewed[c] if above is None else above.preload_out),
                pe.beat.eq(beats[lane] if upstream is None else upstream.beat_out),
                pe.operand.eq(stream[lane] if upstream is None else upstream.operand_out),
                pe.sum.eq(0 if before is None else before.sum_out),
            ]
        for bank in range(design.banks):
            last = (design.rows - 1, bank) if down else (bank, design.cols - 1)
            m.d.comb += self.sums[bank].eq(pes[last].sum_out)

    def _keep_sums(self, m: Module, pes: dict[tuple[int, int], SumPE]) -> None:
        design = self._design
        beats = self._beats(m, design.rows)
        across, down = self._skewed(m, "across"), self._skewed(m, "down")
        for (r, c), pe in pes.items():
            above, left = pes.get((r - 1, c)), pes.get((r, c - 1))
            m.d.comb += [
                pe.beat.eq(beats[r] if left is None else left.beat_out),
                pe.across.eq(across[r] if left is None else left.across_out),
                pe.down.eq(down[c] if above is None else above.down_out),
                pe.sum.eq(0 if above is None else above.sum_out),
                pe.capture.eq(pes[design.rows - 1, c].finished),
            ]
        for c in range(design.cols):
            m.d.comb += self.sums[c].eq(pes[design.rows - 1, c].sum_out)

    def _beats(self, m: Module, lanes: int) -> list[Value]:
        """The beat of each lane's first PE."""
        beats: list[Value] = [self.beat]
        for lane in range(1, lanes):
            later = Signal(beat(self._design), name=f"beat_{lane}")
            m.d.sync += later.eq(beats[-1])
            beats.append(later)
        return beats

    def _skewed(self, m: Module, port: str) -> Value:
        """A port's lanes, each as late as its beat."""
        vector = getattr(self, port)
        layout = vector.shape()
        m.submodules[f"{port}_skew"] = skew = Skew(layout.elem_shape, layout.length)
        m.d.comb += skew.lanes.eq(vector)
        return skew.skewed


def ports(design: Design) -> list[tuple[str, Format, int]]:
    """The operand ports that a design has: name, format and lanes of each."""
    return [
        (name, fmt, lanes)
        for name, fmt, lanes in (
            ("kept", design.kept, design.cols),
            ("across", design.across, design.rows),
            ("down", design.down, design.cols),
        )
        if fmt is not None
    ]
