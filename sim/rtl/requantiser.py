"""Sums to a block of results: an exponent code and rounded mantissas."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bfpsim.quant.formats import Rounding
from bfpsim.sim.rtl.design import Design

UNIT_BITS = 12
"""Width of the exponent of a sum's last bit [bit]."""


class Requantiser(wiring.Component):
    """Takes a block of sums, one a cycle, then gives its results, one a cycle.

    The highest bit set in any magnitude of the block is its largest element's. Its exponent's
    distance below the tensor's top is the code, held to what the code can say; each magnitude is
    shifted to that scale, rounded, and held to what a mantissa can say.

    valid, sum, last: of the block that comes in; ready: whether it is taken
    unit: exponent of a sum's last bit; top: E_top of the output
    result_valid, mantissa, code: of the block that goes out
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        fmt = design.formats.O
        super().__init__(
            {
                "valid": In(1),
                "sum": In(signed(design.sum_bits)),
                "last": In(1),
                "ready": Out(1),
                "unit": In(signed(UNIT_BITS)),
                "top": In(signed(8)),
                "result_valid": Out(1),
                "mantissa": Out(signed(fmt.mantissa_bits)),
                "code": Out(max(1, fmt.exponent_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m, design = Module(), self._design
        fmt, width = design.formats.O, design.sum_bits
        m.submodules.block = block = memory.Memory(
            shape=signed(width), depth=fmt.block_size, init=[]
        )
        write, read = block.write_port(), block.read_port(domain="comb")
        place, count = (Signal(range(fmt.block_size + 1)) for _ in range(2))
        seen = Signal(width)
        m.d.comb += [write.addr.eq(place), write.data.eq(self.sum), read.addr.eq(place)]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [self.ready.eq(1), write.en.eq(self.valid)]
                with m.If(self.valid):
                    m.d.sync += [seen.eq(seen | _magnitude(self.sum)), place.eq(place + 1)]
                    with m.If(self.last):
                        m.d.sync += [count.eq(place), place.eq(0)]
                        m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.result_valid.eq(1)
                m.d.sync += place.eq(place + 1)
                with m.If(place == count):
                    m.d.sync += [place.eq(0), seen.eq(0)]
                    m.next = "TAKE"
        m.d.comb += self.mantissa.eq(self._rounded(m, read.data, self._shift(m, seen)))
        return m

    def _shift(self, m: Module, seen: Signal) -> Signal:
        """How far to the right a sum is shifted to become a mantissa, of the block's code."""
        fmt = self._design.formats.O
        largest = (1 << fmt.exponent_bits) - 1
        highest = Signal(range(len(seen)))
        for bit in range(len(seen)):
            with m.If(seen[bit]):
                m.d.comb += highest.eq(bit)
        below = Signal(signed(UNIT_BITS + 2))
        m.d.comb += below.eq(self.top - self.unit - highest)
        code = Signal(max(1, fmt.exponent_bits))
        if fmt.exponent_bits:
            with m.If(~seen.any() | (below > largest)):
                m.d.comb += code.eq(largest)
            with m.Elif(below > 0):
                m.d.comb += code.eq(below)
        m.d.comb += self.code.eq(code)
        shift = Signal(signed(UNIT_BITS + 2))
        m.d.comb += shift.eq(self.top - code - (fmt.mantissa_bits - 2) - self.unit)
        return shift

    def _rounded(self, m: Module, value: Value, shift: Signal) -> Value:
        """A sum as a mantissa. Shifts beyond all bits give 0, or the largest mantissa."""
        design = self._design
        fmt, width = design.formats.O, design.sum_bits
        bits = fmt.mantissa_bits
        magnitude = Signal(width)
        left, right = Signal(range(bits + 1)), Signal(range(width + 2))
        m.d.comb += magnitude.eq(_magnitude(value))
        with m.If(shift < 0):
            m.d.comb += left.eq(Mux(-shift > bits, bits, -shift))
        with m.Else():
            m.d.comb += right.eq(Mux(shift > width + 1, width + 1, shift))
        # One bit more on the right: half of the last place.
        ones = Const((1 << (width + 3)) - 2, width + 3)
        doubled = Signal(width + 1)
        whole, rest = Signal(width), Signal(width + 2)
        m.d.comb += [
            doubled.eq(magnitude << 1),
            whole.eq(magnitude >> right),
            rest.eq(doubled & ~(ones << right)),
        ]
        half = Signal(width + 2)
        m.d.comb += half.eq(Const(1, 1) << right)
        if fmt.rounding is Rounding.TRUNCATE:
            up: Value = Const(0)
        elif fmt.rounding is Rounding.NEAREST_AWAY:
            up = (right != 0) & (rest >= half)
        else:
            up = (right != 0) & ((rest > half) | ((rest == half) & whole[0]))
        limit = (1 << (bits - 1)) - 1
        scaled = Signal(width + bits + 1)
        m.d.comb += scaled.eq((whole << left) + up)
        held = Signal(bits - 1)
        m.d.comb += held.eq(Mux(scaled > limit, limit, scaled))
        return Mux(value < 0, -held, held)


def _magnitude(value: Value) -> Value:
    """|value| as an unsigned number of as many bits."""
    return Mux(value < 0, -value, value)[: len(value)]
