"""Simulations, validations and architectures as tables: Mbit (10^6 bit), µJ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bfpsim.mapping.counts import Counts, energy_pj, level_column, ordered
from bfpsim.mapping.models import Effect
from bfpsim.mapping.nest import TENSORS
from bfpsim.reports.levels import BUFFER, OUTERMOST
from bfpsim.reports.report import Report
from bfpsim.reports.style import make_table, numbers
from bfpsim.sim.result import NetworkResult

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.mapping.counts import Kind
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.search.experiments.inference import ImageRun
    from bfpsim.sim.result import LayerResult
    from bfpsim.sim.validate import LayerValidation, Validation

_KINDS: tuple[Kind, ...] = ("mantissa", "exponent", "psum", "burst")
_HEADERS = {
    Effect.EDGES: "edges",
    Effect.PADDING: "padding",
    Effect.HALO: "halo",
    Effect.PARTIAL_SUMS: "partial\nsums",
    Effect.BLOCKS: "cut\nblocks",
}
_WIDE = 110  # terminal columns that a validation table with all of its rungs takes


def traffic_table(result: LayerResult | NetworkResult) -> Table:
    """The traffic of a result, by level, tensor and direction: Mbit of each kind, and energy."""
    layers = result.layers if isinstance(result, NetworkResult) else (result,)
    counts = _sum_counts(layers)
    what = result.network if isinstance(result, NetworkResult) else result.layer.name
    table = make_table(f"Traffic of {what} on {result.arch.name} [Mbit]", "level", "tensor", "")
    numbers(table, *_KINDS, "total", "energy\n[µJ]")
    previous = ""
    for level, tensor, direction in dict.fromkeys(f[:3] for f in ordered(counts, result.arch)):
        if previous not in ("", level):
            table.add_section()
        bits = [counts.total(level, tensor, direction, kind) for kind in _KINDS]
        energy = sum(
            energy_pj(flow, moved, result.arch)
            for flow, moved in counts.items()
            if flow[:3] == (level, tensor, direction)
        )
        table.add_row(
            level if level != previous else "",
            tensor,
            direction,
            *map(_mbit, [*bits, sum(bits)]),
            f"{energy / 1e6:,.1f}",
        )
        previous = level
    table.add_section()
    of_kind = [counts.total(kind=kind) for kind in _KINDS]
    table.add_row(
        *("total", "", "", *map(_mbit, [*of_kind, counts.total()])),
        f"{result.energy_pj / 1e6:,.1f}",
        style="bold",
    )
    return table


def simulation_table(result: NetworkResult) -> Table:
    """A row per layer and one for the total: each level (the outermost by tensor), energy, time."""
    outermost, *inner = levels = result_levels(result)
    table = make_table(f"{result.network} on {result.arch.name}: traffic [Mbit]", "layer")
    numbers(table, *(f"{outermost}\n{tensor}" for tensor in TENSORS), *inner)
    numbers(table, "energy\n[µJ]", "cycles", "array\nbusy [%]")
    for layer in result.layers:
        table.add_row(*_simulation_cells(layer.layer.name, (layer,), levels, layer.energy_pj))
    table.add_section()
    total = _simulation_cells("total", result.layers, levels, result.energy_pj)
    table.add_row(*total, style="bold")
    return table


def validation_table(validation: Validation, width: int = 120) -> Table:
    """The ladder of every layer and of the total: from the paper's model to the simulation.

    The columns add up from left to right: paper, what each effect adds, exact, bursts, simulated.
    width: terminal columns; where there are too few, one column sums the effects up to exact
    """
    effects = [effect for effect in Effect if effect is not Effect.BURSTS]
    groups = [[effect] for effect in effects] if width >= _WIDE else [effects]
    names = [_HEADERS[group[0]] if len(group) == 1 else "effects" for group in groups]
    arch = validation.simulated.arch.name
    table = make_table(f"{OUTERMOST} traffic of {validation.network} on {arch} [Mbit]", "layer")
    numbers(table, "paper", *names, "exact", "bursts", "simulated", "paper's\nerror [%]")
    table.add_column("agrees", justify="right", no_wrap=True, vertical="bottom")

    def add(row: LayerValidation, style: str = "") -> None:
        rungs = [sum(row.rungs[effect.value] for effect in group) for group in groups]
        table.add_row(
            *(escape(row.layer), _mbit(row.paper), *map(_signed, rungs), _mbit(row.exact)),
            *(_signed(row.rungs[Effect.BURSTS.value]), _mbit(row.simulated)),
            f"{100 * float(row.paper / row.simulated - 1):+.1f}",
            "[green]yes[/]" if row.agrees else "[bold red]NO[/]",
            style=style,
        )

    for layer in validation.layers:
        add(layer)
    table.add_section()
    add(validation.total, "bold")
    return table


def arch_table(archs: Iterable[Arch]) -> Table:
    """A row per architecture: what distinguishes them."""
    table = make_table(
        "Architectures", "name", BUFFER, "clock", OUTERMOST, "burst", "PE array", "stationary"
    )
    for arch in archs:
        text = arch.model_dump()
        sram, array = text["sram"], arch.pe_array
        buffers = [sram] if arch.shared else [sram[name] for name in ("input", "weight", "output")]
        halves = ", double-buffered" if any(part["double_buffered"] for part in buffers) else ""
        table.add_row(
            arch.name,
            " + ".join(part["capacity"] for part in buffers) + halves,
            text["clock"],
            text["dram"]["bandwidth"],
            text["dram"]["burst"],
            " x ".join(f"{axis.size} {axis.dim}" for axis in array.axes),
            array.stationary,
        )
    return table


def layers_frame(result: NetworkResult) -> pd.DataFrame:
    """A row per layer: its mapping, and its sums over the traffic table and the time line.

    Columns: network, layer, order, tile, steps, bits of every level (dram_bits, sram_bits),
    energy_pj, cycles, compute_cycles, stall_I_cycles, stall_W_cycles, stall_O_cycles,
    dram_busy_cycles.
    """
    import pandas as pd

    levels = result_levels(result)
    return pd.DataFrame(
        {
            "network": result.network,
            "layer": layer.layer.name,
            "order": layer.mapping.order,
            "tile": " ".join(f"{dim}={size}" for dim, size in layer.mapping.tile.items()),
            "steps": layer.steps,
            **bits_by_level((layer,), levels),
            "energy_pj": layer.energy_pj,
            "cycles": layer.cycles,
            "compute_cycles": layer.compute_cycles,
            **{f"stall_{tensor}_cycles": cycles for tensor, cycles in layer.stalls.items()},
            "dram_busy_cycles": layer.dram_busy_cycles,
        }
        for layer in result.layers
    )


def bits_by_level(layers: Sequence[LayerResult], levels: Sequence[str]) -> dict[str, int]:
    """The bits that layers moved at each level, by column: dram_bits, sram_bits."""
    return {
        level_column(level, "bits"): sum(int(layer.counts.total(level)) for layer in layers)
        for level in levels
    }


def simulation_report(
    result: NetworkResult, formats: LayerFormats, images: ImageRun | None = None
) -> Report:
    """A simulation: its table, traffic and layers, and the totals.

    images: the run that it is of; then predictions too, and how many are right
    """
    summary = {
        "network": result.network,
        "arch": result.arch.name,
        "formats": str(formats),
        **bits_by_level(result.layers, result_levels(result)),
        "energy_pj": result.energy_pj,
        "cycles": result.cycles,
        "seconds": result.seconds,
    }
    frames = {"traffic": result.traffic, "layers": layers_frame(result)}
    notes: dict[str, int] = {}
    if images is not None:
        classes = frames["predictions"] = images.predictions
        notes = {
            "images": len(classes),
            "equal_to_float": int((classes["simulated"] == classes["float"]).sum()),
        }
        if "label" in classes:
            notes["right"] = int((classes["simulated"] == classes["label"]).sum())
            notes["right_in_float"] = int((classes["float"] == classes["label"]).sum())
    return Report(simulation_table(result), frames, summary | notes, tuple(notes))


def validation_report(validation: Validation, formats: LayerFormats, width: int = 120) -> Report:
    """A validation: its table, for so many terminal columns, and whether model and counts agree."""
    summary = {
        "network": validation.network,
        "arch": validation.simulated.arch.name,
        "formats": str(formats),
        "agrees": validation.agrees,
    }
    table = validation_table(validation, width)
    return Report(table, {"validation": validation.to_frame()}, summary)


def result_levels(result: NetworkResult) -> tuple[str, ...]:
    """The memory levels of a simulation, outermost first."""
    return tuple(level.name for level in result.arch.levels)


def _simulation_cells(
    name: str, layers: Sequence[LayerResult], levels: Sequence[str], energy: float
) -> list[str]:
    counts, (outermost, *inner) = _sum_counts(layers), levels
    cycles = sum(layer.cycles for layer in layers)
    computing = sum(layer.compute_cycles for layer in layers)
    return [
        escape(name),
        *(_mbit(counts.total(outermost, tensor)) for tensor in TENSORS),
        *(_mbit(counts.total(level)) for level in inner),
        f"{energy / 1e6:,.1f}",
        f"{cycles:,}",
        f"{100 * computing / cycles:.1f}",
    ]


def _sum_counts(layers: Sequence[LayerResult]) -> Counts:
    counts = Counts()
    for layer in layers:
        counts.merge(layer.counts)
    return counts


def _mbit(bits: Fraction | float) -> str:
    return f"{float(bits) / 1e6:,.3f}" if bits else "-"


def _signed(bits: Fraction | float) -> str:
    return f"{float(bits) / 1e6:+,.3f}" if bits else "-"
