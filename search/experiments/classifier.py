"""A trained module to experiment with, and the images that judge it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from bfpsim.objects import brief
from bfpsim.quant.study.accuracy import logits_of
from bfpsim.quant.study.datasets import Dataset, batches, first
from bfpsim.quant.torch.model import (
    QuantizedModel,
    quantize_model,
    tensor_digest,
)
from bfpsim.workloads import Network, load_workload


@brief
@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained module, quantised and calibrated, and the images that judge it.

    name: what tables and files call it
    module: as it was trained; model: the same with every product's operands quantised
    images: those that accuracy is measured on
    sample: the first of the calibration images, from which every E_top is taken; sensitivity is
        measured on them
    """

    name: str
    module: nn.Module
    model: QuantizedModel
    images: Dataset
    sample: Dataset

    @cached_property
    def network(self) -> Network:
        """The module's layers at the shape of one image."""
        return module_network(self.module, self.images.batch(range(1)).inputs)

    @cached_property
    def digest(self) -> str:
        """A digest of weights and images, by which stored results know their classifier."""

        def tensors() -> Iterator[tuple[str, Tensor]]:
            yield from self.model.named_parameters()
            yield from self.model.named_buffers()
            for part in batches(self.images, 100):
                yield from zip(("inputs", "labels"), part, strict=True)

        return tensor_digest(tensors())

    @property
    def stem(self) -> str:
        """The name of files made for it: of `file.py:function`, which function it is too."""
        source, colon, function = self.name.rpartition(":")
        if not colon:
            return Path(self.name).stem
        return f"{Path(source).stem if source.endswith('.py') else source}-{function}"

    def some(self, count: int) -> Tensor:
        """At most so many images of the sample: float32 (n, channels, H, W)."""
        return self.sample.batch(range(min(count, len(self.sample)))).inputs


def make_classifier(
    module: nn.Module,
    images: Dataset,
    *,
    name: str | None = None,
    sample: int = 200,
    calibration: Dataset | None = None,
) -> Classifier:
    """Quantise a module's operands, in floats until formats are chosen, and calibrate it.

    images: labelled, as the module takes them
    name: what tables and files call it; None: its class
    sample: how many of the calibration images, at most, E_top is taken from
    calibration: None: the images themselves

    Raises WorkloadError, before anything is measured, for an output that is not one tensor
    (images, classes) and where the module cannot be captured; FormatError as `quantize_model`.
    """
    source = calibration or images
    chosen = first(source, min(sample, len(source)))
    inputs = chosen.batch(range(len(chosen))).inputs
    name = name or type(module).__name__
    return Classifier(name, module, quantize(name, module, inputs[:4], [inputs]), images, chosen)


def quantize(
    name: str, module: nn.Module, inputs: Tensor, calibration: Sequence[Tensor]
) -> QuantizedModel:
    """The module with every operand quantised; raises as `make_classifier`.

    inputs: some images; calibration: those from which E_top is taken
    """
    model = quantize_model(module, inputs, None, calibration, name=name)
    with torch.no_grad():
        logits_of(model, inputs)
    return model


def module_network(module: nn.Module, image: Tensor) -> Network:
    """A module's layers at the shape of one image (1, channels, H, W)."""
    argument = next(iter(inspect.signature(module.forward).parameters))
    return load_workload(module, {argument: image.shape})
