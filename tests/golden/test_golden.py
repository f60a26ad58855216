"""Counts, cycles, choices and energies that no rebuilding may change."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import bfpsim as bs
from tests.golden.record import chosen, measured, rungs
from tests.long import often

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("golden.json.gz").read_bytes())
)
PARTS = 33  # odd, for every fourth point has a large layer


@pytest.fixture(scope="module")
def archs(tmp_path_factory: pytest.TempPathFactory) -> list[bs.Arch]:
    folder = tmp_path_factory.mktemp("archs")
    loaded = []
    for number, text in enumerate(GOLDEN["archs"]):
        path = folder / f"{number}.yaml"
        path.write_text(text)
        loaded.append(bs.load_arch(path))
    return loaded


def layer_of(fields: dict[str, Any]) -> bs.ConvLayer:
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return bs.ConvLayer(**tuples)


def same(found: dict[str, Any], golden: dict[str, Any]) -> None:
    # Through JSON, as the file went.
    assert json.loads(json.dumps(found)) == {key: golden[key] for key in found}


def as_good(
    layer: bs.ConvLayer, arch: bs.Arch, formats: bs.LayerFormats, golden: dict[str, Any]
) -> None:
    """The mapper's choices cost what they did, by the same model, and run no longer."""
    found = chosen(layer, arch, formats)
    assert found.keys() == golden.keys()
    for key, then in golden.items():
        if isinstance(then, str) or found[key] == then:
            assert found[key] == then
            continue
        objective, model = key.split()
        now, before = (bs.Mapping(*own) for own in (found[key], then))
        cycles = [bs.simulate(layer, arch, own, formats).cycles for own in (now, before)]
        assert cycles[0] <= cycles[1], key
        if objective != "latency":
            costs = [
                bs.predict(layer, arch, own, formats, model)
                .query("level == 'DRAM'" if objective == "dram" else "bits > 0")[
                    "bits" if objective == "dram" else "energy_pj"
                ]
                .sum()
                for own in (now, before)
            ]
            assert costs[0] == pytest.approx(costs[1], rel=1e-12), key


@pytest.mark.parametrize("part", often(1, range(PARTS)))
def test_random_points(archs: list[bs.Arch], part: int) -> None:
    for point in GOLDEN["points"][part::PARTS]:
        layer, arch = layer_of(point["layer"]), archs[point["arch"]]
        formats = bs.LayerFormats(*map(bs.parse_format, point["formats"]))
        mapping = bs.Mapping(*point["mapping"])
        found = measured(layer, arch, mapping, formats)
        found["rungs"] = rungs(layer, arch, mapping, formats)
        same(found, point)
        if "chosen" in point:
            choice = point["chosen"]
            as_good(layer, archs[choice["arch"]], formats, choice["mappings"])


@pytest.mark.parametrize("number", often(1, range(len(GOLDEN["networks"]))))
def test_networks(archs: list[bs.Arch], number: int) -> None:
    network = GOLDEN["networks"][number]
    arch = archs[network["arch"]]
    formats = bs.LayerFormats.uniform(bs.parse_format(network["formats"]))
    for golden in network["layers"]:
        layer, mapping = layer_of(golden["layer"]), bs.Mapping(*golden["mapping"])
        found = measured(layer, arch, mapping, formats)
        found["rungs"] = rungs(layer, arch, mapping, formats)
        same(found, golden)
        assert bs.find_mapping(layer, arch, formats, model="full") == mapping
    net = bs.load_workload(network["name"])
    whole = bs.simulate_network(net, arch, formats, layers="alone")
    assert (whole.cycles, whole.energy_pj) == (network["cycles"], network["energy_pj"])
