"""Registers in every PE against PEs taken one by one: what moves, and what has room."""

import random
from collections.abc import Iterator
from math import prod

import numpy as np
import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.closed.level_grid import RegisterGrid
from bfpsim.mapping.closed.levels import held_bits, inner_counts
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.fit import check, check_output_blocks
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.nest import EVERY_DIM, TENSORS, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.steps.inside import inside
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_formats, random_layer, random_mapping
from tests.long import often
from tests.mapping.register_oracle import run_registers, tiles_of
from tests.mapping.test_inner import inside_nests, inside_pj, ways
from tests.storage import storage

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
        if storage(formats.O).code and rng.random() < 0.9:
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


SEEDS = often(6, range(300))


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


@pytest.mark.parametrize("seed", often(6, range(300)))
def test_the_grid_is_every_tiling_by_itself(seed: int) -> None:
    rng = rng_of(seed)
    for layer, arch, mapping, formats, nest in points(2000 + seed, 4):
        if len(arch.levels) > 3:
            continue
        sizes = {
            dim: np.array(sorted(rng.sample(range(1, most + 1), rng.randint(1, min(3, most)))))
            for dim, most in nest.tile.items()
        }
        grid = RegisterGrid(nest, arch, formats, sizes)
        order, what = "".join(rng.sample(EVERY_DIM, len(EVERY_DIM))), (layer, arch, formats)
        width, elements = arch.pe_array.accumulator_bits, int(np.prod(layer.output_shape))
        for _ in range(4):
            place = tuple(rng.randrange(n) for n in grid.shape)

            def at(values: object, place: tuple[int, ...] = place, grid=grid) -> int:  # type: ignore[no-untyped-def]
                return int(np.broadcast_to(values, grid.shape)[place])

            inner = Mapping(order, grid.tile(place))
            one = make_nest(
                layer, Mapping(mapping.order, mapping.tile, {"registers": inner}), ["registers"]
            )
            counts, cycles = inner_counts(one, arch, formats)
            room = held_bits(one, 2, arch, formats)
            for tensor in TENSORS:
                assert room[tensor] == at(grid.held(tensor, True)), what
            for tensor in ("I", "W"):
                fetched = counts.total("SRAM", tensor, "read")
                assert fetched == at(grid.fetched(tensor, order)), what
                written = counts.total("registers", tensor, "write")
                assert written == at(grid.written(tensor, order)), what
                codes = counts.total("registers", tensor, "read", "exponent")
                assert codes == at(grid.codes(tensor, order)), what
            back = at(grid.visited(order)) - elements
            assert counts.total("registers", "O", "write") == (layer.macs + back) * width, what
            reads = counts.total("registers", "I", "read", "mantissa")
            assert reads == grid.inputs * formats.I.mantissa_bits
            assert cycles == at(grid.busy_cycles)


@pytest.mark.parametrize("seed", often(6, range(300)))
def test_registers_are_cut_at_the_least_energy(seed: int) -> None:
    """The least of every tile size and every order, R and S cut too where nothing else fits."""
    rng = rng_of(seed)
    while True:
        layer, formats, arch = random_layer(rng, 3), random_formats(rng), random_machine(rng)
        if prod(layer.dims.values()) <= 60 and len(arch.levels) == 3:
            break
    data = arch.model_dump(by_alias=True)
    for file in data["pe_array"]["registers"].values():
        file["capacity"] = f"{rng.choice([16, 40, 80, 160, 320])} bit"
    arch = Arch.model_validate(data)
    outer = random_mapping(rng, layer, formats)
    every, whole = [], []
    for inner in ways(make_nest(layer, outer)):
        try:
            own = Mapping(outer.order, outer.tile, {"registers": inner})
            nest = check(layer, arch, own, formats)
        except MappingError:
            continue
        every.append(inside_pj(nest, arch, formats))
        if not set(inner.tile) & {"R", "S"}:
            whole.append(every[-1])
    got = InnerMapper(arch, formats).best(make_nest(layer, outer))
    if got is None:
        assert not every
        return
    own = Mapping(outer.order, outer.tile, got.mappings)
    assert inside_pj(check(layer, arch, own, formats), arch, formats) == pytest.approx(got.cost)
    assert got.cost == pytest.approx(min(whole or every)), (layer, arch, outer, formats)


@pytest.mark.parametrize("seed", often(5, range(200)))
def test_a_buffer_and_registers_are_cut_together(seed: int) -> None:
    """No other way to cut both, R and S whole, goes below the bound, nor below what is chosen."""
    rng = rng_of(seed)
    while True:
        layer, formats, arch = random_layer(rng, 3), random_formats(rng), random_machine(rng)
        if prod(layer.dims.values()) <= 24:
            break
    data = arch.model_dump(by_alias=True)
    data["levels"] = [
        {
            "name": "buf",
            "tensors": rng.choice([["O"], ["I"], ["W"], ["I", "W"], ["I", "W", "O"]]),
            "capacity": f"{rng.choice([80, 160, 320, 640])} bit",
            "energy": "0.06 pJ/bit",
        }
    ]
    for file in data["pe_array"]["registers"].values():
        file["capacity"] = f"{rng.choice([16, 40, 80, 160])} bit"
    arch = Arch.model_validate(data)
    outer = random_mapping(rng, layer, formats)
    outer = Mapping(outer.order, {d: s for d, s in outer.tile.items() if d not in "GK"})
    every = []
    for mapping in inside_nests(outer, layer, ["buf", "registers"]):
        if any(set(own.tile) & {"R", "S"} for own in mapping.inner.values()):
            continue
        try:
            nest = check(layer, arch, mapping, formats)
        except MappingError:
            continue
        every.append(inside_pj(nest, arch, formats))
    got = InnerMapper(arch, formats).best(make_nest(layer, outer))
    if got is None or any(set(own.tile) & {"R", "S"} for own in got.mappings.values()):
        assert not every
        return
    mapping = Mapping(outer.order, outer.tile, got.mappings)
    assert inside_pj(check(layer, arch, mapping, formats), arch, formats) == pytest.approx(got.cost)
    what = layer, arch, outer, formats
    assert got.bound <= min(every) * (1 + 1e-9), what
    assert got.cost == pytest.approx(min(every)), what
