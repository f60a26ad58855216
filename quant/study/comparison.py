"""What ways of coding a network do to its accuracy, its storage and the noise in each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bfpsim.quant.study.accuracy import accuracy_loss, top_k
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.torch.model import Chosen, QuantizedModel
from bfpsim.quant.torch.operand import Mode, sqnr_db

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Comparison:
    """Tables of one network.

    accuracy: a row per coding; top1, top5: shares of the images; accuracy_loss: the float
        network's top1 less this one; weight_bits and activation_bits: storage of all W, once where
        products share it in one coding, and of I and O of one image [bit]; weight_width,
        activation_width: the same per element [bit]; logits_sqnr_db: of the outputs [dB]
    layers: a row per coding, layer and tensor: coding (as a format's name), sqnr_db [dB],
        elements, bits (of one image)
    """

    network: str
    images: int
    accuracy: pd.DataFrame
    layers: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Original:
    """What the float network gives: its top-1, and the outputs of the first `sample` images."""

    top1: float
    outputs: Tensor


def evaluate_original(
    model: QuantizedModel, dataset: Dataset, *, sample: int = 100, batch: int = 100
) -> Original:
    """Evaluate a model's float network; raises WorkloadError as `quant.study.accuracy.top_k`."""
    with model.in_mode(Mode.FLOAT):
        top1 = top_k(model, dataset, (1,), batch)[1]
        return Original(top1, _outputs(model, _first(dataset, sample)))


def compare_formats(
    model: QuantizedModel,
    dataset: Dataset,
    policies: Mapping[str, Chosen | Mapping[str, Chosen]],
    *,
    original: Original | None = None,
    sample: int = 100,
    batch: int = 100,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Evaluate a calibrated model in each coding; the model's choice stays as it is.

    policies: by name, as `QuantizedModel.choose` takes them; ties are not checked
    original: of the same dataset and sample, if it is known already
    sample: the first images, on which noise is measured
    progress: called with each policy's name when it is done

    Raises WorkloadError and FormatError as `quant.study.accuracy.top_k` and the model do.
    """
    import pandas as pd

    some = _first(dataset, sample)
    known = original or evaluate_original(model, dataset, sample=sample, batch=batch)
    exact, ks = known.outputs, (1, min(5, known.outputs.shape[1]))
    first = {site.name: site.shares or site.name for site in model.sites}
    rows, layers = [], []
    with model.keeping_choice():
        for name, chosen in policies.items():
            model.choose(chosen, tied=False)
            with model.in_mode(Mode.QUANTIZE):
                scores = top_k(model, dataset, ks, batch)
                found = _outputs(model, some)
            storage = model.measure([some[:1]])
            noise = model.measure([some])
            totals = {"W": [0, 0], "IO": [0, 0]}
            counted = set()
            for (site, tensor), one in storage.items():
                operand = model.operand(site, tensor)
                # A W that several products read is stored once in each of its codings.
                copy = (first[site] if operand.stored else site, tensor, operand.coding)
                if copy not in counted:
                    counted.add(copy)
                    total = totals["W" if operand.stored else "IO"]
                    total[0] += one.bits
                    total[1] += one.elements
                layers.append(
                    {
                        "policy": name,
                        "layer": site,
                        "tensor": tensor,
                        "coding": "float32" if operand.coding is None else str(operand.coding),
                        "sqnr_db": noise[site, tensor].sqnr_db,
                        "elements": one.elements,
                        "bits": one.bits,
                    }
                )
            signal, error = (float(t.double().square().sum()) for t in (exact, exact - found))
            rows.append(
                {
                    "policy": name,
                    "top1": scores[1],
                    "top5": scores[ks[1]],
                    "accuracy_loss": round(accuracy_loss(known.top1, scores[1]), 9),
                    "weight_bits": totals["W"][0],
                    "activation_bits": totals["IO"][0],
                    "weight_width": totals["W"][0] / max(totals["W"][1], 1),
                    "activation_width": totals["IO"][0] / max(totals["IO"][1], 1),
                    "logits_sqnr_db": sqnr_db(signal, error),
                }
            )
            if progress is not None:
                progress(name)
    return Comparison(model.title, len(dataset), pd.DataFrame(rows), pd.DataFrame(layers))


def _first(dataset: Dataset, sample: int) -> Tensor:
    return dataset.batch(range(min(sample, len(dataset)))).inputs


def _outputs(model: QuantizedModel, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(inputs)
    return logits
