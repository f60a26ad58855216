"""Tables for the terminal: bits in Mbit (10^6 bit), energy in µJ or mJ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bfpsim.arch.units import CAPACITY
from bfpsim.mapping.counts import Counts, energy_pj, ordered
from bfpsim.mapping.models import Effect
from bfpsim.reports.style import make_table, numbers
from bfpsim.sim.result import NetworkResult

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.mapping.counts import Kind
    from bfpsim.mapping.nest import Tensor
    from bfpsim.sim.result import LayerResult
    from bfpsim.sim.validate import LayerValidation, Validation

_KINDS: tuple[Kind, ...] = ("mantissa", "exponent", "psum", "burst")
_TENSORS: tuple[Tensor, ...] = ("I", "W", "O")
_HEADERS = {
    Effect.EDGES: "edges",
    Effect.PADDING: "padding",
    Effect.HALO: "halo",
    Effect.PARTIAL_SUMS: "partial\nsums",
    Effect.BLOCKS: "cut\nblocks",
}
_WIDE = 110  # terminal columns that a validation table with all of its rungs takes


def traffic_table(result: LayerResult | NetworkResult) -> Table:
    """What moved, by level, tensor and direction: Mbit of each kind, and energy."""
    layers = result.layers if isinstance(result, NetworkResult) else (result,)
    counts = _merged(layers)
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
    """A row per layer and one for the total: DRAM by tensor, SRAM, energy, time."""
    table = make_table(f"{result.network} on {result.arch.name}: traffic [Mbit]", "layer")
    numbers(table, "DRAM\nI", "DRAM\nW", "DRAM\nO", "SRAM", "energy\n[µJ]", "cycles")
    numbers(table, "array\nbusy [%]")
    for layer in result.layers:
        table.add_row(*_simulation_cells(layer.layer.name, (layer,), layer.energy_pj))
    table.add_section()
    total = _simulation_cells("total", result.layers, result.energy_pj)
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
    table = make_table(f"DRAM traffic of {validation.network} on {arch} [Mbit]", "layer")
    numbers(table, "paper", *names, "exact", "bursts", "simulated", "paper's\nerror [%]")
    table.add_column("agrees", justify="right", no_wrap=True, vertical="bottom")

    def add(row: LayerValidation, style: str = "") -> None:
        rungs = [sum(row.rungs[effect.value] for effect in group) for group in groups]
        table.add_row(
            *(escape(row.layer), _mbit(row.paper), *map(_added, rungs), _mbit(row.exact)),
            *(_added(row.rungs[Effect.BURSTS.value]), _mbit(row.simulated)),
            f"{100 * float(row.paper / row.simulated - 1):+.1f}",
            "[green]yes[/]" if row.agrees else "[bold red]NO[/]",
            style=style,
        )

    for layer in validation.layers:
        add(layer)
    table.add_section()
    add(validation.total, "bold")
    return table


def sweep_table(frame: pd.DataFrame) -> Table:
    """What `sweep_capacity` returns: DRAM traffic, energy and time at each capacity.

    The last row is the payload, and its DRAM energy, that no mapping avoids.
    """
    first = frame.iloc[0]
    table = make_table(
        f"{first['network']} in {first['formats']} on {first['arch']}, by SRAM capacity", gap=1
    )
    numbers(table, "SRAM", "simulated\n[Mbit]", "payload\n[Mbit]", "exact\n[Mbit]")
    numbers(table, "paper\n[Mbit]", "DRAM\n[mJ]", "SRAM\n[mJ]", "total\n[mJ]", "cycles\n[M]")
    for _, row in frame.iterrows():
        energies = (row[f"{part}energy_pj"] / 1e9 for part in ("dram_", "sram_", ""))
        table.add_row(
            CAPACITY.text(int(row["capacity_bits"])),
            *(_mbit(row[f"{name}_bits"]) for name in ("dram", "dram_payload", "exact", "paper")),
            *(f"{energy:,.3f}" for energy in energies),
            f"{row['cycles'] / 1e6:,.3f}",
        )
    table.add_section()
    floor = _mbit(first["compulsory_bits"])
    energy = f"{first['compulsory_energy_pj'] / 1e9:,.3f}"
    table.add_row("least", "", floor, "", "", energy, "", "", "", style="dim")
    return table


def arch_table(archs: Iterable[Arch]) -> Table:
    """A row per architecture: what distinguishes them."""
    table = make_table(
        "Architectures", "name", "SRAM", "clock", "DRAM", "burst", "PE array", "stationary"
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
            f"{array.rows.size} {array.rows.dim} x {array.cols.size} {array.cols.dim}",
            array.stationary,
        )
    return table


def layers_frame(result: NetworkResult) -> pd.DataFrame:
    """A row per layer: its mapping, and its sums over the traffic table and the time line.

    Columns: network, layer, order, tile, steps, dram_bits, sram_bits, energy_pj, cycles,
    compute_cycles, stall_I_cycles, stall_W_cycles, stall_O_cycles, dram_busy_cycles.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "network": result.network,
            "layer": layer.layer.name,
            "order": layer.mapping.order,
            "tile": " ".join(f"{dim}={size}" for dim, size in layer.mapping.tile.items()),
            "steps": layer.steps,
            "dram_bits": int(layer.counts.total("DRAM")),
            "sram_bits": int(layer.counts.total("SRAM")),
            "energy_pj": layer.energy_pj,
            "cycles": layer.cycles,
            "compute_cycles": layer.compute_cycles,
            **{f"stall_{tensor}_cycles": cycles for tensor, cycles in layer.stalls.items()},
            "dram_busy_cycles": layer.dram_busy_cycles,
        }
        for layer in result.layers
    )


def _simulation_cells(name: str, layers: Sequence[LayerResult], energy: float) -> list[str]:
    counts = _merged(layers)
    cycles = sum(layer.cycles for layer in layers)
    computing = sum(layer.compute_cycles for layer in layers)
    return [
        escape(name),
        *(_mbit(counts.total("DRAM", tensor)) for tensor in _TENSORS),
        _mbit(counts.total("SRAM")),
        f"{energy / 1e6:,.1f}",
        f"{cycles:,}",
        f"{100 * computing / cycles:.1f}",
    ]


def _merged(layers: Sequence[LayerResult]) -> Counts:
    counts = Counts()
    for layer in layers:
        counts.merge(layer.counts)
    return counts


def _mbit(bits: Fraction | float) -> str:
    return f"{float(bits) / 1e6:,.3f}" if bits else "-"


def _added(bits: Fraction | float) -> str:
    return f"{float(bits) / 1e6:+,.3f}" if bits else "-"
