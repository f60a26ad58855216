"""Tolerance of several networks: rows against the study of one, widths between by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bfpsim.quant.formats import FormatError, Rounding
from bfpsim.quant.mantissa.accuracy import (
    WIDTHS,
    crossing,
    measure_accuracy,
    measure_tolerance,
    tolerances,
)
from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.torch.model import quantize_model


class Plain(nn.Module):
    """Convolution and linear layer; a scale that is no operand is a parameter all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 3, bias=False), nn.Linear(75, 5)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.fc(torch.relu(self.scale * self.conv(x)).flatten(1))


class Attentive(Plain):
    def forward(self, x):
        return super().forward(x @ x.transpose(2, 3))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(120, 1, 7, 7)).astype(np.float32)
    return ArrayDataset(pixels, rng.integers(5, size=120), AS_STORED, 5)


@pytest.mark.parametrize(("module", "kind"), [(Plain, "convolutional"), (Attentive, "transformer")])
def test_rows_are_those_of_one_network_at_the_widest_exponent(images, module, kind) -> None:
    torch.manual_seed(0)
    net = module().eval()
    done = []
    frame = measure_tolerance("net", net, images, Rounding.TRUNCATE, progress=done.append)
    about = frame[["model", "family", "kind", "parameters"]].drop_duplicates()
    assert about.to_numpy().tolist() == [["net", module.__name__, kind, 27 + 380 + 1]]
    formats = [MiniFloat(8, m, Rounding.TRUNCATE) for m in (10, 7, 6, 5, 4, 3, 2, 1, 0)]
    model = quantize_model(net, images.batch([0, 1]).inputs)
    expected = measure_accuracy(model, images, formats)
    pd.testing.assert_frame_equal(frame[list(expected.columns)], expected)
    assert done == list(expected["format"])
    assert len(set(expected["top1"])) > 1
    # Activations in the format, too.
    frame = measure_tolerance("net", net, images, Rounding.TRUNCATE, activations=True)
    both = measure_accuracy(model, images, formats, activations=True)
    assert list(frame["top1"]) == list(both["top1"]) != list(expected["top1"])


def test_bad_weights_are_named(images) -> None:
    net = Plain().eval()
    net.fc.weight.data[2, 3] = math.inf
    with pytest.raises(FormatError, match="wide: 1 of 375 weights of 'fc' are NaN or infinite"):
        measure_tolerance("wide", net, images)


@pytest.mark.parametrize(
    ("losses", "within", "expected"),
    [
        ([0.0, 0.0, 0.03], 0.01, 0 + 2 / 3),  # a third of the way down from 1
        ([0.0, 0.005, 0.02], 0.01, 1 / 1.5),
        ([0.0, 0.02, 0.0], 0.01, 1 + 9 / 2),  # between 10 and 1; what is well below does not count
        ([0.0, 0.01, 0.03], 0.01, 1.0),  # the limit itself
        ([0.91 - 0.9, 0.02, 0.0], 0.01, 10.0),  # the limit itself, not exact in binary
        ([0.0, -0.01, 0.01], 0.01, 0.0),
        ([0.02, 0.0, 0.0], 0.01, None),
        ([0.0, 0.0, 0.5], 0.0, 1.0),
    ],
)
def test_the_width_at_which_the_loss_passes_the_limit(losses, within, expected) -> None:
    series = pd.Series(losses, index=[10, 1, 0]).sample(frac=1, random_state=0)
    found = crossing(series, within)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))


def rows(model: str, family: str, kind: str, parameters: int, losses: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": model, "family": family, "kind": kind, "parameters": parameters,
            "mantissa_bits": WIDTHS, "top1": [0.9 - loss for loss in losses],
            "accuracy_loss": losses,
        }
    )  # fmt: skip


def test_a_row_per_network_families_together_small_ones_first() -> None:
    frame = pd.concat(
        [
            rows("v", "ViT", "transformer", 10, [0.5] * 9),
            rows("large", "Net", "convolutional", 300, [0.0] * 7 + [0.0, 0.04]),
            rows("other", "Alex", "convolutional", 900, [0.0] * 9),
            rows("small", "Net", "convolutional", 200, [0.0] * 5 + [0.005, 0.03, 0.2, 0.8]),
        ]
    )
    table = tolerances(frame)
    assert list(table["model"]) == ["other", "small", "large", "v"]
    assert table["fewest_mantissa_bits"].tolist() == [0, 3, 1, pd.NA]
    assert table["bits_at_limit"].tolist()[:3] == pytest.approx([0, 2.8, 0.75])
    assert math.isnan(table["bits_at_limit"].iloc[3])
    assert table["top1_fp32"].tolist() == pytest.approx([0.9] * 4)
    small = table.set_index("model").loc["small"]
    assert small[[f"loss_m{m}" for m in (10, 3, 2, 1, 0)]].tolist() == [0, 0.005, 0.03, 0.2, 0.8]
    assert tolerances(frame, within=0.25).set_index("model").loc["small"]["bits_at_limit"] < 1
