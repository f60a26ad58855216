"""Processing elements: one that keeps an operand, one that keeps its sum."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.signals import base, beat, operand, preload


class Multiplier(wiring.Component):
    """The product of two operands, aligned to the smallest product of the layer.

    A mantissa wider than `mac_bits` is multiplied piece by piece, one pair of pieces a cycle. The
    exponent adder takes both codes from the base; what is left is the shift to the left. Codes
    beyond the base are of blocks of zeros, which may be shifted anywhere.

    base: the largest code of I and that of W with any mantissa but 0, added; constant in a layer
    valid, first, last: of the product, as many cycles after its operands as there are stages
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        super().__init__(
            {
                "i": In(operand(design.formats.I)),
                "w": In(operand(design.formats.W)),
                "beat": In(beat(design)),
                "base": In(base(design)),
                "product": Out(signed(design.product_bits + design.reach)),
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        product = Signal(signed(design.product_bits))
        flags = Cat(self.beat.valid & self.beat.final, self.beat.first, self.beat.last)
        if design.passes == 1:
            m.d.comb += product.eq(self.i.mantissa * self.w.mantissa)
        else:
            m.d.comb += product.eq(self._accumulated(m))
        shift: Value = self.base
        for given, fmt in ((self.i, design.formats.I), (self.w, design.formats.W)):
            if fmt.exponent_bits:
                shift = (shift - given.code)[: len(self.base)]
        if design.stages > 0:
            product, shift, flags = (_registered(m, own) for own in (product, shift, flags))
        aligned = (product << shift)[: design.product_bits + design.reach].as_signed()
        if design.stages > 1:
            aligned, flags = _registered(m, aligned), _registered(m, flags)
        m.d.comb += [self.product.eq(aligned), Cat(self.valid, self.first, self.last).eq(flags)]
        return m

    def _accumulated(self, m: Module) -> Value:
        """The product so far: that of this pass's pieces, and of the passes before."""
        design = self._design
        bits = design.mac_bits
        partial = Signal(signed(design.product_bits))
        pairs = [(a, b) for a in range(design.pieces[0]) for b in range(design.pieces[1])]
        left, right = Signal(signed(bits + 1)), Signal(signed(bits + 1))
        placed = Signal(signed(design.product_bits))
        with m.Switch(self.beat.number):
            for number, (a, b) in enumerate(pairs):
                with m.Case(number):
                    m.d.comb += [
                        left.eq(_piece(self.i.mantissa, a, bits)),
                        right.eq(_piece(self.w.mantissa, b, bits)),
                        placed.eq((left * right) << ((a + b) * bits)),
                    ]
        total = Signal(signed(design.product_bits))
        m.d.comb += total.eq(placed + Mux(self.beat.number == 0, 0, partial))
        m.d.sync += partial.eq(total)
        return total


def _piece(mantissa: Value, place: int, bits: int) -> Value:
    """Bits of a mantissa: the highest ones with its sign, those below without."""
    low, high = place * bits, (place + 1) * bits
    part = mantissa[low:high]
    return part.as_signed() if high >= len(mantissa) else part


def _registered(m: Module, value: Value) -> Signal:
    """A value a cycle later."""
    register = Signal(value.shape())
    m.d.sync += register.eq(value)
    return register


class OperandPE(wiring.Component):
    """Keeps an operand; multiplies what streams past, adds to the sum that passes.

    Where loads overlap, the next operand waits in a register of its own until the first element
    that it is for comes by.
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        kept, stream = design.kept, design.across or design.down
        assert kept is not None
        assert stream is not None
        chain = preload(kept, design.rows)
        super().__init__(
            {
                "preload": In(chain),
                "preload_out": Out(chain),
                "beat": In(beat(design)),
                "beat_out": Out(beat(design)),
                "base": In(base(design)),
                "operand": In(operand(stream)),
                "operand_out": Out(operand(stream)),
                "sum": In(signed(design.sum_bits)),
                "sum_out": Out(signed(design.sum_bits)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        m.submodules.multiplier = multiplier = Multiplier(design)
        assert design.kept is not None
        waiting, kept = (Signal(operand(design.kept)) for _ in range(2))
        arriving = self.preload.valid
        hops = Signal.like(self.preload.hops)
        passing = Signal()
        m.d.sync += passing.eq(arriving & (self.preload.hops != 0))
        with m.If(arriving):
            m.d.sync += [waiting.eq(self.preload.operand), hops.eq(self.preload.hops - 1)]
        m.d.comb += [
            self.preload_out.valid.eq(passing),
            self.preload_out.hops.eq(hops),
            self.preload_out.operand.eq(waiting),
        ]
        if design.fill == "overlapped":
            used = Signal(operand(design.kept))
            begins = self.beat.valid & self.beat.first & (self.beat.number == 0)
            m.d.comb += used.eq(Mux(begins, waiting, kept))
            m.d.sync += kept.eq(used)
        else:
            used = waiting
        own, other = (
            (multiplier.w, multiplier.i) if design.held == "W" else (multiplier.i, multiplier.w)
        )
        total = self.sum + multiplier.product
        m.d.comb += [
            own.eq(used),
            other.eq(self.operand),
            multiplier.beat.eq(self.beat),
            multiplier.base.eq(self.base),
        ]
        m.d.sync += [
            self.beat_out.eq(self.beat),
            self.operand_out.eq(self.operand),
            self.sum_out.eq(total),
            self.overflow.eq(multiplier.valid & overflows(total, design.sum_bits)),
        ]
        return m


class SumPE(wiring.Component):
    """Multiplies two operands that stream past and keeps their sum; shifts sums out downwards.

    A sum moves into the chain when those of its column are complete. Where loads overlap, it waits
    for those below it in a register of its own, unless it is the last one.

    bottom: whether no PE lies below
    finished: the sum is complete; capture: those of the column are
    """

    def __init__(self, design: Design, bottom: bool) -> None:
        self._design, self._bottom = design, bottom
        assert design.across is not None
        assert design.down is not None
        super().__init__(
            {
                "beat": In(beat(design)),
                "beat_out": Out(beat(design)),
                "base": In(base(design)),
                "across": In(operand(design.across)),
                "across_out": Out(operand(design.across)),
                "down": In(operand(design.down)),
                "down_out": Out(operand(design.down)),
                "capture": In(1),
                "finished": Out(1),
                "sum": In(signed(design.sum_bits)),
                "sum_out": Out(signed(design.sum_bits)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        m.submodules.multiplier = multiplier = Multiplier(design)
        kept, complete = (Signal(signed(design.sum_bits)) for _ in range(2))
        across, down = (
            (multiplier.i, multiplier.w) if design.row_dims != "K" else (multiplier.w, multiplier.i)
        )
        total = Mux(multiplier.first, 0, kept) + multiplier.product
        m.d.comb += [
            across.eq(self.across), down.eq(self.down), multiplier.beat.eq(self.beat),
            multiplier.base.eq(self.base),
        ]  # fmt: skip
        m.d.sync += [
            self.beat_out.eq(self.beat),
            self.across_out.eq(self.across),
            self.down_out.eq(self.down),
            self.finished.eq(multiplier.valid & multiplier.last),
            self.overflow.eq(multiplier.valid & overflows(total, design.sum_bits)),
        ]
        with m.If(multiplier.valid):
            m.d.sync += kept.eq(total)
        if design.fill == "overlapped" and not self._bottom:
            with m.If(self.finished):
                m.d.sync += complete.eq(kept)
        else:
            m.d.comb += complete.eq(kept)
        m.d.sync += self.sum_out.eq(Mux(self.capture, complete, self.sum))
        return m


def overflows(total: Value, bits: int) -> Value:
    """Whether a sum does not fit into so many bits, sign included."""
    excess: Value = total[bits - 1 :]
    return excess.any() & ~excess.all()
