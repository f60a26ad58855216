import pandas as pd
import pytest

from bfpsim.search.store import StoreError
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.results import Results
from bfpsim.search.sweep.spec import load_spec
from bfpsim.search.sweep.tables import sums
from bfpsim.sim.simulate import simulate_layers
from tests.search.sweep.conftest import files


@pytest.fixture(scope="module")
def results(spec, finished) -> Results:
    return Results(plan(load_spec(spec)), finished)


@pytest.fixture(scope="module")
def tables(results):
    return results.tables()


def test_a_row_per_point_in_the_order_of_the_sweep(results, tables):
    points = tables.points
    assert points["point"].tolist() == list(range(32))
    assert points["formats"].tolist() == ["bfp8e3b16"] * 16 + ["bfp16e5b16"] * 16
    assert points["sram.capacity"].tolist()[:16:4] == ["16 B", "1 KiB", "2 KiB", "16 KiB"]
    assert points["sram.double_buffered"].tolist()[:4] == [False, False, True, True]
    assert points["dram.bandwidth"].tolist()[:2] == ["1 GB/s", "2 GB/s"]
    assert points["capacity_bits"].tolist()[4] == 8192
    pd.testing.assert_frame_equal(results.points_table(), points)


def test_a_point_is_what_the_simulation_says(results, tables):
    point = results.points[6]
    row = tables.points.iloc[6]
    expected = simulate_layers(point.network, point.arch, point.formats_by_layer)
    assert row["cycles"] == expected.cycles
    assert row["energy_pj"] == expected.energy_pj
    assert row["seconds"] == expected.seconds
    assert row["macs"] == point.network.macs
    assert row["cycles"] == sum(
        row[f"{part}_cycles"] for part in ("compute", "stall_I", "stall_W", "stall_O")
    )
    by_level = expected.traffic.groupby("level")[["bits", "energy_pj"]].sum()
    assert (row["dram_bits"], row["sram_bits"]) == tuple(by_level["bits"])
    assert row["dram_energy_pj"] == pytest.approx(by_level.loc["DRAM", "energy_pj"])
    assert row["compulsory_energy_pj"] == row["compulsory_bits"] * 20
    assert row["exact_bits"] == row["dram_payload_bits"]
    rungs = ("edges", "padding", "halo", "partial_sums", "cut_blocks", "bursts")
    assert row["paper_bits"] + sum(row[f"{rung}_bits"] for rung in rungs) == row["dram_bits"]

    mine = tables.traffic[tables.traffic["point"] == 6].drop(columns="point")
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), expected.traffic, check_dtype=False)


def test_layers_and_traffic_add_up_to_points(tables):
    points = tables.points[tables.points["error"].isna()].set_index("point")
    assert len(points) == 24
    summed = tables.layers.groupby("point").sum(numeric_only=True)
    for column in ("macs", "cycles", "stall_W_cycles", "dram_bits", "compulsory_I_bits",
                   "exact_sram_bits", "bursts_bits"):  # fmt: skip
        assert (summed[column] == points[column]).all(), column
    assert (summed["energy_pj"] - points["energy_pj"]).abs().max() < 1e-6
    for level, column in (("DRAM", "dram_bits"), ("SRAM", "sram_bits")):
        flows = tables.traffic[tables.traffic["level"] == level]
        assert (flows.groupby("point")["bits"].sum() == points[column]).all()


def test_points_without_a_mapping_say_so_and_hold_nothing_else(tables):
    failed = tables.points[tables.points["error"].notna()]
    assert set(failed["sram.capacity"]) == {"16 B"}
    assert failed["error"].str.startswith("conv1: no mapping fits ideal-16k: the shared SRAM").all()
    assert failed.loc[:, "macs":].isna().all(axis=None)


def without_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """CSV does not tell empty text, such as the order of a layer in one tile, from none."""
    return table.fillna(dict.fromkeys(table.select_dtypes("string"), ""))


def test_files_hold_the_tables(results, tables, tmp_path):
    paths = results.export(tmp_path / "new" / "out")
    assert [path.name for path in paths] == [
        f"{name}.{ending}" for name in tables._fields for ending in ("csv", "parquet")
    ]
    for path in paths:
        table = getattr(tables, path.stem)
        if path.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(path), table)
        else:
            read = pd.read_csv(path, dtype=dict(table.dtypes))
            pd.testing.assert_frame_equal(without_gaps(read), without_gaps(table))


def test_files_do_not_depend_on_the_parts_they_are_written_in(results, tmp_path, monkeypatch):
    results.export(tmp_path / "whole")
    monkeypatch.setattr("bfpsim.search.sweep.results._PART", 7)
    results.export(tmp_path / "parts")
    for name in ("points.csv", "layers.csv", "traffic.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    whole, parts = (
        pd.read_parquet(tmp_path / folder / "points.parquet") for folder in ("whole", "parts")
    )
    pd.testing.assert_frame_equal(whole, parts)


def test_an_export_that_fails_leaves_the_older_files(results, tmp_path, monkeypatch):
    results.export(tmp_path)
    before = files(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        results.export(tmp_path)
    assert files(tmp_path) == before


def test_without_pyarrow_there_is_csv(results, tmp_path, monkeypatch):
    monkeypatch.setattr("bfpsim.search.sweep.results.find_spec", lambda name: None)
    assert {path.name for path in results.export(tmp_path)} == {
        "points.csv", "layers.csv", "traffic.csv"
    }  # fmt: skip


def test_a_store_that_lacks_a_point_says_which(results, tmp_path):
    with pytest.raises(StoreError, match=r"empty: lacks point 0; run the sweep again"):
        Results(results.points, tmp_path / "empty").tables()


def test_sums_without_models_leave_them_out(point):
    from dataclasses import replace

    with_models, without = sums(evaluate(point)), sums(evaluate(replace(point, ladder=False)))
    assert {*with_models} - {*without} >= {"exact_bits", "paper_bits", "bursts_bits"}
    assert without == {key: with_models[key] for key in without}
