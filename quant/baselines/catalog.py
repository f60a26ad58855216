"""The formats by name."""

from collections.abc import Mapping
from types import MappingProxyType

from quant.baselines.bsfp import BSFP
from quant.baselines.dbps import DBPS
from quant.baselines.fast import FAST
from quant.baselines.flexblock import FlexBlock
from quant.baselines.hbfp import HBFP
from quant.baselines.msfp import MSFP
from quant.baselines.mx import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX
from quant.baselines.quantizer import Quantizer
from quant.formats import FormatError

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
