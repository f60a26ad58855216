"""Distinct rows of columns, also where their numbers would not fit 64 bits."""

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from bfpsim.mapping.steps.tiles import distinct


def assert_as_numpy(columns: list[NDArray[np.int64]]) -> None:
    _, firsts, number = np.unique(
        np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True
    )
    found_firsts, found_number = distinct(columns)
    assert found_firsts.tolist() == firsts.tolist()
    assert found_number.tolist() == number.reshape(-1).tolist()


@pytest.mark.parametrize("seed", range(30))
def test_rows_are_numbered_in_ascending_order(seed: int) -> None:
    rng = random.Random(seed)
    length = rng.randint(1, 40)
    columns = []
    for _ in range(rng.randint(1, 9)):
        low = rng.choice([0, 1, -5, 2**40])
        span = rng.choice([0, 1, 2, 2**20, 2**31, 2**40])
        few = [low + rng.randint(0, span) for _ in range(3)]
        columns.append(np.array([rng.choice(few) for _ in range(length)]))
    assert_as_numpy(columns)


def test_rows_that_would_wrap_round_stay_apart() -> None:
    """Three columns of 2^32 values: numbered as one, the first would be shifted out of 64 bits."""
    most = 2**32 - 1
    rows = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (most, 0, 0), (0, most, 0), (0, 0, most), (1, 0, 0)]
    columns = list(np.array(rows, np.int64).T)
    assert_as_numpy(columns)
    assert distinct(columns)[1].tolist() == [0, 3, 4, 5, 2, 1, 3]


def test_two_columns_that_fill_64_bits() -> None:
    """2^32 x 2^31 values just fit a signed number; twice as many do not keep their order."""
    for second in (2**31 - 1, 2**32 - 1):
        rows = [(2**32 - 1, 0), (0, second), (2**32 - 1, second), (0, 0), (2**31, 1)]
        assert_as_numpy(list(np.array(rows, np.int64).T))
