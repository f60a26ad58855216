"""Folding in modules of any kind: what is folded, what stays, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.batch_norm import fold_batch_norm

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def drawn(module: nn.Module) -> nn.Module:
    """Return the module in float64, all of its numbers drawn, its variances far from 1."""
    torch.manual_seed(0)
    module = module.double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -2, 2)
    for part in module.modules():
        if isinstance(part, NORMS) and part.running_mean is not None:
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.1, 4)
    return module.eval()


def norms(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, NORMS)]


def check(module: nn.Module, shape: tuple[int, ...], left: list[str]) -> nn.Module:
    """Fold, compare in float64 with what was there, and with which normalisations are left."""
    module = drawn(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded = fold_batch_norm(module)
    assert norms(folded) == left
    assert not folded.training
    images = torch.randn(shape, dtype=torch.double)
    with torch.no_grad():
        expected = module(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(folded(images), expected, rtol=1e-10, atol=1e-10)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the module itself has changed"
    return folded


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (3, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), (3, 4, 9, 8)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4, eps=0.3), (3, 4, 9, 8)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, affine=False), (3, 2, 4, 4, 4)),
        (nn.Linear(5, 7), nn.BatchNorm1d(7), (3, 5)),
        (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7, affine=False), (3, 5)),
    ],
)
def test_every_kind_of_layer_takes_its_normalisation_in(layer, norm, shape):
    folded = check(nn.Sequential(layer, norm, nn.ReLU()), shape, left=[])
    assert isinstance(folded[1], nn.Identity)
    assert folded[0].bias is not None


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)], (2, 4, 5, 5)),  # before it
        ([nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)], (2, 4, 5, 5)),  # not next to it
        ([nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)], (2, 4, 5, 5)),  # filters lie otherwise
        ([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)], (2, 4, 5, 5)),
        ([nn.Linear(5, 7), nn.BatchNorm1d(4)], (3, 4, 5)),  # along another axis
    ],
)
def test_a_normalisation_that_belongs_to_no_layer_stays(parts, shape):
    index = next(index for index, part in enumerate(parts) if isinstance(part, NORMS))
    check(nn.Sequential(*parts), shape, left=[str(index)])


class Branches(nn.Module):
    """A convolution whose output another reader wants as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.bn(x)


class Twice(nn.Module):
    """One convolution at two places, and one normalisation at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv3, self.conv4 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.common = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.shared(self.bn1(self.shared(x))))
        return self.common(self.conv4(self.common(self.conv3(x))))


class Tied(nn.Module):
    """A convolution whose weights are also read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.bn(self.conv(x)), self.conv.weight)


class Alias(nn.Module):
    """A normalisation known by two names, read by one of them; weights shared by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.bn = nn.BatchNorm2d(3)
        self.same = self.bn

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.same(self.first(x)))


def test_what_has_another_reader_stays():
    check(Branches(), (2, 3, 5, 5), left=["bn"])
    check(Twice(), (2, 3, 5, 5), left=["bn1", "bn2", "common"])
    check(Tied(), (2, 3, 5, 5), left=["bn"])


def test_names_and_weights_that_two_share():
    folded = check(Alias(), (2, 3, 5, 5), left=[])
    assert isinstance(folded.bn, nn.Identity)
    assert not torch.equal(folded.first.weight, folded.second.weight)


def test_without_normalisation_nothing_needs_to_be_traced():
    class Conditional(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x[:, :1]

    check(Conditional(4, 1), (3, 4), left=[])


def test_folded_numbers_are_rounded_once():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64))
    for tensor in (module[1].weight, module[1].bias, module[1].running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(module[1].running_var, 0.1, 4)
    single, double = fold_batch_norm(module), fold_batch_norm(module.double())
    assert single[0].weight.dtype == torch.float32
    assert torch.equal(single[0].weight, double[0].weight.float())
    assert torch.equal(single[0].bias, double[0].bias.float())
