"""Modules as people have them: wrapped, compiled, pruned, in half precision, run before, random."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.torch import graph as torch_graph
from bfpsim.workloads.importers.torch.graph import capture
from bfpsim.workloads.importers.torch.module import import_torch

X = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
MACS = 7 * 7 * 4 * 27


def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def compiled(module):
    return torch.compile(module, backend="eager")


class Within(nn.Module):
    """A part of it is wrapped."""

    def __init__(self, wrap):
        super().__init__()
        self.part = wrap(conv())

    def forward(self, x):
        return self.part(x)


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, AveragedModel,
                                  lambda m: nn.DataParallel(compiled(m))])  # fmt: skip
def test_wrappers_are_taken_off(wrap):
    imported = import_torch(wrap(conv()), {"input": X.shape})
    assert imported.network.name == "Conv2d"
    assert imported.network.macs == MACS
    assert [layer.name for layer in import_torch(Within(wrap), {"x": X.shape}).network.layers] == [
        "part"
    ]
    whole = Within(wrap)
    names = {*capture(whole, (X,)).module.state_dict()}
    assert names == {"part.weight", "part.bias"}
    assert len(whole.state_dict()) >= 2  # it is as it was
    assert "part.weight" not in whole.state_dict()


def test_a_wrapper_whose_shapes_are_not_given():
    with pytest.raises(WorkloadError, match="its forward's arguments are input"):
        import_torch(nn.DataParallel(conv()), {})


def pruned():
    module = conv()
    prune.l1_unstructured(module, "weight", 0.5)
    return module


def normed():
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(conv())


class Keeps(nn.Module):
    """Keeps what it computed, here and deeper."""

    def __init__(self):
        super().__init__()
        self.c, self.last, self.all = conv(), None, []

    def forward(self, input):
        self.last = self.c(input)
        self.all = [{"x": self.last}]
        return self.last


def ran_before():
    module = Keeps()
    module(X)
    return module


@pytest.mark.parametrize("make", [pruned, normed, ran_before])
def test_modules_that_hold_computed_tensors(make):
    module = make()
    with torch.no_grad():
        wanted = module(X)
    imported = import_torch(module, {"input": X.shape})
    assert imported.network.macs == MACS
    (weights,) = imported.weights.values()
    out = torch.nn.functional.conv2d(X, torch.from_numpy(weights.weight.copy()),
                                     torch.from_numpy(weights.bias.copy()))  # fmt: skip
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(capture(module, (X,)).module(X), wanted)


class Locked(nn.Module):
    """Holds what has no copy."""

    def __init__(self):
        super().__init__()
        self.part, self.lock = conv(), threading.Lock()
        self.more = {"names": iter("abc"), "lock": self.lock, "steps": (i for i in range(3))}

    def forward(self, x):
        with self.lock:
            return self.part(x)


def test_what_has_no_copy_is_shared():
    module = Locked()
    assert import_torch(module, {"x": X.shape}).network.macs == MACS
    assert import_torch(nn.Sequential(module), {"input": X.shape}).network.macs == MACS
    assert next(module.more["steps"]) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused_by_name():
    for module in (torch.jit.script(conv()), torch.jit.trace(conv(), X)):
        with pytest.raises(WorkloadError, match="is TorchScript, which cannot be exported"):
            import_torch(module, {"input": X.shape})


def deep():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 20, 3)
    )
    with torch.no_grad():
        net(torch.randn(64, 3, 9, 9))
    return net.eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_imported_as_float32(dtype):
    imported = import_torch(deep().to(dtype), {"input": X.shape})
    assert imported.network.macs == 81 * 27 * 20 + 49 * 180 * 20
    half = deep().to(dtype)[3].weight.detach().float().numpy()
    assert (imported.weights["3"].weight == half).all()  # no value of it is another
    assert capture(deep().to(dtype), (X.to(dtype),)).module(X.to(dtype)).dtype == dtype


class Insists(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = conv().half()

    def forward(self, x):
        return self.c(x.half()).float()


def test_a_forward_that_insists_on_half_precision():
    assert import_torch(Insists(), {"x": X.shape}).network.macs == MACS


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(9, 5)

    def forward(self, x):
        x = self.l(x + torch.randn_like(x) + torch.randn(9))
        return nn.functional.dropout(x, 0.5, training=True)


def test_a_random_forward_draws_the_same_numbers_wherever_it_is_compared():
    module, state = Random(), torch.get_rng_state()
    captured = capture(module, (X,))
    assert torch.equal(torch.get_rng_state(), state)
    assert (captured.module(X) != captured.module(X)).any()
    functions = {n.function for n in import_torch(Random(), {"x": X.shape}).network.nodes}
    assert {"randn_like", "randn"} <= functions


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.runs = conv(), 0

    def forward(self, x):
        self.runs += 1
        return self.c(x) * self.runs


def test_a_forward_that_is_never_the_same_is_said_to_be():
    with pytest.raises(WorkloadError, match="gives other outputs each time that it runs"):
        capture(Counts(), (X,))


def test_a_difference_in_half_precision_names_it(monkeypatch):
    monkeypatch.setattr(torch_graph, "_difference", lambda *_: "output 0 differs")
    with pytest.raises(WorkloadError, match=r"output 0 differs: "):
        capture(deep().half(), (X.half(),))


class Dead(nn.Module):
    """Like BERT, whose pooler's output nobody reads."""

    def __init__(self):
        super().__init__()
        self.a, self.pooler = nn.Linear(8, 4), nn.Linear(4, 4)

    def both(self, x):
        h = self.a(x)
        return h, self.pooler(h)

    def forward(self, x):
        return self.both(x)[0]


def test_a_branch_that_nobody_reads_counts_nowhere():
    network = import_torch(Dead(), {"x": (1, 8)}).network
    assert [layer.name for layer in network.layers] == ["a"]
    assert (network.macs, network.host_macs) == (32, 0)
