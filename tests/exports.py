"""Exports by torch that tests share: each takes a tenth of a second, those of networks seconds."""

import copy
import warnings
from collections.abc import Iterator
from functools import cache

import pytest
from torch import Tensor, fx, nn

from bfpsim.quant.study.datasets import shipped_test_images
from bfpsim.quant.torch.model import QuantizedModel, quantize_model
from bfpsim.workloads.importers.torch.export import export
from bfpsim.workloads.training.shipped import shipped_module

_Export = tuple[fx.GraphModule, bool]
_known: dict[object, _Export] = {}


@cache
def exported(network: str) -> QuantizedModel:
    """A shipped network without formats, calibrated on 8 images; whoever changes it copies it."""
    return quantize_model(shipped_module(network), shipped_test_images().batch(range(8)).inputs)


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """Modules of torch's own parts alone are exported once in each process, then copied.

    For folders whose `conftest.py` imports it: their tests are about what follows an export.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bfpsim.workloads.importers.torch.graph.export", _export_once)
        yield


def _export_once(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Export:
    # Only what is written by torch is told apart by its text, its parameters and its inputs.
    if any(not type(part).__module__.startswith("torch.nn.") for part in module.modules()):
        return export(module, inputs)
    state = ((name, value.numpy().tobytes()) for name, value in module.state_dict().items())
    key = (repr(module), *state, *((x.shape, x.dtype) for x in inputs))
    if key not in _known:
        _known[key] = export(module, inputs)
    graph, free = _known[key]
    with warnings.catch_warnings():
        # torch's own use of its pytree module.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        return copy.deepcopy(graph), free
