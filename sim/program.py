"""A whole network as one program on the accelerator, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from bfpsim.arch import Arch, Traffic
from bfpsim.mapping.array import passes
from bfpsim.mapping.counts import Counts, level_column, to_frame
from bfpsim.mapping.energy import Energy, Work, energy_of, operand_bits
from bfpsim.mapping.residency import Allocation, allocations
from bfpsim.mapping.stored import activation_formats
from bfpsim.mapping.vector import VectorTiling
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.machine import Machine, StageTally
from bfpsim.sim.notebook import as_html
from bfpsim.sim.room import Change
from bfpsim.sim.staging import Plan, stages_of
from bfpsim.sim.utilisation import Utilisation
from bfpsim.workloads import Network, WorkloadError
from bfpsim.workloads.program import Operation, Program, program_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

    from bfpsim.mapping.nest import Mapping as Tiling
    from bfpsim.sim.contents import Contents
    from bfpsim.sim.stage import Stage
    from bfpsim.sim.timeline import Timeline

_PJ_PER_UJ = 1e6


@dataclass(frozen=True, eq=False)
class OperationResult:
    """One operation of a simulated program.

    tiles: a mapping of a product, a tiling of a vector operation, None of the host's
    formats: of a product
    start, end: when its unit turned to it, and when its last bit was written [cycle]
    cycles: by which the end of the program so far moved on with it; they add up to the program's.
        What overlaps with operations before it is not in it
    vector_cycles: that the vector unit worked for it
    stalls: cycles that its unit waited, once it was its turn, by the tensor that came last
    """

    network: str
    operation: Operation
    arch: Arch
    tiles: Tiling | VectorTiling | None
    formats: LayerFormats | None
    counts: Counts
    start: int
    end: int
    cycles: int
    steady_cycles: int
    fill_cycles: int
    port_cycles: int
    vector_cycles: int
    vector_operations: int
    stalls: dict[Traffic, int]
    dram_busy_cycles: int
    activates: int
    steps: int
    transfers: int
    timeline: Timeline

    @property
    def name(self) -> str:
        """Of the operation, which is that of its layer if it has one."""
        return self.operation.name

    @property
    def compute_cycles(self) -> int:
        """Cycles that the PE array is busy: steady, filling, and held up by ports."""
        return self.steady_cycles + self.fill_cycles + self.port_cycles

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        layer = self.operation.layer
        return 0 if layer is None else layer.macs * self.operation.repeats

    @property
    def products(self) -> int:
        """Multiplications: multiply-accumulates, times the passes of wide operands."""
        if self.formats is None:
            return 0
        return self.macs * passes(self.arch.pe_array, self.formats)

    @property
    def work(self) -> Work:
        """What it spends energy on; of what time costs, its own `cycles`."""
        bits = 0 if self.formats is None else operand_bits(self.formats)
        return Work(
            *(self.counts, self.products, bits, self.cycles, self.vector_operations),
            activates=self.activates,
            dram_busy=self.dram_busy_cycles,
        )

    @cached_property
    def energy(self) -> Energy:
        """What its energy is made of."""
        return energy_of(self.arch, [self.work])

    @property
    def energy_pj(self) -> float:
        """Eq. 8, correctly rounded [pJ]."""
        return self.energy.movement_pj


@dataclass(frozen=True, eq=False)
class ProgramResult:
    """A network that ran as one program.

    allocation: what stayed on chip, and the tiles of every operation
    operations: in program order
    changes: of SRAM's room: slots and activations that stay, as they come and go
    """

    network: str
    arch: Arch
    program: Program
    allocation: Allocation
    operations: tuple[OperationResult, ...]
    changes: tuple[Change, ...]

    @cached_property
    def traffic(self) -> pd.DataFrame:
        """The tidy table of all operations, under `layer` their names; V is vector traffic."""
        rows = ((self.network, own.name, own.counts) for own in self.operations)
        return to_frame(rows, self.arch)

    @property
    def layers(self) -> tuple[OperationResult, ...]:
        """The operations that are products."""
        return tuple(own for own in self.operations if own.operation.layer is not None)

    @property
    def cycles(self) -> int:
        """From start to the last bit written: the latency of a batch."""
        return max(own.end for own in self.operations)

    @property
    def compute_cycles(self) -> int:
        """Cycles that the PE array is busy."""
        return sum(own.compute_cycles for own in self.operations)

    @property
    def seconds(self) -> float:
        """Run time at the architecture's clock [s]."""
        return float(self.cycles / self.arch.clock)

    @property
    def dram_busy_cycles(self) -> int:
        """Cycles the DRAM channel moved bits."""
        return sum(own.dram_busy_cycles for own in self.operations)

    @property
    def samples_per_second(self) -> float:
        """Throughput: samples of the batch by its latency [1/s]; infinite if that is none."""
        return self.program.network.batch / self.seconds if self.cycles else inf

    @property
    def utilisation(self) -> Utilisation:
        """How much of the PE array is used: overall, spatial and temporal."""
        return Utilisation.of(
            sum(own.macs for own in self.operations),
            sum(own.products for own in self.operations),
            self.arch.pe_array.size,
            sum(own.steady_cycles for own in self.operations),
            self.cycles,
        )

    @cached_property
    def energy(self) -> Energy:
        """What the energy of the whole program is made of."""
        return energy_of(self.arch, [own.work for own in self.operations])

    @property
    def energy_pj(self) -> float:
        """Eq. 8 over all operations, correctly rounded [pJ]."""
        return self.energy.movement_pj

    @property
    def peak_bits(self) -> dict[str, int]:
        """Most bits of each of SRAM's memories taken at once, by slots and by what stays."""
        held: dict[str, int] = {}
        peaks: dict[str, int] = {}
        for change in self.changes:
            held[change.memory] = held.get(change.memory, 0) + change.bits
            peaks[change.memory] = max(peaks.get(change.memory, 0), held[change.memory])
        return peaks

    def __repr__(self) -> str:
        where = f"<ProgramResult of {self.network} on {self.arch.name}"
        return "\n    ".join((where, *self._facts)) + ">"

    @property
    def _facts(self) -> tuple[str, ...]:
        bits = {
            level.name: int(sum(own.counts.total(level.name) for own in self.operations))
            for level in self.arch.levels
        }
        kept, all_ = len(self.allocation.residents), len(self.program.activations)
        return (
            f"{len(self.operations)} operations, {self.cycles:,} cycles, "
            f"{self.seconds * 1e3:,.2f} ms, {self.utilisation.overall:.1%} of the array used",
            f"{kept} of {all_} activations stay on chip",
            f"{self.energy_pj / _PJ_PER_UJ:,.1f} µJ for movement",
            ", ".join(f"{level} {own:,} bit" for level, own in bits.items()),
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [
            {
                "operation": own.name,
                "tiles": "" if own.tiles is None else str(own.tiles),
                **{
                    level_column(level.name, "bits"): int(own.counts.total(level.name))
                    for level in self.arch.levels
                },
                "energy_pj": own.energy_pj,
                "cycles": own.cycles,
                "compute_cycles": own.compute_cycles,
            }
            for own in self.operations
        ]
        facts = ", ".join(self._facts)
        return as_html(f"{self.network} on {self.arch.name}", facts, pd.DataFrame(rows))


@dataclass(frozen=True, eq=False)
class PlannedProgram:
    """A program ready to run: `plan` is the allocation in the machine's terms."""

    arch: Arch
    allocation: Allocation
    plan: Plan

    @cached_property
    def _stages(self) -> list[Stage]:
        return stages_of(self.plan, self.arch)

    def run(
        self,
        contents: Contents | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> ProgramResult:
        """Simulate it.

        contents: the real data that moves; without them, sizes only
        progress: called with the name of each operation as it ends
        """
        machine = Machine(self._stages, self.arch, contents, progress)
        tallies = machine.run()
        return _result(self, tallies, tuple(machine.room.changes))

    def one_by_one(self) -> int:
        """Cycles if each operation began when the one before had ended: what overlap is worth."""
        cycles = 0
        for stage in self._stages:
            feeds = {name: replace(feed, waits=()) for name, feed in stage.feeds.items()}
            alone = replace(stage, place=0, feeds=feeds, waits=(), keeps=None, frees=())
            (tally,) = Machine([alone], self.arch).run()
            cycles += tally.end
        return cycles


def plan_program(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    mappings: Mapping[str, Tiling] | None = None,
    *,
    keep: Collection[str] | None = None,
) -> PlannedProgram:
    """Decide what stays on chip and how each operation is cut.

    mappings: of layers, that are kept as they are
    keep: the activations that may stay; None: all that can

    Raises MappingError if an operation fits in no case, WorkloadError if there is none.
    """
    return plan_programs(network, arch, formats, mappings, [keep])[0]


def plan_programs(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    mappings: Mapping[str, Tiling] | None,
    keeps: Sequence[Collection[str] | None],
) -> list[PlannedProgram]:
    """As `plan_program`, one for each of `keeps`: together they take little longer than one."""
    if isinstance(formats, LayerFormats):
        by_layer: Mapping[str, LayerFormats] = {own.name: formats for own in network.layers}
    else:
        by_layer = formats
    every = (formats,) if isinstance(formats, LayerFormats) else formats.values()
    block = max((own.O.block_size for own in every), default=1)
    program = program_of(network, vector=arch.vector is not None, block=block)
    if not program.operations:
        raise WorkloadError(f"network {network.name!r}: has nothing to run but inputs and views")
    stored = activation_formats(program, formats)
    return [
        PlannedProgram(
            arch,
            allocation,
            Plan(
                program,
                by_layer,
                stored,
                allocation.mappings,
                allocation.tilings,
                frozenset(allocation.residents),
                allocation.overwrites,
            ),
        )
        for allocation in allocations(program, arch, formats, keeps, mappings=mappings)
    ]


def _result(
    planned: PlannedProgram, tallies: list[StageTally], changes: tuple[Change, ...]
) -> ProgramResult:
    plan, arch = planned.plan, planned.arch
    program, before, operations = plan.program, 0, []
    for operation, tally in zip(program.operations, tallies, strict=True):
        cycles = max(0, tally.end - before)
        before += cycles
        operations.append(
            OperationResult(
                program.network.name,
                operation,
                arch,
                plan.mappings.get(operation.name) or plan.tilings.get(operation.name),
                None if operation.layer is None else plan.formats[operation.name],
                tally.counts,
                tally.start,
                tally.end,
                cycles,
                tally.steady_cycles,
                tally.fill_cycles,
                tally.port_cycles,
                tally.vector_cycles,
                program.vector_work[operation.name],
                tally.stalls,
                tally.dram_busy,
                tally.activates,
                tally.steps,
                tally.transfers,
                tally.timeline,
            )
        )
    return ProgramResult(
        program.network.name, arch, program, planned.allocation, tuple(operations), changes
    )
