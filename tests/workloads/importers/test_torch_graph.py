"""Captured graphs against the modules themselves."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_leaves

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.torch.export import attention, einsum
from bfpsim.workloads.importers.torch.graph import Captured, capture


def settled(module: nn.Module) -> nn.Module:
    """Statistics and scales that folding cannot get wrong unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            if part.affine:
                part.weight.data.uniform_(-2.0, 2.0, generator=generator)
                part.bias.data.normal_(generator=generator)
    return module.eval()


def check_same(captured: Captured, module: nn.Module, *inputs: Tensor) -> None:
    module.eval()
    # One fused kernel for attention need not add in the same order.
    with torch.no_grad():
        pairs = zip(
            tree_leaves(captured.module(*inputs)), tree_leaves(module(*inputs)), strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def targets(captured: Captured) -> list[str]:
    return [str(n.target) for n in captured.module.graph.nodes if n.op == "call_function"]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.same = nn.Conv2d(8, 8, 4, padding="same", groups=2)
        self.wide = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.pre_bn = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
        self.up_bn = nn.BatchNorm2d(6, affine=False)
        self.drop = nn.Dropout(0.5)
        self.line = nn.Conv1d(6, 4, 3, padding=1)
        self.line_bn = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 5, bias=False)
        self.fc_bn = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem_bn(self.stem(x)))
        x = x + self.act(self.pre_bn(self.wide(self.same(x)) * 2))  # not behind a layer
        x = self.up_bn(self.up(x))
        x = self.line_bn(self.line(self.drop(x).flatten(2)))
        return self.fc_bn(self.fc(x.mean(2)))


@pytest.fixture(scope="module")
def convolutions() -> tuple[nn.Module, Captured]:
    module = settled(Convolutions())
    return module, capture(module, (torch.randn(1, 3, 8, 8),))


def test_convolutions_compute_the_same_at_any_batch(convolutions):
    module, captured = convolutions
    assert captured.dynamic_batch
    for batch in (1, 3):
        check_same(captured, module, torch.randn(batch, 3, 8, 8))


def test_sites_of_convolutions(convolutions):
    _, captured = convolutions
    found = [(site.name, site.kind, site.groups, site.macs) for site in captured.sites]
    assert found == [  # output elements x taps x channels in, by hand; the transposed one: inputs
        ("stem", "conv", 1, 8 * 4 * 8 * 3 * 15),
        ("same", "conv", 2, 8 * 4 * 8 * 4 * 16),
        ("wide", "conv", 1, 8 * 4 * 8 * 8 * 9),
        ("up", "transposed", 2, 8 * 4 * 8 * 3 * 9),
        ("line", "conv1d", 1, 4 * 8 * 16 * 6 * 3),
        ("fc", "linear", 1, 4 * 5),
    ]
    nodes = {node.name: node for node in captured.module.graph.nodes}
    for site in captured.sites:
        node = nodes[site.node]
        assert (site.owner, site.weight, site.bias) == (
            site.name, f"{site.name}.weight", f"{site.name}.bias",
        )  # fmt: skip
        assert (site.shares, node.kwargs) == ("", {})
        arguments = {"linear": 3, "transposed": 8}.get(site.kind, 7)
        assert len(node.args) == arguments
        assert str(node.args[1].target) == site.weight
        assert captured.shapes[site.node] == (1, *node.meta["val"].shape[1:])
    assert captured.host_macs == {}


def test_only_batch_norm_that_alone_reads_a_layer_is_folded(convolutions):
    _, captured = convolutions
    left = [n for n in captured.module.graph.nodes if "batch_norm" in str(n.target)]
    assert [str(node.args[1].target) for node in left] == ["pre_bn.weight"]
    assert not any("dropout" in target or "clone" in target for target in targets(captured))
    assert not any(target.split(".")[1].endswith("_") for target in targets(captured))
    names = {name for name, _ in captured.module.named_parameters()}
    assert names == {
        "stem.weight", "stem.bias", "same.weight", "same.bias", "wide.weight", "wide.bias",
        "pre_bn.weight", "pre_bn.bias", "up.weight", "up.bias", "line.weight", "line.bias",
        "fc.weight", "fc.bias",
    }  # fmt: skip


def test_folding_rounds_once(convolutions):
    module, captured = convolutions
    parameters = dict(captured.module.named_parameters())
    norm = module.stem_bn
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = (module.stem.weight.double() * scale[:, None, None, None]).float()
    bias = (norm.bias.double() - norm.running_mean.double() * scale).float()
    torch.testing.assert_close(parameters["stem.weight"], weight, rtol=0, atol=0)
    torch.testing.assert_close(parameters["stem.bias"], bias, rtol=1e-7, atol=1e-7)


def test_the_graph_trains_and_the_module_stays(convolutions):
    module, captured = convolutions
    before = copy.deepcopy(module.state_dict())
    graph = copy.deepcopy(captured.module).train()
    images = torch.randn(4, 3, 8, 8)
    loss = graph(images).square().sum()
    loss.backward()
    gradients = {name: p.grad for name, p in graph.named_parameters()}
    assert all(g is not None and g.abs().sum() > 0 for g in gradients.values())
    # Behind the folded layers everything is as it was, and so are the gradients.
    module.zero_grad()
    module(images).square().sum().backward()
    for name in ("same.weight", "wide.bias", "pre_bn.weight"):
        theirs = module.get_parameter(name).grad
        torch.testing.assert_close(gradients[name], theirs, rtol=1e-3, atol=1e-3)
    torch.optim.SGD(graph.parameters(), lr=1e-4).step()
    with torch.no_grad():
        assert graph(images).square().sum() < loss
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


class Attentions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor, memory: Tensor) -> dict[str, Tensor]:
        y, weights = self.cross(x, memory, memory)
        heads = y.unflatten(-1, (2, 4)).transpose(1, 2)
        y = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        y = y.transpose(1, 2).flatten(2)
        scores = torch.einsum("bic,bjc->bij", y, x) / 3
        y = torch.bmm(scores, y)
        y = torch.addmm(self.w[0], y.reshape(-1, 8), self.w, beta=2).view(y.shape)
        y = y @ self.w.t() + self.w[1]
        return {"y": y, "weights": weights}


def test_attention_is_written_out():
    module = Attentions()
    inputs = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    captured = capture(module, inputs)
    check_same(captured, module, *inputs)
    check_same(captured, module, torch.randn(5, 4, 8), torch.randn(5, 3, 8))
    assert [(site.name, site.kind, site.macs) for site in captured.sites] == [
        ("cross.in_proj", "linear", 2 * 4 * 8 * 8),
        ("cross.in_proj:1", "linear", 2 * 3 * 8 * 16),
        ("cross.qk", "matmul", 2 * 4 * 3 * 8),
        ("cross.av", "matmul", 2 * 4 * 3 * 8),
        ("cross.out_proj", "linear", 2 * 4 * 8 * 8),
        ("qk", "matmul", 2 * 4 * 4 * 8),
        ("av", "matmul", 2 * 4 * 4 * 8),
        ("matmul", "matmul", 2 * 4 * 4 * 8),
        ("matmul:1", "matmul", 2 * 4 * 4 * 8),
        ("w", "linear", 2 * 4 * 8 * 8),
        ("w:1", "linear", 2 * 4 * 8 * 8),
    ]
    sites = {site.name: site for site in captured.sites}
    assert {sites[name].owner for name in ("cross.qk", "cross.out_proj")} == {"cross"}
    assert sites["cross.in_proj"].weight == ""  # a part of the parameter
    assert sites["cross.out_proj"].weight == "cross.out_proj.weight"
    assert sites["w:1"].weight == "w"
    assert set(targets(captured)).isdisjoint(
        {"aten.bmm.default", "aten.mm.default", "aten.addmm.default", "aten.einsum.default"}
    )


def test_an_encoder_layer_has_the_modules_gradients():
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    captured = capture(module, (torch.randn(1, 5, 8),))
    names = ["self_attn.in_proj", "self_attn.qk", "self_attn.av", "self_attn.out_proj"]
    assert [site.name for site in captured.sites] == [*names, "linear1", "linear2"]
    tokens = torch.randn(3, 5, 8)
    check_same(captured, module, tokens)
    captured.module(tokens).square().sum().backward()
    module(tokens).square().sum().backward()
    ours = dict(captured.module.named_parameters())
    assert set(ours) == {name for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-4)
        assert ours[name] is not parameter


class Shared(nn.Module):
    """Layers that run twice: with one normalisation, with two, and under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Conv2d(2, 2, 3, padding=1)
        self.once_bn = nn.BatchNorm2d(2)
        self.twice = nn.Conv2d(2, 2, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.first = nn.Linear(4, 4)
        self.alias = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.once_bn(self.once(self.once_bn(self.once(x)).relu()))
        x = self.bn2(self.twice(self.bn1(self.twice(x))))
        return self.alias(self.first(x))


def test_modules_that_run_again_share_their_weights():
    module = settled(Shared())
    captured = capture(module, (torch.randn(1, 2, 4, 4),))
    check_same(captured, module, torch.randn(3, 2, 4, 4))
    found = [(site.name, site.owner, site.shares) for site in captured.sites]
    assert found == [
        ("once", "once", ""),
        ("once:1", "once", "once"),
        ("twice", "twice", ""),
        ("twice:1", "twice", "twice"),
        ("first", "first", ""),
        ("first:1", "first", "first"),
    ]
    assert targets(captured).count("aten.batch_norm.default") == 2
    assert [site.weight for site in captured.sites[:2]] == ["once.weight"] * 2


class Computed(nn.Module):
    """Weights that are computed from parameters: alike, from others, and in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(F.linear(x @ self.w @ self.w @ self.v, self.w), self.w * 2)
        return F.linear(F.linear(x, self.w * 3), self.w * 2)


def test_computed_weights_are_shared_where_they_are_the_same():
    sites = capture(Computed().eval(), (torch.randn(3, 4),)).sites
    names = [site.name for site in sites]
    assert len({*names}) == 7
    shared = [names.index(site.shares) if site.shares else None for site in sites]
    assert shared == [None, 0, None, None, None, None, 4]


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        F.relu(x, inplace=True)
        return x.reshape(2, 3, 4) @ x.reshape(2, 4, 3)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Cheating(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.001 if torch.compiler.is_exporting() else x


def test_a_batch_that_the_module_fixes_is_fixed():
    x = torch.randn(2, 12)
    before = x.clone()
    captured = capture(Fixed(), (x,))
    assert not captured.dynamic_batch
    captured.module(x)
    assert torch.equal(x, before)  # the module would have written into it
    assert [site.name for site in captured.sites] == ["matmul"]


def test_what_cannot_be_captured_is_refused_in_one_line():
    x = torch.ones(2, 3)
    cases = [
        (Branching(), "module Branching: torch.export fails: "),
        (Cheating(), "module Cheating: the captured graph's output 0 differs from the module's by"),
        (nn.Linear(4, 2), r"module Linear: fails on inputs of shape \(2, 3\): RuntimeError: mat1"),
        (nn.Linear(3, 2, device="meta"), r"module Linear: its parameters have no values"),
    ]
    for module, message in cases:
        with pytest.raises(WorkloadError, match=message) as caught:
            capture(module, (x,))
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_einsum_of_two_operands_is_a_product(data):
    letters = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    role = {x: data.draw(st.sampled_from(["batch", "row", "column", "sum"])) for x in letters}
    assume("sum" in role.values())
    shuffled = st.permutations(letters)
    left = "".join(x for x in data.draw(shuffled) if role[x] != "column")
    right = "".join(x for x in data.draw(shuffled) if role[x] != "row")
    out = "".join(x for x in data.draw(shuffled) if role[x] != "sum")
    extents = {x: data.draw(st.integers(1, 4)) for x in letters}
    operands = [torch.randn([extents[x] for x in term]) for term in (left, right)]
    ours = einsum(f"{left},{right}->{out}", operands)
    expected = torch.einsum(f"{left},{right}->{out}", operands)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    "equation", ["ii,ij->j", "ij,kl->ik", "ij,jk,kl->il", "...i,i->...", "i,j->ij"]
)
def test_other_einsums_are_left_as_they_are(equation):
    operands = [
        torch.randn([3] * len(term.strip("."))) for term in equation.split("->")[0].split(",")
    ]
    assert einsum(equation, operands) is NotImplemented


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.tensor([[True, False, True, True, False]])},
        {"attn_mask": torch.linspace(-1, 1, 15).reshape(3, 5)},
        {"enable_gqa": True},
    ],
)
def test_attention_is_torchs(options):
    heads = 2 if "enable_gqa" in options else 4
    query = torch.randn(2, 4, 3, 6)
    key, value = torch.randn(2, heads, 5, 6), torch.randn(2, heads, 5, 7)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), expected)
    assert not math.isnan(float(expected.sum()))
