"""Formats between others: with width and block size fixed, bits are linear in SE.

An element has a mantissa of width - SE bits and a block a code of SE, so that whatever counts bits
needs to be known at the least and the largest SE only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.closed.leaves import Values
from bfpsim.quant.formats import BFP, Format


@dataclass(frozen=True, eq=False)
class Lines:
    """Where formats lie between two of a few.

    ends: least and largest SE of each width and block size; other formats stand for themselves
    low, high: by format, the place of its ends
    span: by format, how much wider the codes of the high end are; steps: its own [bit]
    """

    ends: tuple[Format, ...]
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    span: NDArray[np.int64]
    steps: NDArray[np.int64]

    def all(self, of_ends: Values) -> Values:
        """Rows for all formats, from rows for the ends; whole numbers stay exact."""
        low = of_ends[self.low]
        values: Values = low + (of_ends[self.high] - low) / self.span[:, None] * self.steps[:, None]
        return values


def make_lines(formats: Sequence[Format]) -> Lines:
    """The lines that the formats lie on."""
    codes = attrgetter("exponent_bits")
    groups: dict[Format, list[Format]] = {}
    for fmt in formats:
        groups.setdefault(_line(fmt), []).append(fmt)
    of = {line: (min(own, key=codes), max(own, key=codes)) for line, own in groups.items()}
    ends = tuple(dict.fromkeys(fmt for pair in of.values() for fmt in pair))
    lows, highs = zip(*(of[_line(fmt)] for fmt in formats), strict=True)
    least, most, own = (np.array([*map(codes, each)]) for each in (lows, highs, formats))
    return Lines(
        ends,
        np.array([*map(ends.index, lows)], np.intp),
        np.array([*map(ends.index, highs)], np.intp),
        np.maximum(1, most - least),
        own - least,
    )


def _line(fmt: Format) -> Format:
    return replace(fmt, exponent_bits=1) if isinstance(fmt, BFP) else fmt
