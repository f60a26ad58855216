"""What every stored tensor's formats cost in accuracy, by the front end's sensitivity table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats import FormatError
from bfpsim.search.bitwidth.space import Space

if TYPE_CHECKING:
    from bfpsim.quant.study.sensitivity import Sensitivity


def no_losses(space: Space) -> NDArray[np.float64]:
    """Acc_loss of 0 for everything: the search for the least movement alone."""
    return np.zeros((len(space.tensors), len(space.formats)))


def make_losses(space: Space, sensitivity: Sensitivity, loss_per_nat: float) -> NDArray[np.float64]:
    """Acc_loss by stored tensor and format: (tensors, formats), a fraction of the images.

    A tensor's divergence is the sum over the operands that it is. Divergences add up over a
    network, and single losses of images do not (docs/quantization.md), so they are what is added.
    loss_per_nat: the top-1 that a network loses per nat of predicted divergence

    Raises FormatError if the table lacks an operand or a format of the space, or loss_per_nat is
    not positive.
    """
    if not loss_per_nat > 0:
        raise FormatError(f"loss_per_nat={loss_per_nat!r}; allowed: a number above 0")
    rows = sensitivity.table
    known = dict(
        zip(
            zip(rows["layer"], rows["tensor"], rows["format"], strict=True),
            rows["kl"],
            strict=True,
        )
    )
    losses = no_losses(space)
    for number, places in enumerate(space.tensors):
        for column, fmt in enumerate(space.formats):
            for layer, tensor in places:
                if (layer, tensor, str(fmt)) not in known:
                    raise FormatError(
                        f"sensitivity table of {sensitivity.network}: has no row for {tensor} of "
                        f"{layer!r} in {fmt}; allowed: a table of {space.network} in all "
                        f"{len(space.formats)} formats"
                    )
                losses[number, column] += known[layer, tensor, str(fmt)] * loss_per_nat
    return losses
