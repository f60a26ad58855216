import io
from dataclasses import replace

import pytest
from rich.console import Console

from bfpsim.arch import load_arch, replace_all, shipped
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.reports.capacity import constant_price_text, sweep_table
from bfpsim.reports.tables import (
    arch_table,
    cycles_table,
    energy_table,
    layers_frame,
    simulation_report,
    simulation_table,
    traffic_table,
    validation_table,
)

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))


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
    rows = lines(simulation_table(result, 200), 200)[-3:]
    assert [cells[0] for cells in rows] == [*frame["layer"], "total"]
    assert rows[-1][-5] == f"{frame['cycles'].sum():,}"
    waits = frame[["stall_I_cycles", "stall_W_cycles", "stall_O_cycles"]].sum(axis=1)
    assert (frame["cycles"] == frame["compute_cycles"] + waits).all()
    parts = frame[["steady_cycles", "fill_cycles", "port_cycles"]].sum(axis=1)
    assert (frame["compute_cycles"] == parts).all()
    assert frame["energy_pj"].tolist() == [layer.energy_pj for layer in result.layers]


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("machine", ["validation", "deep"])
def test_mappings_and_shares_of_the_array_are_shown(request, machine, width):
    """Below the layer's name where the terminal is narrow; tensors are together there, too."""
    result = request.getfixturevalue(machine).simulated
    rows = [" ".join(cells) for cells in lines(simulation_table(result, width), width)]
    for layer in result.layers:
        first = next(place for place, row in enumerate(rows) if row.startswith(layer.layer.name))
        cuts = str(layer.mapping).split("; ") if width == 80 else [str(layer.mapping)]
        last = first + len(cuts) * (width == 80)
        assert all(cut in " ".join(rows[first : last + 1]) for cut in cuts)
        outer, *inside = (
            f" {layer.counts.total(level.name) / 1e6:,.3f}" for level in result.arch.levels
        )
        assert "".join(inside) in rows[last]
        assert (outer + inside[0] in rows[last]) == (width == 80)
        share = layer.layer.macs / (256 * layer.cycles)
        assert rows[last].endswith(f" {100 * share:.1f}")
    names = [level.name for level in result.arch.levels]
    assert all(any(name in row.split() for row in rows[:4]) for name in names)


def test_an_inner_tile_has_columns_by_the_name_of_its_level(deep):
    frame = layers_frame(deep.simulated)
    assert frame["acc_order"].tolist() == ["PQ", ""]
    assert frame["acc_tile"].tolist() == ["P=1 Q=4", ""]
    assert frame["in_tile"].tolist() == ["C=4 P=2", ""]
    by_level = deep.simulated.traffic.groupby("level")["bits"].sum()
    for level in ("dram", "sram", "in", "acc"):
        name = level.upper() if level in ("dram", "sram") else level
        assert frame[f"{level}_bits"].sum() == by_level[name]


@pytest.mark.parametrize("machine", ["validation", "deep"])
def test_cycles_add_up_from_left_to_right(request, machine):
    validation = request.getfixturevalue(machine)
    rows = lines(cycles_table(validation), 80)
    assert rows[1][-2:] == ["for", "DRAM"] or "waiting" in rows[1]
    for cells, row in zip(rows[-3:], [*validation.layers, validation.total], strict=True):
        name, *numbers, agrees = cells
        assert (name, agrees) == (row.layer, "yes")
        *added, simulated = (int(cell.replace(",", "")) for cell in numbers if cell != "-")
        assert simulated == row.cycles.simulated
        assert sum(added) == pytest.approx(simulated, abs=len(added))


def test_a_cycle_that_differs_is_shouted_in_the_table_of_cycles(validation):
    layer = validation.layers[0]
    longer = replace(layer.cycles, simulated=layer.cycles.simulated + 1)
    wrong = replace(validation, layers=(replace(layer, cycles=longer),))
    assert lines(cycles_table(wrong))[-1][-1] == "NO"
    assert lines(validation_table(wrong))[-1][-1] == "yes"


def test_ports_without_a_limit_say_what_passes_them(validation, deep):
    report = simulation_report(validation.simulated, BFP8)
    read, _ = report.summary["unlimited_ports"]
    counts = validation.simulated.layers[1].counts
    operands = counts.total("SRAM", "I", "read") + counts.total("SRAM", "W", "read")
    bits = operands + counts.total("SRAM", "O", "read", "psum")
    assert read["layer"] == "conv2"
    assert read["most"] == bits / validation.simulated.layers[1].compute_cycles
    text = " ".join(" ".join(cells) for cells in lines(report.table, 80)[-3:])
    times = f"{read['most'] / 128:.1f} x"
    assert "SRAM is 128 bit wide and its ports have no limit: in a busy cycle" in text
    assert times in text
    limited = simulation_report(deep.simulated, BFP8)
    assert limited.summary["unlimited_ports"] == []  # SRAM is limited, and acc has no width


def test_sweep_rows_and_floor(sweep):
    table = sweep_table(sweep)
    assert table.caption == constant_price_text(["SRAM"])
    assert sweep_table(sweep.assign(energy="cacti-45nm")).caption is None
    assert sweep_table(sweep.assign(read_pj=[0.1, 0.2, 0.3])).caption is None
    assert sweep_table(sweep.iloc[:1]).caption is None
    table.caption = None
    rows = lines(table, 80)
    assert rows[2] == ["SRAM"] + ["[Mbit]"] * 4 + ["[mJ]"] * 3 + ["[M]"]
    assert [cells[:2] for cells in rows[-4:-1]] == [["2", "KiB"], ["4", "KiB"], ["8", "KiB"]]
    assert rows[-1][:2] == ["least", f"{sweep['compulsory_bits'][0] / 1e6:,.3f}"]


def test_a_sweeps_energy_beyond_movement_has_a_column(sweep):
    more = sweep.assign(all_energy_pj=sweep["energy_pj"] + 1e9)
    rows = [" ".join(cells) for cells in lines(sweep_table(more), 120)]
    assert "movement all cycles" in rows[1]
    for row, pj in zip(rows[4:7], sweep["energy_pj"], strict=True):
        assert f" {pj / 1e9:,.3f} {pj / 1e9 + 1:,.3f} " in row


def priced(validation):
    """The simulated network on a machine of the same times that prices everything."""
    prices = {
        "pe_array.mac_energy": {4: "0.1 pJ", 8: "0.2 pJ"},
        "sram.leakage": "20 uW",
        "dram.background": "50 mW",
    }
    arch = replace_all(validation.simulated.arch, prices)
    layers = tuple(replace(own, arch=arch) for own in validation.simulated.layers)
    return replace(validation.simulated, arch=arch, layers=layers)


def test_every_part_of_the_energy_has_a_row_and_both_totals_stand_below(validation):
    result = priced(validation)
    rows = {" ".join(cells[:-2]): cells[-2:] for cells in lines(energy_table(result), 80)[2:]}
    del rows[""]  # the line above the totals
    by_way = result.traffic.groupby(["level", "direction"])["energy_pj"].sum()
    cycles = sum(layer.cycles for layer in result.layers)
    # 5-bit significands take the 8-bit multiplier's 0.2 pJ; a cycle is 2 ns.
    macs = sum(layer.layer.macs for layer in result.layers)
    expected = {f"movement {level} {way}": pj for (level, way), pj in by_way.items()} | {
        "macs PE array": 0.2 * macs,
        "leakage SRAM": 20e-6 * 2e-9 * 1e12 * cycles,
        "background DRAM": 50e-3 * 2e-9 * 1e12 * cycles,
        "movement (Eq. 8)": by_way.sum(),
    }
    every = sum(list(expected.values())[:-1])
    assert result.energy.all_pj == pytest.approx(every, rel=1e-12)
    assert rows == {
        name: [f"{pj / 1e6:,.3f}", f"{100 * pj / every:.1f}"]
        for name, pj in {**expected, "all": every}.items()
    }


@pytest.mark.parametrize("width", [80, 200])
def test_all_energy_stands_beside_movement_where_more_is_priced(validation, width):
    result = priced(validation)
    report = simulation_report(result, BFP8, width=width)
    assert report.summary["all_energy_pj"] == result.energy.all_pj
    assert report.summary["energy_pj"] == validation.simulated.energy_pj
    rows = [" ".join(cells) for cells in lines(report.table, width)]
    assert any(row.startswith("Energy of tiny on ideal-16k") for row in rows)
    total = next(row for row in rows if row.startswith("total"))
    assert f" {result.energy_pj / 1e6:,.1f} {result.energy.all_pj / 1e6:,.1f} " in total
    frame = report.frames["layers"]
    for layer, both in zip(result.layers, frame["all_energy_pj"], strict=True):
        assert both == layer.energy.all_pj > layer.energy_pj
    assert report.frames["energy"]["energy_pj"].iloc[-1] == result.energy.all_pj


def test_where_only_movement_is_priced_the_terminal_shows_no_more(validation):
    report = simulation_report(validation.simulated, BFP8, width=200)
    rows = [" ".join(cells) for cells in lines(report.table, 200)]
    assert not any("Energy of" in row or " all " in row for row in rows)
    assert report.summary["all_energy_pj"] == report.summary["energy_pj"]


def test_areas_stand_where_a_table_is_named():
    edge = load_arch("ideal-64k")
    named = replace_all(edge, {"name": "named", "sram.energy": "cacti-45nm"})
    rows = [" ".join(cells) for cells in lines(arch_table([edge, named]), 160)]
    assert any("[mm²]" in row for row in rows)
    assert " 0.188 " in next(row for row in rows if row.startswith("named"))
    assert "mm²" not in " ".join(" ".join(cells) for cells in lines(arch_table([edge]), 160))


def test_every_shipped_architecture_has_a_row():
    rows = lines(arch_table([load_arch(name) for name in shipped()]), 140)
    assert [cells[0] for cells in rows[-len(shipped()) :]] == list(shipped())
