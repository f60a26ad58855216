"""What running a network as one program gives, against the same without, and layers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.sources import (
    FormatsSource,
    MappingsSource,
    formats_by_layer,
    mappings_by_layer,
)
from bfpsim.objects import brief
from bfpsim.sim.program import ProgramResult, plan_programs
from bfpsim.sim.result import NetworkResult
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import NetworkSource, load_workload


@brief
@dataclass(frozen=True, eq=False)
class ProgramComparison:
    """A program, and what it is compared with.

    apart: the same, of which nothing stays on chip
    alone: each layer by itself, what stands between them free
    one_by_one_cycles: of the program, if each operation began when the one before had ended
    """

    program: ProgramResult
    apart: ProgramResult
    alone: NetworkResult
    one_by_one_cycles: int

    @property
    def figures(self) -> dict[str, int]:
        """Cycles and bits off chip of all of them, and what is saved; less than 0 if it is lost."""
        program, apart, alone = (
            outer_bits(own) for own in (self.program, self.apart, self.alone)
        )  # fmt: skip
        return {
            "alone_dram_bits": alone,
            "alone_cycles": self.alone.cycles,
            "nothing_stays_dram_bits": apart,
            "nothing_stays_cycles": self.apart.cycles,
            "residency_saves_bits": apart - program,
            "residency_saves_cycles": self.apart.cycles - self.program.cycles,
            "one_by_one_cycles": self.one_by_one_cycles,
            "overlap_saves_cycles": self.one_by_one_cycles - self.program.cycles,
        }


def compare_program(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource = "bfp8",
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
) -> ProgramComparison:
    """Run a network as a program, as one of which nothing stays, and each layer alone.

    Arguments and errors as `simulate_network`.
    """
    network, arch = load_workload(network), load_arch(arch)
    network.check_layers()
    formats = formats_by_layer(formats, network)
    given = mappings_by_layer(mappings, network, arch)
    planned, nothing_stays = plan_programs(network, arch, formats, given, (None, ()))
    program = planned.run(progress=progress)
    apart = nothing_stays.run(progress=progress)
    alone = simulate_layers(network, arch, formats, given, progress)
    return ProgramComparison(program, apart, alone, planned.one_by_one())


def outer_bits(result: ProgramResult | NetworkResult) -> int:
    """What a run moved off chip [bit]."""
    outermost = result.arch.levels[0].name
    parts = result.operations if isinstance(result, ProgramResult) else result.layers
    return sum(int(own.counts.total(outermost)) for own in parts)
