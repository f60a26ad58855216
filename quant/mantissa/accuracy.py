"""Accuracy in FP(e, m) without training: of one network in every format, of many in narrow ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bfpsim.quant.formats import Rounding
from bfpsim.quant.mantissa.minifloat import EXPONENT_BITS, MANTISSA_BITS, MiniFloat
from bfpsim.quant.mantissa.weights import check_weights, stored_weights
from bfpsim.quant.study.accuracy import accuracy_loss, logits_of, top_k
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.torch.model import Codings, QuantizedModel, tensor_digest, uncalibrated_model
from bfpsim.quant.torch.operand import Mode

if TYPE_CHECKING:
    import pandas as pd

POINT = 0.01
"""One point of accuracy, as a share of the images."""
SLACK = 1e-9
"""Allowance in comparisons with it: shares of images are exact, their difference is not."""

WIDTHS = (10, 7, 6, 5, 4, 3, 2, 1, 0)
"""Mantissa bits of `measure_tolerance`: those of TF32, those of BF16, and all below."""
CONVOLUTIONAL, TRANSFORMER = "convolutional", "transformer"


# --- one network in every format -----------------------------------------------------------------


def grid(rounding: Rounding = Rounding.NEAREST_EVEN) -> list[MiniFloat]:
    """Every (e, m) of the study, saturating: e from 8 to 2, within it m from 23 to 0."""
    return [
        MiniFloat(e, m, rounding) for e in reversed(EXPONENT_BITS) for m in reversed(MANTISSA_BITS)
    ]


def codings_in(model: QuantizedModel, fmt: MiniFloat, activations: bool) -> dict[str, Codings]:
    """Every product's weights in a format; the rest in float32 or, with `activations`, in it, too.

    A product of activations, as in attention, has no weights.
    """
    codings = {}
    for site in model.sites:
        weights = Codings() if site.kind == "matmul" else Codings(W=fmt)
        codings[site.name] = Codings.uniform(fmt) if activations else weights
    return codings


def measure_accuracy(
    model: QuantizedModel,
    dataset: Dataset,
    formats: Iterable[MiniFloat],
    activations: bool = False,
    *,
    batch: int = 100,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Measure top-1 and top-5 of the network in each format; the model's choice stays as it is.

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
    digests = _Digests(stored_weights(model, image))
    scores_of: dict[object, dict[int, float]] = {}
    rows: list[dict[str, Any]] = []
    with model.keeping_choice():
        for fmt in formats:
            key = fmt if activations else digests(fmt)
            if key not in scores_of:
                model.choose(codings_in(model, fmt, activations), tied=False)
                with model.in_mode(Mode.QUANTIZE):
                    scores_of[key] = top_k(model, dataset, ks, batch)
            scores = scores_of[key]
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


class _Digests:
    """Digests of weights in each format; equal ones are equal weights."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._weights = {layer: torch.from_numpy(own) for layer, own in weights.items()}
        least, most = math.inf, 0.0
        for own in self._weights.values():
            magnitudes = own.abs()
            held = magnitudes[magnitudes > 0]
            if held.numel():
                least, most = min(least, float(held.min())), max(most, float(held.max()))
        self._range = least, most
        self._known: dict[object, str] = {}

    def __call__(self, fmt: MiniFloat) -> str:
        """Return a format's digest.

        Where every weight is among the format's normal numbers, its exponent's width decides
        nothing: all such formats of one mantissa share a digest.
        """
        least, most = self._range
        normal = 2.0 ** (1 - fmt.bias) <= least and most < 2.0**fmt.bias
        key = (fmt.mantissa_bits, fmt.rounding) if normal else fmt
        if key not in self._known:
            rounded = ((layer, fmt.rounded(own) + 0.0) for layer, own in self._weights.items())
            self._known[key] = tensor_digest(rounded)
        return self._known[key]


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


# --- networks of several sizes and families ------------------------------------------------------


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
    """Measure the accuracy of a network at each of `WIDTHS`, with the widest exponent.

    activations, batch, progress: as in `measure_accuracy`

    Returns its rows behind the columns model (the name), family (the module's class), kind
    (``transformer`` if it multiplies activations with each other, else ``convolutional``) and
    parameters (how many). Raises as `uncalibrated_model`, `check_weights` and `measure_accuracy`.
    """
    import pandas as pd

    some = dataset.batch(range(min(4, len(dataset)))).inputs
    model = uncalibrated_model(module, (some,), name)
    check_weights(name, stored_weights(model, some[:1]))
    formats = [MiniFloat(max(EXPONENT_BITS), m, rounding) for m in WIDTHS]
    frame = measure_accuracy(model, dataset, formats, activations, batch=batch, progress=progress)
    has_attention = any(site.kind == "matmul" for site in model.sites)
    about = {
        "model": name,
        "family": type(module).__name__,
        "kind": TRANSFORMER if has_attention else CONVOLUTIONAL,
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
            above, less = wider
            return float(m + (above - m) * (loss - within) / (loss - less))
        wider = (m, loss)
    return None if wider is None else float(wider[0])
