"""Arguments that commands share, what they become, and groups of them spelled once."""

from __future__ import annotations

import errno
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from bfpsim.mapping.objective import Objective
from bfpsim.wording import hint, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import Network, Node
    from bfpsim.workloads.load import Shapes

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
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        metavar="NAME=16000",
        help="Value of an input of an .onnx file that decides what runs, such as a sample rate; "
        "several numbers are joined by commas.",
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
        help="bfp8, bfp16, bfp<bits>e<exponent bits>b<block size>, plain<bits>, mxfp4, nvfp4, "
        "...; or three, for I,W,O, joined by commas.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Let the file's networks be module:function or file.py:function: it runs."
    ),
]
LayerName = Annotated[str | None, typer.Option(help="Only this layer.")]
ObjectiveName = Annotated[Objective, typer.Option("--objective", help="What is to be least.")]


class UsageError(ValueError):
    """Options that do not go together, or a value that an option cannot take."""


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer whose parameters of a dataclass become an option for each of its fields.

    They stand where the parameter stands; the command is called with the dataclass.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(
                parameter.replace(
                    annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY
                )
            )
        else:
            parameters += _options(group)

    def run(**options: Any) -> None:
        made = {
            name: group(**{own.name: options.pop(own.name) for own in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **made)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {own.name: own.annotation for own in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            own.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if own.default is MISSING else own.default,
            annotation=hints[own.name],
        )
        for own in fields(group)
    ]


def check_writable(option: str, path: Path) -> None:
    """Raise UsageError before the work, if a file could not be written after it."""
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; allowed: a file, new or existing")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: {path.parent} is no folder; allowed: an existing one")
    check_place(f"{option} {path}", path.parent)


def check_place(what: str, folder: Path) -> None:
    """Raise UsageError if nothing can be written into a folder, or where it would have to be made.

    what: the option and its value, for the message
    """
    there = next(own for own in (folder, *folder.absolute().parents) if own.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(
            f"{what}: nothing can be written in {there} ({reason(error)}); "
            "allowed: a place that can be written to"
        ) from None


def load(
    arch: str,
    network: str,
    format: str,
    shape: list[str] | None,
    value: list[str] | None = None,
) -> tuple[Arch, Network, LayerFormats]:
    """Load what the names stand for; raises the error of the first that is none."""
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import layer_formats
    from bfpsim.workloads import load_workload

    chosen = layer_formats(format)
    spec, net = load_arch(arch), load_workload(network, shapes(shape, value))
    net.check_layers()
    return spec, net, chosen


def shapes(options: list[str] | None, values: list[str] | None = None) -> Shapes | None:
    """Input name -> shape, or its value, of all --shape and --value options; None without any."""
    sizes_of: dict[str, Sequence[int] | NDArray[Any]] = {}
    for option in options or ():
        # The last "=": an input's name may hold one.
        name, equals, text = option.rpartition("=")
        parts = text.split("x")
        sizes = [int(part) for part in parts if re.fullmatch("[0-9]{1,18}", part)]
        if not equals or not name or len(sizes) < len(parts) or 0 in sizes:
            raise UsageError(f"--shape {option!r}; allowed: NAME=SIZES, such as x=1x3x224x224")
        if name in sizes_of:
            raise UsageError(f"--shape names {name!r} twice; allowed: once")
        sizes_of[name] = tuple(sizes)
    for option in values or ():
        name, equals, text = option.rpartition("=")
        try:
            numbers = [_number(part) for part in text.split(",")]
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"--value {option!r}; allowed: NAME=NUMBERS, such as rate=16000")
        if name in sizes_of:
            raise UsageError(f"--value names {name!r}, which has a shape or value; allowed: once")
        import numpy as np

        sizes_of[name] = np.array(numbers if "," in text else numbers[0])
    return sizes_of or None


def _number(text: str) -> bool | int | float:
    """A number, true or false; ValueError for what is none."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else float(text)


def select(network: Network, layer: str | None) -> Network:
    """The network, or one layer of it as a network."""
    if layer is None:
        return network
    chosen = {node.name: node for node in network.nodes if node.layer is not None}.get(layer)
    if chosen is None:
        names = [item.name for item in network.layers]
        raise UsageError(
            f"--layer {layer!r} is not in {network.name}{hint(layer, names)}; "
            f"allowed: {', '.join(names)}"
        )
    return _single(network, chosen)


def _single(network: Network, node: Node) -> Network:
    """One node, and inputs in place of those that it reads."""
    from bfpsim.workloads import Network, Node

    sources = [
        Node(name, "input", input_shape=network.shape(name)) for name in dict.fromkeys(node.inputs)
    ]
    return Network(network.name, (*sources, node))


def tile_sizes(option: str, text: str | None) -> dict[str, int]:
    """Dimension -> size, of an option such as K=16,C=64; none without it."""
    sizes = {}
    for part in (text or "").split(",") if text else ():
        dim, equals, size = part.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,18}", size.strip()):
            raise UsageError(f"{option} part {part!r}; allowed: DIM=SIZE, such as K=16")
        if dim.strip() in sizes:
            raise UsageError(f"{option} names {dim.strip()} twice; allowed: once")
        sizes[dim.strip()] = int(size)
    return sizes
