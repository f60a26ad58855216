"""Users' checkpoints: every usual way to write one, and every way one can be wrong."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.state import load_into


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    ],
)
def test_state_dicts(tmp_path, wrap) -> None:
    torch.save(wrap(module(1).state_dict()), tmp_path / "weights.pt")
    loaded = module(0)
    load_into(loaded, tmp_path / "weights.pt")
    assert equal(loaded, module(1))


def test_safetensors(tmp_path) -> None:
    save_file(module(1).state_dict(), tmp_path / "weights.safetensors")
    loaded = module(0)
    load_into(loaded, tmp_path / "weights.safetensors")
    assert equal(loaded, module(1))


def without(state):
    del state["0.bias"], state["2.weight"]


def extra(state):
    state["head.weight"] = torch.zeros(1)


def narrow(state):
    state["2.weight"] = state["2.weight"][:, :2]


def infinite(state):
    state["0.weight"][1] = torch.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "2 tensors missing for Sequential: 0.bias, 2.weight; allowed: exactly its 9"),
        (extra, "1 tensors not its own for Sequential: head.weight; allowed: exactly its 9"),
        (narrow, "tensor '2.weight' is (2, 2); allowed: (2, 3)"),
        (infinite, "tensor '0.weight': 2 values are NaN or infinite; allowed: finite values"),
    ],
)
def test_other_tensors_leave_the_module_as_it_was(tmp_path, change, message) -> None:
    state = module(1).state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pt")
    loaded = module(0)
    with pytest.raises(WorkloadError, match=re.escape(f"w.pt: {message}")):
        load_into(loaded, tmp_path / "w.pt")
    assert equal(loaded, module(0))


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("kind", ["absent", "text", "cut", "code", "number", "cut.safetensors"])
def test_files_that_are_no_state_dict(tmp_path, kind, capsys) -> None:
    path = tmp_path / (kind if "." in kind else f"{kind}.pt")
    if kind == "text":
        path.write_text("weights")
    elif kind == "cut":
        torch.save(module().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "code":
        torch.save({"a": Evil()}, path)
    elif kind == "number":
        torch.save({"a": 1}, path)
    elif kind == "cut.safetensors":
        save_file(module().state_dict(), path)
        path.write_bytes(path.read_bytes()[:100])
    reason = {"absent": "cannot be read", "number": "holds dict; allowed: a state dict"}
    with pytest.raises(
        WorkloadError, match=reason.get(kind, "is no safetensors file and no state")
    ):
        load_into(module(), path)
    assert capsys.readouterr().out == ""
