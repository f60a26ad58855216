"""The format of each activation: by hand on small networks, and properties of random ones."""

import random

import pytest

from bfpsim.mapping.stored import activation_formats
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.workloads import Network, NetworkBuilder
from bfpsim.workloads.program import program_of
from tests.generate import random_formats
from tests.workloads.networks_random import random_network


def by_name(*names: str) -> dict[str, LayerFormats]:
    """Formats that tell which product and tensor they are of: widths 2, 3, 4, then 5, 6, 7, ..."""
    return {
        name: LayerFormats(*(Plain(2 + 3 * place + part) for part in range(3)))
        for place, name in enumerate(names)
    }


def pooled() -> Network:
    build = NetworkBuilder("pooled", (1, 8, 8, 3))
    build.conv("first", "input", 16, (3, 3), padding=1)
    build.maxpool("pool", "first", (3, 3), stride=(1, 1), padding=(1, 1))
    build.conv("second", "pool", 16, (3, 3), padding=1)
    build.add("sum", "second", "pool")
    build.host("odd", "hilbert", "sum")
    build.linear("third", "odd", 4)
    return build.network()


def test_products_name_their_outputs_format_and_others_take_over_what_they_read() -> None:
    formats = by_name("first", "second", "third")
    assert activation_formats(program_of(pooled()), formats) == {
        "input": formats["first"].I,
        "first": formats["first"].O,
        "pool": formats["first"].O,
        "sum": formats["second"].O,  # fused into its product
        "odd": formats["second"].O,
        "third": formats["third"].O,
    }


def test_without_a_vector_unit_the_sum_stands_alone_and_takes_its_first_operands() -> None:
    formats = by_name("first", "second", "third")
    found = activation_formats(program_of(pooled(), vector=False), formats)
    assert (found["second"], found["sum"]) == (formats["second"].O, formats["second"].O)


def test_parts_of_a_joined_tensor_take_that_of_the_first() -> None:
    build = NetworkBuilder("joined", (1, 8, 8, 16))
    build.conv("left", "input", 16, (1, 1))
    build.conv("right", "input", 16, (3, 3), padding=1)
    build.concat("both", "left", "right")
    build.linear("end", "both", 4)
    formats = by_name("left", "right", "end")
    found = activation_formats(program_of(build.network(), block=16), formats)
    assert found == {
        "input": formats["left"].I, "both": formats["left"].O, "end": formats["end"].O,
    }  # fmt: skip


def test_constants_take_that_of_what_they_are_added_to_or_joined_with() -> None:
    build = NetworkBuilder("tokens", (1, 4, 1, 8))
    build.linear("embed", "input", 8)
    build.host("class", "parameter", shape=(1, 1, 1, 8))
    build.host("tokens", "concat_tokens", "class", "embed", shape=(1, 5, 1, 8))
    build.host("placed", "add_parameter", "tokens")
    build.linear("end", "placed", 8)
    formats = by_name("embed", "end")
    found = activation_formats(program_of(build.network()), formats)
    assert found["class"] == found["placed"] == formats["embed"].O  # one operation makes both
    assert found["placed.parameter"] == formats["embed"].O


def test_an_input_that_is_a_second_operand_is_stored_as_weights_are() -> None:
    build = NetworkBuilder("product", (1, 4, 1, 8))
    other = build.input("other", (1, 6, 1, 8))
    build.matmul("scores", "input", other, 6)
    formats = by_name("scores")
    found = activation_formats(program_of(build.network()), formats)
    assert found == dict(zip(("input", "other", "scores"), _parts(formats["scores"]), strict=True))


def _parts(formats: LayerFormats) -> tuple[object, object, object]:
    return formats.I, formats.W, formats.O


def test_a_product_without_formats_is_an_error() -> None:
    with pytest.raises(KeyError, match="second"):
        activation_formats(program_of(pooled()), by_name("first", "third"))


def test_every_activation_of_a_random_network_has_one() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        network = random_network(rng, [f"n{i}" for i in range(rng.randint(1, 14))])
        for vector in (True, False):
            program = program_of(network, vector=vector, block=rng.choice([1, 2]))
            formats = {node.name: random_formats(rng) for node in network.nodes}
            found = activation_formats(program, formats)
            assert [*found] == [*program.activations]
            for name, places in program.writers.items():
                if places and program.operations[places[0]].layer is not None:
                    first = program.operations[places[0]].name
                    assert found[name] == formats[first].O
            uniform = LayerFormats.uniform(BFP(8, 3, 2))
            assert {*activation_formats(program, uniform).values()} <= {uniform.I}
