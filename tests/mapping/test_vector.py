"""Tiles of vector operations against sets of elements, and the closed form against the tiles."""

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import floor, prod

import numpy as np
import pytest

from bfpsim.arch import Arch, load_arch, replace_all
from bfpsim.mapping.closed.vector import vector_traffic
from bfpsim.mapping.steps.tiles import ActivationBox, Boxes
from bfpsim.mapping.steps.vector import VectorOperand, VectorTiles, vector_tiles
from bfpsim.mapping.stored import activation_formats
from bfpsim.mapping.vector import Stretched, VectorTiling, plan_of, vector_tilings
from bfpsim.quant.formats import BFP, ActivationLayout, Format, LayerFormats
from bfpsim.workloads import NetworkBuilder, load_workload
from bfpsim.workloads.program import Operation, Program, program_of
from tests.generate import random_format
from tests.long import often

Element = tuple[int, int, int, int]
Box = tuple[range, range, range, range]

KINDS = (
    "relu", "add", "mul", "pixels", "maxpool", "upsample_nearest2d", "softmax", "mean",
    "group_norm",
    "concat", "concat_tokens", "interleave", "split", "add_parameter", "reduce_max", "reduced_map",
    "reduced_columns", "average_pool", "resize",
)  # fmt: skip


def made(kind: str, rng: random.Random) -> Program:
    """A network of one vector operation, that of the last node, on inputs of any extents."""
    shape = N, H, W, C = rng.randint(1, 2), rng.randint(1, 7), rng.randint(1, 7), rng.randint(1, 9)
    build = NetworkBuilder("one", shape)
    match kind:
        case "add":
            build.add("last", "input", build.input("other", shape))
        case "mul":
            scale = rng.choice([(N, 1, 1, C), (1, 1, 1, C), (1, H, W, C), (N, H, 1, 1)])
            build.host("last", "mul", "input", build.input("other", scale), shape=shape)
        case "pixels":
            build.host("last", "mul", "input", build.input("other", (N, H, W, 1)), shape=shape)
        case "maxpool":
            kernel = rng.randint(1, min(3, H)), rng.randint(1, min(3, W))
            pad = rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2)
            step, ceil = (rng.randint(1, 3), rng.randint(1, 3)), rng.random() < 0.5
            build.maxpool("last", "input", kernel, stride=step, padding=pad, ceil=ceil)
        case "upsample_nearest2d":
            rows, columns = rng.choice([H, 2 * H, 2 * H + 1]), rng.choice([W, 3 * W, 2 * W])
            build.host("last", kind, "input", shape=(N, rows, columns, C))
        case "mean":
            build.avgpool("last", "input")
        case "concat":
            other = build.input("other", (N, H, W, rng.randint(1, 9)))
            build.concat("last", "input", other)
        case "concat_tokens":
            other = build.input("other", (N, rng.randint(1, 3), rng.randint(1, 3), C))
            pixels = H * W + prod(build.shape(other)[1:3])
            build.host("last", kind, "input", other, shape=(N, pixels, 1, C))
        case "interleave":
            build.host("last", kind, "input", shape=(N, W, H * C, 1))
        case "split":
            part = rng.randint(1, N), rng.randint(1, H), rng.randint(1, W), C
            part = part if part != shape else (*part[:3], C + 1)
            build.host("last", kind, "input", shape=part)
        case "reduce_max":
            build.host("last", kind, "input", shape=rng.choice([(N, H, W, 1), (N, 1, W, C)]))
        case "reduced_map":
            build.host("last", "reduce_mean", "input", shape=rng.choice([(N, 1, 1, C)] * 2))
        case "reduced_columns":  # results are not finished one after the other
            build.host("last", "reduce_mean", "input", shape=(N, H, 1, C))
        case "average_pool":
            build.host("last", kind, "input", shape=(N, -(-H // 2), -(-W // 2), C))
        case "resize":
            build.host("last", kind, "input", shape=(N, 2 * H, W + 1, C))
        case _:
            build.host("last", kind, "input", shape=shape)
    return program_of(build.network(), block=64)


def sources(kind: str, program: Program, place: int, at: Element) -> Iterator[Element]:
    """The elements of an operand that an element of the output is made of, by definition."""
    (operation,) = program.operations
    view = (*operation.reads, *operation.addends)[place]
    N, H, W, C = view.shape
    _, P, Q, _ = operation.writes.shape
    n, p, q, k = at
    match kind:
        case "maxpool":
            pool = operation.nodes[0].pool
            assert pool is not None
            (r, s), (a, b), (top, left) = pool.kernel, pool.stride, pool.padding
            rows, columns = (
                range(p * a - top, p * a - top + r),
                range(q * b - left, q * b - left + s),
            )
            for h, w in product(rows, columns):
                if 0 <= h < H and 0 <= w < W:
                    yield n, h, w, k
        case "upsample_nearest2d":
            yield n, p * H // P, q * W // Q, k
        case "resize":
            rows, columns = (i * e // o for i, e, o in ((p, H, P), (q, W, Q)))
            for h, w in product(range(rows - 2, rows + 3), range(columns - 2, columns + 3)):
                if 0 <= h < H and 0 <= w < W:
                    yield n, h, w, k
        case "concat":
            first = sum(own.shape[3] for own in operation.reads[:place])
            if first <= k < first + C:
                yield n, p, q, k - first
        case "concat_tokens":
            first = sum(own.shape[1] * own.shape[2] for own in operation.reads[:place])
            if first <= p < first + H * W:
                yield from ((n, (p - first) // W, w, k) for w in range(W))  # whole rows pass
        case "mul" if (N, H, W) == (1, 1, 1) != operation.writes.shape[:3]:
            yield from ((0, 0, 0, c) for c in range(C))  # held as a whole
        case _:
            yield tuple(i if e > 1 else 0 for i, e in zip(at, view.shape, strict=True))  # type: ignore[misc]


def over_operand(kind: str, operation: Operation) -> bool:
    """Whether tiles go over the operand: it is reduced, result after result."""
    columns_alone = kind == "reduced_columns" and operation.writes.shape[1] == 1
    return kind in ("mean", "group_norm", "reduce_max", "reduced_map") or columns_alone


def in_order(kind: str, operation: Operation) -> bool:
    """Whether an operand can only pass as it lies."""
    _, H, W, _ = operation.reads[0].shape
    unfinished = kind == "reduced_columns" and H > 1 and W > 1
    return kind in ("interleave", "split", "average_pool") or unfinished


def grid_tiles(operation: Operation, kind: str, tiling: VectorTiling) -> Iterator[Box]:
    """The tiles in order, over all readings."""
    shape = operation.reads[0].shape if over_operand(kind, operation) else operation.writes.shape
    cut = [
        [range(extent)[low : low + size] for low in range(0, extent, size)]
        for extent, size in zip(shape, (1, *tiling), strict=True)
    ]
    n, p, q, k = cut
    if kind in ("softmax", "reduce_max") and (
        kind == "softmax" or operation.writes.shape[3] < shape[3]
    ):
        again = 2 if kind == "softmax" and len(k) > 1 else 1
        for sample, columns, rows, _, channels in product(n, q, p, range(again), k):
            yield sample, rows, columns, channels
        return
    for sample in n:
        for _ in range(2 if kind == "group_norm" else 1):
            for channels, columns, rows in product(k, q, p):
                yield sample, rows, columns, channels


def around(elements: set[Element]) -> Box | None:
    """The least box that holds some elements; None of none."""
    if not elements:
        return None
    low, high = [min(own) for own in zip(*elements)], [max(own) for own in zip(*elements)]  # noqa: B905
    n, h, w, c = (range(a, b + 1) for a, b in zip(low, high, strict=True))
    return n, h, w, c


def bits(elements: set[Element], fmt: Format) -> tuple[int, int]:
    codes = {(n, h, w, c // fmt.block_size) for n, h, w, c in elements}
    return len(elements) * fmt.mantissa_bits, len(codes) * fmt.exponent_bits


def as_sets(boxes: Boxes) -> list[set[Element]]:
    return [elements_of(boxes.at(i)) for i in range(len(boxes.n.low))]


def elements_of(box: ActivationBox) -> set[Element]:
    channels = [c for own in box.channels for c in range(*own)]
    return {*product(range(*box.n), range(*box.h), range(*box.w), channels)}


def walked(needs: list[Box | None], halo: str) -> list[tuple[int, set[Element], set[Element]]]:
    """Every visit: its first step, what it holds, and what of it is fetched."""
    visits: list[tuple[int, set[Element], set[Element]]] = []
    for step, box in enumerate(needs):
        before = needs[step - 1] if step else None
        if step and box == before:
            continue
        held = set(product(*box)) if box else set()
        stays: set[Element] = set()
        if box and before and halo == "sliding":
            other = [axis for axis in range(4) if box[axis] != before[axis]]
            if len(other) == 1 and other[0] in (1, 2):
                own, old = box[other[0]], before[other[0]]
                if own[0] >= old[0] and own[-1] >= old[-1]:
                    stays = set(product(*before))
        visits.append((step, held, held - stays))
    return visits


def check_price(operand: VectorOperand, visit: int, fresh: set[Element], fmt: Format) -> None:
    burst = 1 if not fresh else 64
    arrives = operand.stays[visit].arrives
    assert (arrives.mantissa, arrives.exponent, arrives.psum) == (*bits(fresh, fmt), 0)
    layout = ActivationLayout(operand.view.shape, fmt)
    box = operand.fetched.at(visit)
    padding = layout.runs(*box).burst_padding(burst) if fresh else 0
    assert arrives.burst == padding


def random_arch(rng: random.Random) -> Arch:
    return replace_all(
        load_arch("edge-16k"),
        {"dram.burst": "8 B", "dma.halo": rng.choice(["sliding", "sliding", "none"])},
    )


def case(
    kind: str, seed: int
) -> tuple[Program, VectorTiling, Arch, dict[str, Format], VectorTiles]:
    rng = random.Random(f"{kind} {seed}")
    program, arch = made(kind, rng), random_arch(rng)
    (operation,) = program.operations
    formats = {name: random_format(rng) for name in program.activations}
    tiling = rng.choice(vector_tilings(operation, formats))
    return program, tiling, arch, formats, vector_tiles(operation, tiling, arch, formats)


@pytest.mark.parametrize("seed", often(12, range(100)))
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_those_of_sets_of_elements(kind: str, seed: int) -> None:
    program, tiling, arch, formats, tiles = case(kind, seed)
    (operation,) = program.operations
    grid = [*grid_tiles(operation, kind, tiling)]
    assert tiles.steps == len(grid)
    for place, operand in enumerate(tiles.operands):
        fmt = formats[operand.view.activation]
        fetched = as_sets(operand.fetched)
        if not operand.placed:
            box = {*product(*map(range, plan_of(operation).reads[place].box))}
            assert sum(map(len, fetched)) == len(box)
            assert set().union(*fetched) == box
            for visit, fresh in enumerate(fetched):
                check_price(operand, visit, fresh, fmt)
            assert in_order(kind, operation)
            continue
        needs = [
            around({one for at in product(*box) for one in sources(kind, program, place, at)})
            for box in grid
        ]
        visits = walked(needs, arch.dma.halo)
        assert operand.begins.tolist() == [step for step, _, _ in visits]
        assert operand.ends.tolist() == [*operand.begins[1:].tolist(), len(grid)]
        assert as_sets(operand.resident) == [held for _, held, _ in visits]
        assert fetched == [fresh for _, _, fresh in visits]
        for visit, (_, held, fresh) in enumerate(visits):
            assert operand.stays[visit].held == sum(bits(held, fmt))
            check_price(operand, visit, fresh, fmt)
        assert not in_order(kind, operation)


@pytest.mark.parametrize("seed", often(12, range(100)))
@pytest.mark.parametrize("kind", KINDS)
def test_each_result_is_written_once_and_all_work_is_done(kind: str, seed: int) -> None:
    program, _, arch, formats, tiles = case(kind, seed)
    (operation,) = program.operations
    results, fmt = tiles.results, formats[tiles.results.view.activation]
    written = as_sets(results.resident)
    assert sum(map(len, written)) == operation.writes.elements
    assert set().union(*written) == {*product(*map(range, operation.writes.shape))}
    layout = ActivationLayout(operation.writes.shape, fmt)
    for visit, elements in enumerate(written):
        stay = results.stays[visit]
        assert stay.arrives.payload == 0
        assert (stay.leaves.mantissa, stay.leaves.exponent) == bits(elements, fmt)
        padding = layout.runs(*results.resident.at(visit)).burst_padding(64)
        assert stay.leaves.burst == padding
        steps = int(results.ends[visit] - results.begins[visit])
        assert steps == 1 or over_operand(kind, operation)
        finished = len(written) == tiles.steps // tiles.readings
        sums = 0 if finished else len(elements) * arch.pe_array.accumulator_bits
        assert stay.held == max(sum(bits(elements, fmt)), sums)
    # Blocks are never cut: what leaves is all that is stored.
    assert sum(results.stays[i].leaves.payload for i in range(len(written))) == layout.bits
    assert int(tiles.work.sum()) == program.vector_work[operation.name]
    assert tiles.work.min() > 0


@pytest.mark.parametrize("seed", often(25, range(150)))
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_is_the_sum_of_the_tiles(kind: str, seed: int) -> None:
    program, tiling, arch, formats, tiles = case(kind, seed)
    (operation,) = program.operations
    *reads, results = vector_traffic(operation, tiling, arch, formats)
    assert [own.view for own in reads] == [own.view for own in tiles.operands]
    for moved, operand in zip(reads, tiles.operands, strict=True):
        stays = operand.stays
        assert moved.bits == sum(stays[i].arrives.payload for i in range(len(stays)))
    stays = tiles.results.stays
    assert results.bits == sum(stays[i].leaves.payload for i in range(len(stays)))
    assert tuple(own.room for own in (*reads, results)) == tiles.room


@pytest.mark.parametrize("kind", KINDS)
def test_an_operand_is_read_once_for_each_reading_where_columns_are_whole(kind: str) -> None:
    arch = load_arch("edge-16k")
    for seed in range(12):
        rng = random.Random(f"{kind} {seed}")
        program = made(kind, rng)
        (operation,) = program.operations
        formats = {name: random_format(rng) for name in program.activations}
        plan = plan_of(operation)
        for tiling in vector_tilings(operation, formats):
            if tiling.columns < plan.grid[2] or tiling.channels < plan.grid[3]:
                continue
            *reads, _ = vector_traffic(operation, tiling, arch, formats)
            for moved, access in zip(reads, plan.reads, strict=True):
                whole = ActivationLayout(access.box, formats[moved.view.activation]).bits
                samples = plan.grid[0] if kind == "mul" and moved.view.shape[0] == 1 else 1
                assert moved.bits <= whole * samples * plan.readings
                if prod(len(own.low) for own in plan.loops(tiling)) == plan.grid[0] * plan.readings:
                    assert moved.bits <= whole * samples  # a sample stays for the second reading


def test_what_is_stretched_needs_no_more_than_its_line_says() -> None:
    """Of linear and cubic splines, with pixels' centres, corners, or origins aligned."""
    for inputs in range(2, 8):
        for outputs in range(inputs, 4 * inputs):
            for place in range(outputs):
                scale = Fraction(inputs, outputs)
                corners = Fraction(inputs - 1, max(1, outputs - 1))
                centre = (place + Fraction(1, 2)) * scale - Fraction(1, 2)
                at = [floor(own) for own in (centre, place * corners, place * scale)]
                for beside, first, last in ((1, 0, 1), (2, -1, 2)):
                    low, high = Stretched(inputs, outputs, beside).stored(place, place + 1)
                    needed = {min(max(x + i, 0), inputs - 1) for x in at
                              for i in range(first, last + 1)}  # fmt: skip
                    assert needed <= set(range(low, high))


def test_tilings_begin_with_the_whole_and_end_with_a_pixel() -> None:
    rng = random.Random(1)
    program = made("relu", rng)
    (operation,) = program.operations
    formats = {name: random_format(rng, results=True) for name in program.activations}
    tilings = vector_tilings(operation, formats)
    _, H, W, C = operation.writes.shape
    block = formats["last"].block_size
    assert tilings[0] == (H, W, C)
    assert tilings[-1] == (1, 1, min(C, block))
    assert len({*tilings}) == len(tilings)
    assert all(own.channels == C or own.channels % block == 0 for own in tilings)
    sizes = [prod(own) for own in tilings]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "name", often(3, ["yolov8n", "vit-b16", "mobilenetv2-eca", "mask-dino-r50-semantic",
                      "one-peace-segmentation"])
)  # fmt: skip
def test_vector_operations_of_shipped_networks_fit_16_kib(name: str) -> None:
    program, arch = program_of(load_workload(name), block=16), load_arch("edge-16k")
    formats = activation_formats(program, LayerFormats.uniform(BFP(8, 3, 16)))
    for operation in program.operations:
        if operation.unit != "vector":
            continue
        for tiling in vector_tilings(operation, formats):
            moved = vector_traffic(operation, tiling, arch, formats)
            if sum(own.room for own in moved) <= arch.usable_bits("I"):
                break
        else:
            pytest.fail(f"{operation.name} of {name} fits under no tiling")
        tiles = vector_tiles(operation, tiling, arch, formats)
        assert tiles.room == tuple(own.room for own in moved)
        for own, operand in zip(moved, tiles.operands, strict=False):
            stays = operand.stays
            times = np.bincount(stays.kinds, minlength=len(stays.prices)).tolist()
            arrives = [stay.arrives.payload for stay in stays.prices]
            assert own.bits == sum(a * b for a, b in zip(times, arrives, strict=True))


def test_only_vector_operations_have_tiles() -> None:
    build = NetworkBuilder("one", (1, 4, 4, 8))
    build.conv("conv", "input", 8, (1, 1))
    (operation,) = program_of(build.network()).operations
    with pytest.raises(ValueError, match="conv: unit array; allowed: vector"):
        plan_of(operation)
