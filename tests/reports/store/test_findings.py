import math

import pandas as pd
import pytest

from bfpsim.mapping.nest import TENSORS
from bfpsim.reports.store.findings import energy_column, read_findings
from bfpsim.search.store import Store, StoreError
from bfpsim.search.sweep.point import POINTS
from bfpsim.search.sweep.results import Results
from bfpsim.search.sweep.spec import SweepError
from bfpsim.sim.simulate import simulate_layers
from bfpsim.sim.validate import validate
from tests.reports.store.conftest import fill


def simulated(point):
    return simulate_layers(point.network, point.arch, point.formats_by_layer)


def test_points_and_layers_say_what_the_sweeps_own_tables_say(findings, planned, store):
    """Sums that are computed apart, here in one pass over the flows."""
    theirs = Results(planned, store).tables()
    succeeded = theirs.points[theirs.points["error"].isna()].reset_index(drop=True)
    for mine, other in ((findings.points, succeeded), (findings.layers, theirs.layers)):
        shared = [name for name in mine if name in other]
        assert {"cycles", "dram_bits", "paper_bits", "bursts_bits", "energy_pj", "seconds"} < {
            *shared
        }
        pd.testing.assert_frame_equal(
            mine[shared], other[shared], check_dtype=False, check_exact=True
        )
        extra = {energy_column(level, tensor) for level in ("DRAM", "SRAM") for tensor in TENSORS}
        assert {*mine} - {*shared} == extra


def test_energies_are_the_simulators_to_the_last_bit(findings, planned):
    for row in findings.points.to_dict(orient="records"):
        result = simulated(planned[row["point"]])
        assert row["energy_pj"] == result.energy_pj == math.fsum(result.traffic["energy_pj"])
        for (level, tensor), flows in result.traffic.groupby(["level", "tensor"]):
            assert row[energy_column(level, tensor)] == math.fsum(flows["energy_pj"])


def test_the_traffic_of_the_best_point_adds_up_to_it(findings, planned):
    ((network, best),) = findings.best.items()
    point = findings.points.set_index("point").loc[best.point]
    assert point["energy_pj"] == findings.points["energy_pj"].min()
    traffic = findings.traffic
    assert set(traffic["network"]) == {network}
    assert math.fsum(traffic["energy_pj"]) == point["energy_pj"]
    assert traffic.groupby("level")["bits"].sum().to_dict() == {
        "DRAM": point["dram_bits"],
        "SRAM": point["sram_bits"],
    }
    pd.testing.assert_frame_equal(
        traffic.drop(columns="point"), simulated(planned[best.point]).traffic
    )


def test_layers_are_validated_layer_by_layer(findings, planned):
    place = int(findings.points["point"].iloc[-1])
    point = planned[place]
    expected = validate(point.network, point.arch, point.formats_by_layer)
    rows = findings.layers[findings.layers["point"] == place]
    assert rows["layer"].tolist() == [layer.layer for layer in expected.layers]
    assert rows["paper_bits"].tolist() == [float(layer.paper) for layer in expected.layers]
    assert rows["exact_bits"].tolist() == [layer.exact for layer in expected.layers]


def test_failed_points_are_gaps_that_the_sweep_explains(findings):
    assert findings.gaps["state"].tolist() == ["failed"] * 4
    assert findings.gaps["sram.capacity"].tolist() == ["16 B"] * 4
    assert findings.gaps["dram.bandwidth"].tolist() == ["1 GB/s", "2 GB/s"] * 2
    assert findings.gaps["point"].tolist() == [0, 1, 8, 9]
    assert findings.gaps["reason"].str.contains("no mapping fits ideal-16k").all()
    assert findings.points["point"].tolist() == [*range(2, 8), *range(10, 16)]


def test_without_the_sweep_axes_are_found_and_the_order_is_not_that_of_time(
    store, planned, findings, tmp_path
):
    found = read_findings(store)
    assert found.axes == ("dram.bandwidth", "sram.capacity")
    assert found.points["point"].tolist() == list(range(12))
    assert len(found.gaps) == 4
    assert "point" not in found.gaps
    assert found.alike == 0
    again = read_findings(fill(tmp_path / "store", reversed(planned)))
    for name in ("points", "layers", "gaps", "traffic"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))

    labels = ["formats", "sram.capacity", "dram.bandwidth"]
    mine = found.points.sort_values(labels)["energy_pj"].tolist()
    assert mine == findings.points.sort_values(labels)["energy_pj"].tolist()


def test_what_is_missing_and_what_is_not_the_sweeps_is_said(planned, spec, tmp_path):
    path = fill(tmp_path / "store", planned[4:6])
    with Store(path) as store:
        store.put(POINTS, "f" * 64, "{}")
    partial = read_findings(path, spec)
    assert partial.points["point"].tolist() == [4, 5]
    assert partial.gaps["state"].tolist() == ["missing"] * 14
    assert partial.others == 1

    alone = read_findings(path)
    assert alone.gaps[["state", "key"]].to_dict("list") == {
        "state": ["unreadable"],
        "key": ["f" * 64],
    }
    assert alone.others == 0


def test_points_that_only_the_program_tells_apart_are_counted(planned, tmp_path):
    path = fill(tmp_path / "store", planned[4:6])
    with Store(path) as store:
        record = store.get(POINTS, planned[4].key).record
        store.put(POINTS, "0" * 64, record)
    assert read_findings(path).alike == 1


def test_an_empty_store_has_nothing_and_says_so(tmp_path, spec):
    Store(tmp_path / "store").close()
    empty = read_findings(tmp_path / "store")
    assert (len(empty.points), len(empty.layers), len(empty.gaps), empty.best) == (0, 0, 0, {})
    assert len(read_findings(tmp_path / "store", spec).gaps) == 16


def test_what_is_no_store_is_refused_and_not_made(tmp_path, spec):
    with pytest.raises(StoreError, match=r"none: does not exist; allowed: a file that"):
        read_findings(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match=r"is a folder; allowed"):
        read_findings(tmp_path)
    with pytest.raises(StoreError, match="is no store"):
        read_findings(spec)
    Store(tmp_path / "store").close()
    with pytest.raises(SweepError, match="cannot be read"):
        read_findings(tmp_path / "store", tmp_path / "no.yaml")
