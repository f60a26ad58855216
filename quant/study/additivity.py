"""A check that the costs of single operands add up: predicted against measured, mixed choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bfpsim.objects import brief
from bfpsim.quant.formats import FormatError, parse_format
from bfpsim.quant.formats.ties import OperandKey
from bfpsim.quant.study.sensitivity import Sensitivity, divergence
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.operand import Mode

if TYPE_CHECKING:
    import pandas as pd


@brief
@dataclass(frozen=True, eq=False)
class Additivity:
    """Predicted (sums over operands) and measured losses of random mixed choices.

    table: a row per choice; columns predicted_kl, kl, predicted_fisher, predicted_accuracy_loss,
        accuracy_loss
    """

    table: pd.DataFrame

    def spearman(self, measure: str, by: str | None = None) -> float:
        """Rank correlation of ``predicted_<by>`` (by default the measure's own) with a measure.

        NaN if one of the two is the same for all choices, as it is with a single format.
        """
        predicted = self.table[f"predicted_{by or measure}"].rank()
        return float(predicted.corr(self.table[measure].rank()))

    def slope(self, measure: str, by: str | None = None) -> float:
        """Least-squares measured / predicted, through the origin: 1 if losses add up."""
        x, y = self.table[f"predicted_{by or measure}"], self.table[measure]
        return float((x * y).sum() / (x * x).sum())


def check_additivity(
    model: QuantizedModel,
    sensitivity: Sensitivity,
    inputs: Tensor,
    labels: Tensor,
    *,
    choices: int = 40,
    batch: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Additivity:
    """Draw choices, add up their rows of the table, and run them on the same images.

    Each choice takes for each stored tensor (`QuantizedModel.stored_tensors`) a random format among
    a share of the best ones, by their divergence; the share is drawn per choice, so that mild and
    severe choices occur.

    Raises FormatError if the table lacks one of the model's operands.
    """
    import pandas as pd

    table = sensitivity.table
    costs = {
        (layer, tensor, fmt): (kl, fisher, loss)
        for layer, tensor, fmt, kl, fisher, loss in zip(
            *(table[c] for c in ("layer", "tensor", "format", "kl", "fisher", "accuracy_loss")),
            strict=True,
        )
    }
    formats = list(dict.fromkeys(table["format"]))
    groups = model.stored_tensors
    for group in groups:
        for layer, tensor in group:
            if any((layer, tensor, fmt) not in costs for fmt in formats):
                raise FormatError(f"sensitivity table: {tensor} of {layer!r} is not in it whole")
    ranked = [
        sorted(formats, key=lambda fmt: sum(costs[*o, fmt][0] for o in group)) for group in groups
    ]
    rng = np.random.default_rng(seed)
    rows = []
    labels = labels.to(model.device)
    baseline = _outputs(model, inputs, batch, Mode.FLOAT)
    for number in range(choices):
        best = 1 + int(rng.integers(len(formats)))
        choice: dict[OperandKey, str] = {}
        for group, fmts in zip(groups, ranked, strict=True):
            fmt = fmts[int(rng.integers(best))]
            choice.update(dict.fromkeys(group, fmt))
        parts = [costs[*operand, fmt] for operand, fmt in choice.items()]
        coded = model.codings({key: parse_format(fmt) for key, fmt in choice.items()})
        with model.keeping_choice():
            model.choose(coded)
            outputs = _outputs(model, inputs, batch, Mode.QUANTIZE)
        rows.append(
            {
                "predicted_kl": sum(part[0] for part in parts),
                "predicted_fisher": sum(part[1] for part in parts),
                "predicted_accuracy_loss": sum(part[2] for part in parts),
                "kl": divergence(outputs, baseline) / len(inputs),
                "accuracy_loss": _accuracy(baseline, labels) - _accuracy(outputs, labels),
            }
        )
        if progress is not None:
            progress(f"choice {number + 1}")
    return Additivity(pd.DataFrame(rows))


def _outputs(model: QuantizedModel, inputs: Tensor, batch: int, mode: Mode) -> Tensor:
    with model.in_mode(mode), torch.no_grad():
        return torch.cat([model(inputs[at : at + batch]) for at in range(0, len(inputs), batch)])


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).double().mean())
