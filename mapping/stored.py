"""In which format each activation of a program is stored."""

from __future__ import annotations

from collections.abc import Mapping

from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.workloads.program import Operation, Program


def activation_formats(
    program: Program, formats: LayerFormats | Mapping[str, LayerFormats]
) -> dict[str, Format]:
    """The format of every activation.

    Of what a product writes first, its O. Of what another operation does, that of the first
    activation that it reads. An input's is I of the first product that reads it (W, as second
    operand), or else of the first product at all. A constant's is that of what it is added to.

    formats: of all products, or by name. Raises KeyError for a product that is missing there.
    """
    found = {
        name: _as_read(program, name, formats)
        for name, activation in program.activations.items()
        if activation.origin == "input"
    }
    for operation in program.operations:
        if operation.layer is not None:
            own: Format = _of(operation, formats).O
        else:
            sources = [view.activation for view in (*operation.reads, *operation.addends)]
            known = [found[source] for source in sources if source in found]
            written = operation.writes.activation
            own = known[0] if known else _as_read(program, written, formats)
        found.setdefault(operation.writes.activation, own)
    for operation in program.operations:
        for view in (*operation.reads, *operation.addends):
            found.setdefault(view.activation, found[operation.writes.activation])
    return {name: found[name] for name in program.activations}


def _as_read(
    program: Program, name: str, formats: LayerFormats | Mapping[str, LayerFormats]
) -> Format:
    """The format in which the first product that reads an activation takes it."""
    for place in program.readers[name]:
        operation = program.operations[place]
        operands = [view.activation for view in operation.reads]
        if operation.layer is not None and name in operands:
            own = _of(operation, formats)
            return own.I if operands[0] == name else own.W
    if isinstance(formats, LayerFormats):
        return formats.I
    return next(iter(formats.values())).I


def _of(operation: Operation, formats: LayerFormats | Mapping[str, LayerFormats]) -> LayerFormats:
    return formats if isinstance(formats, LayerFormats) else formats[operation.name]
