"""The figures of a report, and what the page says about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.arch.units import CAPACITY
from bfpsim.mapping.models import Effect
from bfpsim.mapping.nest import TENSORS
from bfpsim.reports.levels import levels_in, more_than_movement
from bfpsim.reports.roofline import plot_achieved
from bfpsim.reports.store.findings import Findings, cheapest
from bfpsim.reports.store.page import PageFigure, Section
from bfpsim.reports.style import (
    BITS,
    BLUE,
    CYCLES,
    ENERGY,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Ending,
    Unit,
    capacity_ticks,
    drawing,
    plain_powers,
    readable,
    save,
)
from bfpsim.reports.tradeoff import plot_tradeoff

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_Draw = Callable[[str, str, Callable[[Path], None]], tuple[PageFigure, list[Path]]]
"""Draws a figure, from its files' name, a caption, and what draws a file."""

_NAMES = 26  # layers with a label
_LINES = ((BLUE, "o"), (VERMILION, "^"), (SKY, "s"), (ORANGE, "D"), (GREY, "v"))
_NETWORKS = (*_LINES, (GREEN, "P"), (PURPLE, "X"))
_FLOOR = (4, 3)  # dashes
_LEGEND = 6  # entries in a row, at most


class Units(NamedTuple):
    """The units of a page: all its figures and tables show energy, bits and cycles in one each."""

    energy: Unit
    bits: Unit
    cycles: Unit

    @classmethod
    def of(cls, points: pd.DataFrame) -> Units:
        """The units in which the largest point's numbers are 1 or more."""
        largest = points[["energy_pj", levels_in(points)[0].column("bits"), "cycles"]].max()
        return cls(*(readable(own, all_) for own, all_ in zip(largest, _UNITS, strict=True)))


_UNITS = (ENERGY, BITS, CYCLES)


class Segment(NamedTuple):
    """A column as one segment of stacked bars."""

    column: str
    label: str
    colour: str
    hatch: str = ""


_CYCLES = (
    Segment("full_cycles", "multiplying", BLUE),
    Segment("idle_cycles", "lanes without work", GREY, "////"),
    Segment("fill_cycles", "filling", GREEN),
    Segment("port_cycles", "held up by ports", PURPLE, "xxxx"),
    Segment("stall_I_cycles", "waiting for I", SKY),
    Segment("stall_W_cycles", "waiting for W", VERMILION, "////"),
    Segment("stall_O_cycles", "waiting for O", ORANGE, "...."),
)
_LOOKS = {
    Effect.EDGES: (GREY, ""),
    Effect.PADDING: (SKY, ""),
    Effect.HALO: (GREEN, "////"),
    Effect.PARTIAL_SUMS: (VERMILION, ""),
    Effect.BLOCKS: (ORANGE, "...."),
    Effect.BURSTS: (BLUE, ""),
}
_RUNGS = tuple(
    Segment(f"{effect.value}_bits", effect.value.replace("_", " "), *_LOOKS[effect])
    for effect in Effect
)


def draw_figures(
    findings: Findings,
    accuracies: pd.DataFrame | None,
    out: Path,
    progress: Callable[[str], None],
    endings: Sequence[Ending] = ("png",),
) -> Iterator[tuple[Section, list[Path]]]:
    """Draw every figure into a folder; each part of the page with the files of its figures.

    accuracies: with the columns of `read_accuracies`, or None to leave that figure out
    progress: called with what is being drawn
    endings: of the files; the page has the figures as PNG in any case
    """

    def draw(
        name: str, caption: str, plot: Callable[[Path], None]
    ) -> tuple[PageFigure, list[Path]]:
        progress(f"drawing {name}")
        paths = [out / f"{name}.{ending}" for ending in endings]
        for path in paths:
            plot(path)
        shown = out / f"{name}.png"
        if shown in paths:
            return PageFigure(caption, shown.read_bytes()), paths
        plot(shown)
        figure = PageFigure(caption, shown.read_bytes())
        shown.unlink()
        return figure, paths

    names = file_names(findings.best)
    if len(names) > 1:
        figure, files = draw(
            "networks",
            "Every network's point of least energy at each capacity: energy as a multiple of its "
            "own least, their geometric mean, and how much of the array is used.",
            lambda path: plot_networks(findings.points, path),
        )
        yield Section("networks", "All networks", (figure,)), files
    for place, (network, name) in enumerate(names.items()):
        section, lists = zip(*_network_figures(findings, network, name, draw), strict=True)
        yield (
            Section(f"network-{place}", network, section),
            [*chain(*lists)],
        )
    if accuracies is not None:
        figure, files = draw(
            "accuracy",
            "Accuracy lost against the energy of data movement: every choice, and those that no "
            "other beats in both.",
            lambda path: plot_tradeoff(accuracies, path),
        )
        yield Section("tradeoff", "Accuracy against energy", (figure,)), files


def _network_figures(
    findings: Findings, network: str, name: str, draw: _Draw
) -> Iterator[tuple[PageFigure, list[Path]]]:
    """The figures of one network."""
    units = Units.of(findings.points)
    points = findings.points[findings.points["network"] == network]
    layers = findings.layers[findings.layers["network"] == network]
    best, outermost = findings.best[network], levels_in(points)[0].name
    of_best = layers[layers["point"] == best.point]
    at = f"{_capacity_of(points, best.point)} (point {best.point})"
    yield draw(
        f"{name}-capacity",
        f"{network}: {outermost} traffic and energy against buffer size, by format; dashed is what "
        "no mapping avoids.",
        lambda path: plot_capacity(points, path, units),
    )
    yield draw(
        f"{name}-time",
        f"{network}: cycles, energy-delay product and the share of the array that is used, at the "
        "same points.",
        lambda path: plot_time(points, path, units),
    )
    yield draw(
        f"{name}-energy",
        f"{network}: energy by level and tensor, at each buffer size and by layer at {at}.",
        lambda path: plot_energy(points, layers, path, units),
    )
    yield draw(
        f"{name}-stalls",
        f"{network}: what the PE array did: cycles in which it multiplies, parted by lanes that "
        "work and lanes that do not; fills and drains; waits for ports, or a tile of I, W or O.",
        lambda path: plot_stalls(points, layers, path, units),
    )
    yield draw(
        f"{name}-roofline",
        f"{network}: MACs per cycle that layers reach at {at}, under the roof of its PE array and "
        f"{outermost} channel.",
        lambda path: plot_achieved(best.record, of_best, path),
    )
    if "paper_bits" in points and points["paper_bits"].notna().any():
        judged = points[points["paper_bits"].notna()]
        yield draw(
            f"{name}-models",
            f"{network}: {outermost} traffic by the analytical models against the simulation, and "
            "what each effect that the paper's model leaves out adds to it.",
            lambda path: plot_ladder(judged, layers[layers["paper_bits"].notna()], path),
        )


def _capacity_of(points: pd.DataFrame, point: int) -> str:
    return CAPACITY.text(int(points.loc[points["point"] == point, "capacity_bits"].iloc[0]))


def file_names(networks: Iterable[str]) -> dict[str, str]:
    """Network -> a name for its files, which no other has."""
    names: dict[str, str] = {}
    for network in networks:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", network).strip(".-") or "network"
        name, again = plain, 2
        while name.lower() in {taken.lower() for taken in names.values()}:
            name, again = f"{plain}-{again}", again + 1
        names[network] = name
    return names


def plot_capacity(points: pd.DataFrame, path: str | Path, units: Units | None = None) -> None:
    """Draw the points of one network as a file; equal tables make equal bytes.

    A line per format (and way of running: alone, program), of the five that need the least energy,
    through the point of least energy at each capacity. Left: DRAM traffic; right: energy; dashed:
    what no mapping avoids.

    units: by default those of the points

    Raises OSError if the file cannot be written.
    """
    units = units or Units.of(points)
    (energy_scale, energy_unit), (bits_scale, bits_unit), _ = units
    sizes = sorted(points["capacity_bits"].unique())
    levels = levels_in(points)
    outermost = levels[0]
    more = more_than_movement(points)
    points = _by_way(points)
    least = points.groupby("formats")["energy_pj"].min().sort_values(kind="stable")
    shown = least.index[: len(_LINES)]
    with drawing() as figure:
        traffic, energy = figure.subplots(1, 2)
        for formats, (colour, marker) in zip(shown, _LINES, strict=False):
            best = cheapest(points[points["formats"] == formats], "capacity_bits")
            x = best["capacity_bits"]
            for axes, simulated, floor, unit in (
                (traffic, outermost.column("bits"), "compulsory_bits", bits_scale),
                (energy, "energy_pj", "compulsory_energy_pj", energy_scale),
            ):
                axes.plot(x, best[simulated] / unit, f"{marker}-", color=colour, label=formats)
                axes.plot(x, best[floor] / unit, color=colour, lw=1.2, dashes=_FLOOR)
            if more:
                energy.plot(x, best["all_energy_pj"] / energy_scale, ":", color=colour)
        _label_axes(
            traffic,
            sizes,
            f"{outermost.name} data movement",
            f"{outermost.name} traffic [{bits_unit}]",
        )
        _label_axes(
            energy,
            sizes,
            f"data-movement energy, {_together([level.name for level in levels])}",
            f"energy [{energy_unit}]",
        )
        traffic.plot(
            [], [], color="black", lw=1.2, dashes=_FLOOR, label=f"compulsory ({outermost.name})"
        )
        if more:
            traffic.plot([], [], "k:", label="all energy")
        handles, labels = traffic.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.suptitle(_of_each_capacity(points, len(shown), len(least)))
        save(figure, path)


def _by_way(points: pd.DataFrame) -> pd.DataFrame:
    """The points, whose formats say how layers ran, too, if not all ran the same way."""
    if len(points["layers"].unique()) == 1:
        return points
    return points.assign(formats=points["formats"] + ", " + points["layers"])


def _of_each_capacity(points: pd.DataFrame, shown: int, formats: int) -> str:
    of = "" if formats == shown else f", {shown} best of {formats} formats"
    network = points["network"].iloc[0]
    return f"{network}: the points of least energy at each capacity{of}"


def plot_time(points: pd.DataFrame, path: str | Path, units: Units | None = None) -> None:
    """Draw how long the points of one network take, as a file; equal tables make equal bytes.

    Lines and points as in `plot_capacity`. Left: cycles; middle: energy-delay product [J x cycles];
    right: how much of the array's cycles its PEs multiply [%].

    Raises OSError if the file cannot be written.
    """
    scale, unit = (units or Units.of(points)).cycles
    sizes, points = sorted(points["capacity_bits"].unique()), _by_way(points)
    least = points.groupby("formats")["energy_pj"].min().sort_values(kind="stable")
    shown = least.index[: len(_LINES)]
    with drawing() as figure:
        panels = figure.subplots(1, 3)
        cycles, product, used = panels
        for formats, (colour, marker) in zip(shown, _LINES, strict=False):
            best = cheapest(points[points["formats"] == formats], "capacity_bits")
            x, look = best["capacity_bits"], {"color": colour, "label": formats}
            cycles.plot(x, best["cycles"] / scale, f"{marker}-", **look)
            joules = best["energy_pj"] / 1e12
            product.plot(x, joules * best["cycles"] / scale, f"{marker}-", **look)
            used.plot(x, 100 * best["utilisation"], f"{marker}-", **look)
        _label_axes(cycles, sizes, "time", f"cycles [{unit}]" if unit else "cycles")
        _label_axes(product, sizes, "energy x delay", f"EDP [J x {unit} cycles]".replace("  ", " "))
        _label_axes(used, sizes, "array used", "PE cycles that multiply [%]")
        used.set_ylim(0, 102)
        figure.legend(
            *cycles.get_legend_handles_labels(), loc="outside lower center", ncols=len(shown)
        )
        figure.suptitle(_of_each_capacity(points, len(shown), len(least)))
        save(figure, path)


def plot_networks(points: pd.DataFrame, path: str | Path) -> None:
    """Draw all networks over the capacity, as a file; equal tables make equal bytes.

    Of each its points of least energy. Left: energy as a multiple of the network's least, and, in
    black, the geometric mean where all networks have a point; right: how much of the array is used.

    Raises OSError if the file cannot be written.
    """
    sizes = sorted(points["capacity_bits"].unique())
    import pandas as pd

    with drawing() as figure:
        energy, used = figure.subplots(1, 2)
        ratios = {}
        for place, network in enumerate(dict.fromkeys(points["network"])):
            best = cheapest(points[points["network"] == network], "capacity_bits")
            colour, marker = _NETWORKS[place % len(_NETWORKS)]
            dashes = "-" if place < len(_NETWORKS) else "--"
            x = best["capacity_bits"]
            ratios[network] = (best["energy_pj"] / best["energy_pj"].min()).set_axis(x)
            for axes, y in ((energy, [*ratios[network]]), (used, 100 * best["utilisation"])):
                axes.plot(
                    x, y, f"{marker}{dashes}", color=colour, lw=1.2, ms=5, label=network
                )  # fmt: skip
        common = pd.DataFrame(ratios).dropna()
        mean = np.exp(np.log(common).mean(axis=1))
        energy.plot(mean.index, mean, "-", color="black", lw=2.2, label="geometric mean")
        energy.set_yscale("log", base=2)
        energy.yaxis.set_major_formatter(lambda value, _: f"{value:g} x")
        energy.set_ylim(0.95)
        energy.set_title("data-movement energy")
        energy.set_ylabel("energy / the network's least")
        capacity_scale(energy, sizes)
        _label_axes(used, sizes, "array used", "PE cycles that multiply [%]")
        used.set_ylim(0, 102)
        figure.legend(
            *energy.get_legend_handles_labels(), loc="outside lower center", ncols=_LEGEND - 1
        )
        figure.suptitle(f"{len(ratios)} networks: the points of least energy at each capacity")
        save(figure, path)


def _together(names: Sequence[str]) -> str:
    """ "DRAM, SRAM and acc"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _label_axes(axes: Axes, sizes: list[int], title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    capacity_scale(axes, sizes)


def plot_energy(
    points: pd.DataFrame, layers: pd.DataFrame, path: str | Path, units: Units | None = None
) -> None:
    """Draw one network's energy by level and tensor, as a file; equal tables make equal bytes.

    Left: of the point of least energy at each capacity, in the formats of the best of them all.
    Right: of each layer of that one, in the network's order. Raises OSError if the file cannot be
    written.
    """
    segments = [
        Segment(level.column(f"{tensor}_energy_pj"), f"{level.name} {tensor}", level.colour, hatch)
        for level in levels_in(points)
        for tensor, hatch in zip((*TENSORS, "V"), ("", "////", "....", "xxxx"), strict=True)
        if level.column(f"{tensor}_energy_pj") in points
    ]
    if more_than_movement(points):
        points, layers = (
            frame.assign(more_energy_pj=frame["all_energy_pj"] - frame["energy_pj"])
            for frame in (points, layers)
        )
        segments.append(Segment("more_energy_pj", "beyond movement", GREEN))
    title = "energy by level and tensor"
    scale, unit = (units or Units.of(points)).energy
    _plot_breakdown(points, layers, segments, title, f"energy [{unit}]", scale, path)


def plot_stalls(
    points: pd.DataFrame, layers: pd.DataFrame, path: str | Path, units: Units | None = None
) -> None:
    """Draw what one network's PE array did [cycles], as `plot_energy` does energy.

    The cycles that it multiplies are parted by lanes: the share of those that work, and the rest.
    Of a program these overlap, and may be more together than its cycles.
    """
    scale, unit = (units or Units.of(points)).cycles
    label = f"cycles [{unit}]" if unit else "cycles"
    points, layers = (
        frame.assign(
            full_cycles=(full := frame["steady_cycles"] * frame["spatial_utilisation"]),
            idle_cycles=frame["steady_cycles"] - full,
        )
        for frame in (points, layers)
    )
    _plot_breakdown(points, layers, _CYCLES, "what the PE array did", label, scale, path)


def _plot_breakdown(
    points: pd.DataFrame,
    layers: pd.DataFrame,
    segments: Sequence[Segment],
    title: str,
    unit: str,
    scale: float,
    path: str | Path,
) -> None:
    least = cheapest(points, "network").iloc[0]
    best = cheapest(points[points["formats"] == least["formats"]], "capacity_bits")
    of_best = layers[layers["point"] == least["point"]]
    segments = [own for own in segments if best[own.column].any() or of_best[own.column].any()]
    with drawing() as figure:
        whole, each = figure.subplots(1, 2, width_ratios=(1, 2))
        stack(whole, best, segments, scale)
        capacity_axis(whole, list(best["capacity_bits"]))
        whole.set_title("least energy at each capacity")
        whole.set_ylabel(unit)
        stack(each, of_best, segments, scale)
        layer_axis(each, list(of_best["layer"]))
        at = CAPACITY.text(int(least["capacity_bits"]))
        each.set_title(f"each layer at {at}, the least of all")
        handles, labels = whole.get_legend_handles_labels()
        rows = -(-len(segments) // _LEGEND)
        figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(segments) // rows))
        how = " as one program" if least["layers"] == "program" else ""
        figure.suptitle(f"{least['network']} in {least['formats']}{how}: {title}")
        save(figure, path)


def plot_ladder(points: pd.DataFrame, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw one network's models against its simulation, as a file; equal tables, equal bytes.

    Left: DRAM traffic [Mbit] of every layer of every point. Right: of the point of least energy at
    each capacity, what each rung adds to the paper's model [% of the simulated bits]; together, the
    rungs are what the paper's model is off by.

    Raises OSError if the file cannot be written.
    """
    best = cheapest(points, "capacity_bits")
    outermost = levels_in(best)[0]
    shares = best[[rung.column for rung in _RUNGS]].div(
        best[outermost.column("bits")] / 100, axis=0
    )
    with drawing() as figure:
        scatter, rungs = figure.subplots(1, 2)
        _scatter(scatter, layers)
        stack(rungs, shares, _RUNGS, 1.0)
        rungs.plot(range(len(shares)), shares.sum(axis=1), "kD", ms=6, mfc="white", label="sum")
        capacity_axis(rungs, list(best["capacity_bits"]))
        rungs.set_title("from the paper's model to the simulation")
        rungs.set_ylabel("bits added [% of simulated]")
        rungs.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.suptitle(
            f"{best['network'].iloc[0]}: {outermost.name} traffic by model and by simulation"
        )
        save(figure, path)


def _scatter(axes: Axes, layers: pd.DataFrame) -> None:
    moved = levels_in(layers)[0].column("bits")
    mbit = (layers[[moved, "exact_bits", "paper_bits"]].drop_duplicates() / 1e6).astype(float)
    simulated = mbit[moved]
    ends = [simulated.min() / 1.5, simulated.max() * 1.5]
    axes.plot(ends, ends, color="black", lw=1.0, label="equal")
    axes.plot(simulated, mbit["paper_bits"], "^", color=VERMILION, ms=5, mew=0, label="paper")
    axes.plot(simulated, mbit["exact_bits"], "o", color=BLUE, ms=4, mfc="none", label="exact")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_powers(axes.xaxis)
    plain_powers(axes.yaxis)
    axes.grid(True, axis="both")
    axes.set_title("every layer of every point")
    axes.set_xlabel("simulated, whole bursts [Mbit]")
    axes.set_ylabel("by the model [Mbit]")
    axes.legend(loc="upper left")


def capacity_scale(axes: Axes, sizes: Sequence[int]) -> None:
    """Let an axis show capacities [bit] in octaves, and label those of `sizes` that have room."""
    axes.set_xscale("log", base=2)
    capacity_ticks(axes, sizes, sizes)
    room = max((sizes[-1] / sizes[0]) ** 0.06, 2**0.1)
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)
    axes.set_xlabel("buffer capacity")


def capacity_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Label an axis that shows capacities by their places in `sizes`."""
    capacity_ticks(axes, sizes, range(len(sizes)))
    axes.set_xlim(-0.7, len(sizes) - 0.3)
    axes.set_xlabel("buffer capacity")


def layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """Label an axis that shows layers in the network's order; of many, every so many have names."""
    step = -(-len(names) // _NAMES)
    places = range(0, len(names), step)
    axes.set_xticks(places, [names[place] for place in places], rotation=90, fontsize=7)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel("layer" if step == 1 else f"layer (1 of {step} is named)")


def stack(axes: Axes, frame: pd.DataFrame, segments: Sequence[Segment], scale: float) -> None:
    """Draw a bar per row; segments that are negative hang below zero.

    scale: what a unit of the axis is of the columns' unit
    """
    places = np.arange(len(frame))
    up = np.zeros(len(frame))
    down = np.zeros(len(frame))
    for column, label, colour, hatch in segments:
        height = frame[column].to_numpy(float, na_value=0.0) / scale  # where there is no such level
        axes.bar(
            places,
            height,
            0.8,
            np.where(height < 0, down, up),
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
            label=label,
        )
        up += np.maximum(height, 0)
        down += np.minimum(height, 0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    if down.any():
        axes.axhline(0, color=GREY, linewidth=0.8)
