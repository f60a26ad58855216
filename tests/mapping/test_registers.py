"""Registers in every PE against PEs taken one by one: what moves, and what has room."""

import random
from collections.abc import Iterator

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.closed.levels import held_bits, inner_counts
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.fit import check, check_output_blocks
from bfpsim.mapping.nest import EVERY_DIM, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.steps.inside import inside
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_formats, random_layer, random_mapping
from tests.long import often
from tests.mapping.register_oracle import run_registers, tiles_of

DATAFLOWS = ("weight", "output", "input")


def random_axes(rng: random.Random) -> list[dict[str, object]]:
    """One axis or several of any dimensions; C by itself, R and S filled up with others."""
    free = [list("NPQ"), ["C"], list("RS"), ["K"], ["G"]]

    def take() -> str | None:
        left = [letters for letters in free if letters]
        if not left:
            return None
        letters = rng.choice(left)
        chosen = rng.sample(letters, rng.randint(1, len(letters)))
        letters[:] = [d for d in letters if d not in chosen]
        return "".join(chosen)

    axes = []
    for _ in range(rng.randint(1, 3)):
        dim = take()
        if dim is None:
            break
        axis: dict[str, object] = {"dim": dim, "size": rng.choice([1, 2, 3, 4, 5, 8, 12])}
        over = take() if set(dim) <= set("RS") and rng.random() < 0.6 else None
        axes.append(axis | ({"over": over} if over else {}))
    return axes


def random_machine(rng: random.Random) -> Arch:
    data = make_arch(
        stationary=rng.choice(DATAFLOWS),
        accumulator_bits=rng.choice([16, 24, 32]),
        halo=rng.choice(["sliding", "sliding", "none"]),
    ).model_dump(by_alias=True)
    file = {"capacity": "1 MiB", "energy": "0.03 pJ/bit", "double_buffered": rng.random() < 0.5}
    array = {name: own for name, own in data["pe_array"].items() if name not in ("rows", "cols")}
    data["pe_array"] = array | {
        "axes": random_axes(rng),
        "fill": rng.choice(["none", "each_fold", "overlapped"]),
        "registers": {"input": file, "weight": file, "output": file},
    }
    if rng.random() < 0.3:
        held = rng.choice([["O"], ["I"], ["W"], ["I", "W", "O"]])
        data["levels"] = [{"name": "buf", "tensors": held, "capacity": "1 MiB"}]
    return Arch.model_validate(data)


def random_inside(
    rng: random.Random, layer: ConvLayer, formats: LayerFormats, arch: Arch
) -> Mapping:
    outer = random_mapping(rng, layer, formats)
    kept = {d for axis in arch.pe_array.axes if axis.over for d in axis.dim}
    sizes, inner = layer.dims | outer.tile, {}
    for level in arch.levels[2:]:
        dims = [d for d in EVERY_DIM if d not in kept]
        tile = {d: rng.randint(1, sizes[d]) for d in rng.sample(dims, rng.randint(0, len(dims)))}
        if isinstance(formats.O, BFP) and rng.random() < 0.9:
            tile = {d: size for d, size in tile.items() if d not in "GK"}
        order = rng.sample(EVERY_DIM, len(EVERY_DIM))
        inner[level.name] = Mapping("".join(order), tile)
        sizes |= tile
    return Mapping(outer.order, outer.tile, inner)


def points(seed: int, count: int) -> Iterator[tuple[ConvLayer, Arch, Mapping, LayerFormats, Nest]]:
    rng = random.Random(seed)
    while count:
        layer, formats, arch = random_layer(rng, 4), random_formats(rng), random_machine(rng)
        mapping = random_inside(rng, layer, formats, arch)
        if layer.macs > 1500 or len(tiles_of(layer, arch, mapping)) > 300:
            continue
        nest = make_nest(layer, mapping, [level.name for level in arch.levels[2:]])
        try:
            check_output_blocks(nest.innermost, formats)
        except MappingError:
            continue
        count -= 1
        yield layer, arch, mapping, formats, nest


SEEDS = often(12, range(300))


@pytest.mark.parametrize("seed", SEEDS)
def test_registers_move_what_their_pes_take(seed: int) -> None:
    for layer, arch, mapping, formats, nest in points(seed, 12):
        wanted = run_registers(layer, arch, mapping, formats).counts
        steps = inside(nest, arch, formats).bits
        counted = Counts()
        for flow, bits in steps.items():
            counted.add(*flow, int(bits.sum()))
        closed, cycles = inner_counts(nest, arch, formats)
        what = layer, arch, mapping, formats
        assert counted == closed, what
        for flow, bits in wanted.items():
            assert closed.get(flow, 0) >= bits, (flow, what)
        own = {flow: bits for flow, bits in closed.items() if flow.level == "registers"}
        assert own == {f: bits for f, bits in wanted.items() if f.level == "registers"}, what
        if len(arch.levels) == 3:
            assert closed == wanted, what
        assert cycles == inside(nest, arch, formats).computing.sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mapping_is_legal_if_the_fullest_pe_has_room(seed: int) -> None:
    """Elements exactly; of codes as many as blocks of the tile, where elements are no fewer."""
    for layer, arch, mapping, formats, nest in points(1000 + seed, 8):
        run = run_registers(layer, arch, mapping, formats)
        room = held_bits(nest, len(arch.levels) - 1, arch, formats)
        what = layer, arch, mapping, formats
        assert room["O"] == run.held["O"] * arch.pe_array.accumulator_bits, what
        for tensor in ("I", "W"):
            fmt = formats.of(tensor)
            mantissas = run.held[tensor] * fmt.mantissa_bits
            assert room[tensor] >= mantissas + run.codes[tensor] * fmt.exponent_bits, what
            if not fmt.exponent_bits:
                assert room[tensor] == mantissas, what
        data = arch.model_dump(by_alias=True)
        name, tensor = rng_of(seed).choice([("input", "I"), ("weight", "W"), ("output", "O")])
        file = data["pe_array"]["registers"][name]
        halves = 2 if file["double_buffered"] else 1
        for bits in (room[tensor], room[tensor] - 1):
            if bits < 1:
                continue
            file["capacity"] = f"{bits * halves} bit"
            tight = Arch.model_validate(data)
            if bits == room[tensor]:
                assert check(layer, tight, mapping, formats), what
            else:
                with pytest.raises(MappingError, match="shares of a PE"):
                    check(layer, tight, mapping, formats)


def rng_of(seed: int) -> random.Random:
    return random.Random(seed)
