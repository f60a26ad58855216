"""Write the golden file: counts, cycles, mappings and energies that a rebuilding must keep.

    python -m tests.golden.make

It holds all that it depends on, architectures and mappings too, so that shipped specs and the
mapper's ties may change without it. It is written once; `test_golden.py` reads it.
"""

import gzip
import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bfpsim as bs
from tests.generate import random_arch, random_formats, random_layer, random_mapping, tight
from tests.golden.record import chosen, measured, rungs

FILE = Path(__file__).with_name("golden.json.gz")
POINTS = 2000
ARCHS = 120
NETWORKS = ("resnet18", "mobilenetv2-eca", "vit-b16", "yolov8n")
MOST_STEPS = 1500


def main() -> None:
    """Write the file anew."""
    rng = random.Random(18)
    bursts = ("1 bit", "4 B", "32 B", "64 B")
    pool = [random_arch(rng, burst=rng.choice(bursts)) for _ in range(ARCHS)]
    archs: dict[str, int] = {}
    points = [_point(rng, number, pool, archs) for number in range(POINTS)]
    networks = [_network(name, archs) for name in NETWORKS]
    golden = {"archs": list(archs), "points": points, "networks": networks}
    text = json.dumps(golden, separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


def _point(
    rng: random.Random, number: int, pool: list[bs.Arch], archs: dict[str, int]
) -> dict[str, Any]:
    while True:
        layer = random_layer(rng, largest=7 if number % 4 else 24)
        formats = random_formats(rng)
        arch = rng.choice(pool)
        mapping = random_mapping(rng, layer, formats)
        trips = 1
        for dim, size in mapping.tile.items():
            trips *= -(-layer.dims[dim] // size)
        if trips > MOST_STEPS:
            continue
        try:
            result = bs.simulate(layer, arch, mapping, formats)
        except bs.MappingError:
            continue
        break
    point = {
        "layer": asdict(layer),
        "formats": [str(formats.I), str(formats.W), str(formats.O)],
        "arch": archs.setdefault(bs.dump_arch(arch), len(archs)),
        "mapping": [mapping.order, mapping.tile],
        **measured(layer, arch, mapping, formats),
        "rungs": rungs(layer, arch, mapping, formats),
    }
    if number % 3 == 1 and max(layer.dims.values()) <= 12:
        small = tight(pool[number % 20], rng.choice([2, 3, 5, 10]) * 512)
        point["chosen"] = {
            "arch": archs.setdefault(bs.dump_arch(small), len(archs)),
            "mappings": chosen(layer, small, formats),
        }
    assert result.cycles == point["cycles"]
    return point


def _network(name: str, archs: dict[str, int]) -> dict[str, Any]:
    net, arch = bs.load_workload(name), bs.load_arch("ideal-64k")
    formats = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
    layers = []
    known: dict[object, int] = {}
    for layer in net.layers:
        key = replace(layer, name="layer")
        if key in known:
            continue
        known[key] = len(layers)
        mapping = bs.find_mapping(layer, arch, formats, model="full")
        layers.append(
            {
                "layer": asdict(layer),
                "mapping": [mapping.order, mapping.tile],
                **measured(layer, arch, mapping, formats),
                "rungs": rungs(layer, arch, mapping, formats),
            }
        )
    result = bs.simulate_network(net, arch, formats, layers="alone")
    return {
        "name": name,
        "formats": "bfp8",
        "arch": archs.setdefault(bs.dump_arch(arch), len(archs)),
        "layers": layers,
        "cycles": result.cycles,
        "energy_pj": result.energy_pj,
    }


if __name__ == "__main__":
    main()
