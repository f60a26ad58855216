"""Tables of a network before anything is simulated: layers, kinds, and what is not modelled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.markup import escape

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.models import compulsory_counts, stored
from bfpsim.quant.formats import FormatSource, layer_formats
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout
from bfpsim.reports.report import Report, together
from bfpsim.reports.roofline import KINDS, Roof, plot_roofline
from bfpsim.reports.style import make_table, numbers
from bfpsim.workloads import ConvLayer, Network, NetworkSource, Node, load_workload

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats

_DIMS = tuple("NGKCPQRS")
_SIZES = ("I_bits", "W_bits", "O_bits", "compulsory_bits")
_WIDE, _MEDIUM = 140, 110  # terminal columns from which tensor sizes, and dimensions, are shown


def workload_frame(network: NetworkSource, formats: FormatSource, arch: ArchSource) -> pd.DataFrame:
    """A row per layer: what it is, what its tensors take, and what the roofline allows it.

    Columns: network, layer, kind, N G K C P Q R S and stride of one run, repeats: how many there
    are, and of all of them: macs; I_bits, W_bits, O_bits: tensors as they lie in DRAM, exponents
    included; compulsory_bits: each needed element moved once, without bursts. macs_per_bit of that;
    macs_per_cycle: attainable under the `Roof`; bound: compute or memory; unverified: the source
    of shapes that the paper leaves open.
    """
    import pandas as pd

    network = load_workload(network)
    formats = layer_formats(formats)
    arch = load_arch(arch)

    roof = Roof.of(arch, formats)
    sizes = {
        replace(layer, name="any"): _bits(layer, formats, arch)
        for layer, _ in network.unique_layers
    }
    rows = []
    for node in network.nodes:
        if (layer := node.layer) is None:
            continue
        bits = sizes[replace(layer, name="any")]
        intensity = Fraction(layer.macs, bits["compulsory_bits"])
        rows.append(
            {
                "network": network.name,
                "layer": node.name,
                "kind": node.kind,
                **layer.dims,
                "stride": "x".join(map(str, dict.fromkeys(layer.strides))),
                "repeats": node.repeats,
                "macs": node.repeats * layer.macs,
                **{name: node.repeats * size for name, size in bits.items()},
                "macs_per_bit": float(intensity),
                "macs_per_cycle": float(roof.attainable(intensity)),
                "bound": roof.bound(intensity),
                "unverified": node.unverified,
            }
        )
    columns = ("network", "layer", "kind", *_DIMS, "stride", "repeats", "macs", *_SIZES)
    more = ("macs_per_bit", "macs_per_cycle", "bound", "unverified")
    return pd.DataFrame(rows, columns=[*columns, *more])


def kinds_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Sums of `workload_frame` by kind of layer, those of all kinds last.

    Columns: kind, layers, memory_bound (layers), macs, macs_share, I_bits, W_bits, O_bits,
    compulsory_bits, macs_per_bit.
    """
    import pandas as pd

    present = set(frame["kind"])
    groups = [(kind, frame[frame["kind"] == kind]) for kind in KINDS if kind in present]
    return pd.DataFrame(
        {
            "kind": kind,
            "layers": len(rows),
            "memory_bound": int((rows["bound"] == "memory").sum()),
            "macs": int(rows["macs"].sum()),
            "macs_share": rows["macs"].sum() / frame["macs"].sum(),
            **{name: int(rows[name].sum()) for name in _SIZES},
            "macs_per_bit": rows["macs"].sum() / rows["compulsory_bits"].sum(),
        }
        for kind, rows in [*groups, ("total", frame)]
        if len(rows)
    )


def host_frame(network: NetworkSource) -> pd.DataFrame:
    """The host's work that nothing here models, by function: no time, no traffic, no energy.

    Columns: function (of a host node; of others, the operation), nodes, output_elements, macs:
    those left out, as far as they are known, macs_share: of all, the layers' and the host's.
    """
    import pandas as pd

    network = load_workload(network)

    groups: dict[str, list[Node]] = {}
    for node in network.nodes:
        if node.op != "input" and node.layer is None:
            groups.setdefault(node.function or node.op, []).append(node)
    every = network.macs + network.host_macs
    rows = []
    for function, nodes in groups.items():
        elements = sum(math.prod(network.shape(node.name)) for node in nodes)
        macs = sum(node.host_macs for node in nodes)
        rows.append((function, len(nodes), elements, macs, macs / every if every else 0.0))
    rows.sort(key=lambda row: row[3], reverse=True)
    columns = ["function", "nodes", "output_elements", "macs", "macs_share"]
    return pd.DataFrame(rows, columns=columns)


def catalog_frame(networks: Iterable[Network]) -> pd.DataFrame:
    """A row per network: layers by kind, MACs of the layers and of the host, `weights`, inputs."""
    import pandas as pd

    return pd.DataFrame(
        {
            "network": network.name,
            "layers": len(network.layers),
            "kinds": ", ".join(f"{kind} {count}" for kind, count in _kinds(network).items()),
            "macs": network.macs,
            "host_macs": network.host_macs,
            "weights": weights(network),
            "input": " ".join(
                "x".join(map(str, node.input_shape)) for node in network.nodes if node.input_shape
            ),
        }
        for network in networks
    )


def weights(network: Network) -> int:
    """Weights of all layers, each by itself: those that layers share count once for each.

    The second operand of a matrix product is none.
    """
    layers = (node.layer for node in network.nodes if node.op != "matmul")
    return sum(math.prod(layer.weight_shape) for layer in layers if layer is not None)


def workload_table(frame: pd.DataFrame, title: str, width: int = 200) -> Table:
    """The table of `workload_frame`; dimensions that are 1 throughout stand in the title.

    width: terminal columns; where there are too few, sizes are left out, then dimensions
    """
    dims = [dim for dim in _DIMS if (frame[dim] != 1).any()]
    alone = [dim for dim in _DIMS if dim not in dims]
    dims = [*dims, "stride"] if width >= _MEDIUM else []
    if (frame["repeats"] != 1).any():
        dims.append("repeats")
    sizes = _SIZES if width >= _WIDE else _SIZES[-1:]
    ones = f"; {' = '.join(alone)} = 1" if alone else ""
    table = make_table(f"{title}{ones}", "layer", "kind")
    heads = {name: f"{name.removesuffix('_bits')}\n[Mbit]" for name in sizes}
    numbers(table, *dims, "MACs\n[M]", *heads.values(), "MAC/\nbit", "MAC/\ncycle")
    table.add_column("bound by", no_wrap=True, vertical="bottom")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            row["layer"] + ("*" if row["unverified"] else ""),
            row["kind"],
            *(str(row[dim]) for dim in dims),
            _millions(row["macs"]),
            *(_millions(row[name]) for name in sizes),
            f"{row['macs_per_bit']:,.2f}",
            f"{row['macs_per_cycle']:,.1f}",
            row["bound"],
        )
    if sources := list(dict.fromkeys(frame["unverified"][frame["unverified"] != ""])):
        table.caption = escape(f"* shapes that the paper leaves open, from: {'; '.join(sources)}")
        table.caption_justify = "left"
    return table


def kinds_table(frame: pd.DataFrame) -> Table:
    """The table of `kinds_frame`."""
    table = make_table("By kind", "kind")
    numbers(table, "layers", "memory\nbound", "MACs\n[M]", "MACs\n[%]")
    numbers(table, *(f"{name.removesuffix('_bits')}\n[Mbit]" for name in _SIZES), "MAC/\nbit")
    for row in frame.to_dict(orient="records"):
        total = row["kind"] == "total"
        if total:
            table.add_section()
        table.add_row(
            *(row["kind"], str(row["layers"]), str(row["memory_bound"]), _millions(row["macs"])),
            f"{100 * row['macs_share']:.1f}",
            *(_millions(row[name]) for name in _SIZES),
            f"{row['macs_per_bit']:,.2f}",
            style="bold" if total else None,
        )
    return table


def host_table(frame: pd.DataFrame) -> Table:
    """The table of `host_frame`; an operator outside ONNX's domain has unknown MACs, "?"."""
    table = make_table("Not modelled: what the host does", "function")
    numbers(table, "nodes", "output\nelements", "MACs\n[M]", "of all\nMACs [%]")
    for row in frame.to_dict(orient="records"):
        none = ("?", "?") if "." in row["function"] else ("-", "-")
        table.add_row(
            row["function"],
            *(f"{row['nodes']:,}", f"{row['output_elements']:,}"),
            *((_millions(row["macs"]), f"{100 * row['macs_share']:.2f}") if row["macs"] else none),
        )
    return table


def catalog_table(frame: pd.DataFrame) -> Table:
    """The table of `catalog_frame`."""
    table = make_table("Workloads", "name", "input", "layers", gap=1)
    numbers(table, "MACs\n[M]", "host's\n[M]", "weights\n[M]")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            *(row["network"], row["input"], row["kinds"]),
            *(_millions(row[name]) for name in ("macs", "host_macs", "weights")),
        )
    return table


def catalog_report(networks: Iterable[NetworkSource]) -> Report:
    """Networks: layers by kind, MACs, weights, inputs."""
    frame = catalog_frame(map(load_workload, networks))
    return Report(catalog_table(frame), {"workloads": frame}, {})


def workload_report(
    network: NetworkSource, arch: ArchSource, formats: FormatSource, width: int = 200
) -> Report:
    """A network's layers, their sums by kind, what is not modelled, and the roofline.

    width: terminal columns that the table may take
    """
    network = load_workload(network)
    arch = load_arch(arch)
    formats = layer_formats(formats)
    title = f"{network.name} in {formats} on {arch.name}"
    roof = Roof.of(arch, formats)
    layers = workload_frame(network, formats, arch)
    kinds, host = kinds_frame(layers), host_frame(network)
    limits = {
        "peak_macs_per_cycle": float(roof.peak),
        "dram_bits_per_cycle": float(roof.bandwidth),
        "ridge_macs_per_bit": float(roof.ridge),
    }
    summary = {
        "network": network.name,
        "arch": arch.name,
        "formats": str(formats),
        "macs": network.macs,
        "host_macs": network.host_macs,
        "weights": weights(network),
        "compulsory_bits": int(layers["compulsory_bits"].sum()),
        **limits,
    }
    tables = [workload_table(layers, title, width), kinds_table(kinds)]
    if len(host):
        tables.append(host_table(host))
    frames = {"layers": layers, "kinds": kinds, "not_modelled": host}
    figures = {"roofline": lambda path: plot_roofline(layers, roof, title, path)}
    return Report(together(*tables), frames, summary, tuple(limits), figures)


def _bits(layer: ConvLayer, formats: LayerFormats, arch: Arch) -> dict[str, int]:
    """The sizes of one run, by column."""
    return {
        "I_bits": ActivationLayout(stored(layer, arch).input_shape, formats.I).bits,
        "W_bits": WeightLayout(layer.weight_shape, formats.W).bits,
        "O_bits": ActivationLayout(layer.output_shape, formats.O).bits,
        "compulsory_bits": int(compulsory_counts(layer, arch, formats).total()),
    }


def _kinds(network: Network) -> dict[str, int]:
    kinds = [node.kind for node in network.nodes if node.layer is not None]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def _millions(count: float) -> str:
    return f"{count / 1e6:,.3f}" if count else "-"
