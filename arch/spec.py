"""The hardware description: DRAM, SRAM buffers, PE array, DMA engine."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from bfpsim.arch import cacti, units

Tensor = Literal["I", "W", "O"]
Stationary = Literal["weight", "output", "input"]

# Each tensor depends on the whole of an axis or on none of it: I and O on N P Q, I and W on
# C R S (the part of I that R and S reach), W and O on K, and all of them on G.
_FUSIBLE = ("NPQ", "CRS")
_ALONE = ("K", "G")


class _Spelling(Protocol):
    """What a file holds as text: to its value in Python, and back."""

    def parse(self, value: object) -> Any: ...
    def text(self, number: Any) -> str: ...
    def json_schema(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class _Written:
    """Pydantic's view of a quantity: text in a file, an exact number in Python."""

    quantity: _Spelling

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.quantity.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(self.quantity.text),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.quantity.json_schema()


def _axis_dim(dim: str) -> str:
    fusible = any(dim and set(dim) <= set(letters) for letters in _FUSIBLE)
    if dim in _ALONE or (fusible and len(set(dim)) == len(dim)):
        return dim
    raise ValueError(
        f"{reprlib.repr(dim)} is no dimension of an axis; allowed: K, G, or one or more of N, P, "
        "Q, or one or more of C, R, S, each once, such as 'C', 'PQ' or 'CRS'"
    )


def _default_as_text(schema: dict[str, Any]) -> None:
    """A default is a number in Python; the file that the schema describes holds text."""
    if "default" in schema:
        schema["default"] = units.ENERGY.text(schema["default"])


Energy = Annotated[float, _Written(units.ENERGY), Field(json_schema_extra=_default_as_text)]
BufferEnergy = Annotated[
    float | cacti.Cacti, _Written(cacti.BufferEnergy()), Field(json_schema_extra=_default_as_text)
]
Count = Annotated[int, Field(strict=True, ge=1, le=65536)]
Bits = Annotated[int, Field(strict=True, ge=1, le=128)]
Dim = Annotated[
    str,
    AfterValidator(_axis_dim),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(?:K|G|(?!.*(.).*\1)(?:[NPQ]+|[CRS]+))$",
            "examples": ["C", "K", "PQ", "CRS"],
        }
    ),
]


class Section(BaseModel):
    """What every part of an architecture is: frozen, hashable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Dram(Section):
    """The off-chip memory, one channel."""

    bandwidth: Annotated[Fraction, _Written(units.BANDWIDTH)]
    """Peak transfer rate; in Python an exact Fraction [bit/s]."""
    latency: Annotated[Fraction, _Written(units.LATENCY)]
    """From a request to its first bit; in Python an exact Fraction [s]."""
    burst: Annotated[int, _Written(units.BURST)]
    """The least that one access moves; '1 bit' switches bursts off [bit]."""
    energy: Energy = 20.0
    """Per bit moved, burst padding included [pJ/bit]."""


class Sram(Section):
    """One on-chip buffer."""

    capacity: Annotated[int, _Written(units.CAPACITY)]
    """Size, both halves of a double buffer together [bit]."""
    width: Annotated[int, _Written(units.WIDTH)]
    """Bits per access; energy tables ask for it, it limits no transfer [bit]."""
    double_buffered: Annotated[bool, Field(strict=True)] = False
    """Whether one half fills while the other is in use."""
    energy: BufferEnergy = 0.16
    """Per bit read or written [pJ/bit], or a table by capacity: 'cacti-22nm', '-45nm', '-65nm'."""

    @model_validator(mode="after")
    def _tabulated(self) -> Self:
        if isinstance(self.energy, str):
            cacti.pj_per_bit(self.energy, self.capacity, self.width)
        return self

    @property
    def pj_per_bit(self) -> float:
        """Energy per bit read or written; a table's at this capacity and width [pJ/bit]."""
        if isinstance(self.energy, str):
            return cacti.pj_per_bit(self.energy, self.capacity, self.width)
        return self.energy

    @property
    def usable_bits(self) -> int:
        """What a resident tile can take: the capacity, or half when double-buffered [bit]."""
        return self.capacity // 2 if self.double_buffered else self.capacity


class SplitSram(Section):
    """A buffer for each tensor, in place of a shared one."""

    input: Sram
    """Holds I."""
    weight: Sram
    """Holds W."""
    output: Sram
    """Holds O and its partial sums."""


class Axis(Section):
    """One axis of the PE array."""

    size: Count
    """Processing elements along the axis."""
    dim: Dim
    """The loop dimension that the axis unrolls, or several fused: 'PQ', 'CRS'."""


class PEArray(Section):
    """The two-dimensional array of multiply-accumulate units."""

    rows: Axis
    """The vertical axis."""
    cols: Axis
    """The horizontal axis."""
    stationary: Stationary
    """The tensor whose elements stay in the PEs while the others stream past."""
    mac_bits: Bits
    """Width of a multiplier operand [bit]."""
    accumulator_bits: Bits
    """Width of a partial sum wherever it is stored [bit]."""
    accumulator: Literal["exact", "fp32"] = "exact"
    """'exact': integers without rounding, in any order. 'fp32': IEEE binary32 at each addition."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shared = sorted(set(self.rows.dim) & set(self.cols.dim))
        if shared:
            raise ValueError(
                f"rows '{self.rows.dim}' and cols '{self.cols.dim}' both unroll "
                f"{', '.join(shared)}; allowed: axes without a common dimension"
            )
        if self.accumulator == "fp32" and self.accumulator_bits != 32:
            raise ValueError(
                f"accumulator_bits={self.accumulator_bits} with accumulator 'fp32'; allowed: 32"
            )
        return self


class Dma(Section):
    """What the DMA engine does at the edges of an input tile."""

    halo: Literal["sliding", "none"] = "sliding"
    """'sliding' keeps the overlap with the tile before; 'none' fetches every tile whole."""
    padding: Literal["skip", "fetch"] = "skip"
    """'skip' makes zero padding on chip; 'fetch' reads it from DRAM."""


def _sram_kind(value: object) -> str:
    """Which buffer class `value` means, from its keys: one class's errors, not both's."""
    keys = value if isinstance(value, Mapping) else ()
    split = isinstance(value, SplitSram) or any(key in keys for key in SplitSram.model_fields)
    return "SplitSram" if split else "Sram"


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the memory hierarchy, as traffic is counted at it.

    name: keys traffic
    pj_per_bit: by tensor that it holds, per bit read or written [pJ/bit]
    """

    name: str
    pj_per_bit: Mapping[Tensor, float]


class Arch(Section):
    """A whole accelerator.

    Parts are made from the text of a file: Sram(capacity="64 KiB", width="128 bit"). Numbers
    in Python are exact, in the units that each attribute names. Raises ValueError
    (pydantic.ValidationError) for values that a file could not hold either.
    """

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64, examples=["ideal-64k"]),
    ]
    """Heads tables and figures."""
    clock: Annotated[Fraction, _Written(units.CLOCK)]
    """Of the buffers and the PE array; in Python an exact Fraction [Hz]."""
    dram: Dram
    """Off-chip memory."""
    sram: Annotated[
        Annotated[Sram, Tag("Sram")] | Annotated[SplitSram, Tag("SplitSram")],
        Discriminator(_sram_kind),
    ]
    """One buffer that the tensors share, or input:, weight: and output: with one each."""
    pe_array: PEArray
    """The processing elements."""
    dma: Dma = Dma()
    """The DMA engine."""

    @property
    def dram_bits_per_cycle(self) -> Fraction:
        """DRAM bandwidth, exactly [bit/cycle]."""
        return self.dram.bandwidth / self.clock

    @property
    def dram_latency_cycles(self) -> int:
        """DRAM latency, rounded up [cycle]."""
        return math.ceil(self.dram.latency * self.clock)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The memory hierarchy, outermost first: `dram:` and `sram:`."""
        tensors: tuple[Tensor, ...] = ("I", "W", "O")
        return (
            Level("DRAM", dict.fromkeys(tensors, self.dram.energy)),
            Level("SRAM", {tensor: self.buffer(tensor).pj_per_bit for tensor in tensors}),
        )

    @property
    def shared(self) -> bool:
        """Whether the tensors share one buffer."""
        return isinstance(self.sram, Sram)

    def buffer(self, tensor: Tensor) -> Sram:
        """The buffer that holds `tensor`. Raises ValueError for anything but I, W or O."""
        if tensor not in ("I", "W", "O"):
            raise ValueError(f"tensor={tensor!r}; allowed: 'I', 'W', 'O'")
        if isinstance(self.sram, Sram):
            return self.sram
        return {"I": self.sram.input, "W": self.sram.weight, "O": self.sram.output}[tensor]

    def usable_bits(self, tensor: Tensor) -> int:
        """What resident tiles can take of the buffer that holds `tensor` [bit].

        With a shared buffer the three tensors divide it. Raises ValueError as `buffer` does.
        """
        return self.buffer(tensor).usable_bits
