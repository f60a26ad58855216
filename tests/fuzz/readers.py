"""Every reader of files that strangers write, with good files and what makes bad ones of them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_tensors
from torch import nn

from bfpsim.arch import dump_arch, load_arch, shipped
from bfpsim.mapping.file import load_mappings, save_mappings
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.quant.study.datasets import AS_STORED, read_idx_dataset, read_npz_dataset
from bfpsim.quant.study.image_folder import Fit, read_image_folder
from bfpsim.quant.study.sensitivity import Sensitivity
from bfpsim.reports.store.findings import read_findings
from bfpsim.reports.tradeoff import read_accuracies, unbeaten
from bfpsim.reports.workload import workload_report
from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS
from bfpsim.search.sweep.spec import load_spec
from bfpsim.workloads import NetworkBuilder, load_workload, save_workload
from bfpsim.workloads.checkpoint import load_weights
from bfpsim.workloads.state import load_into
from bfpsim.workloads.training.shipped import load_module
from tests.fuzz.mutate import damaged, rewritten
from tests.idx_file import idx_bytes

Make = Callable[[random.Random, Path], None]
"""Writes an input to a path."""


class Reader(NamedTuple):
    """suffix: of the files; make: writes one; read: reads it, as a command would."""

    suffix: str
    make: Make
    read: Callable[[Path], object]


def all_readers(folder: Path) -> dict[str, Reader]:
    """Every reader by name; `folder` takes the good files."""
    return {**_texts(folder), **_datasets(folder), **_weights(folder), **_stores(folder)}


def _of_texts(seeds: list[str]) -> Make:
    """Grammar mutations of texts, and at times damaged bytes."""
    raw = [seed.encode() for seed in seeds]

    def make(rng: random.Random, path: Path) -> None:
        if rng.random() < 0.25:
            path.write_bytes(damaged(rng, raw))
        else:
            path.write_bytes(rewritten(rng, seeds).encode("utf-8", "surrogatepass"))

    return make


def _of_bytes(seeds: list[bytes]) -> Make:
    def make(rng: random.Random, path: Path) -> None:
        path.write_bytes(damaged(rng, seeds))

    return make


def _network():
    build = NetworkBuilder("tiny", (1, 8, 8, 4))
    x = build.conv("conv1", "input", 8, 3, padding=1, groups=2)
    y = build.maxpool("pool", build.relu("relu", x), 2, stride=2)
    right = build.host("right", "permute", y, shape=(1, 1, 6, 8))
    build.matmul("qk", build.host("left", "reshape", y, shape=(1, 1, 16, 8)), right, 6, heads=2)
    build.linear("fc", build.avgpool("mean", build.add("add", x, x)), 10)
    build.transposed("up", y, 2, (2, 2), stride=(2, 2))
    return build.network()


def _texts(folder: Path) -> dict[str, Reader]:
    network, arch = _network(), load_arch("ideal-64k")
    for suffix in ("yaml", "csv"):
        save_workload(network, folder / f"net.{suffix}")
    inner = next((name for name in shipped() if load_arch(name).inner), "ideal-64k")
    archs = [dump_arch(load_arch(name)) for name in dict.fromkeys((*shipped()[:3], inner))]
    mapping = Mapping("KPQ", {"K": 4, "P": 2, "Q": 8})
    save_mappings(folder / "maps.yaml", {node.name: Mapping() for node in network.layers})
    maps = (folder / "maps.yaml").read_text()
    save_mappings(folder / "maps.yaml", dict.fromkeys(["conv1"], mapping))
    maps = maps.replace("conv1: {}\n", (folder / "maps.yaml").read_text())
    formats = LayerFormats.uniform(parse_format("bfp8"))

    def show(path: Path) -> None:
        net = load_workload(path)
        net.check_layers()
        workload_report(net, arch, formats, 120)

    sweep = (
        f"arch: ideal-64k\nnetworks: [resnet18-fashion, '{folder}/net.yaml']\n"
        "formats: [bfp8, {I: bfp8, W: bfp8e3b16, O: plain16}]\nobjective: energy\nladder: false\n"
    )
    sweeps = [
        sweep
        + "axes:\n  sram.capacity: [16 KiB, 64 KiB]\n  dram.bandwidth: [3.2 GB/s, 6.4 GB/s]\n",
        sweep + "kind: zip\naxes: {sram.capacity: [1 KiB, 2 KiB], pe_array.rows.size: [4, 8]}\n",
        sweep + "kind: points\npoints:\n- {sram: &a {capacity: 64 KiB, width: 128 bit}}\n"
        "- {sram: *a, sram.capacity: 2 KiB, model: exact}\n",
    ]
    topologies = [
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, "
        "Strides,\nConv1, 8, 8, 3, 3, 4, 8, 1,\nConvDP, 9, 9, 3, 3, 4, 1, 2, 1:1,\n",
        "Layer, M, N, K,\nL0, 196, 192, 384,\nL1, 196, 117, 64, 1,\n",
    ]
    accuracies = [
        "label,energy_pj,accuracy_loss,bits\nbfp4,1e6,0.08,4\n'=b\",2e6,-0.01,8\nc,3,0,9\n"
    ]
    table = (
        '# bfpsim sensitivity {"network": "Small", "images": 30, "accuracy": 0.5, "weights": "a"}\n'
        "layer,tensor,format,kl,sqnr_db,accuracy_loss,fisher,bits\n"
        "fc,I,bfp8e3b4,0.01,30.5,0.0,0.02,80\nfc,W,bfp8e3b4,0.01,inf,-0.1,0.02,640\n"
    )
    return {
        "arch": Reader(".yaml", _of_texts(archs), load_arch),
        "network.yaml": Reader(".yaml", _of_texts([(folder / "net.yaml").read_text()]), show),
        "network.csv": Reader(".csv", _of_texts([(folder / "net.csv").read_text()]), show),
        "topology": Reader(".csv", _of_texts(topologies), show),
        "sweep": Reader(".yaml", _of_texts(sweeps), lambda path: plan(load_spec(path))),
        "mappings": Reader(
            ".yaml", _of_texts([maps]), lambda path: load_mappings(path, network, arch)
        ),
        "accuracies": Reader(
            ".csv", _of_texts(accuracies), lambda path: unbeaten(read_accuracies(path))
        ),
        "sensitivity": Reader(".csv", _of_texts([table]), Sensitivity.load),
    }


def _datasets(folder: Path) -> dict[str, Reader]:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(5, 8, 8)).astype(np.uint8), np.arange(5) % 3
    npz = []
    for save, images in (
        (np.savez, pixels),
        (np.savez_compressed, pixels[..., np.newaxis].astype(np.float32)),
    ):
        file = io.BytesIO()
        save(file, images=images, labels=labels)
        npz.append(file.getvalue())
    (folder / "labels.idx").write_bytes(idx_bytes(labels.astype(np.uint8)))
    idx = [idx_bytes(pixels), idx_bytes(labels.astype(np.int32))]
    idx += [gzip.compress(data) for data in idx]
    pictures = []
    for kind, mode in (
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("JPEG", "L"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels[0]).convert(mode).resize((20, 30)).save(file, kind)
        pictures.append(file.getvalue())

    def make_npz(rng: random.Random, path: Path) -> None:
        path.write_bytes(damaged(rng, npz) if rng.random() < 0.4 else _with_other_member(rng, npz))

    def read_picture(path: Path) -> None:
        (path.parent / "class").mkdir(exist_ok=True)
        path.replace(path.parent / "class" / "one.png")
        for fit in (Fit(None, None), Fit(12, 8)):
            read_image_folder(path.parent, AS_STORED, fit).batch([0])

    return {
        "npz": Reader(".npz", make_npz, lambda path: read_npz_dataset(path, AS_STORED).batch([0])),
        "idx": Reader(
            "",
            _of_bytes(idx),
            lambda path: read_idx_dataset(path, folder / "labels.idx", AS_STORED).batch([0]),
        ),
        "pictures": Reader(".bin", _of_bytes(pictures), read_picture),
    }


def _with_other_member(rng: random.Random, archives: list[bytes]) -> bytes:
    """An archive with one member damaged, or its header rewritten, and sound checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(rng.choice(archives))) as good:
        members = {name: good.read(name) for name in good.namelist()}
    chosen = rng.choice(list(members))
    data = members[chosen]
    if data.startswith(b"\x93NUMPY") and rng.random() < 0.7:
        size = int.from_bytes(data[8:10], "little")
        header = rewritten(rng, [data[10 : 10 + size].decode("latin-1")]).encode(
            "latin-1", "ignore"
        )
        header = header[:60_000]
        members[chosen] = data[:8] + len(header).to_bytes(2, "little") + header + data[10 + size :]
    else:
        members[chosen] = damaged(rng, [data])
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def _weights(folder: Path) -> dict[str, Reader]:
    state = _module().state_dict()
    build = NetworkBuilder("tiny", (1, 4, 4, 1))
    build.linear("fc", build.avgpool("p", build.conv("conv", "input", 3, 3)), 4)
    network = build.network()
    tensors = {
        "conv.weight": torch.ones(3, 1, 3, 3),
        "conv.bias": torch.ones(3),
        "fc.weight": torch.ones(4, 3),
    }
    about = {"network": "resnet18-fashion", "width": "1"}
    safe = [save_tensors(state), save_tensors(tensors, about), save_tensors(tensors)]
    saved = []
    for content, zipped in (
        (state, True),
        ({"state_dict": state, "epoch": 3}, True),
        (_module(), True),
        (state, False),
        ({"model": state}, False),
    ):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        saved.append(file.getvalue())
    saved.append(pickle.dumps({"a": 1}))
    archives = saved[:3]

    def make_safe(rng: random.Random, path: Path) -> None:
        data = rng.choice(safe)
        if rng.random() < 0.4:
            path.write_bytes(damaged(rng, safe))
            return
        size = int.from_bytes(data[:8], "little")
        header = rewritten(rng, [data[8 : 8 + size].decode()]).encode("utf-8", "surrogatepass")
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])

    def make_saved(rng: random.Random, path: Path) -> None:
        whole = rng.random() < 0.5
        path.write_bytes(damaged(rng, saved) if whole else _with_other_member(rng, archives))

    def read_safe(path: Path) -> None:
        errors = []
        for read in (
            lambda: load_weights(path, network),
            lambda: load_module(path),
            lambda: load_into(_module(), path),
        ):
            try:
                read()
            except ValueError as error:
                errors.append(error)
        if len(errors) == 3:
            raise errors[0]

    return {
        "safetensors": Reader(".safetensors", make_safe, read_safe),
        "torch": Reader(".pt", make_saved, lambda path: load_into(_module(), path)),
    }


def _stores(folder: Path) -> dict[str, Reader]:
    save_workload(_network(), folder / "net.yaml")
    spec = {"arch": "ideal-64k", "networks": [str(folder / "net.yaml")], "formats": ["bfp8"]}
    (point,) = plan(load_spec(spec))
    text = evaluate(point).to_json()
    good = folder / "store"
    with Store(good) as store:
        store.put(POINTS, point.key, text)
        store.put_error(POINTS, "f" * 64, "no mapping fits")
    data = good.read_bytes()

    def make(rng: random.Random, path: Path) -> None:
        if rng.random() < 0.5:
            path.write_bytes(damaged(rng, [data]))
            return
        record = rewritten(rng, [text])
        if rng.random() < 0.5:
            record = json.dumps(_odd_json(rng, json.loads(text)))
        with Store(path) as store:
            store.put(POINTS, point.key, record.encode("utf-8", "replace").decode())
            store.put_error(
                POINTS, "x", rewritten(rng, ["conv1: no mapping fits"]).replace("\0", "")
            )

    def read(path: Path) -> None:
        for file in path.parent.glob(f"{path.name}-*"):
            file.unlink()
        read_findings(path).traffic.sum()

    return {"store": Reader(".sqlite", make, read)}


def _odd_json(rng: random.Random, part: object) -> object:
    """The value with something else somewhere in it."""
    if isinstance(part, dict) and part and rng.random() < 0.9:
        key = rng.choice(list(part))
        return {**part, key: _odd_json(rng, part[key])}
    if isinstance(part, list) and part and rng.random() < 0.9:
        at = rng.randrange(len(part))
        return [*part[:at], _odd_json(rng, part[at]), *part[at + 1 :]]
    return rng.choice((None, True, -1, 0, 2**70, 1.5, "", "x", "1/0", "1e99999999", [], {}, [[1]]))
