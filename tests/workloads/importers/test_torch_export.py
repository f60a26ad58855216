"""Exports that fail say so by their error alone."""

import logging
import sys

import pytest
import torch
from torch import Tensor, nn

from bfpsim.workloads.importers.torch.export import export
from bfpsim.workloads.layer import WorkloadError


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_failed_export_is_silent(capsys):
    """torch logs what it cannot trace, and prints the graph that it has until then."""
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    log.addHandler(handler)
    before, stream = logging.getLogger("torch").level, sys.stderr
    try:
        with pytest.raises(WorkloadError, match=r"module Branching: torch\.export fails"):
            export(Branching(), (torch.ones(2, 3),))
    finally:
        log.removeHandler(handler)
    assert logged == []
    assert capsys.readouterr() == ("", "")
    assert (logging.getLogger("torch").level, sys.stderr) == (before, stream)
