"""A network's program as tables: operations, what stayed on chip, and what that gave."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bfpsim.arch import Traffic
from bfpsim.mapping.counts import Counts, level_column
from bfpsim.mapping.nest import Mapping
from bfpsim.mapping.sources import formats_title
from bfpsim.reports.host import host_line
from bfpsim.reports.occupancy import occupancy_frame, plot_occupancy
from bfpsim.reports.predictions import prediction_notes
from bfpsim.reports.report import Frames, Report
from bfpsim.reports.style import make_table, numbers
from bfpsim.search.experiments.program import ProgramComparison, outer_bits
from bfpsim.search.sweep.tables import cycle_sums, mapping_columns
from bfpsim.sim.program import OperationResult, ProgramResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from fractions import Fraction

    import pandas as pd
    from rich.console import RenderableType

    from bfpsim.mapping.sources import FormatsSource
    from bfpsim.search.experiments.inference import ImageRun

_TRAFFIC: tuple[Traffic, ...] = ("I", "W", "O", "V")
_WIDE = 150  # terminal columns that the table with all of its columns takes


def program_table(result: ProgramResult, width: int = 120) -> Table:
    """A row per operation and one for the total: tiles, traffic of each level, energy, time.

    Of each operand that stays on chip there is a letter: I and W of a product, O that is written, V
    of what the vector unit reads besides. Cycles are those by which the program's end moves on;
    array and vector unit may be busy for an operation while another one's end is waited for.
    width: terminal columns; where there are too few, tiles stand below the operations' names
    """
    wide = width >= _WIDE
    outermost, *inner = (level.name for level in result.arch.levels)
    energies = ["movement\n[µJ]", "all\n[µJ]"] if result.arch.prices_more else ["energy\n[µJ]"]
    title = f"{result.network} on {result.arch.name} as one program: traffic [Mbit]"
    if wide:
        table = make_table(title, "operation", "tiles", "stays", gap=1)
        numbers(table, *(f"{outermost}\n{tensor}" for tensor in _TRAFFIC), *inner)
        numbers(table, *energies, "cycles", "array\nbusy", "vector\nbusy")
    else:
        table = make_table(title, "operation", "stays")
        numbers(table, outermost, *inner, *energies, "cycles", "array\nbusy")
    for own in result.operations:
        if own.operation.unit == "host":
            continue
        cells = _cells((own,), result, own.cycles, wide)
        tiles = _tiles_text(own)
        short = Text.assemble(own.name, "\n ", (tiles.replace("; ", "\n "), "dim"))
        names = (own.name, tiles, _stays(own, result)) if wide else (short, _stays(own, result))
        table.add_row(*names, *cells)
    table.add_section()
    total = _cells(result.operations, result, result.cycles, wide)
    table.add_row(*(("total", "", "") if wide else ("total", "")), *total, style="bold")
    return table


def operations_frame(result: ProgramResult) -> pd.DataFrame:
    """A row per operation: its tiles and its sums over the traffic table and the time line.

    Columns: network, operation, unit (array, vector, host), order and tile of a product (and of
    each level inside SRAM), stays (letters as in the table), steps, bits of every level, energy_pj
    (Eq. 8), all_energy_pj, macs, start, end and cycles (that the program's end moves on),
    compute_cycles, steady_cycles, fill_cycles, port_cycles, vector_cycles, stall_I_cycles and so
    on for W, O, V, dram_busy_cycles.
    """
    import pandas as pd

    levels = [level.name for level in result.arch.levels]
    rows = []
    for own in result.operations:
        mapping = own.tiles if isinstance(own.tiles, Mapping) else Mapping("", {})
        rows.append(
            {
                "network": result.network,
                "operation": own.name,
                "unit": own.operation.unit,
                **mapping_columns(mapping, levels[2:]),
                "stays": _stays(own, result),
                "steps": own.steps,
                **_bits((own,), levels),
                "energy_pj": own.energy_pj,
                "all_energy_pj": own.energy.all_pj,
                "macs": own.macs,
                "start": own.start,
                "end": own.end,
                "cycles": own.cycles,
                **cycle_sums([own]),
                "vector_cycles": own.vector_cycles,
                **{f"stall_{tensor}_cycles": cycles for tensor, cycles in own.stalls.items()},
                "dram_busy_cycles": own.dram_busy_cycles,
            }
        )
    return pd.DataFrame(rows)


def activations_frame(result: ProgramResult) -> pd.DataFrame:
    """A row per activation: network, activation, bits stored, first_written and last_read by
    which operation, and whether it stays on chip."""
    import pandas as pd

    program, sizes = result.program, result.allocation.sizes
    rows = []
    for name, activation in program.activations.items():
        written, read = program.writers[name], program.readers[name]
        rows.append(
            {
                "network": result.network,
                "activation": name,
                "elements": activation.elements,
                "origin": activation.origin,
                "first_written": program.operations[written[0]].name if written else "",
                "last_read": program.operations[read[-1]].name if read else "",
                "stays": name in sizes,
                "stays_bits": sizes.get(name, 0),
            }
        )
    return pd.DataFrame(rows)


def program_report(
    result: ProgramResult | ProgramComparison,
    formats: FormatsSource,
    width: int = 120,
    images: ImageRun | None = None,
) -> Report:
    """A program: its table, traffic, operations, activations, occupancy of SRAM and totals.

    width: terminal columns that the table may take
    images: the run that it is of; then predictions too, and how many are right
    """
    compared = result if isinstance(result, ProgramComparison) else None
    result = result.program if isinstance(result, ProgramComparison) else result
    levels = [level.name for level in result.arch.levels]
    summary: dict[str, Any] = {
        "network": result.network,
        "arch": result.arch.name,
        "formats": formats_title(formats),
        "layers": "program",
        **_bits(result.operations, levels),
        "vector_bits": sum(int(own.counts.total(levels[0], "V")) for own in result.operations),
        "energy_pj": result.energy_pj,
        "all_energy_pj": result.energy.all_pj,
        "cycles": result.cycles,
        **cycle_sums(result.operations),
        **result.utilisation.columns(),
        "seconds": result.seconds,
        "samples_per_second": result.samples_per_second,
        "activations": len(result.program.activations),
        "stay_on_chip": len(result.allocation.residents),
        "least_dram_bits": result.allocation.bound,
        "proven": result.allocation.proven,
    }
    if compared is not None:
        summary |= compared.figures
    frames: dict[str, Callable[[], pd.DataFrame]] = {
        "traffic": lambda: result.traffic,
        "operations": lambda: operations_frame(result),
        "activations": lambda: activations_frame(result),
        "occupancy": lambda: occupancy_frame(result),
        "energy": lambda: result.energy.to_frame(),
    }
    notes = prediction_notes(images, frames)
    figures = {"occupancy": partial(plot_occupancy, result)}
    shown: list[RenderableType] = [program_table(result, width)]
    shown += [Text(line) for line in program_lines(result, compared)]
    return Report(Group(*shown), Frames(frames), summary | notes, tuple(notes), figures)


def program_lines(result: ProgramResult, compared: ProgramComparison | None = None) -> list[str]:
    """What residency and overlap gave, what is proven, and what the host does, in sentences."""
    program, allocation = result.program, result.allocation
    least = "the least of all" if allocation.proven else "at most"
    gap = 0.0 if allocation.proven else 100 * (allocation.total_bits / allocation.bound - 1)
    stay = f"{len(allocation.residents)} of {len(program.activations)} activations stay on chip"
    lines = [
        f"{stay}: {least} traffic off chip"
        if allocation.proven
        else f"{stay}; traffic off chip is {least} {gap:.2f} % above the least"
    ]
    if compared is not None:
        own = compared.figures
        lines.append(
            f"residency: {_mbit(own['nothing_stays_dram_bits'])} -> "
            f"{_mbit(outer_bits(result))} Mbit off chip, "
            f"{own['nothing_stays_cycles']:,} -> {result.cycles:,} cycles"
        )
        lines.append(
            f"overlap: {compared.one_by_one_cycles:,} -> {result.cycles:,} cycles; the array "
            f"computes {result.compute_cycles:,} and the channel moves bits in "
            f"{result.dram_busy_cycles:,}"
        )
        lines.append(
            f"alone, each layer by itself and what stands between them free: "
            f"{_mbit(own['alone_dram_bits'])} Mbit off chip, {own['alone_cycles']:,} cycles"
        )
    line = host_line(program, result.arch)
    return lines if line is None else [*lines, line]


def _stays(own: OperationResult, result: ProgramResult) -> str:
    kept = result.allocation.sizes
    operation = own.operation
    letters = "IW" if operation.layer is not None else "VVVVVVVV"
    reads = [
        letters[min(place, len(letters) - 1)]
        for place, view in enumerate(operation.reads)
        if view.activation in kept
    ]
    reads += ["V" for view in operation.addends if view.activation in kept]
    written = ["O"] if operation.writes.activation in kept else []
    return "".join(dict.fromkeys(reads + written))


def _tiles_text(own: OperationResult) -> str:
    if own.tiles is None or isinstance(own.tiles, Mapping):
        return "" if own.tiles is None else str(own.tiles)
    return f"{own.tiles.rows} x {own.tiles.columns} x {own.tiles.channels}"


def _cells(
    parts: Sequence[OperationResult], result: ProgramResult, cycles: int, wide: bool
) -> list[str]:
    counts = Counts()
    for own in parts:
        counts.merge(own.counts)
    outermost, *inner = (level.name for level in result.arch.levels)
    outer = [counts.total(outermost, tensor) for tensor in _TRAFFIC]
    energies = [[own.energy.movement_pj, own.energy.all_pj] for own in parts]
    shown = energies if result.arch.prices_more else [own[:1] for own in energies]
    busy = sum(own.compute_cycles for own in parts)
    vector = sum(own.vector_cycles for own in parts)
    shares = [busy, vector] if wide else [busy]
    return [
        *(_mbit(bits) for bits in (outer if wide else [sum(outer)])),
        *(_mbit(counts.total(level)) for level in inner),
        *(f"{sum(own) / 1e6:,.1f}" for own in zip(*shown, strict=True)),
        f"{cycles:,}" if cycles else "-",
        *(f"{own:,}" if own else "-" for own in shares),
    ]


def _bits(parts: Sequence[OperationResult], levels: Sequence[str]) -> dict[str, int]:
    return {
        level_column(level, "bits"): sum(int(own.counts.total(level)) for own in parts)
        for level in levels
    }


def _mbit(bits: Fraction | float) -> str:
    return f"{float(bits) / 1e6:,.3f}" if bits else "-"
