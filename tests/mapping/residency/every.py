"""All residencies and all mappings of a program that is small enough, priced step by step.

Shares with what it checks the tiles, their prices and the definition of where sums lie.
"""

import dataclasses
import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.array import sums_lie_outside
from bfpsim.mapping.fit import check_all_blocks, stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, make_nest
from bfpsim.mapping.steps.price import box_transfers, stays_of
from bfpsim.mapping.steps.tiles import output_tiles
from bfpsim.mapping.steps.vector import vector_tiles
from bfpsim.mapping.vector import vector_tilings
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.workloads import ConvLayer, Network, NetworkBuilder
from bfpsim.workloads.program import Operation, Program
from tests.generate import make_arch

Bits = NDArray[np.int64]


def small_network(rng: random.Random) -> Network:
    """Products with branches, skips, joins, pools, a mean: few activations, few mappings."""
    H, W = rng.choice([(2, 2), (3, 2), (1, 4), (3, 3)])
    build = NetworkBuilder("small", (1, H, W, 2))
    known = ["input"]
    for number in range(rng.randint(3, 5)):
        x = rng.choice([known[-1], known[-1], *known[-2:]])
        _, H, W, C = build.shape(x)
        kernel = rng.choice([1, min(H, 2), min(H, 3)]), rng.choice([1, min(W, 2)])
        groups = rng.choice([1, 1, 1, C])
        y = build.conv(
            f"conv{number}", x, rng.choice([2, 2, 4]) if groups == 1 else C, kernel,
            padding=(0, kernel[0] - 1, 0, kernel[1] - 1) if rng.random() < 0.7 else 0,
            groups=groups,
        )  # fmt: skip
        for step in range(rng.choice([0, 1, 1, 2])):
            y = _after(rng, build, f"n{number}.{step}", y, known)
        known.append(y)
    if rng.random() < 0.3:
        build.avgpool("mean", known[-1])
    return build.network()


def _after(rng: random.Random, build: NetworkBuilder, name: str, x: str, known: list[str]) -> str:
    N, H, W, C = build.shape(x)
    same = [own for own in known if build.shape(own) == build.shape(x)]
    joined = [own for own in known if build.shape(own)[:3] == (N, H, W) and own != x and C <= 2]
    match rng.randrange(12):
        case 0:
            return build.relu(name, x)
        case 1 | 2 | 3 | 4 | 5 | 6 if same:
            return build.add(name, x, rng.choice(same[-2:]))
        case 7 | 8 if joined:
            return build.concat(name, x, rng.choice(joined))
        case 9 if H > 1:
            return build.maxpool(name, x, (2, 1), stride=1)
        case 10:
            return build.host(name, "softmax", x)
        case 11:
            factor = build.host(f"{name}.sigmoid", "sigmoid", build.avgpool(f"{name}.mean", x))
            return build.host(name, "mul", x, factor)
    return x


def small_machine(rng: random.Random, burst: str = "1 bit") -> Arch:
    """One shared buffer or three, one slot a tensor or two, with a vector unit or without."""

    def part() -> dict[str, object]:
        return {
            "capacity": "64 KiB",
            "width": "128 bit",
            "double_buffered": rng.random() < 0.4,
        }

    split = rng.random() < 0.35
    arch = make_arch(
        sram={name: part() for name in ("input", "weight", "output")} if split else part(),
        burst=burst,
        rows=("C", rng.choice([1, 2, 4])),
        cols=("K", rng.choice([1, 2])),
        stationary=rng.choice(["weight", "output", "input"]),
        accumulator_bits=rng.choice([9, 16]),
        halo=rng.choice(["sliding", "none"]),
        padding=rng.choice(["skip", "skip", "fetch"]),
    )
    return replace(arch, "vector", Vector(lanes=4)) if rng.random() < 0.85 else arch


def with_capacity(arch: Arch, bits: int) -> Arch:
    """So much room in the buffer in which activations stay."""
    return replace(arch, "sram.capacity" if arch.shared else "sram.input.capacity", f"{bits} bit")


@dataclass(frozen=True)
class Tilings:
    """Ways to cut an operation: a row each; columns of operands are its distinct views.

    rooms, bits: of the operands as they are fetched; of the output in its slot and off chip
    spare: of the output's slot if the results stay; resumes: whether sums go off chip
    """

    rooms: Bits
    bits: Bits
    out_room: Bits
    out_bits: Bits
    spare: Bits
    sums: Bits


def needs(arch: Arch, tilings: Tilings, on_chip: tuple[bool, ...], stays: bool) -> Bits:
    """Room in the buffer of activations; beyond all reason where another buffer is short."""
    double = {t: 2 if arch.buffer(t).double_buffered else 1 for t in "IWO"}
    names = ["I"] * len(on_chip)
    if tilings.rooms.shape[1] > len(on_chip):  # weights come last
        names.append("W")
    taken = dict.fromkeys("IWO", np.zeros(len(tilings.out_room), np.int64))
    for column, name in enumerate(names):
        if column >= len(on_chip) or not on_chip[column]:
            taken[name] = taken[name] + tilings.rooms[:, column] * double[name]
    taken["O"] = (tilings.spare if stays else tilings.out_room) * double["O"]
    if arch.shared:
        return taken["I"] + taken["W"] + taken["O"]
    short = np.zeros(len(tilings.out_room), bool)
    for name in "WO":
        short |= taken[name] > arch.buffer(name).capacity
    return np.where(short, 1 << 40, taken["I"])


@cache
def product_tilings(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, addends: tuple[Format, ...],
    mean: bool, whole: bool,
) -> Tilings:  # fmt: skip
    """Every mapping: all tile sizes in all orders. Operands: I, the addends, then W."""
    kept = stored(layer, arch)
    rows = []
    for sizes in product(*(range(1, kept.dims[d] + 1) for d in DIMS)):
        tile = {d: size for d, size in zip(DIMS, sizes, strict=True) if size < kept.dims[d]}
        if whole and ("K" in tile or "G" in tile):
            continue
        try:
            check_all_blocks(make_nest(kept, Mapping("".join(tile), tile)), arch, formats)
        except MappingError:
            continue
        for order in permutations(tile):
            nest = make_nest(kept, Mapping("".join(order), tile))
            rows.append(_priced(nest, arch, formats, addends, mean))
    return _table(rows)


def _priced(nest, arch, formats, addends, mean):  # type: ignore[no-untyped-def]
    _, stays = stays_of(nest, arch, formats)
    rooms, bits = {}, {}
    results = sums = 0
    for tensor, own in stays.items():
        rooms[tensor] = max(stay.held for stay in own.prices)
        times = np.bincount(own.kinds, minlength=len(own.prices)).tolist()
        bits[tensor] = 0
        for stay, many in zip(own.prices, times, strict=True):
            bits[tensor] += (sum(stay.arrives) + sum(stay.leaves)) * many
            if tensor == "O":
                back = stay.arrives.psum + stay.arrives.burst
                out = sum(stay.leaves)
                sums += (back + (out if stay.leaves.psum else 0)) * many
                results += (0 if stay.leaves.psum else out) * many
    outputs = output_tiles(nest)
    added_rooms, added_bits = [], []
    for fmt in addends:
        layout = ActivationLayout(nest.layer.output_shape, fmt)
        moved = box_transfers(outputs.resident, layout, fmt, arch)
        payload = sum(own for own in moved[:2] if own is not None)
        every = sum(own for own in moved if own is not None)
        added_rooms.append(int(np.max(payload)))
        added_bits.append(int(np.sum(every[outputs.finished])))
    spare = rooms["O"] if sums_lie_outside(nest, arch) else 0
    return (
        [rooms["I"], *added_rooms, rooms["W"]],
        [bits["I"], *added_bits, bits["W"]],
        spare if mean else rooms["O"],
        0 if mean else results,
        spare,
        sums,
    )


def _table(rows) -> Tilings:  # type: ignore[no-untyped-def]
    columns = [np.array(own, np.int64) for own in zip(*rows, strict=True)]
    return Tilings(*columns)


def vector_rows(
    operation: Operation, arch: Arch, formats: dict[str, Format]
) -> tuple[list[str], Tilings]:
    """Every tiling that is offered of a vector operation, and the activations of its operands."""
    rows = []
    names: list[str] = []
    for tiling in vector_tilings(operation, formats):
        tiles = vector_tiles(operation, tiling, arch, formats)
        names = [own.view.activation for own in tiles.operands]
        bits = []
        for stays in (*(own.stays for own in tiles.operands), tiles.results.stays):
            times = np.bincount(stays.kinds, minlength=len(stays.prices)).tolist()
            moved = (sum(stay.arrives) + sum(stay.leaves) for stay in stays.prices)
            bits.append(sum(b * many for b, many in zip(moved, times, strict=True)))
        *rooms, out = tiles.room
        rows.append((rooms, bits[:-1], out, bits[-1], 0, 0))
    return names, _table(rows)


class Every:
    """All that can be done with a program, to be asked at many capacities."""

    def __init__(
        self, program: Program, arch: Arch, formats: LayerFormats, stored_in: dict[str, Format]
    ) -> None:
        self.program, self.arch, self.formats, self.stored = program, arch, formats, stored_in
        self.names = [name for name in program.activations if self._may_stay(name)]
        self._tables = [self._tilings(own) for own in program.operations]
        self._known: dict[object, tuple[Bits, Bits]] = {}

    def size(self, name: str) -> int:
        """Stored bits of an activation."""
        return ActivationLayout(self.program.activations[name].shape, self.stored[name]).bits

    def _may_stay(self, name: str) -> bool:
        own = self.program.activations[name]
        users = [op for op in self.program.operations if name in self._touched(op)]
        reads = [op for op in users if name in [v.activation for v in (*op.reads, *op.addends)]]
        return (
            own.origin == "operation"
            and name not in self.program.outputs
            and bool(reads)
            and all(op.unit != "host" for op in users)
        )

    @staticmethod
    def _touched(operation: Operation) -> set[str]:
        views = (*operation.reads, *operation.addends, operation.writes)
        return {view.activation for view in views}

    def life(self, name: str) -> tuple[int, int]:
        """The first operation that touches an activation that may stay, and the last."""
        places = [
            place for place, own in enumerate(self.program.operations)
            if name in self._touched(own)
        ]  # fmt: skip
        return min(places), max(places)

    def _tilings(self, operation: Operation) -> tuple[list[str], Tilings] | None:
        if operation.unit == "host":
            return None
        if operation.layer is None:
            return vector_rows(operation, self.arch, self.stored)
        addends = tuple(self.stored[view.activation] for view in operation.addends)
        names = [operation.reads[0].activation, *(view.activation for view in operation.addends)]
        layer = dataclasses.replace(operation.layer, name="any")
        return names, product_tilings(
            layer, self.arch, self.formats, addends, operation.mean,
            operation.whole_channels,
        )  # fmt: skip

    def replaces(self, place: int) -> str | None:
        """What the output of an operation may overwrite."""
        operation = self.program.operations[place]
        if operation.unit == "host" or operation.mean:
            return None
        written = operation.writes
        shape = self.program.activations[written.activation].shape
        others = [
            own for number, own in enumerate(self.program.operations)
            if number != place and own.writes.activation == written.activation
        ]  # fmt: skip
        if others or written.shape != shape:
            return None
        operands = list(operation.addends)
        core = operation.nodes[0]
        if operation.unit == "vector" and (core.op in ("add", "relu") or core.function == "mul"):
            operands = [*operation.reads, *operands]
        uses = [view.activation for view in (*operation.reads, *operation.addends)]
        for view in operands:
            name = view.activation
            if (
                name in self.names
                and uses.count(name) == 1
                and view.shape == self.program.activations[name].shape == shape
                and self.life(name)[1] == place
                and self.stored[name] == self.stored[written.activation]
            ):
                return name
        return None

    def points(self, place: int, on_chip: frozenset[str]) -> tuple[Bits, Bits]:
        """Room and traffic of every tiling of an operation, residents given."""
        operation = self.program.operations[place]
        key = place, on_chip & self._touched(operation)
        if key not in self._known:
            found = self._tables[place]
            assert found is not None
            names, tilings = found
            stays = operation.writes.activation in on_chip
            resident = tuple(name in on_chip for name in names)
            room = needs(self.arch, tilings, resident, stays)
            bits = tilings.sums + (0 if stays else tilings.out_bits)
            for column in range(tilings.bits.shape[1]):
                if column >= len(resident) or not resident[column]:
                    bits = bits + tilings.bits[:, column]
            if operation.mean:
                burst = self.arch.dram.burst
                mean = ActivationLayout(
                    operation.writes.shape, self.stored[operation.writes.activation]
                ).bits
                bits = bits + (0 if stays else -(-mean // burst) * burst)
            elif stays:
                room = np.where(tilings.sums > 0, 1 << 40, room)
            self._known[key] = room, bits
        return self._known[key]

    def moves(self, place: int, mapping: Mapping, on_chip: frozenset[str]) -> int:
        """What a product moves off chip under a mapping."""
        operation = self.program.operations[place]
        assert operation.layer is not None
        addends = tuple(self.stored[view.activation] for view in operation.addends)
        nest = make_nest(stored(operation.layer, self.arch), mapping)
        row = _priced(nest, self.arch, self.formats, addends, operation.mean)
        (names, _), whole = self._tables[place], self._tables[place]  # type: ignore[misc]
        self._tables[place] = names, _table([row])
        self._known = {}
        _, bits = self.points(place, on_chip)
        self._tables[place], self._known = whole, {}
        return int(bits[0])

    def cost(self, capacity: int, on_chip: frozenset[str]) -> float:
        """The least traffic of all operations, residents given."""
        total = 0.0
        for place, operation in enumerate(self.program.operations):
            room = capacity
            for name in on_chip:
                first, last = self.life(name)
                room -= self.size(name) if first <= place <= last else 0
            replaced = self.replaces(place)
            if replaced in on_chip and operation.writes.activation in on_chip:
                room += self.size(operation.writes.activation)
            if room < 0:
                return float("inf")
            if operation.unit == "host":
                continue
            rooms, bits = self.points(place, on_chip)
            fits = rooms <= room
            if not fits.any():
                return float("inf")
            total += int(bits[fits].min())
        return total

    def best(self, capacity: int) -> float:
        """The least over all residencies."""
        return min(
            self.cost(capacity, frozenset(chosen))
            for count in range(len(self.names) + 1)
            for chosen in combinations(self.names, count)
        )

    def capacities(self, rng: random.Random, count: int) -> list[int]:
        """Some from what just fits to what holds everything."""
        nothing: frozenset[str] = frozenset()
        least = max(
            int(self.points(place, nothing)[0].min())
            for place, own in enumerate(self.program.operations)
            if own.unit != "host"
        )
        most = least + sum(map(self.size, self.names))
        return sorted(rng.randint(int(least * 0.97), most) for _ in range(count))
