"""Networks as programs: fused groups by hand, and properties of random networks."""

import random
from math import prod

import pytest

from bfpsim.workloads import Network, NetworkBuilder, Node, load_workload
from bfpsim.workloads.layer import Shape
from bfpsim.workloads.program import Operation, Program, View, program_of
from bfpsim.workloads.vector import FUNCTIONS, operations_of, vector_function
from tests.long import often
from tests.workloads.networks_random import random_network


def groups(program: Program) -> dict[str, tuple[str, ...]]:
    """What runs as one, by its first node."""
    return {own.name: tuple(node.name for node in own.nodes) for own in program.operations}


def operation(program: Program, name: str) -> Operation:
    return next(own for own in program.operations if own.name == name)


def host_share(program: Program) -> dict[str, int]:
    """The host's functions -> elements that they write."""
    shares: dict[str, int] = {}
    for own in program.operations:
        if own.unit == "host":
            function = own.nodes[0].function or own.nodes[0].op
            shares[function] = shares.get(function, 0) + own.writes.elements
    return shares


# --- shipped networks, by hand --------------------------------------------------------------------


def test_resnet18_is_its_layers_with_all_that_follows_and_one_pool() -> None:
    program = program_of(load_workload("resnet18"))
    found = groups(program)
    assert len(found) == 22  # 21 products and the pool
    assert found["conv1"] == ("conv1", "relu")
    assert found["layer1.0.conv2"] == ("layer1.0.conv2", "layer1.0.add", "layer1.0.relu2")
    # The branch that runs last takes the sum; the other one is what is added.
    assert found["layer2.0.conv2"] == ("layer2.0.conv2",)
    assert found["layer2.0.downsample"] == (
        "layer2.0.downsample", "layer2.0.add", "layer2.0.relu2",
    )  # fmt: skip
    assert operation(program, "layer2.0.downsample").addends == (
        View("layer2.0.conv2", (1, 28, 28, 128)),
    )
    last = operation(program, "layer4.1.conv2")
    assert [node.name for node in last.nodes][1:] == ["layer4.1.add", "layer4.1.relu2", "avgpool"]
    assert last.mean
    assert last.writes == View("avgpool", (1, 1, 1, 512))
    assert [own.unit for own in program.operations].count("vector") == 1
    assert program.outputs == {"fc"}
    assert program.lifetime("maxpool") == (1, 3)
    assert not program.on_chip("input")
    assert not program.on_chip("fc")
    assert program.on_chip("maxpool")


def test_work_of_the_vector_unit_is_bias_functions_and_requantisation() -> None:
    work = program_of(load_workload("resnet18")).vector_work
    assert work["conv1"] == 3 * 64 * 112 * 112  # bias, relu, requantisation
    assert work["maxpool"] == (9 + 1) * 64 * 56 * 56
    assert work["layer1.0.conv2"] == 4 * 64 * 56 * 56
    assert work["layer4.1.conv2"] == 4 * 512 * 7 * 7 + 512 * 7 * 7
    assert work["fc"] == 2 * 1000


def test_attention_of_channels_stands_between_products() -> None:
    program = program_of(load_workload("mobilenetv2-eca"), block=16)
    found = groups(program)
    assert found["blocks.1.depthwise"] == ("blocks.1.depthwise", "blocks.1.depthwise.relu6")
    assert found["blocks.0.eca.conv"] == ("blocks.0.eca.conv", "blocks.0.eca.sigmoid")
    # The map is read again by the product with its attention, so its mean is no running sum.
    mean, scaled = (operation(program, f"blocks.0.eca.{own}") for own in ("avgpool", "mul"))
    assert (mean.unit, mean.mean) == ("vector", False)
    assert [view.shape for view in scaled.reads] == [(1, 112, 112, 16), (1, 1, 1, 16)]
    # Channels that become a row, and back, lie in other blocks: they are copied.
    for name in ("row", "channels"):
        assert operation(program, f"blocks.0.eca.{name}").unit == "vector"
    project = groups(program)["blocks.3.project"]
    assert project == ("blocks.3.project",)
    assert found["blocks.2.eca.mul"] == ("blocks.2.eca.mul",) + (
        ("blocks.2.add",) if "blocks.2.add" in found["blocks.2.eca.mul"] else ()
    )


def test_yolo_splits_and_joins_without_moving_anything() -> None:
    program = program_of(load_workload("yolov8n"), block=16)
    assert program.activations["model.2.concat"].shape == (1, 160, 160, 48)
    both = operation(program, "model.2.cv1")
    assert both.writes == View("model.2.concat", (1, 160, 160, 32), 0)
    half = View("model.2.concat", (1, 160, 160, 16), 16)
    assert operation(program, "model.2.m.0.cv1").reads == (half,)
    inner = operation(program, "model.2.m.0.cv2")
    assert (inner.addends, inner.writes) == ((half,), View(*half[:2], 32))
    assert operation(program, "model.2.cv2").reads == (View("model.2.concat", (1, 160, 160, 48)),)
    assert [program.operations[i].name for i in program.writers["model.2.concat"]] == [
        "model.2.cv1", "model.2.m.0.cv2",
    ]  # fmt: skip
    moved = {own.name for own in program.operations if own.unit == "vector"}
    assert not any("concat" in name or "half" in name for name in moved)
    assert {*host_share(program)} == {"decode_boxes", "gather"}


def test_wide_blocks_make_a_join_a_copy() -> None:
    program = program_of(load_workload("yolov8n"), block=32)
    joined = operation(program, "model.2.concat")
    assert joined.unit == "vector"
    assert sum(view.shape[3] for view in joined.reads) == 48


def test_vits_attention_reads_parts_of_one_tensor_and_fuses_the_softmax() -> None:
    program = program_of(load_workload("vit-b16"), block=16)
    tokens = operation(program, "tokens")
    assert [node.name for node in tokens.nodes] == ["tokens", "pos_embed"]
    assert tokens.reads == (
        View("cls_token", (1, 1, 1, 768)), View("patch_embed.proj", (1, 196, 1, 768)),
    )  # fmt: skip
    assert tokens.addends == (View("pos_embed.parameter", (1, 197, 1, 768)),)
    assert program.activations["cls_token"].origin == "constant"
    assert program.activations["pos_embed.parameter"].origin == "constant"
    scores = operation(program, "blocks.0.attn.qk")
    part = (1, 197, 1, 768)
    qkv = "blocks.0.attn.qkv"
    assert scores.reads == (View(qkv, part), View(qkv, part, 768))
    assert scores.whole_channels
    assert scores.repeats == 12
    values = operation(program, "blocks.0.attn.av")
    assert values.reads == (
        View("blocks.0.attn.softmax", (12, 197, 1, 197)),  # heads that would share blocks of 16
        View(qkv, part, 2 * 768),
    )  # fmt: skip
    assert groups(program)["blocks.0.attn.proj"] == ("blocks.0.attn.proj", "blocks.0.add1")
    assert groups(program)["blocks.0.mlp.fc1"] == ("blocks.0.mlp.fc1", "blocks.0.mlp.act")
    assert groups(program)["blocks.0.norm2"] == ("blocks.0.norm2",)  # its operand is added later


def test_without_a_vector_unit_only_what_has_no_other_operand_stays_with_its_product() -> None:
    program = program_of(load_workload("resnet18"), vector=False)
    found = groups(program)
    assert found["conv1"] == ("conv1", "relu")
    assert found["layer1.0.conv2"] == ("layer1.0.conv2",)
    for name in ("maxpool", "layer1.0.add", "layer1.0.relu2", "avgpool"):
        assert operation(program, name).unit == "host"
    assert not program.on_chip("maxpool")
    assert program.on_chip("layer1.0.relu1")
    assert host_share(program)["maxpool"] == 64 * 56 * 56
    assert host_share(program)["add"] == 2 * (64 * 56**2 + 128 * 28**2 + 256 * 14**2 + 512 * 7**2)


# --- small networks ------------------------------------------------------------------------------


def test_what_is_read_outside_ends_a_group() -> None:
    build = NetworkBuilder("tee", (1, 4, 4, 8))
    build.conv("a", "input", 8, (1, 1))
    build.relu("b", "a")
    build.relu("c", "b")
    build.add("d", "c", "b")
    build.conv("e", "b", 8, (1, 1))
    build.add("f", "e", "d")
    found = groups(program_of(build.network()))
    assert found == {"a": ("a", "b"), "c": ("c", "d"), "e": ("e", "f")}


def test_an_addend_that_runs_later_is_no_part_of_the_drain() -> None:
    build = NetworkBuilder("later", (1, 4, 4, 8))
    build.conv("a", "input", 8, (1, 1))
    build.conv("b", "a", 8, (1, 1))
    build.add("c", "a", "b")
    program = program_of(build.network())
    assert groups(program) == {"a": ("a",), "b": ("b", "c")}
    assert operation(program, "b").addends == (View("a", (1, 4, 4, 8)),)


def test_a_norm_over_channels_needs_all_of_them_and_no_groups() -> None:
    build = NetworkBuilder("norms", (1, 4, 4, 8))
    build.linear("a", "input", 8)
    build.host("b", "layer_norm", "a")
    build.conv("c", "b", 8, (3, 3), padding=1, groups=8)
    build.host("d", "layer_norm", "c")
    program = program_of(build.network())
    assert groups(program) == {"a": ("a", "b"), "c": ("c",), "d": ("d",)}
    assert operation(program, "a").whole_channels
    assert not operation(program, "c").whole_channels


def test_parts_that_begin_inside_a_block_are_copied() -> None:
    def joined(block: int) -> Program:
        build = NetworkBuilder("parts", (1, 4, 4, 8))
        build.conv("a", "input", 24, (1, 1))
        build.conv("b", "input", 8, (1, 1))
        build.concat("c", "a", "b")
        build.conv("d", "c", 8, (1, 1))
        return program_of(build.network(), block=block)

    assert [*joined(8).activations] == ["input", "c", "d"]
    assert [own.unit for own in joined(16).operations] == ["array", "array", "vector", "array"]


def test_a_tensor_joined_twice_lies_in_one_place_only() -> None:
    build = NetworkBuilder("twice", (1, 4, 4, 8))
    build.conv("a", "input", 8, (1, 1))
    build.conv("b", "input", 8, (1, 1))
    build.concat("ab", "a", "b")
    build.concat("ba", "b", "a")
    build.conv("c", "ab", 8, (1, 1))
    build.conv("d", "ba", 8, (1, 1))
    program = program_of(build.network())
    copied = [own for own in program.operations if own.unit == "vector"]
    assert [own.name for own in copied] == ["ba"]
    assert copied[0].reads == (View("ab", (1, 4, 4, 8), 8), View("ab", (1, 4, 4, 8)))


# --- random networks -----------------------------------------------------------------------------


def drawn(seed: int) -> tuple[Network, Program, int, bool]:
    rng = random.Random(seed)
    network = random_network(rng, [f"n{i}" for i in range(rng.randint(1, 20))])
    block, vector = rng.choice([1, 1, 2, 4]), rng.random() < 0.7
    return network, program_of(network, vector=vector, block=block), block, vector


def stored(view: View, shape: Shape) -> bool:
    """Whether a view has a node's shape, or that of its heads one after the other."""
    heads = view.shape[0] // shape[0]
    return view.shape in (shape, (heads * shape[0], *shape[1:3], shape[3] // heads))


def only_names(node: Node, network: Network) -> bool:
    """Whether a node moves nothing: it joins, splits, or gives another shape to the same pixels."""
    own, sources = network.shape(node.name), [network.shape(name) for name in node.inputs]
    if node.op == "concat":
        return True
    alike = len(sources) == 1 and prod(own[:3]) == prod(sources[0][:3]) and own[0] == sources[0][0]
    return alike and own[3] <= sources[0][3]


@pytest.mark.parametrize("seed", often(150, range(3000)))
def test_every_node_is_of_one_operation_or_a_view(seed: int) -> None:
    network, program, _, _ = drawn(seed)
    owned = [node.name for own in program.operations for node in own.nodes]
    assert len({*owned}) == len(owned)
    for node in network.nodes:
        if node.name not in owned and node.op != "input":
            constant = node.function == "parameter" and not node.inputs
            assert constant or only_names(node, network)
    for own in program.operations:
        assert own.name == own.nodes[0].name
        assert own.unit == "array" or own.layer is None
        names = {node.name for node in own.nodes}
        for node in own.nodes[:-1]:  # what is read outside is written
            assert all(node.name not in other.inputs or other.name in names
                       for other in network.nodes)  # fmt: skip


@pytest.mark.parametrize("seed", often(150, range(3000)))
def test_every_activation_is_written_before_it_is_read_and_covered_by_its_parts(seed: int) -> None:
    network, program, block, _ = drawn(seed)
    written: dict[str, set[int]] = {
        name: set(range(own.shape[3])) if own.origin != "operation" else set()
        for name, own in program.activations.items()
    }
    for own in program.operations:
        for view in (*own.reads, *own.addends):
            activation = program.activations[view.activation]
            channels = set(range(view.first, view.first + view.shape[3]))
            assert channels <= written[view.activation]
            assert prod(view.shape[:3]) == prod(activation.shape[:3])
            assert view.first % block == 0
        channels = set(range(own.writes.first, own.writes.first + own.writes.shape[3]))
        assert not channels & written[own.writes.activation]  # parts do not overlap
        assert own.writes.first % block == 0
        written[own.writes.activation] |= channels
    for name, activation in program.activations.items():
        assert written[name] == set(range(activation.shape[3]))
    read = {source for node in network.nodes for source in node.inputs}
    for node in network.nodes:  # what nobody reads leaves the chip
        if node.name not in read and node.name in program.activations:
            assert node.name in program.outputs


@pytest.mark.parametrize("seed", often(150, range(3000)))
def test_operands_are_those_of_the_nodes(seed: int) -> None:
    network, program, _, vector = drawn(seed)
    for own in program.operations:
        core, fused = own.nodes[0], own.nodes[1:-1] if own.mean else own.nodes[1:]
        shapes = [network.shape(name) for name in core.inputs]
        assert all(map(stored, own.reads, shapes))
        assert len(own.reads) - len(shapes) == (core.function == "add_parameter")
        inside = {node.name for node in own.nodes}
        others = [name for node in fused for name in node.inputs if name not in inside]
        parameters = sum(node.function == "add_parameter" for node in fused)
        assert len(own.addends) == len(others) + parameters
        assert all(stored(view, network.shape(core.name)) for view in own.addends)
        assert stored(own.writes, network.shape(own.nodes[-1].name))
        if not vector:
            assert own.unit != "vector"
            assert not own.addends
            assert not own.mean
            assert program.vector_work[own.name] == 0
        for name in {own.writes.activation, *(view.activation for view in own.reads)}:
            if own.unit == "host":
                assert not program.on_chip(name)


@pytest.mark.parametrize("seed", often(150, range(3000)))
def test_work_is_that_of_each_node_and_one_requantisation(seed: int) -> None:
    network, program, _, vector = drawn(seed)
    for own in program.operations:
        if not vector or own.unit == "host":
            continue
        first = prod(network.shape(own.name))
        work = first + (first if own.layer is not None and own.nodes[0].op != "matmul" else 0)
        for node in own.nodes[own.layer is not None :]:
            inputs = [network.shape(name) for name in node.inputs]
            parameter = [inputs[0]] if node.function == "add_parameter" else []
            work += operations_of(node, inputs + parameter, network.shape(node.name))
        assert program.vector_work[own.name] == work


# --- functions -----------------------------------------------------------------------------------


def test_every_function_of_the_unit_does_something() -> None:
    assert all(own.operations >= 1 and own.readings >= 1 for own in FUNCTIONS.values())


def test_what_is_not_listed_is_the_hosts() -> None:
    assert vector_function(Node("x", "host", ("y",), function="non_max_suppression")) is None
    with pytest.raises(KeyError, match="top_k"):
        operations_of(Node("x", "host", ("y",), function="top_k"), [(1, 1, 1, 1)], (1, 1, 1, 1))
