"""Hardware descriptions: typed YAML and shipped specs."""

from bfpsim.arch.load import (
    ArchError,
    dump_arch,
    json_schema,
    load_arch,
    parse_arch,
    replace,
    replace_all,
    shipped,
)
from bfpsim.arch.spec import (
    Arch,
    Axis,
    Dma,
    Dram,
    Level,
    PEArray,
    SplitSram,
    Sram,
    Stationary,
    Tensor,
)

__all__ = [
    "Arch",
    "ArchError",
    "Axis",
    "Dma",
    "Dram",
    "Level",
    "PEArray",
    "SplitSram",
    "Sram",
    "Stationary",
    "Tensor",
    "dump_arch",
    "json_schema",
    "load_arch",
    "parse_arch",
    "replace",
    "replace_all",
    "shipped",
]
