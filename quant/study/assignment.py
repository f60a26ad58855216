"""A format for every stored tensor by what it does to accuracy alone, without running a choice.

This is Eq. 1 of the BitQ paper at alpha = 0: the search weighs the same estimates against data
movement.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bfpsim.quant.formats import Format
from bfpsim.quant.study.fisher import Fisher
from bfpsim.quant.torch.float_run import FloatRun
from bfpsim.quant.torch.model import Codings, QuantizedModel
from bfpsim.quant.torch.operand import Coding, Mode
from bfpsim.quant.torch.tied import Place


def least_divergence(
    model: QuantizedModel, inputs: Tensor, formats: Sequence[Format], *, seed: int = 0
) -> dict[str, Codings]:
    """For each stored tensor the format of least estimated divergence, by product.

    model: calibrated; its choice stays as it is
    inputs: images for the estimate (`quant.study.fisher`), taken at once; a hundred will do
    formats: deterministic ones; of equal estimates the first wins

    Operands that are one stored tensor (`QuantizedModel.stored_tensors`) get one format.
    """
    with model.in_mode(Mode.FLOAT):
        run, fisher = FloatRun(model, inputs), Fisher(model, inputs, seed)
        costs: dict[Place, list[float]] = {}
        for (site, tensor), operand in model.operands.items():
            value = run.value((site, tensor))
            with torch.no_grad():
                costs[site, tensor] = [
                    fisher.divergence(
                        (site, tensor), operand.quantized(value, fmt) - value, operand.stored, run
                    )
                    for fmt in formats
                ]
    chosen: dict[Place, Coding] = {}
    for group in model.stored_tensors:
        totals = [sum(costs[operand][i] for operand in group) for i in range(len(formats))]
        best = formats[totals.index(min(totals))]
        chosen.update(dict.fromkeys(group, best))
    return model.codings(chosen)
