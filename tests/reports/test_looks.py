"""Figures: files, axes and labels, and the documentation's own from inputs that are shipped."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import figures as documented
from bfpsim.reports import reproduction
from bfpsim.reports.capacity import plot_curves
from bfpsim.reports.style import drawing, save

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drawn(monkeypatch):
    """The figures in place of their files."""
    figures = []
    for module in ("capacity", "mantissa", "reproduction", "search", "tradeoff"):
        monkeypatch.setattr(
            f"bfpsim.reports.{module}.save", lambda figure, path: figures.append(figure)
        )
    return figures


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_equal_figures_make_equal_files(ending, tmp_path):
    for name in ("one", "two"):
        with drawing() as figure:
            figure.subplots().plot([1, 2], [3, 4], "o--", label="$x_1$")
            save(figure, tmp_path / f"{name}.{ending}")
    data = (tmp_path / f"one.{ending}").read_bytes()
    assert data == (tmp_path / f"two.{ending}").read_bytes()
    assert data[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    assert not re.search(rb"20[2-9]\d-[01]\d-|D:20\d\d", data), "no date"


def test_other_endings_are_refused(tmp_path):
    with drawing() as figure, pytest.raises(ValueError, match=r"'gif'; allowed: \.png, \.pdf, \.s"):
        save(figure, tmp_path / "x.gif")
    assert not [*tmp_path.iterdir()]


def test_a_predicted_loss_has_no_place_above_all_images(drawn, tmp_path):
    """The shipped front goes on to 127 points, and each alpha leads where Eq. 1 is least."""
    documented.bitq_front(tmp_path / "x.png")
    (axes,) = drawn[0].axes
    front = pd.read_csv(ROOT / "benchmarks" / "search-front.csv")
    assert 100 * front["loss"].max() > 120
    assert axes.get_ylim()[1] == 100
    dm_max = 147_412_080.64  # of docs/reproducing-bitq.md: 147.4 µJ
    (dashed,) = [line for line in axes.get_lines() if line.get_label() == "DM_max"]
    assert dashed.get_xdata()[0] == pytest.approx(dm_max / 1e6, rel=1e-12)
    shown = {}
    for note in axes.texts:
        for alpha in note.get_text().removeprefix("α = ").split(", "):
            shown[float(alpha)] = note.xy[1] / 100
    assert sorted(shown) == [0.015, 0.05, 0.15, 0.2, 0.25, 1.5, 3.0]
    for alpha in (0.015, 0.05, 1.5, 3.0):  # the others share a label
        best = (front["loss"] + alpha * front["simulated"] / dm_max).idxmin()
        assert shown[alpha] == pytest.approx(front.loc[best, "loss"])


def test_alpha_is_a_number_not_a_name(drawn, tmp_path):
    documented.bitq_alpha(tmp_path / "x.png")
    for axes in drawn[0].axes:
        assert axes.get_xscale() == "log"
        for line in axes.get_lines():
            assert [*line.get_xdata()] == [0.015, 0.05, 0.15, 0.2, 0.25, 1.5, 3.0]
    frame = pd.DataFrame({"alpha": [0.0, 0.1], "top1": [0.5, 0.4], "of_first": [1.0, 0.9]})
    reproduction.plot_alphas({"net": frame}, "net", tmp_path / "x.png")
    assert drawn[1].axes[0].get_xscale() == "symlog"


def test_means_stand_apart_and_the_original_is_a_line(drawn, tmp_path):
    documented.bitq_energy(tmp_path / "x.png")
    (axes,) = drawn[0].axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    places = np.diff(axes.get_xticks())
    first_mean = next(place for place, name in enumerate(names) if name.startswith("mean, "))
    assert [gap == 2 for gap in places] == [place == first_mean - 1 for place in range(len(places))]
    assert "original" not in [bars.get_label() for bars in axes.containers]
    assert [line.get_ydata()[0] for line in axes.get_lines() if "= 1" in line.get_label()] == [1]


def test_heat_maps_are_coloured_by_loss(drawn, tmp_path):
    documented.mantissa_heat_map(tmp_path / "x.png")
    image = drawn[0].axes[0].images[0]
    table = pd.read_csv(ROOT / "benchmarks" / "heat-maps.csv")
    table = table[table["network"] == "resnet18-fashion"]
    losses = table.pivot_table("accuracy_loss", "exponent_bits", "mantissa_bits").to_numpy()
    assert np.allclose(image.get_array(), 100 * losses)
    colours = image.cmap(image.norm(np.array([-0.2, 0.4, 0.9, 1.5, 3.0, 7.0, 15.0, 30.0, 80.0])))
    assert np.allclose(colours[0], colours[1])  # a gain, and next to nothing
    assert len(np.unique(colours, axis=0)) == 8  # every step that matters is seen


def test_a_figure_of_one_layer_names_it(drawn, tmp_path):
    curve = pd.DataFrame(
        {
            "network": "net", "arch": "a", "formats": "f", "layer": ["conv"] * 2 + ["total"] * 2,
            "layers": 1, "capacity_bits": [8192, 16384] * 2, "dram_bits": [20, 10] * 2,
            "compulsory_bits": 10, "knee": False,
        }
    )  # fmt: skip
    plot_curves(curve, tmp_path / "x.png")
    assert drawn[0].get_suptitle().startswith("conv of net in f on a")
    plot_curves(curve.assign(layers=2), tmp_path / "x.png")
    assert drawn[1].get_suptitle().startswith("net in f on a")


def test_widths_have_labels_only_where_they_have_room(drawn, tmp_path, monkeypatch):
    grid = pd.read_csv(ROOT / "benchmarks" / "heat-maps.csv")
    grid = grid[grid["network"] == "resnet18-fashion"].reset_index(drop=True)
    bits = 1e6 * (100 + 30 * grid["bits"])
    energy = grid[["format", "exponent_bits", "mantissa_bits", "bits"]].assign(
        dram_bits=bits, dram_weight_bits=bits / 2, dram_energy_pj=bits, sram_energy_pj=0.0,
        energy_pj=bits, energy_saved=0.0,
    )  # fmt: skip
    monkeypatch.setattr(documented, "measure_energy", lambda *_: energy)
    documented.mantissa_energy(tmp_path / "x.png")
    figure = drawn[0]
    figure.draw_without_rendering()
    boxes = [note.get_window_extent() for note in figure.axes[0].texts]
    assert len(boxes) >= 5
    for left, right in pairwise(boxes):  # from the widest to the narrowest
        assert right.x1 < left.x0 or not right.overlaps(left)


def test_the_documentation_s_figures_are_drawn_from_what_is_shipped():
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    shown = set(re.findall(r"\]\((?:docs/)?([\w-]+)\.png\)", pages))
    # A page in a browser, and two that take some minutes.
    assert shown - {"report", "energy", "dram-energy"} == set(documented.FIGURES)


def test_the_shipped_inputs_say_what_the_pages_say():
    page = (ROOT / "docs" / "reproducing-bitq.md").read_text()
    cells = {cell.strip(" *").replace(",", "") for cell in re.split(r"[|\n]", page)}
    energies = pd.read_csv(ROOT / "benchmarks" / "bitq-energy.csv", dtype=str).fillna("")
    for name in energies["network"]:
        assert name.replace(",", "") in cells
    for row in page.splitlines():
        name = row.strip("| ").split("|")[0].strip(" *")
        own = energies[energies["network"] == name]
        if len(own) and row.startswith("|"):
            assert [cell.strip().replace(",", "") for cell in row.strip("|").split("|")][1:] == [
                f"{float(cell):.2f}" if place == 0 and cell else cell
                for place, cell in enumerate(own.iloc[0, 1:])
            ]
