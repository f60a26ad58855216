"""Names for ways to code a whole network: one format, a baseline, or a choice per tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bfpsim.quant.baselines import BASELINES, BSFP
from bfpsim.quant.formats import FormatError, Plain, candidates, parse_format
from bfpsim.quant.study.assignment import least_divergence
from bfpsim.quant.torch.model import Chosen, Codings, QuantizedModel

BITQ = {"bitq16": 16, "bitq8": 8}
"""A format of BitQ's table 2 for each stored tensor, the one of least estimated divergence."""

TABLE_3 = ("original", "dbps16", "flexblock16", "bitq16", "fast", "bsfp8", "bitq8")
"""The columns of BitQ's table 3."""


def parse_policy(name: str, model: QuantizedModel, inputs: Tensor) -> Chosen | Mapping[str, Chosen]:
    """What a name makes of a calibrated model, for `QuantizedModel.choose`.

    name: ``original`` (float32), ``bitq16`` or ``bitq8``, a baseline (`quant.baselines`), or a
        format (`quant.parse_format`)
    inputs: images from which ``bitq...`` estimates what formats cost

    BSFP codes weights, and its paper codes activations in MSFP: so does this. Raises FormatError.
    """
    key = name.strip().lower()
    if key == "original":
        return Codings.uniform(Plain(32))
    if key in BITQ:
        return least_divergence(model, inputs, candidates(BITQ[key]))
    if key in BASELINES:
        coding = BASELINES[key]
        if isinstance(coding, BSFP):
            return Codings(coding.activations, coding, coding.activations)
        return coding
    try:
        return parse_format(key)
    except FormatError:
        raise FormatError(
            f"format {name!r}; allowed: original, {', '.join(BITQ)}, {', '.join(BASELINES)}, "
            "bfp8, bfp16, bfp<bits>e<exponent bits>b<block size>, plain<bits>"
        ) from None
