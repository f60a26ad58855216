"""Losses of stored tensors are sums of the sensitivity table's rows."""

import pandas as pd
import pytest

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.sensitivity import COLUMNS, Sensitivity
from bfpsim.search.bitwidth.problem import make_losses, no_losses
from bfpsim.search.bitwidth.space import make_space
from tests.search.bitwidth.small import FORMATS, block_network


def table(network) -> Sensitivity:
    rows = [
        (
            layer.name,
            tensor,
            str(fmt),
            0.001 * number + 0.01 * "IWO".index(tensor) + place,
            *[0] * 4,
        )
        for number, layer in enumerate(network.layers)
        for tensor in "IWO"
        for place, fmt in enumerate(FORMATS)
    ]
    return Sensitivity(pd.DataFrame(rows, columns=list(COLUMNS)), "block", 10, 0.9)


def test_a_tied_tensor_loses_what_its_operands_lose() -> None:
    network = block_network()  # stem, inner, outer, head
    space = make_space(network, FORMATS)
    losses = make_losses(space, table(network), 0.5)
    tied = next(t for t, own in enumerate(space.tensors) if ("stem", "O") in own)
    kl = (0 + 0.02) + (0.001 + 0) + (0.002 + 0.02) + (0.003 + 0)
    assert losses[tied, 0] == pytest.approx(0.5 * kl)
    assert losses[tied, 2] == pytest.approx(0.5 * (kl + 4 * 2))
    assert no_losses(space).shape == losses.shape


def test_a_table_that_lacks_a_row() -> None:
    network = block_network()
    whole = table(network)
    short = Sensitivity(whole.table.drop(index=5), "block", 10, 0.9)
    space = make_space(network, FORMATS)
    with pytest.raises(FormatError, match="has no row for W of 'stem' in bfp8e6b4"):
        make_losses(space, short, 1.0)
    with pytest.raises(FormatError, match="allowed: a number above 0"):
        make_losses(space, whole, 0.0)
