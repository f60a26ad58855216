"""How many bits a cycle the array asks of memories whose ports have no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bfpsim.mapping.counts import Direction

if TYPE_CHECKING:
    from bfpsim.arch import Arch, Level
    from bfpsim.mapping.nest import Tensor
    from bfpsim.sim.result import LayerResult


class Demand(NamedTuple):
    """What passes one direction of a memory in each cycle that the array is busy [bit/cycle].

    memory: its name; width: its bits per access
    average: over all layers; most: of the layer that asks the most, and its name. Transfers of a
        DMA engine with a port of its own are left out.
    """

    memory: str
    direction: Direction
    width: int
    average: float
    most: float
    layer: str

    @property
    def exceeds(self) -> bool:
        """Whether some layer asks for more than the width."""
        return self.most > self.width


def demands(results: Sequence[LayerResult]) -> list[Demand]:
    """The demand in every direction that has no limit, of memories that have a width.

    results: of layers on one architecture; outer memories come first
    """
    arch = results[0].arch
    found = []
    for place, level in enumerate(arch.levels):
        for memory in dict.fromkeys(level.memories.values()) if level.buffers else ():
            tensors = [tensor for tensor, name in level.memories.items() if name == memory]
            buffer = level.buffers[tensors[0]]
            limits: dict[Direction, int | None] = {
                "read": buffer.ports.read,
                "write": buffer.ports.write,
            }
            for direction, limit in limits.items():
                if buffer.width is None or limit is not None:
                    continue
                bits = [_passing(one, arch, place, tensors, direction) for one in results]
                cycles = [one.compute_cycles for one in results]
                each = [own / busy for own, busy in zip(bits, cycles, strict=True)]
                worst = each.index(max(each))
                layer = results[worst].layer.name
                average = sum(bits) / sum(cycles)
                found.append(Demand(memory, direction, buffer.width, average, each[worst], layer))
    return found


def _passing(
    result: LayerResult, arch: Arch, place: int, tensors: Sequence[Tensor], direction: Direction
) -> int:
    """Bits that pass a memory in one direction through the ports that the array uses."""
    counts, level = result.counts, arch.levels[place]
    bits = sum(counts.total(level.name, tensor, direction) for tensor in tensors)
    if place == 1 and arch.dma.port == "own":
        outside: Direction = "read" if direction == "write" else "write"
        bits -= sum(_payload(result, arch.levels[0], tensor, outside) for tensor in tensors)
    return int(bits)


def _payload(result: LayerResult, level: Level, tensor: Tensor, direction: Direction) -> int:
    """Bits of a tensor without burst padding, which never reaches SRAM."""
    moved = result.counts.total(level.name, tensor, direction)
    return int(moved - result.counts.total(level.name, tensor, direction, "burst"))
