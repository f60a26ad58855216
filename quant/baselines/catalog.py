"""The formats by name."""

from collections.abc import Mapping
from types import MappingProxyType

from bfpsim.quant.baselines.bsfp import BSFP
from bfpsim.quant.baselines.dbps import DBPS
from bfpsim.quant.baselines.fast import FAST
from bfpsim.quant.baselines.flexblock import FlexBlock
from bfpsim.quant.baselines.hbfp import HBFP
from bfpsim.quant.baselines.msfp import MSFP
from bfpsim.quant.baselines.mx import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX
from bfpsim.quant.baselines.quantizer import Quantizer
from bfpsim.quant.formats import FormatError

_ALL: tuple[Quantizer, ...] = (
    *(MX(element) for element in (INT8, E4M3, E5M2, E3M2, E2M3, E2M1)),
    *(MSFP(bits) for bits in (12, 16)),
    *(HBFP(bits) for bits in (8, 12)),
    *(FlexBlock(mode) for mode in (4, 8, 16)),
    *(DBPS(width) for width in (8, 16)),
    FAST(),
    *(BSFP(bits, bits) for bits in (2, 4)),
)
BASELINES: Mapping[str, Quantizer] = MappingProxyType({str(fmt): fmt for fmt in _ALL})
"""By `str()` of each."""


def parse_quantizer(text: str) -> Quantizer:
    """A format of `BASELINES` by name, in any case. Raises FormatError."""
    try:
        return BASELINES[text.strip().lower()]
    except KeyError:
        raise FormatError(f"baseline {text!r}; allowed: {', '.join(BASELINES)}") from None
