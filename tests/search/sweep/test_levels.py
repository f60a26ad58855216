"""Architectures with levels inside SRAM in a sweep, beside one that has none."""

from collections import Counter

import pandas as pd
import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.nest import Mapping
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.record import Record
from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.tables import mapping_columns, sums
from bfpsim.sim.simulate import simulate_layers
from tests.generate import deep_arch


@pytest.fixture(scope="module")
def results(network, tmp_path_factory):
    spec = {
        "networks": [network],
        "formats": ["bfp8"],
        "axes": {"arch": [load_arch("ideal-16k"), deep_arch()]},
    }
    return sweep(spec, tmp_path_factory.mktemp("levels") / "store", workers=1)


def test_each_level_has_columns_by_its_name(results):
    points, layers, traffic = results.tables()
    flat, deep = points.to_dict(orient="records")
    for level, column in (("DRAM", "dram"), ("SRAM", "sram"), ("in", "in"), ("acc", "acc")):
        of_level = traffic[(traffic["point"] == 1) & (traffic["level"] == level)]
        assert deep[f"{column}_bits"] == of_level["bits"].sum() > 0
        assert deep[f"{column}_energy_pj"] == pytest.approx(of_level["energy_pj"].sum())
        if level != "DRAM":
            assert deep[f"exact_{column}_bits"] == deep[f"{column}_bits"]
    # What an architecture has no level for is empty; whole numbers stay whole.
    assert pd.isna(flat["acc_bits"])
    assert pd.isna(flat["exact_in_bits"])
    assert str(points["acc_bits"].dtype) == "Int64"
    assert layers[layers["point"] == 0]["acc_tile"].isna().all()
    assert (layers[layers["point"] == 1]["acc_tile"] != "?").all()


def test_cycles_are_parted_and_shares_are_the_simulators(results):
    points = results.points_table()
    for row, point in zip(points.to_dict(orient="records"), results.points, strict=True):
        mappings = {one.layer: one.mapping for one in evaluate(point).layers}
        network = point.network
        expected = simulate_layers(network, point.arch, point.formats_by_layer, mappings)
        shares = ("utilisation", "spatial_utilisation", "temporal_utilisation")
        assert tuple(row[name] for name in shares) == expected.utilisation
        assert row["utilisation"] == network.macs / (256 * row["cycles"])
        assert row["compute_cycles"] == expected.compute_cycles
        parts = ("steady_cycles", "fill_cycles", "port_cycles")
        assert sum(row[name] for name in parts) == row["compute_cycles"]
    assert (points["fill_cycles"] > 0).tolist() == [False, True]
    assert (points["port_cycles"] > 0).tolist() == [False, True]


def test_files_of_both_hold_the_tables(results, tmp_path):
    results.export(tmp_path)
    read = pd.read_csv(tmp_path / "points.csv")
    assert read["acc_bits"].isna().tolist() == [True, False]
    assert Counter(read.columns).most_common(1)[0][1] == 1


def test_a_record_keeps_inner_tiles(point, network):
    record = evaluate(Point(network, deep_arch(), point.formats))
    again = Record.from_json(record.to_json())
    assert again == record
    assert sums(again) == sums(record)
    assert again.to_json() == record.to_json()


def test_inner_tiles_as_text():
    inner = {"acc": Mapping("PQ", {"P": 2, "Q": 5})}
    columns = mapping_columns(Mapping("KP", {"K": 4, "P": 8}, inner), ["in", "acc"])
    assert columns == {
        "order": "KP", "tile": "K=4 P=8", "in_order": "", "in_tile": "",
        "acc_order": "PQ", "acc_tile": "P=2 Q=5",
    }  # fmt: skip
