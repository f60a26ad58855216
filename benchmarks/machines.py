"""Known machines beside what is published of them: `python -m benchmarks.machines [TABLE ...]`.

The published figures lie in tests/machines, each file with its source; docs/machines.md says where
the differences come from. Mappings are the mapper's; Ethos-U's blocks of 32 channels are set here,
since the mapper would not keep to them.
"""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from math import ceil, prod
from pathlib import Path

import numpy as np
import pandas as pd

import bfpsim as bs
from bfpsim.arch import Arch, replace_all
from bfpsim.mapping.closed.levels import steady_cycles
from bfpsim.mapping.constraints import Constraints
from bfpsim.mapping.fit import check, footprint, shortage
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.models import full_counts
from bfpsim.mapping.nest import Mapping, MappingError, make_nest

PUBLISHED = Path(__file__).parent.parent / "tests" / "machines"
INT8 = bs.LayerFormats.uniform(bs.Plain(8))
INT16 = bs.LayerFormats.uniform(bs.Plain(16))

Row = dict[str, str]


def rows(name: str, layers: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file of published figures, without the lines that say where they are from.

    layers: those of these layers only
    """
    with (PUBLISHED / name).open() as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            if not layers or row["layer"] in layers:
                yield row


# --- SCALE-Sim ------------------------------------------------------------------------------------

AXES = {
    "os": ("PQ", "K", "output"),
    "ws": ("CRS", "K", "weight"),
    "is": ("CRS", "PQ", "input"),
}


def systolic(dataflow: str, size: int) -> Arch:
    """SCALE-Sim's machine: an array that fills at each fold, and memories that never stall it."""
    row, col, stationary = AXES[dataflow]
    return Arch(
        name=f"scale-sim-{dataflow}-{size}",
        clock="1 GHz",
        dram={"bandwidth": "1000 TB/s", "latency": "0 ns", "burst": "1 bit"},
        sram={"capacity": "1 MiB", "width": "128 bit"},
        pe_array={
            "rows": {"size": size, "dim": row},
            "cols": {"size": size, "dim": col},
            "stationary": stationary,
            "fill": "each_fold",
            "mac_bits": 8,
            "accumulator_bits": 32,
        },
    )


def scale_sim() -> pd.DataFrame:
    """SCALE-Sim's layers: cycles (its last one, from 0), and words at SRAM."""
    table = []
    for row in rows("scale_sim.csv"):
        size, height, width, channels = (
            int(row[key]) for key in ("array", "ifmap_h", "ifmap_w", "channels")
        )
        layer = bs.ConvLayer.on_input(
            row["layer"],
            (1, height, width, channels),
            int(row["filters"]),
            (int(row["filter_h"]), int(row["filter_w"])),
            stride=int(row["stride"]),
        )
        arch, mapping = systolic(row["dataflow"], size), Mapping()
        result = bs.simulate(layer, arch, mapping, INT8)
        _, closed = full_counts(check(layer, arch, mapping, INT8), arch, INT8)
        words = {
            tensor: sum(
                int(bits) // (32 if flow.kind == "psum" else 8)
                for flow, bits in result.counts.items()
                if flow[:3] == ("SRAM", tensor, direction)
            )
            for tensor, direction in (("I", "read"), ("W", "read"), ("O", "write"))
        }
        folds = ceil(layer.P * layer.Q / size) * ceil(layer.K / size)
        surplus = folds * 2 * size if row["dataflow"] == "os" else 0
        table.append(
            {
                "dataflow": row["dataflow"],
                "array": size,
                "layer": row["layer"],
                "cycles": int(row["compute_cycles"]),
                "simulated": result.compute_cycles - 1,
                "closed": closed - 1,
                "I": int(row["sram_ifmap_reads"]),
                "I_simulated": words["I"],
                "W": int(row["sram_filter_reads"]),
                "W_simulated": words["W"],
                "O": int(row["sram_ofmap_writes"]) - surplus,
                "O_simulated": words["O"],
            }
        )
    return pd.DataFrame(table)


# --- NVDLA ----------------------------------------------------------------------------------------


def nvdla_layer(row: Row) -> bs.ConvLayer:
    """A row of the sheet. Fully connected layers come in batches of 16, as there."""
    taps, stride, size = int(row["R"]), int(row["stride"]), int(row["H"])
    return bs.ConvLayer.on_input(
        row["layer"],
        (16 if size == 1 else 1, size, size, int(row["C"])),
        int(row["K"]),
        taps,
        stride=stride,
        padding=taps // 2,
    )


@cache
def _on_nvdla(layer: bs.ConvLayer) -> dict[str, float]:
    """MAC cycles of an image with the mapping of fewest cycles on a DRAM that never stalls."""
    arch = bs.load_arch("nvdla-large")
    unstalled = replace_all(arch, {"dram.bandwidth": "1000 TB/s", "dram.latency": "0 ns"})
    mapping = bs.find_mapping(layer, unstalled, INT8, objective="latency")
    result = bs.simulate(layer, arch, mapping, INT8)
    steady = steady_cycles(check(layer, arch, mapping, INT8), arch, INT8)
    return {"steady": steady / layer.N, "computing": result.compute_cycles / layer.N}


def nvdla(layers: Sequence[str] = ()) -> pd.DataFrame:
    """MAC cycles of ResNet-50, or of some of its layers, by the sheet and on nvdla-large."""
    return pd.DataFrame(
        {
            "layer": row["layer"],
            "sheet": int(row["mac_cycles"]),
            "winograd": float(row["mac_cycles"]) * (2.25 if row["winograd"] == "1" else 1),
            **_on_nvdla(replace(nvdla_layer(row), name="layer")),
        }
        for row in rows("nvdla_resnet50.csv", layers)
    )


# --- Ethos-U --------------------------------------------------------------------------------------


def vela_layers(network: str) -> Iterator[tuple[bs.ConvLayer, Row]]:
    """The convolutions and linear layers of a network, each with Vela's row."""
    shipped = {"resnet18": "resnet18", "mobilenetv2": "mobilenetv2-eca"}[network]
    layers = [layer for layer in bs.load_workload(shipped).layers if layer.name.find("eca") < 0]
    for row in rows("vela.csv"):
        _, kind, shape, window, *_ = (row["operator"] + "::::").split(":")
        if row["network"] != network or kind not in VELA_KINDS or window == "k7s1":
            continue  # the last is a global mean
        p, q, k = (int(size) for size in shape.split("x"))
        taps, stride = (int(number) for number in window[1:].split("s"))
        same = next(
            layer
            for layer in layers
            if (p, q, k, taps) == (layer.P, layer.Q, layer.G * layer.K, layer.R)
            and (layer.strides[0] == stride or taps == 1)
            and layer.macs == int(row["macs"])
        )
        layers.remove(same)
        yield same, row


VELA_KINDS = ("Conv2D", "DepthwiseConv2D", "FullyConnected")


def first_fitting(
    layer: bs.ConvLayer, arch: Arch, inner: dict[str, Mapping], sizes: dict[str, list[int]]
) -> Mapping:
    """The first mapping whose tiles fit SRAM, sizes of the dimension named last varying fastest.

    inner: fits by itself; cut down where the tile outside is smaller
    """
    names = [level.name for level in arch.inner]
    for choice in product(*sizes.values()):
        tile = dict(zip(sizes, choice, strict=True))
        within = {
            name: Mapping(own.order, {d: min(n, tile.get(d, n)) for d, n in own.tile.items()})
            for name, own in inner.items()
        }
        mapping = Mapping("".join(sizes), tile, within)
        if not shortage(footprint(make_nest(layer, mapping, names), arch, INT8), arch):
            return mapping
    raise MappingError(f"{layer.name}: none of the tiles tried fits {arch.name}")


def halved(extent: int, least: int) -> list[int]:
    """A dimension's tile sizes: whole, and halved as long as whole folds of the array remain."""
    return [extent] + [size for size in (least << i for i in range(16, -1, -1)) if size < extent]


def blocks(layer: bs.ConvLayer, arch: Arch) -> Mapping:
    """Blocks in the level shram, of whole micro-blocks and 32 channels, that read SRAM least."""
    channels, side = min(layer.C, 32), "G" if layer.G > 1 else "K"
    steps = {"P": 2, "Q": 2, side: 8}
    grid = np.meshgrid(
        *(
            np.unique(
                np.minimum(np.arange(step, min(layer.dims[d], 128) + step, step), layer.dims[d])
            )
            for d, step in steps.items()
        ),
        indexing="ij",
    )
    P, Q, deep = grid
    rows, cols = (
        (own - 1) * stride + taps
        for own, stride, taps in zip((P, Q), layer.strides, (layer.R, layer.S), strict=True)
    )
    own_channels = channels * (deep if side == "G" else 1)
    fits = rows * cols * own_channels + P * Q * deep * 4 <= arch.inner[0].usable_bits // 8
    times = -(-layer.P // P) * -(-layer.Q // Q)
    again = -(-layer.dims[side] // deep) if channels < layer.C else 1
    reads = times * (again * rows * cols * layer.C * layer.G + prod(layer.weight_shape))
    best = np.where(fits, reads, np.iinfo(np.int64).max).argmin()
    tile = {d: int(own.flat[best]) for d, own in zip(steps, grid, strict=True)}
    return Mapping("PQGKC", tile | {"C": channels})


def of_fewest_cycles(layer: bs.ConvLayer, arch: Arch) -> Mapping:
    """Feature maps whole in SRAM, as few slices of filters as fit, and the mapper's blocks.

    Raises MappingError if nothing fits.
    """
    slices = Constraints(order="GK")
    outer = best_mappings(layer, arch, INT8, 1, constraints=slices)[0].mapping
    mapping = InnerMapper(arch, INT8).whole(layer, replace(outer, inner={}), "latency")
    if mapping is None:
        raise MappingError(f"{layer.name}: no block fits {arch.name}")
    return mapping


def in_blocks(layer: bs.ConvLayer, arch: Arch) -> Mapping:
    """The largest tiles that fit SRAM, and `blocks`."""
    inner = {
        "shram": blocks(layer, arch),
        "weights": Mapping("GKRSC", {"G": 1, "K": min(8, layer.K), "R": 1, "S": 1}),
    }
    sizes = {"K": halved(layer.K, 8), "P": halved(layer.P, 2)}
    return first_fitting(layer, arch, inner, sizes)


@cache
def _on_ethos(
    layer: bs.ConvLayer, choose: Callable[[bs.ConvLayer, Arch], Mapping]
) -> dict[str, str | int | float]:
    arch = bs.load_arch("ethos-u55-256")
    mapping = choose(layer, arch)
    result = bs.simulate(layer, arch, mapping, INT8)
    return {
        "mapping": str(mapping),
        "macs/256": layer.macs // 256,
        "steady": steady_cycles(check(layer, arch, mapping, INT8), arch, INT8),
        "computing": result.compute_cycles,
        "I_kB": int(result.counts.total("SRAM", "I", "read")) / 8e3,
    }


def ethos(
    network: str = "resnet18", choose: Callable[[bs.ConvLayer, Arch], Mapping] = in_blocks
) -> pd.DataFrame:
    """NPU cycles by Vela, and simulated on ethos-u55-256; SRAM reads of I as simulated."""
    return pd.DataFrame(
        {
            "layer": layer.name,
            "kind": "depthwise" if layer.G > 1 else "dense",
            "vela": int(row["npu_cycles"]),
            **_on_ethos(replace(layer, name="layer"), choose),
        }
        for layer, row in vela_layers(network)
    )


def ethos_mapped() -> pd.DataFrame:
    """ResNet-18 likewise, with the mapper's blocks."""
    return ethos(choose=of_fewest_cycles)


def mobilenet() -> pd.DataFrame:
    """MobileNetV2 on ethos-u55-256, likewise."""
    return ethos("mobilenetv2")


def vela_feature_map_bytes() -> int:
    """SRAM reads of ResNet-18's feature maps by Vela, but for the first layer's [B].

    Of the run without weights in SRAM, less the operators that are no product.
    """
    own = [row for row in rows("vela.csv") if row["network"] == "resnet18"]
    total = next(int(row["sram_read"]) for row in own if row["operator"] == "TOTAL unbuffered")
    apart = ("MaxPool", "Add", "Mul", "Depthwise", "01:")
    others = (
        int(row["sram_read"]) for row in own if any(part in row["operator"] for part in apart)
    )
    return total - sum(others)


# --- Eyeriss --------------------------------------------------------------------------------------


def eyeriss(layers: Sequence[str] = ()) -> pd.DataFrame:
    """AlexNet, or some of its layers, as published and with the mapping of fewest cycles.

    Of eyeriss-v1's: PEs at work, time, buffer accesses.
    """
    arch, table = bs.load_arch("eyeriss-v1"), []
    for row in rows("eyeriss_alexnet.csv", layers):
        size = {key: int(row[key]) for key in ("K", "C", "G", "P", "R", "stride", "padding")}
        layer = bs.ConvLayer(row["layer"], N=4, Q=size["P"], S=size["R"], **size)
        mapping = bs.find_mapping(layer, arch, INT16, objective="latency")
        result = bs.simulate(layer, arch, mapping, INT16)
        steady = steady_cycles(check(layer, arch, mapping, INT16), arch, INT16)
        table.append(
            {
                "layer": layer.name,
                "mapping": str(mapping),
                "PEs": int(row["active_pes"]),
                "PEs_simulated": layer.macs / steady,
                "ms": float(row["processing_ms"]),
                "ms_simulated": float(result.compute_cycles / arch.clock * 1000),
                "MB": float(row["buffer_mb"]),
                "MB_simulated": int(result.counts.total("SRAM")) / 8e6,
            }
        )
    return pd.DataFrame(table)


# --- all ------------------------------------------------------------------------------------------

TABLES = {
    "scale-sim": scale_sim,
    "nvdla": nvdla,
    "ethos": ethos,
    "ethos-mapped": ethos_mapped,
    "mobilenet": mobilenet,
    "eyeriss": eyeriss,
}


def summary(name: str, table: pd.DataFrame) -> str:
    """What a table comes to, in a line or two."""
    if name == "scale-sim":
        same = all(
            (table[own] == table[published]).all()
            for published, own in (
                ("cycles", "simulated"),
                ("cycles", "closed"),
                ("I", "I_simulated"),
                ("W", "W_simulated"),
                ("O", "O_simulated"),
            )
        )
        return f"{len(table)} rows, all equal: {same}"
    if name == "nvdla":
        plain = (table.sheet == table.computing).sum()
        winograd = ((table.winograd == table.computing) & (table.winograd != table.sheet)).sum()
        return f"equal: {plain}, and {winograd} with Winograd's 2.25 taken off, of {len(table)}"
    if name == "eyeriss":
        return (
            f"total {table.ms.sum():.1f} ms, simulated {table.ms_simulated.sum():.1f} ms\n"
            f"buffer {table.MB.sum():.1f} MB, simulated {table.MB_simulated.sum():.1f} MB"
        )
    lines = [
        f"{kind}: Vela {own.vela.sum():,}, computing {own.computing.sum():,} "
        f"({own.computing.sum() / own.vela.sum() - 1:+.1%}), steady {own.steady.sum():,} "
        f"({own.steady.sum() / own.vela.sum() - 1:+.1%})"
        for kind, own in table.groupby("kind")
    ]
    if name.startswith("ethos"):
        reads = table.I_kB[1:].sum() / 1e3
        lines.append(
            f"feature maps read from SRAM, first layer left out: {reads:.1f} MB, Vela "
            f"{vela_feature_map_bytes() / 1e6:.1f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables named, or all."""
    for name in sys.argv[1:] or TABLES:
        table = TABLES[name]()
        print(f"{name}\n{table.round(2).to_string(index=False)}\n{summary(name, table)}\n")


if __name__ == "__main__":
    main()
