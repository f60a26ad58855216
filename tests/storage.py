"""What each format stores, by hand: the tables that oracles count with."""

from typing import NamedTuple

from bfpsim.quant.formats import BFP, Format


class Storage(NamedTuple):
    """element, code: width [bit]; block: elements along the channels that share a code, 0 if none
    by_tap: whether a block of W lies at one tap; significand: bits of a multiplier operand
    once: what is stored once per tensor [bit]
    """

    element: int
    code: int
    block: int
    by_tap: bool
    significand: int
    once: int


_INDUSTRY = {
    "mxint8": Storage(8, 8, 32, True, 8, 0),
    "mxfp8e4m3": Storage(8, 8, 32, True, 4, 0),
    "mxfp8e5m2": Storage(8, 8, 32, True, 3, 0),
    "mxfp6e3m2": Storage(6, 8, 32, True, 3, 0),
    "mxfp6e2m3": Storage(6, 8, 32, True, 4, 0),
    "mxfp4": Storage(4, 8, 32, True, 2, 0),
    "nvfp4": Storage(4, 8, 16, True, 2, 32),
    "msfp11": Storage(3, 8, 16, True, 3, 0),
    "msfp12": Storage(4, 8, 16, True, 4, 0),
    "msfp16": Storage(8, 8, 16, True, 8, 0),
    "bf16": Storage(16, 0, 0, False, 8, 0),
    "plain16": Storage(16, 0, 0, False, 11, 0),
    "plain32": Storage(32, 0, 0, False, 24, 0),
}


def storage(fmt: Format) -> Storage:
    """What a format stores."""
    if isinstance(fmt, BFP):
        m = fmt.bits - fmt.exponent_bits
        return Storage(m, fmt.exponent_bits, fmt.block_size, False, m, 8)
    name = str(fmt).partition("-")[0]
    if name in _INDUSTRY:
        return _INDUSTRY[name]
    bits = int(name.removeprefix("plain"))
    return Storage(bits, 0, 0, False, bits, 8)
