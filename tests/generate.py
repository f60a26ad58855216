"""Random layers, nests, formats and architectures that the tests share."""

import random
from collections.abc import Sequence

from bfpsim.arch import Arch, devices, load_arch, replace
from bfpsim.mapping.nest import DIMS, EVERY_DIM, Mapping
from bfpsim.quant.formats import BFP, INDUSTRY, MX, Format, LayerFormats, Plain, ScaleRounding
from bfpsim.workloads import ConvLayer
from tests.storage import storage

Part = dict[str, object]
"""A part of an architecture, as a file has it."""

DATAFLOWS = ("weight", "output", "input")
AXES = (
    ("C", "K"), ("PQ", "K"), ("CRS", "K"), ("C", "PQ"), ("K", "NPQ"), ("G", "Q"), ("RS", "P"),
    ("SRC", "QN"), ("G", "C"),
)  # fmt: skip


def random_layer(rng: random.Random, largest: int = 7) -> ConvLayer:
    """A layer of any kind: strides, dilation, uneven padding, groups, depthwise, spare input.

    Some have so much padding that whole windows, and so whole tiles, lie in it.
    """
    groups = rng.choice([1, 1, 2, 3, 5])
    depthwise = groups > 1 and rng.random() < 0.6
    r, s = rng.randint(1, 3), rng.randint(1, 3)
    stride = (rng.randint(1, 3), rng.randint(1, 3))
    dilation = (rng.randint(1, 2), rng.randint(1, 2))
    reach = ((r - 1) * dilation[0], (s - 1) * dilation[1])
    extra = rng.choice([0, 0, 0, 3])
    padding = (
        rng.randint(0, reach[0] + extra),
        rng.randint(0, reach[0] + extra),
        rng.randint(0, reach[1] + extra),
        rng.randint(0, reach[1] + extra),
    )
    p, q = rng.randint(1, largest), rng.randint(1, largest)
    rows = (p - 1) * stride[0] + reach[0] + 1 - padding[0] - padding[1]
    cols = (q - 1) * stride[1] + reach[1] + 1 - padding[2] - padding[3]
    if rows < 1 or cols < 1:
        padding, rows, cols = (0, 0, 0, 0), rows + padding[0] + padding[1], cols + sum(padding[2:])
    return ConvLayer(
        "random",
        N=rng.randint(1, 2),
        G=groups,
        K=1 if depthwise and rng.random() < 0.7 else rng.randint(1, largest),
        C=1 if depthwise else rng.randint(1, largest),
        P=p,
        Q=q,
        R=r,
        S=s,
        stride=stride,
        padding=padding,
        dilation=dilation,
        H=rows + rng.randint(0, stride[0] - 1),
        W=cols + rng.randint(0, stride[1] - 1),
    )


def random_format(rng: random.Random, results: bool = False) -> Format:
    """Any of the paper's candidates, of industry's formats, and plain words."""
    kind = rng.random()
    if kind < 0.2:
        return Plain(rng.choice([2, 5, 8, 11, 16, 32]))
    if kind < 0.5:
        fmt = rng.choice([*INDUSTRY.values()])
        return MX(fmt.element, rng.choice([*ScaleRounding])) if isinstance(fmt, MX) else fmt
    bits = rng.choice([8, 16])
    block = rng.choice([1, 2, 4] if results else [1, 2, 3, 4, 8, 16, 24, 32, 48])
    return BFP(bits, rng.randint(2, 6 if bits == 8 else 7), block)


def random_formats(rng: random.Random) -> LayerFormats:
    """A format per tensor."""
    return LayerFormats(random_format(rng), random_format(rng), random_format(rng, results=True))


def random_mapping(rng: random.Random, layer: ConvLayer, formats: LayerFormats) -> Mapping:
    """Any order and tile sizes whose O tiles end on block boundaries."""
    order = list(DIMS)
    rng.shuffle(order)
    tile = {
        dim: rng.choice([1, layer.dims[dim], rng.randint(1, layer.dims[dim])])
        for dim in rng.sample(DIMS, rng.choice([0, 2, 4, 5, 6, 6]))
    }
    return Mapping("".join(order), on_blocks(tile, layer, formats.O))


def on_blocks(tile: dict[str, int], layer: ConvLayer, fmt: Format) -> dict[str, int]:
    """The tile sizes, those of K and G widened until O tiles end on blocks."""
    if not storage(fmt).code:
        return tile
    tile, block = dict(tile), storage(fmt).block
    if "K" in tile and tile["K"] < layer.K:
        if layer.G > 1 and layer.K % block:
            tile["K"] = layer.K
        else:
            tile["K"] = min(layer.K, -(-tile["K"] // block) * block)
    if "G" in tile and tile["G"] < layer.G:
        while tile["G"] < layer.G and tile["G"] * layer.K % block:
            tile["G"] += 1
    return tile


def random_nested_mapping(
    rng: random.Random, layer: ConvLayer, formats: LayerFormats, arch: Arch
) -> Mapping:
    """Any orders and tile sizes at every boundary, R and S cut at inner ones.

    Most O tiles end on block boundaries, most dimensions are whole where an axis takes them so.
    """
    outer = random_mapping(rng, layer, formats)
    kept = "".join(axis.dim for axis in arch.pe_array.axes if axis.over and rng.random() < 0.95)
    tile = {d: size for d, size in outer.tile.items() if d not in kept}
    outer = Mapping(outer.order, on_blocks(tile, layer, formats.O))
    sizes = layer.dims | {"R": layer.R, "S": layer.S} | outer.tile
    inner: dict[str, Mapping] = {}
    for level in arch.inner:
        if rng.random() < 0.1:
            continue
        dims = [d for d in EVERY_DIM if d not in kept]
        cut = {
            d: rng.choice([1, 1, sizes[d], rng.randint(1, sizes[d])])
            for d in rng.sample(dims, rng.randint(0, min(7, len(dims))))
        }
        if rng.random() < 0.75:
            cut = on_blocks(cut, layer, formats.O)
        cut = {d: min(size, sizes[d]) for d, size in cut.items()}
        order = list(EVERY_DIM)
        rng.shuffle(order)
        inner[level.name] = Mapping("".join(order), cut)
        sizes |= cut
    return Mapping(outer.order, outer.tile, inner)


def make_arch(
    *,
    sram: Part | None = None,
    burst: str = "1 bit",
    rows: tuple[str, int] = ("C", 16),
    cols: tuple[str, int] = ("K", 16),
    stationary: str = "weight",
    mac_bits: int = 8,
    accumulator_bits: int = 32,
    axes: Sequence[Part] = (),
    fill: str = "none",
    levels: Sequence[Part] = (),
    dma: Part | None = None,
    halo: str = "sliding",
    padding: str = "skip",
    bandwidth: str = "6.4 GB/s",
    latency: str = "100 ns",
) -> Arch:
    """An architecture with roomy buffers, but for what is given; `axes` in place of rows, cols."""
    sides: Part = {
        "rows": {"dim": rows[0], "size": rows[1]},
        "cols": {"dim": cols[0], "size": cols[1]},
    }
    return Arch.model_validate(
        {
            "name": "made",
            "clock": "500 MHz",
            "dram": {
                "bandwidth": bandwidth,
                "latency": latency,
                "burst": burst,
                "energy": "20 pJ/bit",
            },
            "sram": sram or {"capacity": "16 MiB", "width": "128 bit"},
            "levels": list(levels),
            "pe_array": {
                **({"axes": list(axes)} if axes else sides),
                "stationary": stationary,
                "fill": fill,
                "mac_bits": mac_bits,
                "accumulator_bits": accumulator_bits,
            },
            "dma": {"halo": halo, "padding": padding, **(dma or {})},
        }
    )


def random_axes(rng: random.Random, most: int = 3) -> list[Part]:
    """One axis or several, some of fused dimensions, some filled up with others."""
    dims = [list("NPQ"), list("CRS"), ["K"], ["G"]]

    def take() -> str | None:
        alike = [letters for letters in dims if letters]
        if not alike:
            return None
        letters = rng.choice(alike)
        chosen = rng.sample(letters, rng.choice([1, 1, len(letters), rng.randint(1, len(letters))]))
        letters[:] = [d for d in letters if d not in chosen]
        return "".join(chosen)

    axes: list[Part] = []
    for _ in range(rng.randint(1, most)):
        dim, over = take(), take() if rng.random() < 0.3 else None
        if dim is None:
            break
        size = rng.choice([1, 2, 3, 4, 5, 8, 12, 16])
        axes.append({"dim": dim, "size": size} | ({"over": over} if over else {}))
    return axes


def random_ports(rng: random.Random) -> Part:
    """Widths that limit much, a little, or nothing."""
    sides = [side for side in ("read", "write") if rng.random() < 0.7]
    return {side: f"{rng.choice([1, 2, 7, 32, 128, 4096])} bit" for side in sides}


def random_levels(rng: random.Random, count: int) -> list[Part]:
    """Roomy levels between SRAM and array, each with any of the tensors."""
    return [
        {
            "name": name,
            "tensors": rng.sample("IWO", rng.choice([1, 1, 2, 3])),
            "capacity": "16 MiB",
            "double_buffered": rng.random() < 0.5,
            "ports": random_ports(rng),
        }
        for name in ("outer", "middle", "near")[:count]
    ]


def random_machine(rng: random.Random, burst: str = "1 bit") -> Arch:
    """Roomy memories of two to five levels; any array, dataflow, ports and movement policy."""

    def part() -> Part:
        own = {"capacity": "16 MiB", "width": "128 bit", "double_buffered": rng.random() < 0.5}
        return own | {"ports": random_ports(rng)}

    return make_arch(
        sram=part() if rng.random() < 0.5 else {t: part() for t in ("input", "weight", "output")},
        levels=random_levels(rng, rng.choice([0, 1, 1, 2, 2, 3])),
        burst=burst,
        axes=random_axes(rng),
        fill=rng.choice(["none", "each_fold", "overlapped"]),
        stationary=rng.choice(DATAFLOWS),
        mac_bits=rng.choice([4, 8]),
        accumulator_bits=rng.choice([16, 24, 32, 48]),
        halo=rng.choice(["sliding", "sliding", "none"]),
        padding=rng.choice(["skip", "skip", "fetch"]),
        dma={"port": rng.choice(["own", "shared"])},
        bandwidth=rng.choice(["6.4 GB/s", "1.1 GB/s", "100 GB/s"]),
        latency=rng.choice(["0 ns", "100 ns", "13 ns"]),
    )


def random_arch(rng: random.Random, burst: str = "1 bit") -> Arch:
    """Roomy buffers, any dataflow and movement policy."""
    rows, cols = rng.choice(AXES)
    if rng.random() < 0.5:
        rows, cols = cols, rows
    part = {"capacity": "16 MiB", "width": "128 bit", "double_buffered": rng.random() < 0.5}
    return make_arch(
        sram=part if rng.random() < 0.5 else {"input": part, "weight": part, "output": part},
        burst=burst,
        rows=(rows, rng.choice([1, 2, 3, 4, 16])),
        cols=(cols, rng.choice([1, 2, 3, 4, 16])),
        stationary=rng.choice(DATAFLOWS),
        mac_bits=rng.choice([4, 8]),
        accumulator_bits=rng.choice([16, 24, 32, 48]),
        halo=rng.choice(["sliding", "sliding", "none"]),
        padding=rng.choice(["skip", "skip", "fetch"]),
        bandwidth=rng.choice(["6.4 GB/s", "1.1 GB/s", "100 GB/s"]),
        latency=rng.choice(["0 ns", "100 ns", "13 ns"]),
    )


def random_device(rng: random.Random, arch: Arch) -> Arch:
    """The same machine on any DRAM device, with its channels and fields of addresses anyhow."""
    name = rng.choice([*devices()])
    order = ["row", *rng.sample(devices()[name].order[1:], len(devices()[name].order) - 1)]
    dram = {"device": name, "channels": rng.choice([1, 1, 2, 3]), "controller": "13 ns"}
    return replace(arch, "dram", dram | ({"order": order} if rng.random() < 0.5 else {}))


def deep_arch() -> Arch:
    """Accumulators and an input buffer inside SRAM; narrow ports, and an array that fills."""
    data = load_arch("ideal-64k").model_dump()
    data["name"] = "deep"
    data["levels"] = [
        {
            "name": "in",
            "tensors": ["I"],
            "capacity": "8 KiB",
            "double_buffered": True,
            "energy": "0.04 pJ/bit",
        },
        {
            "name": "acc",
            "tensors": ["O"],
            "capacity": "16 KiB",
            "energy": "0.05 pJ/bit",
            "ports": {"read": "512 bit", "write": "512 bit"},
        },
    ]
    data["sram"]["ports"] = {"read": "96 bit", "write": "64 bit"}
    data["pe_array"]["fill"] = "overlapped"
    return Arch.model_validate(data)


def tight(arch: Arch, bits: int) -> Arch:
    """The architecture with so little SRAM that it decides what is legal."""
    size = f"{max(bits, 8)} bit"
    if arch.shared:
        return replace(arch, "sram.capacity", size)
    for part in ("input", "weight", "output"):
        arch = replace(arch, f"sram.{part}.capacity", size)
    return arch
