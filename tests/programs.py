"""Random programs that the tests share: networks with branches, plans that need not be good."""

import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.fit import check, stored
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.residency.allocation import replaces
from bfpsim.mapping.steps.tiles import output_tiles
from bfpsim.mapping.vector import VectorTiling
from bfpsim.quant.formats import ActivationLayout, LayerFormats, layer_formats
from bfpsim.quant.formats.quantize import (
    dequantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
)
from bfpsim.sim.stage import Stage
from bfpsim.sim.staging import Plan
from bfpsim.workloads import ConvLayer, LayerWeights, Network, NetworkBuilder
from bfpsim.workloads.graph.described import node_evaluator
from bfpsim.workloads.graph.product import convolve
from bfpsim.workloads.program import Program, View, program_of
from tests import generate
from tests.generate import Part, make_arch, random_nested_mapping

Values = NDArray[np.float64]


FORMATS = [layer_formats(name) for name in ("plain8", "bfp8e3b1", "bfp8e3b2", "nvfp4")]


def small_branches() -> Network:
    """A stem and its pool, two convolutions beside what they are added to, a mean, a classifier."""
    build = NetworkBuilder("branches", input_shape=(1, 12, 12, 16))
    x = build.maxpool("pool", build.conv("stem", "input", 16, kernel=3, padding=1), 2, stride=2)
    y = build.relu("relu", build.conv("left", x, 16, kernel=3, padding=1))
    x = build.add("sum", build.conv("right", y, 16, kernel=1), x)
    build.conv("fc", build.avgpool("mean", x), 10, kernel=1)
    return build.network()


def random_branches(rng: random.Random, largest: int = 8, block: int = 2) -> Network:
    """Convolutions with branches, sums, joins, pools, attention to channels, heads of attention.

    block: of channels, that heads do not cut
    """
    build = NetworkBuilder(
        "branches",
        (rng.randint(1, 2), rng.randint(2, largest), rng.randint(2, largest), rng.choice([2, 4])),
    )
    known = ["input"]
    recent = rng.choice([2, 2, 2, 99])  # from all that is known: wide branches
    for number in range(rng.randint(1, 6)):
        x = rng.choice(known[-recent:])
        _, H, W, C = build.shape(x)
        kernel = min(H, rng.randint(1, 3)), min(W, rng.randint(1, 3))
        groups = rng.choice([1, 1, 1, C])
        y = build.conv(
            f"conv{number}", x, groups * 2 * rng.randint(1, 3), kernel,
            stride=rng.randint(1, 2), padding=rng.randint(0, 1), groups=groups,
        )  # fmt: skip
        for _ in range(rng.randint(0, 2)):
            y = _after(rng, build, f"n{len(build.shapes)}", y, known, block)
        known.append(y)
    if rng.random() < 0.2:
        build.avgpool("mean", known[-1])
    return build.network()


def _after(
    rng: random.Random, build: NetworkBuilder, name: str, x: str, known: list[str], block: int
) -> str:
    N, H, W, C = build.shape(x)
    same = [own for own in known if build.shape(own) == build.shape(x)]
    joined = [own for own in known if build.shape(own)[:3] == (N, H, W) and own != x]
    match rng.randrange(8):
        case 0 | 1:
            return build.relu(name, x)
        case 2 | 3 if same:
            return build.add(name, x, *rng.sample(same, min(len(same), rng.choice([1, 1, 2, 3]))))
        case 4 if joined:
            return build.concat(name, x, rng.choice(joined))
        case 5:
            kernel = min(H, 2), min(W, 3)
            return build.maxpool(name, x, kernel, stride=rng.randint(1, 2), ceil=True)
        case 6:
            factor = build.host(f"{name}.sigmoid", "sigmoid", build.avgpool(f"{name}.mean", x))
            return build.host(name, "mul", x, factor)
        case 7 if H > 1 and C % 4 == C // 2 % block == 0:  # two heads on blocks
            tokens = build.host(f"{name}.tokens", "tokens", x, shape=(N, H * W, 1, C))
            if H * W == C // 2:  # whose operands could be keys or values
                return x
            scores = build.matmul(f"{name}.qk", tokens, tokens, H * W, heads=2)
            weights = build.host(
                f"{name}.softmax", "softmax", build.host(f"{name}.scale", "scale", scores)
            )
            y = build.matmul(f"{name}.av", weights, tokens, C // 2, heads=2)
            return build.host(f"{name}.map", "map", y, shape=(N, H, W, C))
    return x


def random_machine(rng: random.Random, vector: bool = True) -> Arch:
    """A roomy machine with one shared buffer or three, one slot a tensor or two, a vector unit.

    Some have levels inside SRAM, and any array, ports and filling.
    """

    def part() -> Part:
        return {"capacity": "64 MiB", "width": "128 bit", "double_buffered": rng.random() < 0.4}

    if rng.random() < 0.3:
        arch = generate.random_machine(rng, rng.choice(["1 bit", "32 B"]))
    else:
        split = {"input": part(), "weight": part(), "output": part()}
        arch = make_arch(
            sram=split if rng.random() < 0.3 else part(),
            burst=rng.choice(["1 bit", "32 B"]),
            latency=rng.choice(["100 ns", "0 ns"]),
            halo=rng.choice(["sliding", "none"]),
            dma={"width": rng.choice(["8 bit", "32 bit"])} if rng.random() < 0.2 else {},
        )
    if rng.random() < 0.2:
        arch = generate.random_device(rng, arch)
    else:
        arch = replace(arch, "dram.bandwidth", rng.choice(["6.4 GB/s", "0.4 GB/s", "50 GB/s"]))
    return replace(arch, "vector", Vector(lanes=rng.choice([1, 4, 16]))) if vector else arch


def random_plan(
    rng: random.Random, network: Network, arch: Arch, formats: LayerFormats, share: float = 0.6
) -> Plan:
    """Any legal mappings, any tilings, and any activations that can stay on chip.

    share: of those that may stay, how many do
    """
    program = program_of(network, vector=arch.vector is not None, block=formats.O.block_size)
    mappings: dict[str, Tiling] = {}
    resumes: set[str] = set()
    for operation in program.operations:
        layer = operation.layer
        if layer is None:
            continue
        while True:
            mapping = random_nested_mapping(rng, layer, formats, arch)
            if operation.whole_channels:
                kept = {d: s for d, s in mapping.tile.items() if d not in "KG"}
                mapping = Tiling(mapping.order, kept, mapping.inner)
            if rng.random() < 0.1:
                mapping = Tiling()
            try:
                nest = check(stored(layer, arch), arch, mapping, formats)
            except MappingError:
                continue
            break
        mappings[operation.name] = mapping
        if output_tiles(nest).resumed.any():
            resumes.add(operation.name)
    block = formats.O.block_size
    tilings = {
        own.name: VectorTiling(
            rng.randint(1, 3), rng.choice([1, 2, 99]), block * rng.choice([1, 2, 99])
        )
        for own in program.operations
        if own.unit == "vector"
    }
    resident = frozenset(
        name
        for name in program.activations
        if program.on_chip(name)
        and not any(program.operations[place].name in resumes for place in program.writers[name])
        and rng.random() < share
    )
    stored_in = dict.fromkeys(program.activations, formats.O)
    every = {layer.name: formats for layer in network.layers}
    in_place = {}
    for place, own in enumerate(program.operations):
        old = replaces(program, place, stored_in)
        if old in resident and own.writes.activation in resident and rng.random() < 0.7:
            in_place[own.name] = old
    return Plan(program, every, stored_in, mappings, tilings, resident, in_place)


def least_capacities(plan: Plan, stages: list[Stage], arch: Arch) -> dict[str, int]:
    """Bits of each of SRAM's memories with which each operation just fits beside what stays."""
    program, memories = plan.program, arch.levels[1].memories
    needs = dict.fromkeys(memories.values(), 1)
    for place, stage in enumerate(stages):
        need = dict.fromkeys(needs, 0)
        slots = [feed.slot for feed in stage.feeds.values()]
        slots.append(None if stage.output is None else stage.output.slot)
        for slot in slots:
            if slot is not None:
                need[slot.memory] += slot.bits * slot.tiles
        replaced = plan.in_place.get(stage.name)
        for name in plan.resident - {replaced}:
            first, last = program.lifetime(name)
            if first <= place <= last:
                shape = program.activations[name].shape
                need[memories["I"]] += ActivationLayout(shape, plan.stored[name]).bits
        needs = {name: max(bits, need[name]) for name, bits in needs.items()}
    return needs


def with_room(arch: Arch, bits: Mapping[str, int]) -> Arch:
    """The architecture with so many bits in each of SRAM's memories."""
    if arch.shared:
        return replace(arch, "sram.capacity", f"{bits['SRAM']} bit")
    for part, tensor in (("input", "I"), ("weight", "W"), ("output", "O")):
        arch = replace(arch, f"sram.{part}.capacity", f"{bits[f'SRAM {tensor}']} bit")
    return arch


# --- reference -----------------------------------------------------------------------------------


def random_weights(rng: np.random.Generator, network: Network) -> dict[str, LayerWeights]:
    """Weights and biases for every layer with weights."""
    return {
        node.name: LayerWeights(
            rng.normal(size=node.layer.weight_shape).astype(np.float32),
            rng.normal(size=node.layer.weight_shape[0]).astype(np.float32),
        )
        for node in network.nodes
        if node.layer is not None and node.op != "matmul"
    }


def evaluator(network: Network, weights: Mapping[str, LayerWeights] | None = None):  # type: ignore[no-untyped-def]
    """What computes a node that is no product."""
    own = node_evaluator(network, weights or {})

    def evaluate(node, inputs):  # type: ignore[no-untyped-def]
        if node.function == "map":
            return inputs[0].reshape(network.shape(node.name))
        return own(node, inputs)

    return evaluate


def by_head(layer: ConvLayer, left: Values, right: Values) -> tuple[Values, Values]:
    """The operands of a product of activations, run by run: sample by sample, head by head.

    left (N, P, Q, heads * C) gives (runs, P, Q, C), and right (runs, K, C, 1, 1): tokens as they
    are if each has C channels of a head, as keys; turned round if there are C of them, as values.
    """
    heads = left.shape[3] // layer.C
    lefts = np.moveaxis(left.reshape(*left.shape[:3], heads, layer.C), 3, 1)
    tokens = right.shape[1] * right.shape[2]
    rights = np.moveaxis(right.reshape(len(right), tokens, heads, -1), 2, 1)
    if tokens == layer.C:
        rights = rights.swapaxes(2, 3)
    return (
        lefts.reshape(-1, layer.P, layer.Q, layer.C),
        rights.reshape(-1, layer.K, layer.C, 1, 1),
    )


def by_sample(runs: Values, samples: int) -> Values:
    """The products of `by_head`'s operands (runs, P, Q, K) as (N, P, Q, heads * K)."""
    heads = runs.reshape(samples, -1, *runs.shape[1:])
    return np.moveaxis(heads, 1, 3).reshape(samples, *runs.shape[1:3], -1)


def reference(
    program: Program,
    formats: LayerFormats,
    weights: Mapping[str, LayerWeights],
    inputs: Values,
    tops: dict[str, int],
    constants: Mapping[str, Values] | None = None,
) -> dict[str, Values]:
    """Every activation's stored values, whole tensors one after another, in float64.

    Sums are exact in float64 for narrow formats. A top that is not given is calibrated, and added.
    """
    own_evaluate = evaluator(program.network, weights)

    def evaluate(node, sources):  # type: ignore[no-untyped-def]
        if node.function == "add_parameter":
            return sources[0] + sources[1]
        return own_evaluate(node, sources)

    values: dict[str, Values] = {}

    def store(view: View, own: Values) -> None:
        name, shape = view.activation, program.activations[view.activation].shape
        if name not in tops:
            tops[name] = top_exponent(own, name)
        whole = values.setdefault(name, np.full(shape, np.nan))
        kept = dequantize(quantize_activation(own, formats.O, tops[name]))
        part = whole.reshape(*view.shape[:3], -1)
        part[..., view.first : view.first + view.shape[3]] = kept

    def read(view: View) -> Values:
        whole = values[view.activation].reshape(*view.shape[:3], -1)
        return whole[..., view.first : view.first + view.shape[3]]

    store(View("input", inputs.shape), inputs)  # type: ignore[arg-type]
    for name, constant in (constants or {}).items():
        store(View(name, constant.shape), constant)  # type: ignore[arg-type]
    for operation in program.operations:
        core, layer = operation.nodes[0], operation.layer
        reads = [read(view) for view in operation.reads]
        if layer is None:
            made = evaluate(core, reads)
        elif core.op == "matmul":
            left = reads[0]
            if left.shape[0] == operation.repeats:  # which lies head by head
                left = by_sample(left, len(reads[1]))
            lefts, rights = by_head(layer, left, reads[1])
            runs = []
            for left, right in zip(lefts, rights, strict=True):
                filters = dequantize(quantize_weight(right, formats.W))
                runs.append(convolve(layer, left[np.newaxis], filters))
            made = np.concatenate(runs)
            if operation.writes.shape[0] != operation.repeats:
                made = by_sample(made, len(reads[1]))
        else:
            own = weights[operation.name]
            filters = dequantize(quantize_weight(own.weight, formats.W))
            made = convolve(layer, reads[0], filters) + own.bias
        known = {core.name: made}
        addends = iter(operation.addends)
        for node in operation.nodes[1:]:
            sources = [
                known[name] if name in known else read(next(addends)) for name in node.inputs
            ]
            if node.function == "add_parameter":
                sources.append(read(next(addends)))
            known[node.name] = evaluate(node, sources)
        store(operation.writes, known[operation.nodes[-1].name])
    return values


WORDS = layer_formats("plain8")
