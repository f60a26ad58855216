"""Multiply-accumulates of running modules, by hand and by torch's own counter."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.torch.graph import capture
from tests.workloads.importers.torch_macs import count_macs, difference


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, (3, 5), 2, 1, groups=2), (2, 4, 9, 9), 2 * 6 * 5 * 4 * 2 * 15),
        (nn.Conv1d(3, 5, 2, dilation=3), (2, 3, 10), 2 * 5 * 7 * 3 * 2),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 3 * 8 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 5), 2 * 4 * 25 * 3 * 9),
        (nn.Linear(7, 3), (2, 5, 7), 2 * 5 * 7 * 3),
        # Gates x (inputs + state) for each step; with two directions, both; with two layers, the
        # second reads the first's 2 x 5.
        (nn.LSTM(4, 5, batch_first=True), (2, 6, 4), 12 * 4 * 5 * (4 + 5)),
        (nn.GRU(4, 5, 2, bidirectional=True), (6, 2, 4), 12 * 3 * 5 * 2 * (9 + 15)),
        (nn.LayerNorm(4), (2, 4), 0),
    ],
)
def test_layers_by_hand(module, shape, macs):
    x = torch.randn(shape)
    counts = count_macs(module.eval(), (x,))
    assert counts == ({"": macs} if macs else {})
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


class TwoBilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.mv(self.both(x, x.repeat(1, 2)[:, :4]), torch.ones(5))


def test_operators_that_torch_has_no_formula_for():
    assert count_macs(TwoBilinear(), (torch.randn(2, 3),)) == {"both": 2 * 3 * 4 * 5, "": 2 * 5}


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tbc = nn.Parameter(torch.randn(3, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.conv_tbc(x, self.tbc, self.tbc[0, 0], 1)  # (4, 2, 5), as x is (4, 2, 3)
        y = torch.addbmm(torch.ones(2, 2), y, y.transpose(1, 2))
        z = torch.addmv(y[0], y, torch.linalg.vecdot(x, x[:1]).sum(0))
        return z + torch.cdist(x, x).sum() + torch.cdist(x, x, p=1.0).sum() + torch.vdot(z, z)


def test_more_operators_that_torch_has_no_formula_for():
    """Each as the loops that define it; the graph has them, too."""
    x = torch.randn(4, 2, 3)
    macs = (4 * 2 * 5) * 3 * 3 + 4 * (2 * 5 * 2) + 2 * 2 + 4 * 2 * 3 + 4 * (2 * 2) * 3 + 2
    assert count_macs(Products(), (x,)) == {"": macs}
    assert sum(capture(Products(), (x,)).host_macs.values()) == macs


@pytest.mark.parametrize(
    ("options", "extra"),
    [({"batch_first": True}, 0), ({}, 0), ({"add_bias_kv": True}, 1), ({"add_zero_attn": True}, 1)],
)
def test_attention_by_hand_and_by_its_operators(options, extra):
    """3 queries and 5 keys of 2 samples, 8 wide: four projections, then the two products."""
    module = nn.MultiheadAttention(8, 2, **options).eval()
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    if "batch_first" not in options:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    macs = (6 + 10 + 10 + 6) * 8 * 8 + 2 * 6 * (5 + extra) * 8
    assert count_macs(module, (query, memory, memory)) == {"": macs}
    with FlopCounterMode(display=False) as counter:  # gradients on: no fused kernel
        module(query, memory, memory)
    assert counter.get_total_flops() == 2 * macs


class Queried(nn.Module):
    """Learned queries, through a layer of their own, look at the input; weights are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 8))
        self.before = nn.Linear(8, 8)
        self.look = nn.MultiheadAttention(8, 2, batch_first=True)
        self.turn = parametrizations.orthogonal(nn.Linear(8, 4))
        self.cell = nn.GRUCell(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        known = torch.zeros(2, 3, 8)
        queries = self.before((self.queries.expand(2, -1, -1) + known).type_as(x))
        known[:, :1] = self.look(queries, x, x)[0][:, :1]
        return self.cell(self.turn(known).flatten(1))


def test_what_depends_on_no_input_counts_nothing():
    """Nor does the graph have it; an initial state of zeros takes part as any other state."""
    x = torch.randn(2, 5, 8)
    macs = {
        "look": (10 + 10 + 6) * 8 * 8 + 2 * 6 * 5 * 8,
        "turn": 6 * 8 * 4,
        "cell": 2 * 3 * 5 * (12 + 5),
    }
    assert count_macs(Queried().eval(), (x,)) == macs
    captured = capture(Queried(), (x,))
    assert list(captured.host_macs.values()) == [macs["cell"]]
    assert sum(site.macs for site in captured.sites) == macs["look"] + macs["turn"]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.again = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.body(x))).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x) @ x.transpose(1, 2)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(x, self.weight)


def test_each_submodule_has_its_own():
    x = torch.randn(1, 2, 6, 6)
    counts = count_macs(Mixed(), (x,))
    assert counts == {
        "body.0": 36 * 4 * 2,
        "body.2": 16 * 4 * 36,
        "again": 2 * 16 * 16,
        "": 3 * 16 * 16 * 4,
    }
    assert count_macs(nn.Sequential(Doubled(3, 4)), (torch.randn(2, 3),)) == {"0": 2 * 2 * 3 * 4}


def test_a_count_that_differs_is_named():
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ("b", 2, 3)
    assert difference({"a": 1}, {"a": 1, "c": 4}) == ("c", 0, 4)


def test_a_module_that_fails_is_named():
    module = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(WorkloadError, match="Sequential: its multiply-accumulates cannot be") as e:
        count_macs(module, (torch.randn(2, 4),))
    assert "\n" not in str(e.value)
    assert not module[0]._forward_hooks
