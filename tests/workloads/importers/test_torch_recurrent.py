"""Recurrent layers: one operation of the host's each, whatever the number of steps."""

import time

import pytest
import torch
from torch import nn

from bfpsim.workloads.importers.torch.graph import capture
from bfpsim.workloads.importers.torch.module import import_torch


class First(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.l = kind(6, 8, **options)

    def forward(self, x):
        return self.l(x)[0]


@pytest.mark.parametrize(
    ("kind", "options", "weights"),
    [
        (nn.LSTM, {}, 4 * 8 * (6 + 8)),
        (nn.LSTM, {"batch_first": True, "num_layers": 2}, 4 * 8 * (6 + 8 + 8 + 8)),
        (nn.LSTM, {"bidirectional": True, "bias": False}, 2 * 4 * 8 * (6 + 8)),
        (nn.GRU, {"bidirectional": True, "num_layers": 2}, 2 * 3 * 8 * (6 + 8 + 16 + 8)),
        (nn.RNN, {"nonlinearity": "relu"}, 8 * (6 + 8)),
        (nn.RNN, {"batch_first": True}, 8 * (6 + 8)),
    ],
)
def test_they_compute_what_the_module_does(kind, options, weights):
    module, x = First(kind, **options), torch.randn(3, 5, 6)
    captured = capture(module, (x,))
    with torch.no_grad():
        assert torch.equal(captured.module(x), module(x))
        assert captured.dynamic_batch
        more = torch.randn(7, 5, 6)
        assert torch.equal(captured.module(more), module(more))
    targets = {str(node.target).split(".")[0] for node in captured.module.graph.nodes}
    assert "bfpsim" not in targets
    assert sum(captured.host_macs.values()) == 3 * 5 * weights


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_projections_make_outputs_narrower():
    module, x = First(nn.LSTM, proj_size=3, bidirectional=True), torch.randn(3, 5, 6)
    with torch.no_grad():
        assert torch.equal(capture(module, (x,)).module(x), module(x))


def test_a_thousand_steps_are_imported_in_seconds():
    before = time.process_time()
    imported = import_torch(First(nn.LSTM, batch_first=True), {"x": (1, 1000, 6)})
    assert time.process_time() - before < 5
    assert imported.network.host_macs == 1000 * 4 * 8 * (6 + 8)
