"""Transfers of a run in order, and a device that is kept busy with them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bfpsim.arch import Arch
from bfpsim.arch.device import Device
from bfpsim.mapping.counts import Direction
from bfpsim.mapping.fit import check
from bfpsim.mapping.nest import Mapping
from bfpsim.mapping.steps.dram import Addresses, BankedDevice, Place
from bfpsim.mapping.steps.price import Stay, streams_of
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.accelerator import Accelerator
from bfpsim.workloads import ConvLayer

Transfer = tuple[Place, Direction]


class Saturated(NamedTuple):
    """A device that was never without work.

    clocks: from the first activate to the last bit; hits: of its bursts, those in a row that was
    open when their turn came
    """

    bursts: int
    clocks: int
    activates: int
    hits: float


def saturated(device: Device, transfers: Iterable[Transfer]) -> Saturated:
    """All transfers in order, as fast as they are taken."""
    own, bursts = BankedDevice(device), 0
    for place, direction in transfers:
        own.put(0, place, direction)
        runs, burst = place.runs, device.burst
        bursts += int((-(-runs.ends // burst) - runs.starts // burst).sum())
    clocks = own.finish() + device.first_data
    return Saturated(bursts, clocks, own.activates, 1 - own.misses / bursts)


def transfers_of(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> Iterator[tuple[Place, Direction, Stay]]:
    """What passes the channel in a run of a layer without padding around it, in order."""
    nest = check(layer, arch, mapping, formats)
    places, stays = Addresses(nest, arch, formats), streams_of(nest, arch, formats).stays
    timeline = Accelerator(layer, arch, mapping, formats, every_step=True).run().timeline
    for piece in timeline:
        if piece.unit == "dram":
            tensor, direction = piece.stream, piece.activity
            yield places.runs(tensor, direction, piece.tile), direction, stays[tensor][piece.tile]
