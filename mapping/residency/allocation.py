"""Which activations of a program stay on chip, and every operation's tiles in what room is left.

Solved to a proven optimum on exact costs: of the least traffic that each operation has over its
room, then priced with whole bursts (and insides that fit), raised where that is more, and solved
again until nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from collections.abc import Mapping as ByName
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as combinations
from typing import NamedTuple, cast

from bfpsim.arch import Arch
from bfpsim.mapping.fit import stored
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.mapping.residency import frontier
from bfpsim.mapping.residency.beyond import Beyond
from bfpsim.mapping.residency.cut import Cuts, Residence, Slot
from bfpsim.mapping.residency.frontier import Members, Problem, Solution, Stage
from bfpsim.mapping.residency.products import GivenCut, Product, ProductCuts
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.residency.vectors import VectorCuts, VectorWork
from bfpsim.mapping.stored import activation_formats
from bfpsim.mapping.vector import VectorTiling
from bfpsim.objects import immutable
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.workloads import ConvLayer
from bfpsim.workloads.program import Operation, Program, View
from bfpsim.workloads.vector import vector_function

Formats = LayerFormats | ByName[str, LayerFormats]
"""Of all layers, or by layer name."""


@immutable
@dataclass(frozen=True)
class Allocation:
    """What stays on chip, and the tiles of every operation that is not the host's.

    sizes: resident activation -> its stored bits, in program order
    overwrites: operation -> the resident operand that its output replaces, in the same room
    mappings: of products; tilings: of vector operations
    slots: operation -> what its tiles take of the buffers
    dram_bits: operation -> what it moves off chip, bursts included
    bound: what no allocation moves less than [bit]
    """

    sizes: ByName[str, int]
    overwrites: ByName[str, str]
    mappings: ByName[str, Mapping]
    tilings: ByName[str, VectorTiling]
    slots: ByName[str, tuple[Slot, ...]]
    dram_bits: ByName[str, int]
    bound: int

    @property
    def residents(self) -> tuple[str, ...]:
        """The activations that stay, in program order."""
        return tuple(self.sizes)

    @property
    def total_bits(self) -> int:
        """What the program moves off chip, bursts included."""
        return sum(self.dram_bits.values())

    @property
    def proven(self) -> bool:
        """Whether no allocation moves less."""
        return self.bound >= self.total_bits


def allocate(
    program: Program,
    arch: Arch,
    formats: Formats,
    *,
    mappings: ByName[str, Mapping] | None = None,
    keep: Collection[str] | None = None,
) -> Allocation:
    """The allocation that moves least off chip.

    mappings: of products, by name, that are kept as they are
    keep: the activations that may stay; otherwise all that can

    Of equal traffic the residents that take least room; then each operation's tiles as the mapper
    breaks ties, in all the room that is left.
    Raises MappingError if an operation fits in no case.
    """
    return allocations(program, arch, formats, [keep], mappings=mappings)[0]


def allocations(
    program: Program,
    arch: Arch,
    formats: Formats,
    keeps: Sequence[Collection[str] | None],
    *,
    mappings: ByName[str, Mapping] | None = None,
) -> list[Allocation]:
    """As `allocate`, one for each of `keeps`; how operations can be cut is worked out once."""
    known = Known({}, {})
    return [
        Allocating(program, arch, formats, mappings or {}, keep, known).allocation({})
        for keep in keeps
    ]


class Known(NamedTuple):
    """What allocations of one machine share.

    cuts: of operations, by their kind and a mapping that is given
    beyond: of products, by layer and formats
    """

    cuts: dict[object, Cuts]
    beyond: dict[tuple[ConvLayer, LayerFormats], Beyond]


class Allocating:
    """An allocation being worked out; raises MappingError as `allocate`."""

    def __init__(
        self,
        program: Program,
        arch: Arch,
        formats: Formats,
        mappings: ByName[str, Mapping],
        keep: Collection[str] | None,
        known: Known,
    ) -> None:
        self._program, self._arch, self._formats, self._given = program, arch, formats, mappings
        self._stored = activation_formats(program, formats)
        self._capacity = arch.buffer("I").capacity
        self._names = [
            name
            for name in sorted(program.activations, key=self._first)
            if program.on_chip(name)
            and (keep is None or name in keep)
            and self._size(name) <= self._capacity
        ]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._known = known
        self._cuts = self._find_cuts()
        self._bounds: dict[tuple[int, Residence], Stairs] = {}
        stages = [self._stage(place) for place in range(len(program.operations))]
        sizes = [self._size(name) for name in self._names]
        self._problem = problem = Problem(stages, sizes, self._capacity)
        solution = self._solve(problem)
        while self._raise_bounds(problem, solution):
            solution = self._solve(problem)
        self._residents, self._bound = solution.residents, solution.bound

    def allocation(self, most: ByName[str, int]) -> Allocation:
        """The allocation.

        most: room that the tiles of an operation are to take at most, where those cost no more
        """
        names = [name for name in self._names if self._residents >> self._numbers[name] & 1]
        chosen = set(names)
        overwrites, mappings, tilings, slots, bits = {}, {}, {}, {}, {}
        for place, room in enumerate(frontier.rooms(self._problem, self._residents)):
            operation, cuts = self._program.operations[place], self._cuts[place]
            replaced = replaces(self._program, place, self._stored)
            if replaced in chosen and operation.writes.activation in chosen:
                overwrites[operation.name] = replaced
            if cuts is None:
                continue
            residence = self._residence(operation, self._residents)
            less = min(room, most.get(operation.name, room))
            if cuts.cost(residence, less) == cuts.cost(residence, room):
                room = less
            cut = cuts.best(residence, room)
            assert cut is not None  # its bound is finite and has been reached
            slots[operation.name], bits[operation.name] = cut.slots, cut.dram_bits
            if isinstance(cut.tiles, Mapping):
                mappings[operation.name] = cut.tiles
            else:
                tilings[operation.name] = cut.tiles
        sizes = {name: self._size(name) for name in names}
        bound = min(math.ceil(self._bound), sum(bits.values()))
        return Allocation(sizes, overwrites, mappings, tilings, slots, bits, bound)

    # --- the problem -----------------------------------------------------------------------------

    def _first(self, name: str) -> tuple[int, str]:
        writers = self._program.writers[name]
        return (writers[0] if writers else -1), name

    def _size(self, name: str) -> int:
        return ActivationLayout(self._program.activations[name].shape, self._stored[name]).bits

    def _find_cuts(self) -> list[Cuts | None]:
        """Of each operation; equal operations have the same."""
        known = self._known.cuts
        found: list[Cuts | None] = []
        wanted: dict[int, dict[Residence, None]] = {}
        for operation in self._program.operations:
            if operation.unit == "host":
                found.append(None)
                continue
            key = self._kind(operation)
            given = self._given.get(operation.name) if isinstance(key, Product) else None
            if (key, given) not in known:
                known[key, given] = self._new_cuts(key, given, operation)
            own = known[key, given]
            found.append(own)
            wanted.setdefault(id(own), {}).update(dict.fromkeys(self._residences(operation)))
        for own in dict.fromkeys(own for own in found if isinstance(own, ProductCuts)):
            own.prepare(list(wanted[id(own)]))
        return found

    def _new_cuts(
        self, kind: Product | VectorWork, given: Mapping | None, operation: Operation
    ) -> Cuts:
        if isinstance(kind, VectorWork):
            return VectorCuts(kind, self._arch, self._capacity)
        if given is not None:
            return GivenCut(kind, self._arch, given)
        key = kind.layer, kind.formats
        beyond = self._known.beyond
        if key not in beyond:
            beyond[key] = Beyond(stored(kind.layer, self._arch), self._arch, kind.formats)
        return ProductCuts(kind, self._arch, self._capacity, beyond[key])

    def _kind(self, operation: Operation) -> Product | VectorWork:
        """All that decides an operation's costs."""
        if operation.layer is None:
            return VectorWork.of(operation, self._stored)
        addends = tuple(self._stored[view.activation] for view in operation.addends)
        written = self._stored[operation.writes.activation]
        mean = ActivationLayout(operation.writes.shape, written).bits if operation.mean else None
        formats = layer_formats_of(self._formats, operation)
        layer = replace(operation.layer, name="any")
        return Product(layer, formats, addends, mean, operation.whole_channels, operation.repeats)

    def _stage(self, place: int) -> Stage:
        operation, program = self._program.operations[place], self._program
        written = operation.writes.activation
        begins = None
        if written in self._numbers and program.writers[written][0] == place:
            begins = self._numbers[written]
        ends = uses = 0
        for view in (*operation.reads, *operation.addends, operation.writes):
            number = self._numbers.get(view.activation)
            if number is not None:
                uses |= 1 << number
                if program.lifetime(view.activation)[1] == place:
                    ends |= 1 << number
        replaced = replaces(program, place, self._stored)
        pair = None
        if replaced in self._numbers and written in self._numbers:
            pair = self._numbers[replaced], self._numbers[written]
        costs = None if self._cuts[place] is None else partial(self._costs, place)
        return Stage(begins, ends, uses, pair, costs)

    def _costs(self, place: int, residents: Members) -> Stairs:
        """The least traffic of an operation over its room, as far as is known."""
        cuts, residence = self._cuts[place], self._residence_at(place, residents)
        assert cuts is not None  # a stage of the host costs nothing
        key = id(cuts), residence
        if key not in self._bounds:
            self._bounds[key] = cuts.stairs(residence)
        return self._bounds[key]

    def _residence_at(self, place: int, residents: Members) -> Residence:
        return self._residence(self._program.operations[place], residents)

    def _residence(self, operation: Operation, residents: Members) -> Residence:
        def resident(view: View) -> bool:
            number = self._numbers.get(view.activation)
            return number is not None and bool(residents >> number & 1)

        return Residence(
            tuple(resident(view) for view in operation.reads),
            tuple(resident(view) for view in operation.addends),
            resident(operation.writes),
        )

    def _residences(self, operation: Operation) -> list[Residence]:
        """All that may be, of those that the operation may see."""
        views = (*operation.reads, *operation.addends, operation.writes)
        names = [own for own in dict.fromkeys(v.activation for v in views) if own in self._numbers]
        found = []
        for choice in combinations((False, True), repeat=len(names)):
            members = sum(
                1 << self._numbers[n] for n, own in zip(names, choice, strict=True) if own
            )
            found.append(self._residence(operation, members))
        return list(dict.fromkeys(found))

    # --- solving ---------------------------------------------------------------------------------

    def _solve(self, problem: Problem) -> Solution:
        try:
            try:
                return frontier.solve(problem)
            except frontier.TooWideError:
                from bfpsim.mapping.residency import integer

                return integer.solve(problem)
        except frontier.InfeasibleError as error:
            raise MappingError(self._shortage(error.stage)) from None

    def _shortage(self, place: int) -> str:
        operation, arch = self._program.operations[place], self._arch
        what = "no tiles that hold all channels fit" if operation.whole_channels else "no tiles fit"
        if operation.name in self._given:
            what = "its mapping does not fit"
        # What stays needs room of its own: of all that is off chip, what tiles take is enough.
        stairs = cast(Cuts, self._cuts[place]).stairs(self._residence(operation, 0))
        more = f"; allowed: at least {stairs.rooms[0]} bit" if stairs.rooms else ""
        where = "the shared SRAM" if arch.shared else "its buffers"
        return (
            f"{operation.name}: {what} {arch.name}, where {where} has room for "
            f"{self._capacity} bit{more}"
        )

    def _raise_bounds(self, problem: Problem, solution: Solution) -> bool:
        """Price what is chosen, and raise the bounds that are below; whether any was."""
        changed = False
        for place, room in enumerate(frontier.rooms(problem, solution.residents)):
            cuts = self._cuts[place]
            if cuts is None:
                continue
            residence = self._residence_at(place, solution.residents)
            bound = self._costs(place, solution.residents & problem.stages[place].uses)
            for own in (min(bound.end(room), self._capacity), room):
                cost = cuts.cost(residence, int(own))
                if cost > bound.at(int(own)):
                    bound = bound.raised(int(own), cost)
                    changed = True
            self._bounds[id(cuts), residence] = bound
        return changed


def layer_formats_of(formats: Formats, operation: Operation) -> LayerFormats:
    """The formats of a product."""
    return formats if isinstance(formats, LayerFormats) else formats[operation.name]


def replaces(program: Program, place: int, stored: ByName[str, Format]) -> str | None:
    """The operand that an operation may overwrite with its output, if both are resident.

    An element-wise one of the same shape and format, whole, that is last used there, once.
    """
    operation = program.operations[place]
    written = operation.writes
    if operation.unit == "host" or operation.mean or not _whole(program, written):
        return None
    if program.writers[written.activation] != (place,):
        return None
    views = list(operation.addends)
    function = vector_function(operation.nodes[0])
    if operation.layer is None and function is not None and function.reach == "element":
        views = [*operation.reads, *views]
    every = [view.activation for view in (*operation.reads, *operation.addends)]
    for view in views:
        name = view.activation
        if (
            program.on_chip(name)
            and _whole(program, view)
            and view.shape == written.shape
            and every.count(name) == 1
            and program.lifetime(name)[1] == place
            and stored[name] == stored[written.activation]
        ):
            return name
    return None


def _whole(program: Program, view: View) -> bool:
    return view.first == 0 and view.shape == program.activations[view.activation].shape
