"""How much narrow mantissas cost networks of several sizes and families."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from bfpsim.quant.formats import Rounding
from bfpsim.quant.mantissa.accuracy import POINT, SLACK, fewest_bits, measure_accuracy
from bfpsim.quant.mantissa.distribution import check_weights
from bfpsim.quant.mantissa.minifloat import EXPONENT_BITS, MiniFloat
from bfpsim.quant.mantissa.weights import stored_weights
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.torch.model import quantize_model

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = (10, 7, 6, 5, 4, 3, 2, 1, 0)
"""Mantissa bits that are tried: those of TF32, those of BF16, and all below."""
CONVOLUTIONAL, TRANSFORMER = "convolutional", "transformer"


def measure_tolerance(
    name: str,
    module: nn.Module,
    dataset: Dataset,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    activations: bool = False,
    *,
    batch: int = 100,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Accuracy of a network at each of `WIDTHS`, with the widest exponent.

    activations, batch, progress: as in `measure_accuracy`

    Returns its rows behind the columns model (the name), family (the module's class), kind
    (``transformer`` if it multiplies activations with each other, else ``convolutional``) and
    parameters (how many). Raises as `quantize_model`, `check_weights` and `measure_accuracy` do.
    """
    import pandas as pd

    some = dataset.batch(range(min(4, len(dataset)))).inputs
    model = quantize_model(module, some, None, [], name=name)
    check_weights(name, stored_weights(model, some[:1]))
    formats = [MiniFloat(max(EXPONENT_BITS), m, rounding) for m in WIDTHS]
    frame = measure_accuracy(model, dataset, formats, activations, batch=batch, progress=progress)
    attentive = any(site.kind == "matmul" for site in model.sites)
    about = {
        "model": name,
        "family": type(module).__name__,
        "kind": TRANSFORMER if attentive else CONVOLUTIONAL,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    return pd.DataFrame(about, index=frame.index).join(frame)


def tolerances(frame: pd.DataFrame, within: float = POINT) -> pd.DataFrame:
    """A row per network of `measure_tolerance`'s rows, families together, small networks first.

    Columns: model, family, kind, parameters, top1_fp32, fewest_mantissa_bits (see `fewest_bits`),
    bits_at_limit (see `crossing`), and loss_m10 ... loss_m0 (share of the images). The two are
    missing where even the widest loses more than `within`.
    """
    import pandas as pd

    rows = []
    for _, own in frame.groupby("model", sort=False):
        first = own.iloc[0]
        losses = own.set_index("mantissa_bits")["accuracy_loss"]
        rows.append(
            {
                **first[["model", "family", "kind", "parameters"]],
                "top1_fp32": first["top1"] + first["accuracy_loss"],
                "fewest_mantissa_bits": fewest_bits(own, "mantissa_bits", within),
                "bits_at_limit": crossing(losses, within),
                **{f"loss_m{m}": losses[m] for m in WIDTHS},
            }
        )
    table = pd.DataFrame(rows).astype({"fewest_mantissa_bits": "Int64", "bits_at_limit": float})
    return table.sort_values(["kind", "family", "parameters"], ignore_index=True)


def crossing(losses: pd.Series[float], within: float = POINT) -> float | None:
    """The mantissa width, as a real number, at which the loss passes `within`.

    It is interpolated between the fewest bits that suffice and the next width below, whose loss is
    larger: a finer measure than the whole number. losses: by mantissa bits.

    0 if all widths down to 0 suffice, None if none does.
    """
    wider: tuple[int, float] | None = None
    for m in sorted(losses.index, reverse=True):
        loss = float(losses[m])
        if loss > within + SLACK:
            if wider is None:
                return None
            above, kept = wider
            return float(m + (above - m) * (loss - within) / (loss - kept))
        wider = (m, loss)
    return None if wider is None else float(wider[0])
