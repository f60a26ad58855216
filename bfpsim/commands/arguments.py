"""Arguments that commands share, and what they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.nest import Mapping
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import Network, Node

NetworkName = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A shipped network's name, a .yaml, .csv (SCALE-Sim's too) or .onnx file, or "
        "package.module:function or file.py:function, which makes a torch module.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1x3x224x224",
        help="Shape of an input of an .onnx file or torch module; give one for each.",
    ),
]
ArchName = Annotated[
    str, typer.Option("--arch", "-a", help="A shipped architecture's name, or a YAML file.")
]
FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        help="bfp8, bfp16, bfp<bits>e<exponent bits>b<block size>, plain<bits>; "
        "or three, for I,W,O, joined by commas.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the tables into this folder.")]


class UsageError(ValueError):
    """Options that do not go together, or a value that an option cannot take."""


def one_of(as_json: bool, as_csv: bool, out: Path | None) -> None:
    """Raise UsageError unless at most one output is asked for, and --out is no file."""
    if as_json + as_csv + (out is not None) > 1:
        raise UsageError("--json, --csv and --out exclude each other; give one")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; allowed: a folder, new or existing")


def check_writable(option: str, path: Path) -> None:
    """Raise UsageError before the work, if a file could not be written after it."""
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; allowed: a file, new or existing")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: {path.parent} is no folder; allowed: an existing one")


def load(
    arch: str, network: str, format: str, shape: list[str] | None
) -> tuple[Arch, Network, LayerFormats]:
    """What the names stand for; raises the error of the first that is none."""
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import LayerFormats, parse_format
    from bfpsim.workloads import load_workload

    parts = format.split(",")
    if len(parts) not in (1, 3):
        raise UsageError(f"--format {format!r} has {len(parts)} parts; allowed: 1, or 3 for I,W,O")
    formats = [parse_format(part) for part in parts]
    chosen = LayerFormats(*formats) if len(formats) == 3 else LayerFormats.uniform(formats[0])
    spec, net = load_arch(arch), load_workload(network, shapes(shape))
    net.check_layers()
    return spec, net, chosen


def shapes(options: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """Input name -> shape, of all --shape options; None without any."""
    found: dict[str, tuple[int, ...]] = {}
    for option in options or ():
        # The last "=": an input's name may hold one.
        name, equals, text = option.rpartition("=")
        parts = text.split("x")
        sizes = [int(part) for part in parts if re.fullmatch("[0-9]{1,18}", part)]
        if not equals or not name or len(sizes) < len(parts) or 0 in sizes:
            raise UsageError(f"--shape {option!r}; allowed: NAME=SIZES, such as x=1x3x224x224")
        if name in found:
            raise UsageError(f"--shape names {name!r} twice; allowed: once")
        found[name] = tuple(sizes)
    return found or None


def select(
    network: Network, layer: str | None, order: str | None, tile: str | None
) -> tuple[Network, dict[str, Mapping] | None]:
    """The network, or one layer of it as a network, and the mapping given for it."""
    if layer is None:
        if order or tile:
            raise UsageError("--order and --tile need --layer")
        return network, None
    chosen = {node.name: node for node in network.nodes if node.layer is not None}.get(layer)
    if chosen is None:
        names = ", ".join(item.name for item in network.layers)
        raise UsageError(f"--layer {layer!r} is not in {network.name}; allowed: {names}")
    single = _single(network, chosen)
    if order is None and tile is None:
        return single, None
    from bfpsim.mapping.nest import Mapping

    return single, {layer: Mapping(order or "", _tiles(tile))}


def _single(network: Network, node: Node) -> Network:
    """One node, and inputs in place of those that it reads."""
    from bfpsim.workloads import Network, Node

    sources = [
        Node(name, "input", input_shape=network.shape(name)) for name in dict.fromkeys(node.inputs)
    ]
    return Network(network.name, (*sources, node))


def _tiles(text: str | None) -> dict[str, int]:
    sizes = {}
    for part in (text or "").split(",") if text else ():
        dim, equals, size = part.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,18}", size.strip()):
            raise UsageError(f"--tile part {part!r}; allowed: DIM=SIZE, such as K=16")
        if dim.strip() in sizes:
            raise UsageError(f"--tile names {dim.strip()} twice; allowed: once")
        sizes[dim.strip()] = int(size)
    return sizes
