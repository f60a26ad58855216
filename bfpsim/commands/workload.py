"""The `workload` commands: what networks there are, what one consists of, and importing one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    NetworkName,
    ShapeOption,
    ValueOption,
    load,
    shapes,
    with_groups,
)
from bfpsim.commands.emit import Output, check_folder, print_table, say, terminal_width

if TYPE_CHECKING:
    from collections.abc import Container

    from bfpsim.workloads import Network

workload_app = typer.Typer(help="Networks: list, show, import.", no_args_is_help=True)


@workload_app.command("list")
@with_groups
def list_workloads(output: Output) -> None:
    """Name the shipped networks: input, layers by kind, MACs, weights."""
    output.check()
    from bfpsim.reports.workload import catalog_report
    from bfpsim.workloads import load_workload, names

    output.emit(catalog_report(map(load_workload, names())))


@workload_app.command("show")
@with_groups
def show(
    network: NetworkName,
    *,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    value: ValueOption = None,
    output: Output,
) -> None:
    """List a network's layers, their sums by kind, and what is not modelled.

    Of each layer: dimensions, MACs, tensor sizes, the DRAM traffic that no mapping avoids, MACs per
    bit of it, and whether that leaves it bound by the array or by the DRAM. With --out, the
    roofline as PNG too.
    """
    output.check()
    spec, net, formats = load(arch, network, format, shape, value)
    from bfpsim.reports.workload import workload_report

    output.emit(workload_report(net, spec, formats, terminal_width()))


@workload_app.command("import")
def import_workload(
    source: NetworkName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the files into this folder.")],
    shape: ShapeOption = None,
    value: ValueOption = None,
) -> None:
    """Write a network as NAME.yaml and NAME.csv, and its weights as NAME.safetensors.

    Weights are written if all layers have some; the files are what the other commands read.
    """
    check_folder(out)
    from bfpsim.reports.workload import catalog_frame, catalog_table, host_frame, host_table
    from bfpsim.workloads import load_with_weights, save_weights, save_workload

    network, weights = load_with_weights(source, shapes(shape, value))
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "-", network.name).strip("-.") or "network"
    files = [f"{stem}.yaml", f"{stem}.csv"]
    for file in files:
        save_workload(network, out / file)
    missing = _without(network, weights)
    if weights and not missing:
        files.append(f"{stem}.safetensors")
        save_weights(out / files[-1], network, weights)
    print_table(catalog_table(catalog_frame([network])))
    if len(host := host_frame(network)):
        print_table(host_table(host))
    say(f"wrote {', '.join(files)} to {out}")
    if missing:
        some = ", ".join(missing) if weights else "any layer"
        say(f"no weights written: there are none of {some}")


def _without(network: Network, weights: Container[str]) -> list[str]:
    """Layers that need weights and have none; a product of two activations needs none."""
    layers = (node for node in network.nodes if node.layer is not None and node.op != "matmul")
    return [node.name for node in layers if node.name not in weights]
