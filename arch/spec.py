"""The hardware description: DRAM, SRAM, buffers inside it, PE array, DMA engine."""

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

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
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from bfpsim.arch import cacti, units
from bfpsim.arch.device import Device, Energies, devices
from bfpsim.arch.device import Field as AddressField
from bfpsim.objects import refuse

Tensor = Literal["I", "W", "O"]
Traffic = Literal["I", "W", "O", "V"]
"""What moves: the tensors of a product, and V, all that the vector unit reads and writes."""
Stationary = Literal["weight", "output", "input"]

LEVEL_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
"""What a level between SRAM and array may be called."""

REGISTERS = "registers"
"""The name of the level in the PEs."""

_TENSORS: tuple[Tensor, ...] = ("I", "W", "O")
_TRAFFIC: tuple[Traffic, ...] = (*_TENSORS, "V")

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


@dataclass(frozen=True, slots=True)
class _ByWidth:
    """How a file spells the energy of a multiplication: one number, or one for each width."""

    def parse(self, value: object) -> "MacEnergy":
        """The energy, or pairs of width and energy, ascending. Raises ValueError for others."""
        if not isinstance(value, Mapping):
            return units.MAC_ENERGY.parse(value)
        pairs: dict[int, Fraction] = {}
        for key, energy in value.items():
            width = int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,3}", key) else key
            if type(width) is not int or not 1 <= width <= _WIDEST or width in pairs:
                raise ValueError(
                    f"{reprlib.repr(key)} is no operand width; write whole numbers of bits from 1 "
                    f"to {_WIDEST}, each once, such as {{4: 0.05 pJ, 8: 0.2 pJ}}"
                )
            pairs[width] = units.MAC_ENERGY.parse(energy)
        if not pairs:
            raise ValueError("no width is listed; write some, such as {4: 0.05 pJ, 8: 0.2 pJ}")
        return tuple(sorted(pairs.items()))

    def text(self, energy: "MacEnergy") -> Any:
        """The spelling that `parse` reads back."""
        if isinstance(energy, Fraction):
            return units.MAC_ENERGY.text(energy)
        return {width: units.MAC_ENERGY.text(own) for width, own in energy}

    def json_schema(self) -> dict[str, object]:
        """JSON schema of the text, or of the mapping."""
        one = units.MAC_ENERGY.json_schema()
        each = {
            "type": "object",
            "patternProperties": {"^[1-9][0-9]{0,2}$": one},
            "additionalProperties": False,
            "minProperties": 1,
        }
        return {"anyOf": [one, each]}


_WIDEST = 128  # bits of an operand or a sum

MacEnergy = Fraction | tuple[tuple[int, Fraction], ...]
Energy = Annotated[float, _Written(units.ENERGY)]
Power = Annotated[Fraction, _Written(units.POWER)]
Leakage = Annotated[Fraction | cacti.Cacti, _Written(cacti.OrTable(units.POWER))]
Count = Annotated[int, Field(strict=True, ge=1, le=65536)]
Bits = Annotated[int, Field(strict=True, ge=1, le=_WIDEST)]
Width = Annotated[int, _Written(units.WIDTH)]
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

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, serialize_by_alias=True
    )

    if not TYPE_CHECKING:  # pydantic's checkers know that it is frozen
        __setattr__ = __delattr__ = refuse

    @classmethod
    def needed_keys(cls) -> str:
        """What a file must say, as errors list it."""
        fields = cls.model_fields.items()
        return ", ".join(field.alias or name for name, field in fields if field.is_required())


class AccessEnergy(Section):
    """Energy per bit of a memory, reads and writes apart."""

    read: Energy
    """Per bit read [pJ/bit]."""
    write: Energy
    """Per bit written [pJ/bit]."""


def _energy_kind(value: object) -> str:
    """Whether `value` means one energy or two: one kind's errors, not both's."""
    return "AccessEnergy" if isinstance(value, AccessEnergy | Mapping) else "PerBit"


_Two = Annotated[AccessEnergy, Tag("AccessEnergy")]
_Tabled = Annotated[float | cacti.Cacti, _Written(cacti.OrTable(units.ENERGY)), Tag("PerBit")]
DramEnergy = Annotated[
    Annotated[float, _Written(units.ENERGY), Tag("PerBit")] | _Two,
    Discriminator(_energy_kind),
    Field(json_schema_extra=_default_as_text),
]
BufferEnergy = Annotated[
    _Tabled | _Two, Discriminator(_energy_kind), Field(json_schema_extra=_default_as_text)
]


class Dram(Section):
    """The off-chip memory, ideal: at full bandwidth whatever it moves."""

    bandwidth: Annotated[Fraction, _Written(units.BANDWIDTH)]
    """Peak transfer rate; in Python an exact Fraction [bit/s]."""
    latency: Annotated[Fraction, _Written(units.LATENCY)]
    """From a request to its first bit; in Python an exact Fraction [s]."""
    burst: Annotated[int, _Written(units.BURST)]
    """The least that one access moves; '1 bit' switches bursts off [bit]."""
    energy: DramEnergy = 20.0
    """Per bit moved, burst padding included [pJ/bit], or read: and write: with one each."""
    background: Power | None = None
    """Power of the device whatever it does, refresh included; in Python an exact Fraction [W].
    Without it no energy but that of what moves."""

    @property
    def read_pj(self) -> float:
        """Energy per bit read [pJ/bit]."""
        return self.energy.read if isinstance(self.energy, AccessEnergy) else self.energy

    @property
    def write_pj(self) -> float:
        """Energy per bit written [pJ/bit]."""
        return self.energy.write if isinstance(self.energy, AccessEnergy) else self.energy


def _device_name(name: str) -> str:
    if name in devices():
        return name
    raise ValueError(f"{reprlib.repr(name)} is no device; allowed: {', '.join(devices())}")


def _devices_as_enum(schema: dict[str, Any]) -> None:
    schema["enum"] = [*devices()]


class DeviceDram(Section):
    """The off-chip memory as a device with banks, rows, refresh and turnaround."""

    device: Annotated[str, AfterValidator(_device_name), Field(json_schema_extra=_devices_as_enum)]
    """What each channel is: a name such as 'lpddr4-3200-x16'."""
    channels: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """How many of them, addresses interleaved."""
    order: tuple[AddressField, ...] | None = None
    """Fields of an address, the most significant first: row before the others, each once. Without
    it the device's own, neighbouring bursts in different channels and bank groups."""
    timing: Literal["priced", "banked"] = "priced"
    """'priced': a time for each kind of transfer, from its runs, with turnaround and refresh.
    'banked': bank by bank, as a check; the mapper goes by prices all the same."""
    controller: Annotated[Fraction, _Written(units.LATENCY)] | None = None
    """Latency of the controller and the way to it, beside the device's own; in Python an exact
    Fraction [s]. Without it none."""
    energy: DramEnergy | None = None
    """Per bit moved, burst padding included, in place of what the device's currents make of it;
    of a device without currents 20 pJ/bit if nothing is said [pJ/bit]."""
    io: Energy | None = None
    """Of the pins and wires, per bit moved, beside what the device takes [pJ/bit]. Without it
    none."""
    idle: Literal["standby", "power-down"] = "standby"
    """What the device does while nothing moves."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        fields = list(self.own.order)
        if self.order is not None and (
            sorted(self.order) != sorted(fields) or self.order[0] != "row"
        ):
            raise ValueError(
                f"order {', '.join(self.order)}; allowed: row, then {', '.join(fields[1:])} in any "
                "order, each once"
            )
        return self

    @property
    def own(self) -> Device:
        """The device of each channel."""
        return devices()[self.device]

    @property
    def bandwidth(self) -> Fraction:
        """Peak transfer rate of all channels [bit/s]."""
        return self.own.bandwidth * self.channels

    @property
    def burst(self) -> int:
        """The least that one access moves [bit]."""
        return self.own.burst

    @property
    def latency(self) -> Fraction:
        """From a request to its first bit, a row being opened for it [s]."""
        return (self.controller or 0) + self.own.first_data / self.own.clock

    @property
    def read_pj(self) -> float:
        """Energy per bit read, without activates and background [pJ/bit]."""
        return self._pj("read")

    @property
    def write_pj(self) -> float:
        """Energy per bit written, without activates and background [pJ/bit]."""
        return self._pj("write")

    @property
    def energies(self) -> Energies | None:
        """What currents make of commands and of time, unless energy is given per bit."""
        return self.own.energies if self.energy is None else None

    def _pj(self, direction: Literal["read", "write"]) -> float:
        if self.energies is not None:
            command = self.energies.read if direction == "read" else self.energies.write
            return float(command / self.burst) + (self.io or 0.0)
        given = 20.0 if self.energy is None else self.energy
        own = getattr(given, direction) if isinstance(given, AccessEnergy) else given
        return float(own) + (self.io or 0.0)


def _dram_kind(value: object) -> str:
    """Which class of memory `value` means, from its keys: one class's errors, not both's."""
    device = isinstance(value, DeviceDram) or (isinstance(value, Mapping) and "device" in value)
    return "DeviceDram" if device else "Dram"


class Ports(Section):
    """How many bits a memory can give and take in a cycle; what is left out has no limit."""

    read: Width | None = None
    """Of all reads together, but those of a DMA engine with a port of its own [bit/cycle]."""
    write: Width | None = None
    """Of all writes together, likewise [bit/cycle]."""


class Buffer(Section):
    """One on-chip memory."""

    capacity: Annotated[int, _Written(units.CAPACITY)]
    """Size, both halves of a double buffer together [bit]."""
    width: Width | None = None
    """Bits per access; energy tables ask for it, it limits no transfer [bit]."""
    double_buffered: Annotated[bool, Field(strict=True)] = False
    """Whether one half fills while the other is in use."""
    energy: BufferEnergy = 0.16
    """Per bit read or written [pJ/bit]; read: and write: with one each; or a table that prices
    both by capacity: 'cacti-22nm', '-45nm', '-65nm'."""
    leakage: Leakage | None = None
    """Power while the machine runs, or a table; in Python an exact Fraction [W] or the name.
    Without it none."""
    ports: Ports = Ports()
    """Limits of what moves per cycle."""

    @model_validator(mode="after")
    def _tabulated(self) -> Self:
        for name in (self.energy, self.leakage):
            if isinstance(name, str):
                cacti.tabulated(name, "area_mm2", self.capacity, self.width)
        return self

    @property
    def read_pj(self) -> float:
        """Energy per bit read; a table's at this capacity and width [pJ/bit]."""
        if isinstance(self.energy, str):
            return float(cacti.tabulated(self.energy, "read_pj_per_bit", self.capacity, self.width))
        return self.energy.read if isinstance(self.energy, AccessEnergy) else self.energy

    @property
    def write_pj(self) -> float:
        """Energy per bit written; a table's at this capacity and width [pJ/bit]."""
        if isinstance(self.energy, str):
            return float(
                cacti.tabulated(self.energy, "write_pj_per_bit", self.capacity, self.width)
            )
        return self.energy.write if isinstance(self.energy, AccessEnergy) else self.energy

    @property
    def leakage_w(self) -> Fraction:
        """Leakage power; a table's at this capacity and width [W]."""
        if isinstance(self.leakage, str):
            return cacti.tabulated(self.leakage, "leakage_mw", self.capacity, self.width) / 1000
        return self.leakage or Fraction(0)

    @property
    def area_mm2(self) -> float | None:
        """Area by the table that prices energy, or else leakage; None without one [mm2]."""
        for name in (self.energy, self.leakage):
            if isinstance(name, str):
                return float(cacti.tabulated(name, "area_mm2", self.capacity, self.width))
        return None

    @property
    def usable_bits(self) -> int:
        """What a resident tile can take: the capacity, or half when double-buffered [bit]."""
        return self.capacity // 2 if self.double_buffered else self.capacity


class Sram(Buffer):
    """The on-chip memory that DRAM fills."""

    width: Width
    """Bits per access; energy tables ask for it, it limits no transfer [bit]."""


class SplitSram(Section):
    """A buffer for each tensor, in place of a shared one."""

    input: Sram
    """Holds I."""
    weight: Sram
    """Holds W."""
    output: Sram
    """Holds O and its partial sums."""


class _Held(Section):
    """What a level of a list is called and holds: first in its file."""

    name: Annotated[str, Field(pattern=LEVEL_NAME, max_length=32, examples=["acc"])]
    """Keys its traffic, its tiles in a mapping, and paths such as levels.acc.capacity."""
    tensors: Annotated[tuple[Tensor, ...], Field(min_length=1)]
    """What it holds; the other tensors pass by it."""

    @field_validator("tensors")
    @classmethod
    def _distinct(cls, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(set(tensors)) != len(tensors):
            raise ValueError(f"{', '.join(tensors)} repeats one; allowed: each tensor once")
        return tensors


class InnerLevel(Buffer, _Held):
    """A memory between SRAM and the PE array: accumulators, an input or a weight buffer."""


class Axis(Section):
    """One axis of the PE array."""

    size: Count
    """Processing elements along the axis."""
    dim: Dim
    """The loop dimension that the axis unrolls, or several fused: 'PQ', 'CRS'."""
    over: Dim | None = None
    """What fills up the axis where `dim` is whole and shorter: 12 rows of R over K take R = 3 for
    four of K at once."""


class Register(Buffer):
    """A tensor's registers in every PE. They have no ports to limit: each PE has its own."""

    energy: BufferEnergy = 0.0
    """Per bit read or written [pJ/bit], or a table by capacity; nothing unless it is given."""

    @model_validator(mode="after")
    def _without_ports(self) -> Self:
        if self.ports != Ports():
            raise ValueError("ports of registers; allowed: none, because each PE has its own")
        return self


class Registers(Section):
    """What every PE has of its own: registers for an operand each, and for sums."""

    input: Register
    """Holds I."""
    weight: Register
    """Holds W."""
    output: Register
    """Holds partial sums of O."""


class PEArray(Section):
    """The array of multiply-accumulate units: rows and cols, or any number of axes."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["rows", "cols"]}, {"required": ["axes"]}]}
    )

    rows: Axis | None = None
    """The vertical axis."""
    cols: Axis | None = None
    """The horizontal axis."""
    listed: Annotated[tuple[Axis, ...] | None, Field(alias="axes", min_length=1)] = None
    """In place of rows and cols: any number of axes, rows first."""
    stationary: Stationary
    """The tensor whose elements stay in the PEs while the others stream past."""
    mac_bits: Bits
    """Width of a multiplier operand [bit]."""
    accumulator_bits: Bits
    """Width of a partial sum wherever it is stored [bit]."""
    mac_energy: Annotated[MacEnergy, _Written(_ByWidth())] | None = None
    """Of a multiply-accumulate, per pass; in Python an exact Fraction [pJ]. Or by operand width
    [bit], such as {4: 0.05 pJ, 8: 0.2 pJ}: the least width that holds the wider significand.
    Without it none."""
    accumulator: Literal["exact", "fp32"] = "exact"
    """'exact': integers without rounding, in any order. 'fp32': IEEE binary32 at each addition."""
    fill: Literal["none", "each_fold", "overlapped"] = "none"
    """What filling and draining the array costs: nothing; skew, drain and preload at every load of
    what is stationary; or these once a tile, hidden behind the load before."""
    registers: Registers | None = None
    """In every PE, below the axes: the innermost level, called 'registers' in mappings."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("rows", "cols") if getattr(self, name) is not None]
        if self.listed is not None and given:
            raise ValueError(f"axes beside {given[0]}; allowed: axes, or rows and cols")
        if self.listed is None and len(given) < 2:
            missing = "rows" if "rows" not in given else "cols"
            raise ValueError(f"{missing} is missing; needed keys: {self.needed_keys()}")
        names = ("rows", "cols") if given else tuple(f"axes.{i}" for i in range(len(self.axes)))
        parts = [
            (name if axis.dim == dim else f"{name}.over", dim)
            for name, axis in zip(names, self.axes, strict=True)
            for dim in (axis.dim, axis.over)
            if dim is not None
        ]
        for (name, dim), (other, second) in combinations(parts, 2):
            shared = sorted(set(dim) & set(second))
            if shared:
                raise ValueError(
                    f"{name} '{dim}' and {other} '{second}' both unroll "
                    f"{', '.join(shared)}; allowed: axes without a common dimension"
                )
        if isinstance(self.mac_energy, tuple) and self.mac_energy[-1][0] < self.mac_bits:
            raise ValueError(
                f"mac_energy up to {self.mac_energy[-1][0]} bit with mac_bits={self.mac_bits}; "
                f"allowed: a last width from {self.mac_bits}"
            )
        for name, dim in parts:
            if self.registers is not None and "C" in dim and len(dim) > 1:
                raise ValueError(
                    f"{name} '{dim}' beside registers; allowed: C on an axis of its own, so that "
                    "PEs hold blocks of channels"
                )
        if self.accumulator == "fp32" and self.accumulator_bits != 32:
            raise ValueError(
                f"accumulator_bits={self.accumulator_bits} with accumulator 'fp32'; allowed: 32"
            )
        return self

    @classmethod
    def needed_keys(cls) -> str:
        """What a file must say, as errors list it."""
        return f"rows and cols, or axes; {super().needed_keys()}"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes, rows first."""
        if self.listed is not None:
            return self.listed
        return tuple(axis for axis in (self.rows, self.cols) if axis is not None)

    def mac_pj(self, operand_bits: int) -> Fraction:
        """Energy of one pass for significands of so many bits, the wider of the two [pJ].

        Operands wider than `mac_bits` are taken piecewise, in passes of `mac_bits`.
        """
        if not isinstance(self.mac_energy, tuple):
            return self.mac_energy or Fraction(0)
        needed = min(operand_bits, self.mac_bits)
        return next(energy for width, energy in self.mac_energy if width >= needed)

    @property
    def size(self) -> int:
        """Processing elements."""
        return math.prod(axis.size for axis in self.axes)


class Vector(Section):
    """The vector unit, which does what is no product, on activations in SRAM."""

    lanes: Count
    """Operations per cycle, all of one kind."""
    energy: Annotated[Fraction, _Written(units.MAC_ENERGY)] | None = None
    """Of an operation; in Python an exact Fraction [pJ]. Without it none."""


class Dma(Section):
    """The DMA engines: one per tensor, between DRAM and SRAM."""

    halo: Literal["sliding", "none"] = "sliding"
    """'sliding' keeps the overlap with the tile before; 'none' fetches every tile whole."""
    padding: Literal["skip", "fetch"] = "skip"
    """'skip' makes zero padding on chip; 'fetch' reads it from DRAM."""
    port: Literal["own", "shared"] = "own"
    """Whether transfers have an SRAM port of their own, or take the array's."""
    width: Width | None = None
    """The most that a transfer moves; without it the DRAM alone limits it [bit/cycle]."""


def _sram_kind(value: object) -> str:
    """Which buffer class `value` means, from its keys: one class's errors, not both's."""
    keys = value if isinstance(value, Mapping) else ()
    split = isinstance(value, SplitSram) or any(key in keys for key in SplitSram.model_fields)
    return "SplitSram" if split else "Sram"


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the memory hierarchy, by the tensors that it holds.

    name: keys traffic
    buffers: what each tensor lies in; none off chip
    memories: its name: the level's, or one per tensor
    read_pj, write_pj: energy per bit, of V where the vector unit reads and writes [pJ/bit]
    copies: how often each buffer is there: once, or in every PE
    """

    name: str
    buffers: Mapping[Tensor, Buffer]
    memories: Mapping[Tensor, str]
    read_pj: Mapping[Traffic, float]
    write_pj: Mapping[Traffic, float]
    copies: int = 1

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds; the other tensors pass by it."""
        return tuple(self.memories)

    def pj(self, tensor: Tensor, bits: Any, written: Any) -> Any:
        """Energy of bits of a tensor that move here, some of them written; arrays too [pJ]."""
        read = self.read_pj[tensor]
        return bits * read + written * (self.write_pj[tensor] - read)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor's tiles lie here on their way to the array."""
        return tensor in self.memories


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
    dram: Annotated[
        Annotated[Dram, Tag("Dram")] | Annotated[DeviceDram, Tag("DeviceDram")],
        Discriminator(_dram_kind),
    ]
    """Off-chip memory: bandwidth:, latency: and burst:, or a device: with rows and banks."""
    sram: Annotated[
        Annotated[Sram, Tag("Sram")] | Annotated[SplitSram, Tag("SplitSram")],
        Discriminator(_sram_kind),
    ]
    """One buffer that the tensors share, or input:, weight: and output: with one each."""
    inner: Annotated[tuple[InnerLevel, ...], Field(alias="levels")] = ()
    """Memories between SRAM and the array, outermost first."""
    pe_array: PEArray
    """The processing elements."""
    dma: Dma = Dma()
    """The DMA engine."""
    vector: Vector | None = None
    """The vector unit; without it the host does what is no product, free of charge."""

    @field_validator("inner")
    @classmethod
    def _names_apart(cls, inner: tuple[InnerLevel, ...]) -> tuple[InnerLevel, ...]:
        taken = ["DRAM", "SRAM", REGISTERS, "array", "dram", "sram", "all", "compulsory", *_TENSORS]
        for level in inner:
            if level.name in taken:
                raise ValueError(
                    f"a level is called '{level.name}'; allowed: a name of its own, none of "
                    f"{', '.join(taken)}"
                )
            taken.append(level.name)
        return inner

    @property
    def dram_bits_per_cycle(self) -> Fraction:
        """DRAM bandwidth, exactly [bit/cycle]."""
        return self.dram.bandwidth / self.clock

    @property
    def dram_latency_cycles(self) -> int:
        """DRAM latency, rounded up [cycle]."""
        return math.ceil(self.dram.latency * self.clock)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The hierarchy, outermost first: `dram:`, `sram:`, what `levels:` lists, registers."""
        names: dict[Tensor, str] = dict.fromkeys(_TENSORS, "DRAM")
        dram = self.dram
        read, write = (dict.fromkeys(_TRAFFIC, pj) for pj in (dram.read_pj, dram.write_pj))
        levels = [Level("DRAM", {}, names, read, write)]
        sram = {tensor: self.buffer(tensor) for tensor in _TENSORS}
        names = {tensor: "SRAM" if self.shared else f"SRAM {tensor}" for tensor in _TENSORS}
        parts: list[tuple[str, Mapping[Tensor, Buffer], Mapping[Tensor, str]]] = [
            ("SRAM", sram, names)
        ]
        for own in self.inner:
            held = dict.fromkeys(own.tensors, own)
            parts.append((own.name, held, dict.fromkeys(own.tensors, own.name)))
        own_pe = self.pe_array.registers
        if own_pe is not None:
            files: dict[Tensor, Buffer] = {
                "I": own_pe.input, "W": own_pe.weight, "O": own_pe.output
            }  # fmt: skip
            parts.append((REGISTERS, files, {tensor: f"{REGISTERS} {tensor}" for tensor in files}))
        for name, buffers, memories in parts:
            moved: dict[Traffic, Buffer] = dict(buffers.items())
            if name == "SRAM":  # the vector unit works on activations
                moved["V"] = buffers["I"]
            read = {tensor: buffer.read_pj for tensor, buffer in moved.items()}
            write = {tensor: buffer.write_pj for tensor, buffer in moved.items()}
            copies = self.pe_array.size if name == REGISTERS else 1
            levels.append(Level(name, buffers, memories, read, write, copies))
        return tuple(levels)

    @property
    def memories(self) -> dict[str, Buffer]:
        """Every memory on the chip by its name, outermost first."""
        return {
            level.memories[tensor]: buffer
            for level in self.levels
            for tensor, buffer in level.buffers.items()
        }

    @property
    def copies(self) -> dict[str, int]:
        """How often each of these memories is there: registers in every PE."""
        return {name: level.copies for level in self.levels for name in level.memories.values()}

    @property
    def area_mm2(self) -> float | None:
        """Area of the memories that a table prices; None where it prices none [mm2]."""
        areas = [
            memory.area_mm2 * self.copies[name]
            for name, memory in self.memories.items()
            if memory.area_mm2 is not None
        ]
        return math.fsum(areas) if areas else None

    @property
    def prices_more(self) -> bool:
        """Whether it prices anything but what moves: operations, leakage or background."""
        leakage = [memory.leakage for memory in self.memories.values()]
        lanes = None if self.vector is None else self.vector.energy
        dram = self.dram.energies if isinstance(self.dram, DeviceDram) else self.dram.background
        given = (self.pe_array.mac_energy, lanes, dram, *leakage)
        return any(own is not None for own in given)

    @property
    def inside(self) -> tuple[str, ...]:
        """Names of the levels between SRAM and the array, registers too, outermost first."""
        return tuple(level.name for level in self.levels[2:])

    def holder(self, tensor: Tensor) -> Level:
        """The innermost level that holds a tensor: the array's own."""
        return next(level for level in reversed(self.levels) if level.holds(tensor))

    @property
    def registers(self) -> Level | None:
        """The level in the PEs, if they have registers: the innermost one."""
        return None if self.pe_array.registers is None else self.levels[-1]

    @property
    def accumulators(self) -> Level | None:
        """The level inside SRAM where the array's partial sums lie, if there is one."""
        level = self.holder("O")
        return None if level is self.levels[1] else level

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
