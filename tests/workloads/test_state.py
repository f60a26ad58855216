"""Users' checkpoints: every usual way to write one, and every way one can be wrong."""

import re
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bfpsim.workloads.importers.torch.graph import unwrapped
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
    reason = {
        "absent": "cannot be read",
        "number": "holds dict; allowed: a state dict",
    }
    with pytest.raises(
        WorkloadError, match=reason.get(kind, "is no safetensors file and no state")
    ):
        load_into(module(), path)
    assert capsys.readouterr().out == ""


def test_no_message_advises_to_load_unsafely(tmp_path) -> None:
    """A whole module, as `torch.save(module, ...)` writes it, holds classes beside tensors."""
    path = tmp_path / "whole.pt"
    for zipped in (True, False):
        torch.save(module(), path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WorkloadError) as caught:
            load_into(module(), path)
        assert str(caught.value) == (
            f"{path}: is no safetensors file and no state dict of torch.save: holds "
            "torch.nn.modules.container.Sequential, which is no tensor; allowed: what "
            "torch.save(module.state_dict(), FILE) writes"
        )


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
def test_names_of_wrapped_modules(tmp_path, prefix) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in module(1).state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    loaded = module(0)
    load_into(loaded, tmp_path / "w.pt")
    assert equal(loaded, module(1))


def test_a_packed_checkpoint_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("bfpsim.workloads.images._SMALL", 1 << 20)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", b"\x80\x02}.")
        packed.writestr("a/data/0", bytes(3 << 20))
    with pytest.raises(WorkloadError, match="unpacks to 3145732 bytes; allowed: what torch"):
        load_into(module(), path)


def test_tensors_that_are_not_plain_are_refused(tmp_path) -> None:
    path = tmp_path / "w.pt"
    for change in (torch.Tensor.to_sparse, lambda t: t.to("meta"), lambda t: t.to(torch.complex64)):
        state = module(1).state_dict()
        state["0.weight"] = change(state["0.weight"])
        torch.save(state, path)
        with pytest.raises(WorkloadError, match=r"w\.pt: tensor '0\.weight' is"):
            load_into(module(0), path)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
        lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
        AveragedModel,
    ],
)
@pytest.mark.parametrize("of_file", [True, False])
def test_wrappers_of_the_file_or_of_the_module(tmp_path, wrap, of_file) -> None:
    written, loaded = module(1), module(0)
    torch.save((wrap(written) if of_file else written).state_dict(), tmp_path / "weights.pt")
    into = loaded if of_file else wrap(loaded)
    load_into(into, tmp_path / "weights.pt")
    assert equal(unwrapped(into), written)


def test_a_part_that_was_compiled_and_what_lightning_adds(tmp_path) -> None:
    written, loaded = module(1), module(0)
    state = {f"model._orig_mod.{k}": v for k, v in written.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.ckpt")
    load_into(loaded, tmp_path / "weights.ckpt")
    assert equal(loaded, written)


def test_a_module_of_that_name_is_none_of_a_wrapper(tmp_path) -> None:
    """Its own parts are in ``module``: names are those of the file as they stand."""
    one, other = (nn.ModuleDict({"module": module(seed)}) for seed in (0, 1))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    load_into(one, tmp_path / "weights.pt")
    assert equal(one, other)
