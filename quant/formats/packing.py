"""Packed bytes: fields copied in and out of memory, and whole tensors packed and unpacked."""

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats.blocks import Shape
from bfpsim.quant.formats.format import Format, PartialSums
from bfpsim.quant.formats.layout import ActivationLayout, Addresses, WeightLayout
from bfpsim.quant.formats.quantize import Quantized
from bfpsim.quant.formats.rounding import FormatError
from bfpsim.quant.formats.scaled import MX, NVFP4


def read_fields(memory: NDArray[np.uint8], addresses: Addresses, width: int) -> NDArray[np.int64]:
    """Copy unsigned fields of `width` bit (at most 32) out of packed memory, in `addresses`' shape.

    `memory` has at least 5 bytes beyond the last field (`blank` provides them).
    """
    byte, offset = addresses >> 3, addresses & 7
    word = memory[byte].astype(np.int64)
    for i in range(1, 5):
        word = (word << 8) | memory[byte + i]
    fields: NDArray[np.int64] = (word >> (40 - width - offset)) & ((1 << width) - 1)
    return fields


def write_fields(
    memory: NDArray[np.uint8], addresses: Addresses, width: int, values: NDArray[np.int64]
) -> None:
    """Copy unsigned fields of `width` bit (at most 32) into packed memory, other bits untouched."""
    byte, shift = (addresses >> 3).ravel(), (40 - width - (addresses & 7)).ravel()
    word = (values.ravel() & ((1 << width) - 1)) << shift
    mask = np.int64((1 << width) - 1) << shift
    for i in range(5):
        right = 32 - 8 * i
        np.bitwise_and.at(memory, byte + i, (~(mask >> right) & 0xFF).astype(np.uint8))
        np.bitwise_or.at(memory, byte + i, ((word >> right) & 0xFF).astype(np.uint8))


def interpret(fields: NDArray[np.int64], fmt: Format) -> NDArray[np.int64]:
    """Raw fields as `Quantized` has them: two's complement as integers, floats' patterns as are."""
    if fmt.is_float or (isinstance(fmt, MX | NVFP4) and not fmt.element.is_integer):
        return fields
    half = 1 << (fmt.mantissa_bits - 1)
    return (fields ^ half) - half


def blank(bits: int) -> NDArray[np.uint8]:
    """Zeroed packed memory for `bits`, with the slack that field access needs."""
    return np.zeros(-(-bits // 8) + 5, np.uint8)


def pack(q: Quantized, layout: ActivationLayout | WeightLayout) -> bytes:
    """The tensor's packed bytes, the last one zero-padded."""
    return image(q, layout)[: -(-layout.bits // 8)].tobytes()


def image(q: Quantized, layout: ActivationLayout | WeightLayout) -> NDArray[np.uint8]:
    """The tensor's packed memory, as `blank` lays it out.

    Raises FormatError if the layout is of another shape or format.
    """
    if (q.shape, q.fmt) != (layout.shape, layout.fmt):
        raise FormatError(
            f"{q.fmt} tensor of shape {q.shape}; allowed: the layout's {layout.fmt}, {layout.shape}"
        )
    memory = blank(layout.bits)
    fields, codes = _all_addresses(layout)
    write_fields(memory, fields, q.fmt.mantissa_bits, q.fields)
    if codes.size:
        write_fields(memory, codes, q.fmt.exponent_bits, q.codes)
    return memory


def unpack(
    packed: bytes,
    layout: ActivationLayout | WeightLayout,
    top: int,
    block: Shape,
    scale: float = 1.0,
) -> Quantized:
    """The inverse of `pack`. Raises ValueError if `packed` has another length."""
    length = -(-layout.bits // 8)
    if len(packed) != length:
        raise ValueError(f"packed tensor has {len(packed)} bytes; allowed: {length}")
    memory = np.frombuffer(packed + bytes(5), np.uint8)
    field_at, code_at = _all_addresses(layout)
    fmt = layout.fmt
    if isinstance(fmt, PartialSums):
        raise FormatError(f"{fmt} is no format of values; allowed: BFP, Plain, MX or another")
    fields = interpret(read_fields(memory, field_at, fmt.mantissa_bits), fmt)
    codes = read_fields(memory, code_at, fmt.exponent_bits) if code_at.size else code_at
    return Quantized(fields, codes, top, fmt, block, scale)


def _all_addresses(layout: ActivationLayout | WeightLayout) -> tuple[Addresses, Addresses]:
    """Addresses of every field and every code, codes in the shape of the block grid."""
    none = np.empty(0, np.int64)
    fmt = layout.fmt
    if isinstance(layout, ActivationLayout):
        n, h, w, c = layout.shape
        fields = layout.field_addresses((0, n), (0, h), (0, w), [(0, c)])
        if not fmt.exponent_bits:
            return fields, none
        blocks = np.arange(-(-c // fmt.block_size))
        return fields, layout.code_addresses((0, n), (0, h), (0, w), blocks)
    filters, c, _, _ = layout.shape
    fields = layout.field_addresses([(0, filters)], (0, c))
    if not fmt.exponent_bits:
        return fields, none
    cells = filters if layout.depthwise else c
    blocks = np.arange(-(-cells // fmt.block_size))
    return fields, layout.code_addresses(np.arange(filters), blocks)
