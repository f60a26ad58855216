"""The analytical models as a table, in the shape of the simulator's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bfpsim.mapping.counts import to_frame
from bfpsim.mapping.models import EXACT, FULL, PAPER, model_counts
from bfpsim.mapping.nest import Mapping

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import ConvLayer

_EFFECTS = {"paper": PAPER, "exact": EXACT, "full": FULL}


def predict(
    layer: ConvLayer,
    arch: Arch,
    mapping: Mapping,
    formats: LayerFormats,
    model: Literal["paper", "exact", "full"] = "exact",
    *,
    network: str = "",
) -> pd.DataFrame:
    """Bits moved by a mapping according to a model, without simulating it.

    model: "paper" is Eq. 2-6 of BitQ; "exact" the closed form of the movement rules without
        bursts; "full" with bursts, which equals the simulator bit for bit
    network: the name that the table shows

    Columns as `LayerResult.traffic`. The paper's bits may be fractions.
    Raises MappingError for a mapping that is not legal, ValueError for another model.
    """
    if model not in _EFFECTS:
        raise ValueError(f"model={model!r}; allowed: {', '.join(_EFFECTS)}")
    counts = model_counts(layer, arch, mapping, formats, _EFFECTS[model])
    return to_frame([(network, layer.name, counts)], arch)
