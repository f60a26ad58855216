"""The array that is to be built: its widths and wiring, of an architecture and its formats."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from bfpsim.arch import Arch, ArchError
from bfpsim.mapping.array import STATIONARY
from bfpsim.mapping.nest import Tensor
from bfpsim.quant.formats import BFP, Format, FormatError, LayerFormats, Plain, Rounding

ENTRIES = 256
"""Sums per bank of accumulators where the architecture has no level of them."""
STAGES = (0, 1, 2)
"""Registers that may cut a PE's path from its operands to its sum."""

_FAMILIES: dict[Tensor, tuple[str, str]] = {
    "W": ("CRS", "K"), "I": ("CRS", "NPQ"), "O": ("NPQ", "K")
}  # fmt: skip
"""The dimensions that the two axes unroll, by the tensor that stays."""


@dataclass(frozen=True)
class Design:
    """A systolic array with its accumulators and its requantiser.

    rows, cols: PEs along each axis
    row_dims, col_dims: the (fused) dimensions that the axes unroll
    held: the tensor that stays in the PEs
    fill: how loads of what stays follow one another
    formats: of I, W and O
    mac_bits: width of a multiplier's operand [bit]
    sum_bits: width of a sum, in PEs and in accumulators [bit]
    entries: sums that a bank of accumulators holds
    stages: registers in a PE between operands and sum, each a cycle
    """

    rows: int
    cols: int
    row_dims: str
    col_dims: str
    held: Tensor
    fill: Literal["each_fold", "overlapped"]
    formats: LayerFormats
    mac_bits: int
    sum_bits: int
    entries: int
    stages: int

    @property
    def sums_move_down(self) -> bool:
        """Whether sums leave at the bottom: along the columns. Else at the right, along the rows.

        Of an operand that stays, they move along the axis of the reduction; sums that stay are
        shifted out down the columns.
        """
        return self.held == "O" or _within(self.row_dims, "CRS")

    @property
    def across(self) -> Format | None:
        """The format of the operand that moves along the rows, from left to right, if one does."""
        if self.held == "O":
            return self.formats.I if self.row_dims != "K" else self.formats.W
        return self._streaming if self.sums_move_down else None

    @property
    def down(self) -> Format | None:
        """The format of the operand that streams down the columns, if one does."""
        if self.held == "O":
            return self.formats.W if self.row_dims != "K" else self.formats.I
        return None if self.sums_move_down else self._streaming

    @property
    def kept(self) -> Format | None:
        """The format of the operand that stays; None where sums stay."""
        return None if self.held == "O" else self.formats.of(self.held)

    @property
    def _streaming(self) -> Format:
        return self.formats.I if self.held == "W" else self.formats.W

    @property
    def depth(self) -> int:
        """PEs that a sum passes on its way out."""
        return self.rows if self.sums_move_down else self.cols

    @property
    def banks(self) -> int:
        """Banks of accumulators, one for every lane at which sums leave."""
        return self.cols if self.sums_move_down else self.rows

    @property
    def pieces(self) -> tuple[int, int]:
        """Into how many pieces of `mac_bits` a mantissa of I and one of W are cut."""
        i, w = (-(-f.mantissa_bits // self.mac_bits) for f in (self.formats.I, self.formats.W))
        return i, w

    @property
    def passes(self) -> int:
        """Cycles that a multiplication takes."""
        return prod(self.pieces)

    @property
    def product_bits(self) -> int:
        """Width of a product of mantissas [bit]."""
        return self.formats.I.mantissa_bits + self.formats.W.mantissa_bits

    @property
    def reach(self) -> int:
        """The furthest that alignment shifts a product [bit]."""
        return sum((1 << f.exponent_bits) - 1 for f in (self.formats.I, self.formats.W))

    @property
    def exact_terms(self) -> int:
        """Products, of any operands, whose sum `sum_bits` hold for certain; 0 if not even one.

        Where a layer's codes stay below the largest, they hold more.
        """
        spare = self.sum_bits - 1 - (self.product_bits - 2 + self.reach)
        return 1 << spare if spare >= 0 else 0

    @property
    def register_bits(self) -> int:
        """Registers of all PEs [bit]."""
        i, w = (f.mantissa_bits + f.exponent_bits for f in (self.formats.I, self.formats.W))
        beat = 4 + (self.passes - 1).bit_length()
        product, shift = self.product_bits, max(1, self.reach.bit_length())
        multiplier = product if self.passes > 1 else 0
        if self.stages > 0:
            multiplier += product + shift + 3
        if self.stages > 1:
            multiplier += product + self.reach + 3
        own = beat + multiplier + self.sum_bits + 1
        pes = self.rows * self.cols
        if self.held == "O":
            waiting = pes - self.cols if self.fill == "overlapped" else 0
            return pes * (own + i + w + self.sum_bits + 1) + waiting * self.sum_bits
        kept, stream = (w, i) if self.held == "W" else (i, w)
        copies = 2 if self.fill == "overlapped" else 1
        hops = (self.rows - 1).bit_length() + 1
        return pes * (own + stream + copies * kept + hops)

    @property
    def skew(self) -> int:
        """Cycles from the first PE's first operand to the last PE's."""
        return self.rows + self.cols - 2

    @property
    def beyond(self) -> dict[str, int]:
        """Cycles that a tile takes which the simulator does not count, by what takes them.

        Where sums stay and each fold fills the array anew, the simulator counts up to the last
        product, as SCALE-Sim does: the last fold's sums must still be shifted out.
        """
        shifted = self.rows if self.held == "O" and self.fill == "each_fold" else 0
        return {
            "accumulating the last sums": 1,
            "stages in PEs": self.stages,
            "shifting the last sums out": shifted,
        }

    @property
    def beyond_model(self) -> int:
        """All of them."""
        return sum(self.beyond.values())

    def unit(self, tops: int, base: int) -> int:
        """The exponent of a sum's last bit: that of the smallest product of all operands.

        tops: E_top of I and W, added; base: the largest codes of each that mean anything, added
        """
        i, w = self.formats.I, self.formats.W
        return tops - (i.mantissa_bits - 2) - (w.mantissa_bits - 2) - base


def design_of(
    arch: Arch, formats: LayerFormats, *, stages: int = 0, entries: int | None = None
) -> Design:
    """The design of an architecture's array for operands and results in given formats.

    stages: registers in each PE between operands and sum
    entries: sums per bank of accumulators. None: what the level that holds them has room for;
        without such a level, 256

    Raises ArchError for an array that is not systolic or that cannot be built, FormatError for a
    format that it cannot multiply or make.
    """
    array = arch.pe_array
    held = STATIONARY[array.stationary]
    if stages not in STAGES:
        raise ArchError(f"stages={stages!r}; allowed: {', '.join(map(str, STAGES))}")
    if entries is not None and not 1 <= entries <= 1 << 20:
        raise ArchError(f"entries={entries!r}; allowed: a whole number 1..{1 << 20}")
    if array.fill == "none":
        raise ArchError(
            f"{arch.name}: pe_array.fill 'none': no array fills and drains in no time; "
            "allowed in RTL: each_fold, overlapped"
        )
    for key, given, allowed in (
        ("accumulator", array.accumulator == "fp32", "exact"),
        ("registers", array.registers is not None, "none"),
    ):
        if given:
            raise ArchError(
                f"{arch.name}: pe_array.{key} {getattr(array, key)!r:.40}; "
                f"allowed in RTL: {allowed}"
            )
    axes = array.axes
    if len(axes) != 2 or any(axis.over for axis in axes):
        text = " x ".join(axis.dim + (f" over {axis.over}" if axis.over else "") for axis in axes)
        raise ArchError(
            f"{arch.name}: pe_array axes {text}; allowed in RTL: rows and cols, without over"
        )
    pair = [axis.dim for axis in axes]
    first, second = _FAMILIES[held]
    if not any(_within(a, first) and _within(b, second) for a, b in (pair, pair[::-1])):
        raise ArchError(
            f"{arch.name}: pe_array axes {pair[0]} x {pair[1]}, {array.stationary} stationary; "
            f"allowed in RTL: {first} or some of them along one axis, {second} along the other"
        )
    for tensor in ("I", "W", "O"):
        _check(tensor, formats.of(tensor))
    rows, cols = (axis.size for axis in axes)
    if rows * cols > 4096:
        raise ArchError(f"{arch.name}: pe_array {rows} x {cols}; allowed in RTL: up to 4096 PEs")
    if entries is None:
        entries = _entries(arch, cols if held == "O" or _within(pair[0], "CRS") else rows)
    return Design(
        rows, cols, pair[0], pair[1], held, array.fill, formats,
        array.mac_bits, array.accumulator_bits, entries, stages,
    )  # fmt: skip


def _within(dims: str, family: str) -> bool:
    return set(dims) <= set(family)


def _entries(arch: Arch, banks: int) -> int:
    """Sums per bank of the level inside SRAM that holds them."""
    if arch.accumulators is None:
        return ENTRIES
    bits = arch.accumulators.buffers["O"].usable_bits
    return max(1, bits // (arch.pe_array.accumulator_bits * banks))


def _check(tensor: str, fmt: Format) -> None:
    """Raise FormatError for a format that is no block of integers."""
    integers = isinstance(fmt, BFP) or (isinstance(fmt, Plain) and not fmt.is_float)
    if not integers:
        raise FormatError(f"{tensor} format {fmt}; allowed in RTL: bfp..., plain integers")
    if tensor == "O" and fmt.rounding is Rounding.STOCHASTIC:
        raise FormatError(f"O format {fmt} rounds stochastically; allowed in RTL: the other modes")
