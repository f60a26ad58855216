"""What a program moves off chip however large its buffers are."""

from __future__ import annotations

from bfpsim.arch import Arch, Traffic
from bfpsim.mapping.closed.vector import vector_traffic
from bfpsim.mapping.counts import Counts, Direction
from bfpsim.mapping.models import compulsory_counts
from bfpsim.mapping.stored import activation_formats
from bfpsim.mapping.vector import vector_tilings
from bfpsim.quant.formats import ActivationLayout, LayerFormats
from bfpsim.workloads.program import Operation, Program, View

_READ: tuple[tuple[Traffic, int], ...] = (("I", 0), ("W", 1))


def program_floor(
    program: Program, arch: Arch, formats: LayerFormats | dict[str, LayerFormats]
) -> dict[str, Counts]:
    """Off-chip payload of every operation by name, if all activations stay that can.

    Weights, and what comes from or goes to the outside or the host, once for each operation that
    reads or writes it.
    """
    stored, level = activation_formats(program, formats), arch.levels[0].name

    def outside(view: View) -> bool:
        return not program.on_chip(view.activation)

    def bits(view: View) -> int:
        return ActivationLayout(view.shape, stored[view.activation]).bits

    def product(operation: Operation) -> Counts:
        layer, counts = operation.layer, Counts()
        assert layer is not None
        own = formats if isinstance(formats, LayerFormats) else formats[operation.name]
        moved: list[tuple[Traffic, Direction]] = [
            (tensor, "read")
            for tensor, place in _READ
            if place >= len(operation.reads) or outside(operation.reads[place])
        ]
        if outside(operation.writes) and not operation.mean:
            moved.append(("O", "write"))
        least = compulsory_counts(layer, arch, own)
        for tensor, direction in moved:
            payload = operation.repeats * int(least.total(level, tensor, direction))
            counts.add(level, tensor, direction, "mantissa", payload)
        if outside(operation.writes) and operation.mean:
            counts.add(level, "V", "write", "mantissa", bits(operation.writes))
        for view in filter(outside, operation.addends):
            counts.add(level, "V", "read", "mantissa", bits(view))
        return counts

    def vector(operation: Operation) -> Counts:
        counts = Counts()
        whole = vector_tilings(operation, stored)[0]
        *reads, written = vector_traffic(operation, whole, arch, stored)
        for own in reads:
            if outside(own.view):
                counts.add(level, "V", "read", "mantissa", own.bits)
        if outside(operation.writes):
            counts.add(level, "V", "write", "mantissa", written.bits)
        return counts

    found = {}
    for own in program.operations:
        if own.unit == "host":
            found[own.name] = Counts()
        else:
            found[own.name] = product(own) if own.unit == "array" else vector(own)
    return found
