"""Stored rows that outputs read, one by one."""

from itertools import product

import pytest

from bfpsim.mapping.window import Window


@pytest.mark.parametrize(
    ("stride", "taps", "dilation", "before"),
    list(product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1, 3))),
)
def test_lines_are_the_stored_rows_that_some_output_reads(
    stride: int, taps: int, dilation: int, before: int
) -> None:
    window = Window(stride, taps, dilation, before, extent=6)
    for outputs in range(1, 7):
        read = set()
        for output in range(outputs):
            for tap in range(taps):
                row = output * stride + tap * dilation - before
                if 0 <= row < 6:
                    read.add(row)
        assert window.lines(outputs) == len(read)


def test_lines_by_hand() -> None:
    """Outputs at -1, 2, 5, 8 of 8 rows, two taps each: rows 0, 2, 3, 5, 6; the rest is padding."""
    assert Window(stride=3, taps=2, dilation=1, before=1, extent=8).lines(4) == 5


def test_what_lies_in_padding_alone_is_nothing() -> None:
    """Of 4 rows behind 1 of padding: the window at -1 ends at 0, the one at 4 begins at the end."""
    window = Window(stride=1, taps=1, dilation=1, before=1, extent=4)
    assert [window.interval((output, output + 1)) for output in (0, 1, 4, 5, 6)] == [
        (0, 0), (0, 1), (3, 4), (0, 0), (0, 0),
    ]  # fmt: skip
