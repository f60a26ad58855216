"""Simulations, validations and architectures as tables: Mbit (10^6 bit), µJ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bfpsim.arch import DeviceDram
from bfpsim.mapping.counts import Counts, energy_pj, level_column, ordered
from bfpsim.mapping.energy import ALL, MOVEMENT, Energy
from bfpsim.mapping.models import Effect
from bfpsim.mapping.nest import TENSORS
from bfpsim.mapping.sources import formats_title
from bfpsim.quant.formats import layer_formats
from bfpsim.reports.levels import BUFFER, OUTERMOST
from bfpsim.reports.predictions import prediction_notes
from bfpsim.reports.program import program_report
from bfpsim.reports.report import Frames, Report, together
from bfpsim.reports.style import make_table, numbers
from bfpsim.search.sweep.tables import cycle_sums, mapping_columns
from bfpsim.sim.result import NetworkResult, utilisation_of
from bfpsim.sim.validate import APART

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from bfpsim.arch import Arch
    from bfpsim.mapping.counts import Kind
    from bfpsim.mapping.sources import FormatsSource
    from bfpsim.quant.formats import FormatSource
    from bfpsim.search.experiments.inference import ImageRun
    from bfpsim.search.experiments.program import ProgramComparison
    from bfpsim.sim.demand import Demand
    from bfpsim.sim.program import ProgramResult
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
_WIDE_SIMULATION = 150  # and that a simulation's with all of its columns does


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


def simulation_table(result: NetworkResult, width: int = 120) -> Table:
    """A row per layer and one for the total: mapping, traffic of each level, energy, time, array.

    Of the array: cycles that it is busy, that lanes multiply (steady), lanes that then have work,
    and multiply-accumulates of what all PEs could do in all cycles (used).
    width: terminal columns; where there are too few, mappings stand below the layers' names, and
        tensors are together
    """
    wide = width >= _WIDE_SIMULATION
    outermost, *inner = levels = result_levels(result)
    title = f"{result.network} on {result.arch.name}: traffic [Mbit]"
    energies = ["movement\n[µJ]", "all\n[µJ]"] if result.arch.prices_more else ["energy\n[µJ]"]
    if wide:
        table = make_table(title, "layer", "mapping", gap=1)
        numbers(table, *(f"{outermost}\n{tensor}" for tensor in TENSORS), *inner)
        numbers(table, *energies, "cycles")
        numbers(table, *(f"array\n{what} [%]" for what in ("busy", "steady", "lanes", "used")))
    else:
        table = make_table(title, "layer")
        numbers(table, *levels, *energies, "cycles")
        numbers(table, *(f"array\n{what}\n[%]" for what in ("busy", "used")))
    for layer in result.layers:
        cells = _simulation_cells((layer,), levels, layer.energy, wide)
        name, mapping = layer.layer.name, str(layer.mapping)
        below = mapping.replace("; ", "\n ")  # a line for each level
        short = Text.assemble(name, "\n ", (below, "dim"))
        table.add_row(*((name, mapping) if wide else (short,)), *cells)
    table.add_section()
    total = _simulation_cells(result.layers, levels, result.energy, wide)
    table.add_row(*(("total", "") if wide else ("total",)), *total, style="bold")
    return table


def energy_table(result: LayerResult | NetworkResult) -> Table:
    """What a run's energy is made of, and both totals: µJ, and shares of all."""
    energy = result.energy
    what = result.network if isinstance(result, NetworkResult) else result.layer.name
    table = make_table(f"Energy of {what} on {result.arch.name}", "part", "", "")
    numbers(table, "[µJ]", "[%]")

    def add(names: Sequence[str], pj: float, style: str = "") -> None:
        share = f"{100 * pj / energy.all_pj:.1f}" if energy.all_pj else "-"
        table.add_row(*names, f"{pj / 1e6:,.3f}", share, style=style)

    for part in energy.parts:
        add((part.part, part.where, part.direction), part.energy_pj)
    table.add_section()
    for name, pj in ((MOVEMENT, energy.movement_pj), (ALL, energy.all_pj)):
        add((name, "", ""), pj, "bold")
    return table


def demand_text(found: Sequence[Demand], when: str = "in a busy cycle") -> list[str]:
    """A line for each memory without ports of which some layer asks more than its width.

    when: what the demand is of
    """
    lines = []
    for memory in dict.fromkeys(one.memory for one in found if one.exceeds):
        own = [one for one in found if one.memory == memory and one.most]
        parts = (f"{one.direction}s {one.average:,.0f} bit ({_excess(one)})" for one in own)
        lines.append(
            f"{memory} is {own[0].width} bit wide and its ports have no limit: {when} the array "
            f"{' and '.join(parts)}"
        )
    return lines


def _excess(one: Demand) -> str:
    """The most by the width; with the layer that asks for it, where there are several."""
    times = f"{one.most / one.width:,.1f} x"
    return times if one.most == one.average else f"{one.layer}: {one.most:,.0f}, {times}"


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
            *(row.layer, _mbit(row.paper), *map(_signed, rungs), _mbit(row.exact)),
            *(_signed(row.rungs[Effect.BURSTS.value]), _mbit(row.simulated)),
            f"{100 * float(row.paper / row.simulated - 1):+.1f}",
            _verdict(row.bits_agree),
            style=style,
        )

    for layer in validation.layers:
        add(layer)
    table.add_section()
    add(validation.total, "bold")
    return table


def cycles_table(validation: Validation) -> Table:
    """The ladder of cycles of every layer and of the total: from MACs / PEs to the simulation.

    The columns add up from left to right: lanes without work (folds), filling and draining, waiting
    for ports and for DRAM. `passes` stands there if some operands are wider than a multiplier's. Of
    a DRAM device, what waiting takes at full bandwidth and what refresh, turnaround and rows add;
    and beside it the cycles bank by bank, with the layers named where these are apart.
    """
    every = [*validation.layers, validation.total]
    total = every[-1].cycles
    heads = {"passes": "passes", "folds": "idle\nlanes", "fill": "fill", "port": "ports"}
    heads |= {"stall": f"waiting\nfor {OUTERMOST}", "turnaround": "turn-\naround"}
    names = [name for name in total.rungs if name != "passes" or total.rungs[name]]
    arch = validation.simulated.arch.name
    table = make_table(f"Cycles of {validation.network} on {arch}", "layer")
    banked = ["bank\nby bank"] if total.banked else []
    columns = (heads.get(name, name) for name in names)
    numbers(table, "MACs\n/ PEs", *columns, "simulated", *banked)
    if validation.apart:
        named = ", ".join(validation.apart)
        table.caption = f"more than {float(APART):.0%} apart bank by bank: {named}"
    table.add_column("agrees", justify="right", no_wrap=True, vertical="bottom")
    for row in every:
        ladder = row.cycles
        if row is every[-1]:
            table.add_section()
        rungs = (ladder.rungs[name] for name in names)
        table.add_row(
            *(row.layer, f"{float(ladder.ideal):,.0f}"),
            *(f"{float(own):+,.0f}" if own else "-" for own in rungs),
            f"{ladder.simulated:,}",
            *([f"{ladder.banked:,}"] if banked else []),
            _verdict(ladder.agrees),
            style="bold" if row is every[-1] else "",
        )
    return table


def _verdict(agrees: bool) -> Text:
    return Text("yes", "green") if agrees else Text("NO", "bold red")


def arch_table(archs: Iterable[Arch]) -> Table:
    """A row per architecture: what distinguishes them."""
    shown = list(archs)
    areas = [arch.area_mm2 for arch in shown]
    area = ["memories\n[mm²]"] if any(own is not None for own in areas) else []
    inside = ["levels\ninside"] if any(arch.inner for arch in shown) else []
    table = make_table(
        *("Architectures", "name", BUFFER, *inside, *area, "clock", OUTERMOST, "burst"),
        "PE array",
        "stationary",
    )
    numbers(table, "vector\nlanes")
    for arch, mm2 in zip(shown, areas, strict=True):
        text = arch.model_dump()
        sram, array = text["sram"], arch.pe_array
        buffers = [sram] if arch.shared else [sram[name] for name in ("input", "weight", "output")]
        halves = ", double-buffered" if any(part["double_buffered"] for part in buffers) else ""
        inner = ", ".join(f"{own['name']} {own['capacity']}" for own in text["levels"])
        table.add_row(
            arch.name,
            " + ".join(part["capacity"] for part in buffers) + halves,
            *([inner] if inside else []),
            *(["" if mm2 is None else f"{mm2:,.3f}"] if area else []),
            text["clock"],
            text["dram"]["bandwidth"],
            text["dram"]["burst"],
            " x ".join(f"{axis.size} {axis.dim}" for axis in array.axes),
            array.stationary,
            "-" if arch.vector is None else str(arch.vector.lanes),
        )
    return table


def layers_frame(result: NetworkResult) -> pd.DataFrame:
    """A row per layer: its mapping, and its sums over the traffic table and the time line.

    Columns: network, layer, order, tile (and of each level inside SRAM: acc_order, acc_tile),
    steps, bits of every level (dram_bits, sram_bits), energy_pj (Eq. 8), all_energy_pj, macs,
    cycles, compute_cycles, steady_cycles, fill_cycles, port_cycles, stall_I_cycles,
    stall_W_cycles, stall_O_cycles, dram_busy_cycles, utilisation, spatial_utilisation,
    temporal_utilisation.
    """
    import pandas as pd

    levels = result_levels(result)
    return pd.DataFrame(
        {
            "network": result.network,
            "layer": layer.layer.name,
            **mapping_columns(layer.mapping, levels[2:]),
            "steps": layer.steps,
            **bits_by_level((layer,), levels),
            "energy_pj": layer.energy_pj,
            "all_energy_pj": layer.energy.all_pj,
            "macs": layer.macs,
            "cycles": layer.cycles,
            **cycle_sums([layer]),
            **{f"stall_{tensor}_cycles": cycles for tensor, cycles in layer.stalls.items()},
            "dram_busy_cycles": layer.dram_busy_cycles,
            **layer.utilisation.columns(),
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
    result: NetworkResult | ProgramResult | ProgramComparison,
    formats: FormatsSource,
    images: ImageRun | None = None,
    width: int = 120,
) -> Report:
    """A simulation: its table, traffic and layers (of a program operations), and the totals.

    images: the run that it is of; then predictions too, and how many are right
    width: terminal columns that the table may take
    """
    if not isinstance(result, NetworkResult):
        return program_report(result, formats, width, images)
    found = result.demands
    summary = {
        "network": result.network,
        "arch": result.arch.name,
        "formats": formats_title(formats),
        **bits_by_level(result.layers, result_levels(result)),
        "energy_pj": result.energy_pj,
        "all_energy_pj": result.energy.all_pj,
        "cycles": result.cycles,
        **cycle_sums(result.layers),
        **result.utilisation.columns(),
        "seconds": result.seconds,
        "unlimited_ports": [one._asdict() for one in found],
    }
    frames: dict[str, Callable[[], pd.DataFrame]] = {
        "traffic": lambda: result.traffic,
        "layers": lambda: layers_frame(result),
        "energy": result.energy.to_frame,
    }
    notes = prediction_notes(images, frames)
    shown: list[RenderableType] = [simulation_table(result, width)]
    if result.arch.prices_more:
        shown += ["", energy_table(result)]
    table = Group(*shown, *map(Text, demand_text(found)))
    return Report(table, Frames(frames), summary | notes, tuple(notes))


def validation_report(validation: Validation, formats: FormatSource, width: int = 120) -> Report:
    """A validation: tables of bits and cycles, and whether models and simulation agree.

    width: terminal columns
    """
    summary = {
        "network": validation.network,
        "arch": validation.simulated.arch.name,
        "formats": str(layer_formats(formats)),
        "agrees": validation.agrees,
    }
    if isinstance(validation.simulated.arch.dram, DeviceDram):
        summary["apart"] = list(validation.apart)
    table = together(validation_table(validation, width), cycles_table(validation))
    return Report(table, Frames({"validation": validation.to_frame}), summary)


def result_levels(result: NetworkResult) -> tuple[str, ...]:
    """The memory levels of a simulation, outermost first."""
    return tuple(level.name for level in result.arch.levels)


def _simulation_cells(
    layers: Sequence[LayerResult], levels: Sequence[str], energy: Energy, wide: bool
) -> list[str]:
    counts, (outermost, *inner) = _sum_counts(layers), levels
    cycles = sum(layer.cycles for layer in layers)
    overall, spatial, temporal = utilisation_of(layers)
    busy = sum(layer.compute_cycles for layer in layers) / cycles
    outer = [counts.total(outermost, tensor) for tensor in TENSORS]
    more = layers[0].arch.prices_more
    energies = (energy.movement_pj, energy.all_pj) if more else (energy.movement_pj,)
    shares = (busy, temporal, spatial, overall) if wide else (busy, overall)
    return [
        *(_mbit(bits) for bits in (outer if wide else [sum(outer)])),
        *(_mbit(counts.total(level)) for level in inner),
        *(f"{own / 1e6:,.1f}" for own in energies),
        f"{cycles:,}",
        *(f"{100 * share:.1f}" for share in shares),
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
