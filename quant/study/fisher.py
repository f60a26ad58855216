"""What an error in a tensor does to the network's output, estimated from one backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bfpsim.quant.study.accuracy import logits_of
from bfpsim.quant.torch.float_run import FloatRun
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.tied import Place


class Fisher:
    """Gradients of the float network's own log-likelihood on a batch.

    With g the gradient of -log p(label), labels drawn from the network's own p, the KL divergence
    that a small error d of a tensor makes is half the mean of (g . d)^2, p's Fisher information in
    that direction. Of activations the errors of elements are taken as independent, which leaves
    the sum of g^2 d^2. An error of a stored W meets every position of every image: it is taken
    through O, undivided.

    seed: of the labels, drawn on the CPU

    Parameters need not require a gradient, and keep the ones that they have. Raises WorkloadError
    as `quant.study.accuracy.logits_of`.
    """

    def __init__(self, model: QuantizedModel, inputs: Tensor, seed: int) -> None:
        tensors: dict[Place, Tensor] = {}

        def keep(key: Place) -> Callable[[Any, Any, Tensor], Tensor]:
            def hook(operand: Any, given: Any, result: Tensor) -> Tensor:
                # A copy: what other products read too has other gradients there.
                own = result.clone() if result.requires_grad else result.clone().requires_grad_()
                tensors[key] = own
                return own

            return hook

        hooks = [
            operand.register_forward_hook(keep(key)) for key, operand in model.operands.items()
        ]
        try:
            with torch.enable_grad():
                logits = logits_of(model, inputs.detach())
                probabilities = logits.detach().cpu().softmax(1)
                generator = torch.Generator().manual_seed(seed)
                drawn = torch.multinomial(probabilities, 1, generator=generator)
                labels = drawn[:, 0].to(logits.device)
                loss = F.cross_entropy(logits, labels, reduction="sum")
        finally:
            for hook in hooks:
                hook.remove()
        # Not `backward`, which would add to the parameters' own gradients.
        gradients = torch.autograd.grad(loss, [*tensors.values()], materialize_grads=True)
        self._gradients: dict[Place, Tensor] = dict(zip(tensors, gradients, strict=True))

    def divergence(self, key: Place, error: Tensor, stored: bool, run: FloatRun) -> float:
        """The sum over images of the estimated KL divergence [nat].

        error: of the operand's tensor; stored: whether that is a parameter
        """
        if stored:
            through = run.product(key[0], error) * self._gradients[key[0], "O"]
            per_image = through.double().flatten(1).sum(1)
            return float(per_image.square().sum()) / 2
        return float((error * self._gradients[key]).double().square().sum()) / 2
