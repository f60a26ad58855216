"""What runs at each commit, and what only in the long campaigns of `make test-long`."""

from collections.abc import Iterable
from typing import Any

import pytest


def often(count: int, values: Iterable[Any]) -> list[Any]:
    """Parameters of a test: the first `count` of the values at each commit, all of them at length.

    A tuple is a value for each of several parameters.
    """
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[pytest.mark.long] * (place >= count),
        )
        for place, value in enumerate(values)
    ]
