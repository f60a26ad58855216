"""Which operands are one stored tensor: the network's graph says what the module's does."""

import pytest

from bfpsim.quant.formats import candidates
from bfpsim.search.bitwidth.space import make_space
from bfpsim.workloads import load_workload
from bfpsim.workloads.shipped import TRAINED
from tests.exports import exported
from tests.long import often
from tests.search.bitwidth.small import block_network


@pytest.mark.parametrize("name", often(1, sorted(TRAINED, key=lambda name: "vit" not in name)))
def test_a_shipped_network_and_its_module_tie_alike(name: str) -> None:
    space = make_space(load_workload(name), candidates(8))
    assert {frozenset(own) for own in space.tensors} == {
        frozenset(o) for o in exported(name).stored_tensors
    }


def test_an_add_ties_what_enters_it_and_who_reads_it() -> None:
    space = make_space(block_network(), candidates(8))
    tied = next(own for own in space.tensors if ("stem", "O") in own)
    assert set(tied) == {
        ("stem", "O"), ("inner", "I"), ("outer", "O"), ("head", "I"),
    }  # fmt: skip
    assert (("inner", "O"), ("outer", "I")) in space.tensors
    assert len(space.tensors) == 4 + 4  # weights are their own


def test_free_choices_take_every_operand_by_itself() -> None:
    space = make_space(block_network(), candidates(8), tied=False)
    assert all(len(own) == 1 for own in space.tensors)
    assert len(space.tensors) == 12


def test_equal_layers_are_one_kind() -> None:
    space = make_space(load_workload("resnet18"), candidates(16))
    assert (len(space.products), len(space.kinds)) == (21, 12)
    assert sum(p.kind == space.products[1].kind for p in space.products) == 4


def test_formats_by_layer_follow_the_choice() -> None:
    space = make_space(block_network(), candidates(8))
    choice = list(range(len(space.tensors)))
    formats = space.layer_formats(choice)
    for number, places in enumerate(space.tensors):
        assert all(formats[layer].of(t) == space.formats[number] for layer, t in places)
