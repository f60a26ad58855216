"""All figures of a report, and what the page says about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.store.achieved import plot_achieved
from bfpsim.reports.store.breakdown import plot_energy, plot_stalls
from bfpsim.reports.store.capacity import plot_capacity
from bfpsim.reports.store.findings import Findings
from bfpsim.reports.store.ladder import plot_ladder
from bfpsim.reports.store.page import PageFigure, Section
from bfpsim.reports.store.tradeoff import plot_tradeoff

if TYPE_CHECKING:
    import pandas as pd

_Drawn = Callable[[str, str, Callable[[Path], None]], tuple[PageFigure, Path]]
"""From a file's name, a caption, and what draws the file."""


def draw_figures(
    findings: Findings, accuracies: pd.DataFrame | None, out: Path, tell: Callable[[str], None]
) -> Iterator[tuple[Section, list[Path]]]:
    """Draw every figure into a folder; each part of the page with the files that it shows.

    accuracies: with `tradeoff.COLUMNS`, or None to leave that figure out
    tell: called with what is being drawn
    """

    def drawn(name: str, caption: str, draw: Callable[[Path], None]) -> tuple[PageFigure, Path]:
        tell(f"drawing {name}.png")
        path = out / f"{name}.png"
        draw(path)
        return PageFigure(caption, path.read_bytes()), path

    names = file_names(findings.best)
    for place, (network, name) in enumerate(names.items()):
        section, files = zip(*_network_figures(findings, network, name, drawn), strict=True)
        yield Section(f"network-{place}", network, section), list(files)
    if accuracies is not None:
        figure, file = drawn(
            "accuracy",
            "Accuracy lost against the energy of data movement: every choice, and those that no "
            "other beats in both.",
            lambda path: plot_tradeoff(accuracies, path),
        )
        yield Section("tradeoff", "Accuracy against energy", (figure,)), [file]


def _network_figures(
    findings: Findings, network: str, name: str, drawn: _Drawn
) -> Iterator[tuple[PageFigure, Path]]:
    """The figures of one network."""
    points = findings.points[findings.points["network"] == network]
    layers = findings.layers[findings.layers["network"] == network]
    best = findings.best[network]
    of_best = layers[layers["point"] == best.point]
    yield drawn(
        f"{name}-capacity",
        f"{network}: DRAM traffic and energy against buffer size, by format; dashed is what no "
        "mapping avoids.",
        lambda path: plot_capacity(points, path),
    )
    yield drawn(
        f"{name}-energy",
        f"{network}: energy by level and tensor, at each buffer size and by layer of point "
        f"{best.point}.",
        lambda path: plot_energy(points, layers, path),
    )
    yield drawn(
        f"{name}-stalls",
        f"{network}: cycles in which the PE array computes, and waits for a tile of I, W or O.",
        lambda path: plot_stalls(points, layers, path),
    )
    yield drawn(
        f"{name}-roofline",
        f"{network}: MACs per cycle that the layers of point {best.point} reach, under the roof of "
        "its PE array and DRAM channel.",
        lambda path: plot_achieved(best.record, of_best, path),
    )
    if "paper_bits" in points and points["paper_bits"].notna().any():
        judged = points[points["paper_bits"].notna()]
        yield drawn(
            f"{name}-models",
            f"{network}: DRAM traffic by the analytical models against the simulation, and what "
            "each effect that the paper's model leaves out adds to it.",
            lambda path: plot_ladder(judged, layers[layers["paper_bits"].notna()], path),
        )


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
