"""Policies, and what they do to a network's accuracy, its storage and the noise in each layer.

A policy is a way to code a whole network: one format, a baseline, or a format per stored tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bfpsim.objects import brief
from bfpsim.quant.baselines import BASELINES, BSFP
from bfpsim.quant.formats import INDUSTRY, Format, FormatError, Plain, candidates, parse_format
from bfpsim.quant.formats.ties import OperandKey
from bfpsim.quant.study.accuracy import accuracy_loss, top_k
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.study.sensitivity import Fisher, FloatRun
from bfpsim.quant.torch.model import Chosen, Codings, QuantizedModel
from bfpsim.quant.torch.operand import Coding, Mode, sqnr_db

if TYPE_CHECKING:
    import pandas as pd

BITQ = {"bitq16": 16, "bitq8": 8}
"""A format of BitQ's table 2 for each stored tensor, the one of least estimated divergence."""

TABLE_3 = ("original", "dbps16", "flexblock16", "bitq16", "fast", "bsfp8", "bitq8")
"""The columns of BitQ's table 3."""


def parse_policy(name: str, model: QuantizedModel, inputs: Tensor) -> Chosen | Mapping[str, Chosen]:
    """Return the choice that a name stands for, as `QuantizedModel.choose` takes it.

    name: ``original`` (float32), ``bitq16`` or ``bitq8``, a baseline (`quant.baselines`), or a
        format (`quant.formats.parse_format`)
    model: calibrated
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
            "bfp8, bfp16, bfp<bits>e<exponent bits>b<block size>, plain<bits>, "
            f"{', '.join(INDUSTRY)}"
        ) from None


def least_divergence(
    model: QuantizedModel, inputs: Tensor, formats: Sequence[Format], *, seed: int = 0
) -> dict[str, Codings]:
    """Choose for each stored tensor the format of least estimated divergence; no choice is run.

    This is Eq. 1 of the BitQ paper at alpha = 0: the search weighs the same estimates against data
    movement.

    model: calibrated; its choice stays as it is
    inputs: images for the estimate (`Fisher`), all in one batch; a hundred will do
    formats: deterministic ones; of equal estimates the first wins

    Operands that are one stored tensor (`QuantizedModel.stored_tensors`) get one format.
    """
    with model.in_mode(Mode.FLOAT):
        run, fisher = FloatRun(model, inputs), Fisher(model, inputs, seed)
        costs: dict[OperandKey, list[float]] = {}
        for key, operand in model.operands.items():
            value = run.value(key)
            with torch.no_grad():
                errors = (operand.quantize(value, fmt) - value for fmt in formats)
                costs[key] = [fisher.divergence(key, e, operand.stored, run) for e in errors]
    choice: dict[OperandKey, Coding] = {}
    for group in model.stored_tensors:
        totals = [sum(costs[operand][i] for operand in group) for i in range(len(formats))]
        best = formats[totals.index(min(totals))]
        choice.update(dict.fromkeys(group, best))
    return model.codings(choice)


@brief
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


@brief
@dataclass(frozen=True, eq=False)
class Original:
    """The float network's top-1, and its outputs for the first `sample` images."""

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
    original: of the same dataset and sample; None evaluates it
    sample: the first images, on which noise is measured
    progress: called with each policy's name when it is done

    Raises WorkloadError and FormatError as `quant.study.accuracy.top_k` and the model do.
    """
    import pandas as pd

    some = _first(dataset, sample)
    if original is None:
        original = evaluate_original(model, dataset, sample=sample, batch=batch)
    exact, ks = original.outputs, (1, min(5, original.outputs.shape[1]))
    first = {site.name: site.shares or site.name for site in model.sites}
    rows, layers = [], []
    with model.keeping_choice():
        for name, chosen in policies.items():
            model.choose(chosen, tied=False)
            with model.in_mode(Mode.QUANTIZE):
                scores = top_k(model, dataset, ks, batch)
                outputs = _outputs(model, some)
            storage = model.measure([some[:1]])
            noise = model.measure([some])
            totals = {"W": [0, 0], "IO": [0, 0]}
            copies = set()
            for (site, tensor), one in storage.items():
                operand = model.operand(site, tensor)
                # A W that several products read is stored once in each of its codings.
                copy = (first[site] if operand.stored else site, tensor, operand.coding)
                if copy not in copies:
                    copies.add(copy)
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
            signal, error = (float(t.double().square().sum()) for t in (exact, exact - outputs))
            rows.append(
                {
                    "policy": name,
                    "top1": scores[1],
                    "top5": scores[ks[1]],
                    "accuracy_loss": round(accuracy_loss(original.top1, scores[1]), 9),
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
