"""What the host does between a program's operations, in a sentence."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.workloads.program import Program

_LISTED = 6  # functions that a sentence names


def host_shares(program: Program, arch: Arch) -> dict[str, float]:
    """The host's functions, the largest first: shares of all elements that nodes make.

    With a vector unit those that it has not; without one all that is no product.
    """
    elements: dict[str, int] = {}
    total = 0
    for operation in program.operations:
        for node in operation.nodes:
            made = prod(program.network.shape(node.name))
            total += made
            if operation.unit == "host" or (arch.vector is None and node.layer is None):
                function = node.function or node.op
                elements[function] = elements.get(function, 0) + made
    ranked = sorted(elements.items(), key=lambda own: (-own[1], own[0]))
    return {function: made / total for function, made in ranked}


def host_line(program: Program, arch: Arch) -> str | None:
    """What the host does free of charge, with its share; None if it does nothing."""
    shares = host_shares(program, arch)
    if not shares:
        return None
    named = [f"{function} {_percent(share)}" for function, share in [*shares.items()][:_LISTED]]
    more = [f"{len(shares) - _LISTED} more"] if len(shares) > _LISTED else []
    why = "no vector unit" if arch.vector is None else "no functions of the vector unit"
    return (
        f"{why}: the host makes {_percent(sum(shares.values()))} of all elements, free of charge "
        f"({', '.join(named + more)})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
