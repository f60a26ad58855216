"""What wires carry: operands, the beats that go with them, and commands."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data

from bfpsim.quant.formats import Format
from bfpsim.sim.rtl.design import Design

COUNT_BITS = 24
"""Width of every counter of loads and elements [bit]."""


def operand(fmt: Format) -> data.StructLayout:
    """A mantissa, and the code of its block's exponent: its distance below the tensor's top."""
    fields: dict[str, Any] = {"mantissa": signed(fmt.mantissa_bits)}
    if fmt.exponent_bits:
        fields["code"] = unsigned(fmt.exponent_bits)
    return data.StructLayout(fields)


def operand_bits(fmt: Format) -> int:
    """Width of an operand on its wire [bit]."""
    return fmt.mantissa_bits + fmt.exponent_bits


def beat(design: Design) -> data.StructLayout:
    """What a PE does in a cycle.

    valid: multiply; first, last: the first or last element of a load; final: the last pass of its
    element; number: of the pass
    """
    return data.StructLayout(
        {"valid": 1, "first": 1, "last": 1, "final": 1, "number": range(design.passes)}
    )


def preload(fmt: Format, rows: int) -> data.StructLayout:
    """An operand on its way down to the row where it stays.

    hops: rows still to go
    """
    return data.StructLayout({"valid": 1, "hops": range(rows), "operand": operand(fmt)})


def base(design: Design) -> Shape:
    """The sum of the largest codes of I and W that mean anything."""
    return Shape(max(1, design.reach.bit_length()))


def command(design: Design) -> data.StructLayout:
    """Where a bank adds what the array gives it.

    fresh: to zero, not to what lies there
    """
    return data.StructLayout({"valid": 1, "fresh": 1, "address": range(design.entries)})
