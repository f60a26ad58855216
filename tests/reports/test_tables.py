import io
from dataclasses import replace

import pytest
from rich.console import Console

from bfpsim.arch import load_arch, shipped
from bfpsim.reports.capacity import sweep_table
from bfpsim.reports.tables import (
    arch_table,
    layers_frame,
    simulation_table,
    traffic_table,
    validation_table,
)


def lines(table, width=120):
    """The table's lines as cells, as a terminal of that width shows them."""
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    printed = file.getvalue().splitlines()
    assert all(len(line) <= width for line in printed)
    return [line.split() for line in printed if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
def test_validation_columns_add_up_from_paper_to_simulated(validation, width):
    rows = lines(validation_table(validation, width), width)[-3:]
    for cells, layer in zip(rows, [*validation.layers, validation.total], strict=True):
        name, paper, *rungs, exact, bursts, simulated, error, agrees = cells
        assert (name, agrees) == (layer.layer, "yes")
        assert float(simulated) == round(layer.simulated / 1e6, 3)
        assert float(exact) == round(layer.exact / 1e6, 3)
        added = [float(cell) for cell in (paper, *rungs, bursts) if cell != "-"]
        assert sum(added) == pytest.approx(layer.simulated / 1e6, abs=0.005)
        assert error == f"{100 * (float(layer.paper) / layer.simulated - 1):+.1f}"
        assert len(rungs) == (5 if width == 120 else 1)


def test_a_disagreement_is_shouted(validation):
    wrong = replace(validation, layers=(replace(validation.layers[0], exact=0),))
    assert lines(validation_table(wrong))[-1][-1] == "NO"


def test_names_in_brackets_are_no_markup(validation):
    layer = replace(validation.layers[0], layer="block[red]")
    named = replace(validation, network="net[bold]", layers=(layer,))
    rows = lines(validation_table(named))
    assert rows[0][3] == "net[bold]"
    assert rows[-2][0] == "block[red]"


def test_traffic_adds_up(validation):
    result = validation.simulated
    rows = lines(traffic_table(result), 80)
    assert rows[0] == ["Traffic", "of", "tiny", "on", "ideal-16k", "[Mbit]"]
    total, energy = rows[-1][-2:]
    assert float(total) == round(result.traffic["bits"].sum() / 1e6, 3)
    assert float(energy) == round(result.energy_pj / 1e6, 1)
    assert lines(traffic_table(result.layers[1]))[0][2] == "conv2"


def test_simulation_table_and_frame_hold_the_same_layers(validation):
    result = validation.simulated
    frame = layers_frame(result)
    rows = lines(simulation_table(result), 80)[-3:]
    assert [cells[0] for cells in rows] == [*frame["layer"], "total"]
    assert rows[-1][-2] == f"{frame['cycles'].sum():,}"
    waits = frame[["stall_I_cycles", "stall_W_cycles", "stall_O_cycles"]].sum(axis=1)
    assert (frame["cycles"] == frame["compute_cycles"] + waits).all()
    assert frame["energy_pj"].tolist() == [layer.energy_pj for layer in result.layers]


def test_sweep_rows_and_floor(sweep):
    rows = lines(sweep_table(sweep), 80)
    assert rows[2] == ["SRAM"] + ["[Mbit]"] * 4 + ["[mJ]"] * 3 + ["[M]"]
    assert [cells[:2] for cells in rows[-4:-1]] == [["2", "KiB"], ["4", "KiB"], ["8", "KiB"]]
    assert rows[-1][:2] == ["least", f"{sweep['compulsory_bits'][0] / 1e6:,.3f}"]


def test_every_shipped_architecture_has_a_row():
    rows = lines(arch_table([load_arch(name) for name in shipped()]))
    assert [cells[0] for cells in rows[-len(shipped()) :]] == list(shipped())
