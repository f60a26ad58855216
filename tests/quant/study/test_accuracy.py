"""Top-k is what sorting the logits says; a loss is what the paper calls one."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.accuracy import TopK, accuracy_loss, classify, keeping_modes, ranks, top_k
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset, shipped_test_images
from bfpsim.workloads import WorkloadError, shipped_metadata
from bfpsim.workloads.training.shipped import shipped_module


def of_logits(logits: np.ndarray, labels) -> ArrayDataset:
    """Images whose pixels are the logits that nn.Flatten then gives."""
    pixels = np.asarray(logits, np.float32)[:, None, None, :]
    return ArrayDataset(pixels, np.asarray(labels), AS_STORED)


@st.composite
def logits_and_labels(draw):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 7)))
    # Few values, so that many are equal.
    logits = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-1.5, 0.0, 0.25, 3e38])))
    labels = draw(hnp.arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1)))
    return logits, labels


def by_sorting(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    correct = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ordered = sorted(range(len(row)), key=lambda c: (-row[c], c))
        correct += label in ordered[:k]
    return correct / len(labels)


@given(case=logits_and_labels(), batch=st.integers(1, 13))
def test_top_k_is_what_sorting_says(case, batch):
    logits, labels = case
    dataset, ks = of_logits(logits, labels), range(1, logits.shape[1] + 1)
    wanted = {k: by_sorting(logits, labels, k) for k in ks}
    assert top_k(nn.Flatten(), dataset, ks, batch) == wanted
    for k in ks:
        assert TopK(dataset, k, batch)(nn.Flatten()) == wanted[k]


def test_of_equal_logits_the_earlier_class_wins():
    dataset = of_logits([[1, 1, 0], [1, 1, 0]], [0, 1])
    assert top_k(nn.Flatten(), dataset, (1, 2)) == {1: 0.5, 2: 1.0}


def test_infinite_logits_are_ordered():
    logits = torch.tensor([[-torch.inf, torch.inf, 0.0, torch.inf, -torch.inf]] * 5)
    assert ranks(logits, torch.arange(5)).tolist() == [3, 0, 2, 1, 4]


def test_progress_tells_the_images_done():
    told: list[str] = []
    dataset = of_logits(np.eye(5), range(5))
    TopK(dataset, batch=2, progress=told.append)(nn.Flatten())
    assert told == ["2 of 5 images", "4 of 5 images", "5 of 5 images"]


class Watched(nn.Module):
    """Remembers how it was run; dropout would change its logits in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Dropout(0.5), nn.Flatten())
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward(self, x):
        out = self.part(x) * self.scale
        self.seen.append((self.training, self.part[0].training, out.requires_grad))
        return out


def test_a_module_is_left_as_it_was():
    module = Watched().train()
    module.part[1].eval()
    before = [part.training for part in module.modules()]
    assert top_k(module, of_logits(np.eye(6), range(6)), (1,), 3) == {1: 1.0}
    assert module.seen == [(False, False, False)] * 2
    assert [part.training for part in module.modules()] == before == [True, True, True, False]
    with pytest.raises(WorkloadError):
        top_k(module, of_logits(np.eye(6), range(6)), (7,))
    assert [part.training for part in module.modules()] == before
    with pytest.raises(ZeroDivisionError), keeping_modes(module):
        module.eval().part[1].train(1 / 0)
    assert [part.training for part in module.modules()] == before


class Log(nn.Module):
    def forward(self, x):
        return x.log().flatten(1)


def test_logits_that_are_nan():
    logits = np.ones((5, 3))
    logits[3, 1] = -1
    with pytest.raises(FormatError) as caught:
        top_k(Log(), of_logits(logits, [0] * 5), (1,), batch=2)
    assert str(caught.value) == "logits of image 3 hold NaN; allowed: numbers"


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Nothing:
    def __len__(self):
        return 0

    def batch(self, indices):
        raise AssertionError


@pytest.mark.parametrize(
    ("module", "labels", "ks", "message"),
    [
        (nn.Identity(), [0, 0], (1,), "module Identity: output (2, 1, 1, 3) for 2 images; allowed"),
        (
            Pair(),
            [0, 0],
            (1,),
            "module Pair: output tuple for 2 images; allowed: one tensor (2, ",
        ),
        (nn.Flatten(0, 2), [0, 3], (1,), "label 3 for module Flatten; allowed: 0..2"),
        (nn.Flatten(), [0, 0], (1, 0), "top-0 of 3 classes; allowed: 1..3"),
        (nn.Flatten(), [0, 0], (4,), "top-4 of 3 classes; allowed: 1..3"),
    ],
)
def test_what_has_no_accuracy(module, labels, ks, message):
    with pytest.raises(WorkloadError) as caught:
        top_k(module, of_logits(np.ones((2, 3)), labels), ks)
    assert str(caught.value).startswith(message)


def test_a_dataset_without_images():
    with pytest.raises(WorkloadError, match="dataset of 0 images; allowed: at least one"):
        top_k(nn.Flatten(), Nothing())


def test_a_label_below_zero():
    batch = of_logits(np.ones((2, 3)), [0, 0]).batch([0, 1])
    batch.labels[1] = -1
    with pytest.raises(WorkloadError, match=r"label -1 for module Flatten; allowed: 0\.\.2"):
        classify(nn.Flatten(), batch)


def test_the_shipped_network_is_as_good_as_its_file_says():
    score = TopK(shipped_test_images(), batch=250)(shipped_module("resnet18-fashion"))
    assert score * 1000 == int(shipped_metadata("resnet18-fashion")["first_1000_correct"])


# BitQ, Table 3 and the text about it: geometric means of Original, of 16 and of 8 bits in percent,
# what the 16 bits lose against Original, and the 8 bits against those.
@pytest.mark.parametrize(
    "row",
    [
        "73.65 72.84 72.29 0.81 0.55",
        "47.46 47.03 46.54 0.43 0.49",
        "37.58 37.39 37.06 0.19 0.33",
        "55.09 54.51 54.26 0.58 0.25",
    ],
)
def test_losses_are_those_the_paper_states(row):
    original, wide, narrow, first, second = (float(Decimal(each) / 100) for each in row.split())
    assert accuracy_loss(original, wide) == pytest.approx(first, abs=1e-12)
    assert accuracy_loss(wide, narrow) == pytest.approx(second, abs=1e-12)
    assert accuracy_loss(narrow, wide) == -accuracy_loss(wide, narrow)


@pytest.mark.parametrize("score", [-0.01, 1.01, 73.65, float("nan"), float("inf")])
def test_scores_that_are_no_shares(score):
    for arguments, name in (((score, 0.5), "original"), ((0.5, score), "quantised")):
        with pytest.raises(WorkloadError) as caught:
            accuracy_loss(*arguments)
        assert str(caught.value) == f"{name} score {score}; allowed: 0..1"
