"""The weights that a network stores, and how they are distributed.

They come from a torch module or an imported file. Of their distribution: histograms, kurtosis, and
the exponents that they take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bfpsim.quant.formats import FormatError
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.operand import Mode
from bfpsim.workloads import LayerWeights
from bfpsim.workloads.network import Network

if TYPE_CHECKING:
    import pandas as pd

Weights = Mapping[str, NDArray[np.floating[Any]]]
"""A layer's weights of any shape, by its name."""
BINS = 101
SHARE = 0.999


def stored_weights(model: QuantizedModel, inputs: Tensor) -> dict[str, NDArray[np.float32]]:
    """The weights of every layer, as its product reads them; once where layers share them.

    Batch normalisation is folded in; biases, embeddings and the like are no operands. `inputs`
    are some images: one pass finds the weights, also those that are computed from parameters.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    handles = []
    for site in model.sites:
        operand = model.operand(site.name, "W")
        if operand.stored and not site.shares:

            def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = site.name) -> None:
                weights[name] = inputs[0].detach().cpu().numpy()

            handles.append(operand.register_forward_pre_hook(keep))
    try:
        with model.in_mode(Mode.FLOAT), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return weights


def imported_weights(
    network: Network, held: Mapping[str, LayerWeights]
) -> dict[str, NDArray[np.float32]]:
    """The weights of every layer of an imported network; once where layers have equal ones.

    held: by layer, as the importer gives them

    The importer does not say which layers share a weight, but those that do have equal ones. The
    phases of a transposed convolution are one layer, its weights in a row.
    """
    wholes = _transposed(network)
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for layer in network.layers:
        if layer.name in held:
            name = wholes.get(layer.name, layer.name)
            parts.setdefault(name, []).append(held[layer.name].weight)
    weights = {
        name: own[0] if len(own) == 1 else np.concatenate([part.ravel() for part in own])
        for name, own in parts.items()
    }
    first: dict[object, str] = {}
    for name, weight in weights.items():
        first.setdefault((weight.shape, hashlib.sha256(weight.tobytes()).digest()), name)
    return {name: weights[name] for name in first.values()}


def _transposed(network: Network) -> dict[str, str]:
    """The phases of transposed convolutions, and the convolution's name for each."""
    kinds = {node.name: node.op for node in network.nodes}
    return {
        phase: node.name.rpartition(".interleave")[0]
        for node in network.nodes
        if node.function == "interleave"
        for phase in node.inputs
        if kinds[phase] == "transposed"
    }


def check_weights(owner: str, weights: Weights) -> None:
    """Raise FormatError for a network without weights, or naming a layer with NaN or infinity."""
    if not any(layer.size for layer in weights.values()):
        raise FormatError(f"{owner}: has no weights; allowed: a network with a layer that has some")
    for name, layer in weights.items():
        bad = int((~np.isfinite(layer)).sum())
        if bad:
            raise FormatError(
                f"{owner}: {bad} of {layer.size} weights of {name!r} are NaN or infinite; "
                "allowed: finite weights"
            )


# --- their distribution --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive exponents: floor(log2 |w|) from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def width(self) -> int:
        """The number of exponents."""
        return self.high - self.low + 1

    @property
    def exponent_bits(self) -> int:
        """The least e whose 2^e - 2 codes of normal numbers cover the span, wherever it lies."""
        return (self.width + 1).bit_length()


def pooled(weights: Weights) -> NDArray[np.float64]:
    """The weights of all layers in one row."""
    return np.concatenate([layer.ravel() for layer in weights.values()]).astype(np.float64)


def pearson_kurtosis(values: NDArray[Any]) -> float:
    """m4 / m2^2 of the values about their mean, m_k the mean k-th power (Pearson's b_2).

    3 for a normal distribution; the excess kurtosis (Fisher's) is 3 less. NaN if all values are
    equal.
    """
    differences = values.astype(np.float64).ravel()
    differences = differences - differences.mean()
    largest = np.abs(differences).max()
    if largest == 0:
        return float("nan")
    squares = np.square(differences / largest)  # no power of it leaves the range of a float
    return float(np.square(squares).mean() / squares.mean() ** 2)


def histogram(values: NDArray[Any], bins: int = BINS) -> pd.DataFrame:
    """Equal bins over +- the largest magnitude: low, high, count. With odd bins, one is about 0."""
    import pandas as pd

    # All-zero weights get bins of some width.
    reach = float(np.abs(values).max()) or 1.0
    count, edges = np.histogram(values, bins, (-reach, reach))
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": count})


def exponent_counts(values: NDArray[Any]) -> dict[int, int]:
    """Count the values of each exponent floor(log2 |w|), from the lowest on; zeros have none."""
    magnitudes = np.abs(values[values != 0].astype(np.float64))
    exponents, counts = np.unique(np.frexp(magnitudes)[1] - 1, return_counts=True)
    return {int(e): int(n) for e, n in zip(exponents, counts, strict=True)}


def exponent_histogram(values: NDArray[Any]) -> pd.DataFrame:
    """A row per exponent, from the lowest to the highest: exponent, count, share of all values."""
    import pandas as pd

    counts = exponent_counts(values)
    rows = range(min(counts), max(counts) + 1) if counts else range(0)
    number = [counts.get(e, 0) for e in rows]
    share = [n / values.size for n in number]
    return pd.DataFrame({"exponent": list(rows), "count": number, "share": share})


def exponent_span(values: NDArray[Any], share: float = SHARE) -> Span | None:
    """The fewest consecutive exponents that, with zero, hold this share of the values.

    Of equally few, those that hold more, and of these the higher. None if zeros alone suffice.
    """
    counts = exponent_counts(values)
    least = np.ceil(share * values.size - 1e-9) - (values.size - sum(counts.values()))
    if least <= 0:
        return None
    low = min(counts)
    dense = np.array([counts.get(e, 0) for e in range(low, max(counts) + 1)])
    before = np.concatenate([[0], np.cumsum(dense)])
    for width in range(1, len(dense) + 1):
        inside = before[width:] - before[:-width]
        if inside.max() >= least:
            start = low + int(np.flatnonzero(inside == inside.max())[-1])
            return Span(start, start + width - 1)
    raise AssertionError("all values together are fewer than a share of them")


def layer_statistics(weights: Weights) -> pd.DataFrame:
    """A row per layer: layer, weights, kurtosis_pearson, kurtosis_excess, zeros, largest.

    span_low, span_high: the exponents of `exponent_span`, missing where a layer needs none.
    """
    import pandas as pd

    rows = []
    for name, layer in weights.items():
        kurtosis, span = pearson_kurtosis(layer), exponent_span(layer)
        rows.append(
            {
                "layer": name,
                "weights": layer.size,
                "kurtosis_pearson": kurtosis,
                "kurtosis_excess": kurtosis - 3,
                "zeros": int((layer == 0).sum()),
                "largest": float(np.abs(layer).max()),
                "span_low": None if span is None else span.low,
                "span_high": None if span is None else span.high,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"span_low": "Int64", "span_high": "Int64"})
