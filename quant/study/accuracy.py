"""A module's accuracy on labelled images, and what quantisation takes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from bfpsim.objects import immutable
from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.datasets import Batch, Dataset, batches
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.workloads.layer import WorkloadError

BATCH = 100


@immutable
@dataclass(frozen=True, slots=True)
class TopK:
    """The share of a dataset's images whose label is among the ``k`` largest logits.

    batch: images that run at once
    progress: called with "100 of 1000 images" after each batch

    Raises what `top_k` raises.
    """

    dataset: Dataset
    k: int = 1
    batch: int = BATCH
    progress: Callable[[str], None] | None = None

    def __call__(self, module: nn.Module) -> float:
        """The module's score."""
        return top_k(module, self.dataset, (self.k,), self.batch, self.progress)[self.k]


def top_k(
    module: nn.Module,
    dataset: Dataset,
    ks: Sequence[int] = (1, 5),
    batch: int = BATCH,
    progress: Callable[[str], None] | None = None,
) -> dict[int, float]:
    """Measure, for each k, the share of images whose label is among the k largest logits.

    Of equal logits a class wins over those after it. The module runs once per image, in evaluation
    mode without gradients, on the device of its parameters, and gets its modes back.

    batch, progress: as in `TopK`

    Raises WorkloadError if the dataset is empty, a k is not 1..classes, or as `classify` does.
    Raises FormatError, naming the image, for a logit that is NaN.
    """
    if len(dataset) == 0:
        raise WorkloadError("dataset of 0 images; allowed: at least one")
    correct = dict.fromkeys(ks, 0)
    images = 0
    with keeping_modes(module), torch.no_grad():
        module.eval()
        for part in batches(dataset, batch):
            logits, labels = classify(module, part)
            classes = logits.shape[1]
            for k in ks:
                if not 1 <= k <= classes:
                    raise WorkloadError(f"top-{k} of {classes} classes; allowed: 1..{classes}")
            has_nan = logits.isnan().any(1)
            if has_nan.any():
                at = images + int(has_nan.long().argmax())
                raise FormatError(f"logits of image {at} hold NaN; allowed: numbers")
            rank = ranks(logits, labels)
            for k in correct:
                correct[k] += int((rank < k).sum())
            images += len(labels)
            if progress is not None:
                progress(f"{images} of {len(dataset)} images")
    return {k: count / images for k, count in correct.items()}


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the classes before each label: int64 (n,), of logits (n, classes), labels (n,).

    A class comes before another if its logit is larger, or equal and its number smaller.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def classify(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Run a module as it is: its logits (n, classes), and the labels (n,) on its device.

    Raises WorkloadError as `logits_of`, or for a label that is no class.
    """
    logits = logits_of(module, batch.inputs)
    lowest, highest = (int(each) for each in batch.labels.aminmax())
    if not 0 <= lowest <= highest < logits.shape[1]:
        raise WorkloadError(
            f"label {lowest if lowest < 0 else highest} for module {title(module)}; allowed: "
            f"0..{logits.shape[1] - 1}"
        )
    return logits, batch.labels.to(logits.device)


def logits_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Run a module as it is on n images: its logits (n, classes).

    Raises WorkloadError for an output of another shape, or that is no single tensor.
    """
    tensors = chain(module.parameters(), module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    logits, count = module(inputs.to(device)), len(inputs)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count:
        output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WorkloadError(
            f"module {title(module)}: output {output} for {count} images; allowed: one tensor "
            f"({count}, classes)"
        )
    return logits


def title(module: nn.Module) -> str:
    """The name of a module in messages: a quantised one's title, of any other its class."""
    return module.title if isinstance(module, QuantizedModel) else type(module).__name__


@contextmanager
def keeping_modes(module: nn.Module) -> Iterator[None]:
    """Give each part of a module its mode, training or evaluation, back at the end."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def accuracy_loss(original: float, quantised: float) -> float:
    """Acc_loss of Eq. 1: the original's score less the quantised module's, both 0..1.

    Negative where quantisation gained. The BitQ paper gives no formula for it, but calls plain
    differences of accuracies so: "the accuracy loss remains 0.55%" are the 72.84 % less the 72.29 %
    of its Table 3. (Relative to the original it would be 0.75 %.)

    Raises WorkloadError for a score that is not 0..1, such as one in percent.
    """
    for name, score in (("original", original), ("quantised", quantised)):
        if not 0 <= score <= 1:
            raise WorkloadError(f"{name} score {score}; allowed: 0..1")
    return original - quantised
