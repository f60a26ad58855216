"""How weights are distributed: histograms, kurtosis, and the exponents that they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats import FormatError

if TYPE_CHECKING:
    import pandas as pd

Weights = Mapping[str, NDArray[np.floating[Any]]]
"""A layer's weights of any shape, by its name."""
BINS = 101
SHARE = 0.999


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive exponents: floor(log2 |w|) from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def width(self) -> int:
        """How many exponents there are."""
        return self.high - self.low + 1

    @property
    def exponent_bits(self) -> int:
        """The least e whose 2^e - 2 codes of normal numbers cover the span, wherever it lies."""
        return (self.width + 1).bit_length()


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


def pooled(weights: Weights) -> NDArray[np.float64]:
    """All layers' weights in one row."""
    return np.concatenate([layer.ravel() for layer in weights.values()]).astype(np.float64)


def pearson_kurtosis(values: NDArray[Any]) -> float:
    """m4 / m2^2 of the values about their mean, m_k the mean k-th power (Pearson's b_2).

    3 for a normal distribution; the excess kurtosis (Fisher's) is 3 less. NaN if all values are
    equal.
    """
    apart = values.astype(np.float64).ravel()
    apart = apart - apart.mean()
    largest = np.abs(apart).max()
    if largest == 0:
        return float("nan")
    squares = np.square(apart / largest)  # no power of it leaves the range of a float
    return float(np.square(squares).mean() / squares.mean() ** 2)


def histogram(values: NDArray[Any], bins: int = BINS) -> pd.DataFrame:
    """Equal bins over +- the largest magnitude: low, high, count. With odd bins, one is about 0."""
    import pandas as pd

    # All-zero weights get bins of some width.
    reach = float(np.abs(values).max()) or 1.0
    count, edges = np.histogram(values, bins, (-reach, reach))
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": count})


def exponent_counts(values: NDArray[Any]) -> dict[int, int]:
    """How many values have each exponent floor(log2 |w|), from the lowest on; zeros have none."""
    magnitudes = np.abs(values[values != 0].astype(np.float64))
    found, counts = np.unique(np.frexp(magnitudes)[1] - 1, return_counts=True)
    return {int(e): int(n) for e, n in zip(found, counts, strict=True)}


def exponent_histogram(values: NDArray[Any]) -> pd.DataFrame:
    """Exponent, count and share of all values, for each exponent from the lowest to the highest."""
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
    needed = np.ceil(share * values.size - 1e-9) - (values.size - sum(counts.values()))
    if needed <= 0:
        return None
    low = min(counts)
    dense = np.array([counts.get(e, 0) for e in range(low, max(counts) + 1)])
    before = np.concatenate([[0], np.cumsum(dense)])
    for width in range(1, len(dense) + 1):
        held = before[width:] - before[:-width]
        if held.max() >= needed:
            start = low + int(np.flatnonzero(held == held.max())[-1])
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
