"""A network's accuracy in every FP(e, m), without training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bfpsim.quant.formats import Rounding
from bfpsim.quant.mantissa.minifloat import EXPONENT_BITS, MANTISSA_BITS, MiniFloat
from bfpsim.quant.mantissa.weights import stored_weights
from bfpsim.quant.study.accuracy import accuracy_loss, logits_of, top_k
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.torch.model import Codings, QuantizedModel
from bfpsim.quant.torch.operand import Mode

if TYPE_CHECKING:
    import pandas as pd

POINT = 0.01
"""One point of accuracy, as a share of the images."""
SLACK = 1e-9
"""Of comparisons with it: shares of images are counted exactly, their difference is not."""


def grid(rounding: Rounding = Rounding.NEAREST_EVEN) -> list[MiniFloat]:
    """Every (e, m) of the study, saturating: e from 8 to 2, within it m from 23 to 0."""
    return [
        MiniFloat(e, m, rounding) for e in reversed(EXPONENT_BITS) for m in reversed(MANTISSA_BITS)
    ]


def codings_in(model: QuantizedModel, fmt: MiniFloat, activations: bool) -> dict[str, Codings]:
    """Every product's weights in a format; the rest in float32 or, with `activations`, in it, too.

    A product of activations, as in attention, has no weights.
    """
    chosen = {}
    for site in model.sites:
        weights = Codings() if site.kind == "matmul" else Codings(W=fmt)
        chosen[site.name] = Codings.uniform(fmt) if activations else weights
    return chosen


def measure_accuracy(
    model: QuantizedModel,
    dataset: Dataset,
    formats: Iterable[MiniFloat],
    activations: bool = False,
    *,
    batch: int = 100,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Top-1 and top-5 of the network in each format; the model's choice stays as it is.

    Formats that leave the same weights, as those with an exponent wider than any weight needs do,
    are evaluated once, unless activations are in them, too.

    activations: inputs and outputs of products in the format, too; else they are float32
    progress: called with each format's name when it is done

    Returns a row per format: format, exponent_bits, mantissa_bits, bits (of an element), top1,
    top5 (shares of the images; of fewer than five classes, the share of all), accuracy_loss (the
    float network's top1 less this one). Raises what `logits_of`, `top_k` and the model raise.
    """
    import pandas as pd

    image = dataset.batch([0]).inputs
    with model.in_mode(Mode.FLOAT), torch.no_grad():
        classes = logits_of(model, image).shape[1]
        ks = (1, min(5, classes))
        original = top_k(model, dataset, ks[:1], batch)[1]
    weights = stored_weights(model, image)
    known: dict[object, dict[int, float]] = {}
    rows: list[dict[str, Any]] = []
    with model.keeping_choice():
        for fmt in formats:
            key = fmt if activations else _digest(weights, fmt)
            if key not in known:
                model.choose(codings_in(model, fmt, activations), tied=False)
                with model.in_mode(Mode.QUANTIZE):
                    known[key] = top_k(model, dataset, ks, batch)
            scores = known[key]
            rows.append(
                {
                    "format": str(fmt),
                    "exponent_bits": fmt.exponent_bits,
                    "mantissa_bits": fmt.mantissa_bits,
                    "bits": fmt.element_bits,
                    "top1": scores[1],
                    "top5": scores[ks[1]],
                    "accuracy_loss": accuracy_loss(original, scores[1]),
                }
            )
            if progress is not None:
                progress(str(fmt))
    return pd.DataFrame(rows)


def _digest(weights: Mapping[str, NDArray[np.float32]], fmt: MiniFloat) -> bytes:
    """Of the weights in a format: equal ones have an equal digest."""
    digest = hashlib.sha256()
    for layer in weights.values():
        digest.update((fmt.rounded(torch.from_numpy(layer)) + 0.0).numpy().tobytes())
    return digest.digest()


def fewest_bits(curve: pd.DataFrame, bits: str, within: float = POINT) -> int | None:
    """The least of a column of widths from which on, upwards, no row loses more than `within`.

    curve: rows of `measure_accuracy` that differ in that width alone
    bits: "mantissa_bits" or "exponent_bits"
    within: share of the images, 0.01 for one point

    None if the widest loses more already. A narrower width that does well by chance, with a worse
    one between, does not count.
    """
    fewest = None
    for row in curve.sort_values(bits, ascending=False).to_dict(orient="records"):
        if row["accuracy_loss"] > within + SLACK:
            break
        fewest = int(row[bits])
    return fewest
