"""Units of shipped networks, and of modules built as the common libraries build them."""

from collections import OrderedDict

import pytest
from torch import nn

from bfpsim.quant.mantissa.errors import find_units
from bfpsim.workloads.importers.torch.sites import Site
from bfpsim.workloads.training.shipped import shipped_module

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear)


def site(path: str, owner: str, kind="linear") -> Site:
    return Site(path, kind, path, owner, "", "", "", 1, 1)


def names(module: nn.Module, *attention: str) -> dict[str, tuple[str, ...]]:
    """Unit -> its parts; each submodule that multiplies is a layer. Every layer is in one unit."""
    sites = [site(p, p) for p, part in module.named_modules() if isinstance(part, PRODUCTS)]
    layers = [each.name for each in sites]
    sites += [site(f"{p}.qk", p, "matmul") for p in attention]
    units = find_units(module, sites)
    assert sorted(name for unit in units for name in unit.layers) == sorted(layers)
    return {unit.name: tuple(unit.parts) for unit in units}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            "resnet18-fashion",
            ["conv1", *(f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)), "fc"],
        ),
        (
            "googlenet-fashion",
            [
                *("conv1", "conv2", "conv3", "inception3a", "inception3b", "inception4a"),
                *("inception4b", "inception4c", "inception4d", "inception4e", "inception5a"),
                *("inception5b", "fc"),
            ],
        ),
        ("mobilenetv2-fashion", ["stem", *(f"blocks.{i}" for i in range(17)), "head", "fc"]),
    ],
)
def test_shipped_convolutional_networks(network: str, expected: list[str]) -> None:
    assert names(shipped_module(network)) == dict.fromkeys(expected, ())


def test_the_encoder_layers_of_the_shipped_transformer_have_parts() -> None:
    module = shipped_module("vit-fashion")
    found = names(module, *(f"blocks.{i}.attn" for i in range(6)))
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {"patch_embed": ()} | {f"blocks.{i}": parts for i in range(6)} | {"head": ()}
    assert found == expected


class Holder(nn.Module):
    """A module with named children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())


def inverted_residual() -> Holder:
    return Holder(conv=nn.Sequential(conv(), conv(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))


def encoder_layer() -> Holder:
    return Holder(
        attn=Holder(qkv=nn.Linear(4, 12), proj=nn.Linear(4, 4)),
        mlp=nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
    )


def test_a_flat_list_of_features_with_blocks_among_layers() -> None:
    net = Holder(
        features=nn.Sequential(conv(), inverted_residual(), inverted_residual(), conv()),
        classifier=nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
    )
    assert list(names(net)) == [
        "features.0.0", "features.1", "features.2", "features.3.0", "classifier.1", "classifier.3"
    ]  # fmt: skip


def test_branches_of_single_layers_make_no_list_of_blocks() -> None:
    branch = nn.Sequential(Holder(conv=nn.Conv2d(4, 4, 1)), Holder(conv=nn.Conv2d(4, 4, 3)))
    net = Holder(
        inception=Holder(branch1=Holder(conv=nn.Conv2d(4, 4, 1)), branch2=branch),
        fc=nn.Linear(4, 2),
    )
    assert list(names(net)) == ["inception", "fc"]


def test_lists_within_stages_and_encoders_are_looked_into() -> None:
    encoder = Holder(
        layers=nn.Sequential(OrderedDict((f"layer_{i}", encoder_layer()) for i in range(2)))
    )
    stage = Holder(blocks=nn.ModuleList(encoder_layer() for _ in range(2)), down=nn.Linear(4, 8))
    net = Holder(patch=nn.Conv2d(3, 4, 2), encoder=encoder, stages=nn.ModuleList([stage]))
    parts = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
    assert names(net, "encoder.layers.layer_1.attn", "stages.0.blocks.0.attn") == {
        "patch": (),
        "encoder.layers.layer_0": (),
        "encoder.layers.layer_1": parts,
        "stages.0.blocks.0": parts,
        "stages.0.blocks.1": (),
        "stages.0.down": (),
    }


def test_layers_that_no_submodule_of_their_own_runs() -> None:
    """A product in the root's forward, and one of a parameter within a block."""
    net = Holder(block=Holder(a=nn.Linear(4, 4), attn=Holder()), blocks2=nn.Linear(4, 4))
    sites = [
        site("in_proj", ""),
        site("block.a", "block.a"),
        site("block.attn.in_proj", "block.attn"),
        site("blocks2", "blocks2"),
        site("matmul", "", "matmul"),
    ]
    assert [(unit.name, unit.layers, unit.path) for unit in find_units(net, sites)] == [
        ("in_proj", ("in_proj",), ""),
        ("block", ("block.a", "block.attn.in_proj"), "block"),
        ("blocks2", ("blocks2",), ""),
    ]
