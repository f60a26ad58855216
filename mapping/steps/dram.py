"""What transfers take of a DRAM device: clocks and activates, from the runs of their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import DeviceDram
from bfpsim.arch.device import Field
from bfpsim.mapping.steps.tiles import distinct, input_tiles, output_tiles, weight_tiles
from bfpsim.quant.formats import ActivationLayout, PartialSums, WeightLayout

if TYPE_CHECKING:
    from bfpsim.arch import Arch, Device
    from bfpsim.mapping.counts import Direction
    from bfpsim.mapping.nest import Nest, Tensor
    from bfpsim.mapping.steps.tiles import ActivationBox, Boxes, WeightBox, WeightTiles
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.quant.formats.layout import Runs

Vector = NDArray[np.int64]
Order = tuple[Field, ...]


class Place(NamedTuple):
    """Where what is moved lies: the first burst of its tensor's region, and runs inside it."""

    base: int
    runs: Runs


class Service(NamedTuple):
    """What a transfer takes of a device that is alone with it.

    clocks: for which it keeps the data pins, without the first activate and without refresh
    activates: rows that it opens
    """

    clocks: int = 0
    activates: int = 0


@dataclass(frozen=True, eq=False)
class Banks:
    """A memory's channels as arrays for `mapping.steps.banks`.

    between: clocks by scope, command before and command after
    constants: clocks of four activates, of a refresh, from one to the next, and of a burst; banks
        in a group
    radices: (field, size) of an address's fields, the least significant first
    """

    between: Vector
    constants: Vector
    radices: Vector
    burst: int

    def alone(self, runs: Runs) -> Service:
        """What a transfer of some runs takes of a device at rest."""
        from bfpsim.mapping.steps.banks import alone  # compiled when first needed

        return Service(
            *alone(self.between, self.constants, runs.starts, runs.ends, self.radices, self.burst)
        )


class Addresses:
    """Where the tiles of a nest lie in a device, one region for each tensor and one for O's sums.

    Regions begin in different banks, a quarter of them apart, so that what is moved in turn opens
    rows of different banks.
    """

    def __init__(self, nest: Nest, arch: Arch, formats: LayerFormats) -> None:
        layer, sums = nest.layer, PartialSums(arch.pe_array.accumulator_bits)
        self._inputs = input_tiles(nest, arch.dma.halo)
        self._weights, self._outputs = weight_tiles(nest), output_tiles(nest)
        self._in = ActivationLayout(layer.input_shape, formats.I)
        self._weight = WeightLayout(layer.weight_shape, formats.W)
        self._out = ActivationLayout(layer.output_shape, formats.O)
        self._sums = ActivationLayout(layer.output_shape, sums)
        assert isinstance(arch.dram, DeviceDram)
        own = arch.dram.own
        stripe = own.page // own.burst * own.banks * own.groups * arch.dram.channels
        bits = [own.bits for own in (self._in, self._weight, self._out, self._sums)]
        whole = [-(-size // (own.burst * stripe)) + 1 for size in bits]
        self._bases = [
            sum(whole[:place]) * stripe + place * stripe // len(bits) for place in range(len(bits))
        ]

    def runs(self, tensor: Tensor, direction: Direction, tile: int) -> Place:
        """The runs of what arrives with a tile (read) or leaves with it."""
        if tensor == "I":
            return Place(self._bases[0], self._in.runs(*self._inputs.fetched.at(tile)))
        if tensor == "W":
            return Place(self._bases[1], self._weight.runs(*self._weights.at(tile)))
        box = self._outputs.resident.at(tile)
        if direction == "write" and self._outputs.finished[tile]:
            return Place(self._bases[2], self._out.runs(*box))
        return Place(self._bases[3], self._sums.runs(*box))


class BankedDevice:
    """A device's channels, each served bank by bank; time is in its clocks.

    What has been requested is served as far as it can be known: up to the latest request. How a
    transfer ends if nothing comes behind it is worked out on a copy.
    """

    def __init__(self, device: Device, channels: int = 1, order: Order | None = None) -> None:
        from bfpsim.mapping.steps import banks

        self._loops, self._of = banks, banks_of(device, channels, order)
        self._opening = device.clocks("bank", "ACT", "RD")
        self._burst_clocks = device.burst_clocks
        self._channels = []
        for _ in range(channels):
            arrays = banks.at_rest(device.banks, device.groups)
            arrays[2][banks.NEXT_REFRESH] = device.refresh_every
            none = np.zeros((0, banks.SEGMENT_COLUMNS), np.int64)
            self._channels.append([*arrays, none])

    def put(self, at: int, place: Place, direction: Direction) -> None:
        """Put a transfer behind those before. Raises OverflowError behind `banks.LATEST`."""
        loops = self._loops
        if at > loops.LATEST:
            raise OverflowError(
                f"clock {at} of a device served bank by bank; at most {loops.LATEST}"
            )
        for number, arrays in enumerate(self._channels):
            self._serve(arrays, at)
            own = loops.spread(*place.runs, self._of.radices, self._of.burst, number, place.base)
            own[:, loops.ARRIVAL], own[:, loops.TRANSFER] = at, 1
            own[:, loops.WRITES] = direction == "write"
            arrays[4] = np.concatenate([self._left(arrays), own])

    def request(self, at: int, place: Place, direction: Direction) -> int:
        """Put a transfer behind those before; the clock at which its data has passed.

        A first activate's time is left out, as that of `Service` is: it is a part of the latency.
        """
        self.put(at, place, direction)
        return max(
            self._passed(int(self._serve([array.copy() for array in arrays], self._loops.NEVER)[1]))
            for arrays in self._channels
        )

    def finish(self) -> int:
        """Serve all that was requested; the clock at which its data has passed."""
        for arrays in self._channels:
            self._serve(arrays, self._loops.NEVER)
        return max(self._passed(int(own[2][self._loops.CLOCK])) for own in self._channels)

    def _passed(self, command: int) -> int:
        return command + self._burst_clocks - self._opening

    @property
    def activates(self) -> int:
        """Rows that were opened so far, over all channels."""
        return self._total(self._loops.ACTIVATES)

    @property
    def misses(self) -> int:
        """Bursts so far that were the first of a row that had been opened for them."""
        return self._total(self._loops.MISSES)

    def _total(self, place: int) -> int:
        return sum(int(arrays[2][place]) for arrays in self._channels)

    def _serve(self, arrays: list[Vector], until: int) -> Vector:
        done = np.zeros(2, np.int64)
        banks, groups, rank, queues, segments = arrays
        self._loops.serve(
            *(self._of.between, self._of.constants, banks, groups, rank, queues, segments),
            *(done, until),
        )
        return done

    def _left(self, arrays: list[Vector]) -> Vector:
        """A channel's segments that have yet to be served, numbered anew; as of no transfer."""
        loops = self._loops
        _, _, rank, queues, segments = arrays
        left = segments[:, loops.LEFT] > 0
        number = np.append(np.cumsum(left) - 1, -1)  # -1 is none
        queues[:, :, loops.FIRST] = number[queues[:, :, loops.FIRST].clip(-1, len(left))]
        queues[:, :, loops.LAST] = number[queues[:, :, loops.LAST].clip(-1, len(left))]
        rank[loops.FRONT] = left[: rank[loops.FRONT]].sum()
        kept = segments[left]
        kept[:, loops.NEXT] = number[kept[:, loops.NEXT]]
        kept[:, loops.TRANSFER] = 0
        return kept


@cache
def banks_of(device: Device, channels: int = 1, order: Order | None = None) -> Banks:
    """The banks of some channels of a device, in the order of its own or of a machine's."""
    from bfpsim.mapping.steps.banks import BANK_FIELD, CHANNEL_FIELD, COLUMN_FIELD, GROUP_FIELD

    sizes = {
        "column": (COLUMN_FIELD, device.page // device.burst),
        "channel": (CHANNEL_FIELD, channels),
        "bank": (BANK_FIELD, device.banks),
        "group": (GROUP_FIELD, device.groups),
    }
    radices = [sizes[field] for field in reversed(order or device.order) if field != "row"]
    of_refresh = (device.refresh, device.refresh_every)
    return Banks(
        np.array(device.between, np.int64),
        np.array([device.four_activates, *of_refresh, device.burst_clocks, device.banks], np.int64),
        np.array([one for one in radices if one[1] > 1], np.int64),
        device.burst,
    )


@lru_cache(maxsize=1 << 15)
def service(
    banks: Banks, layout: ActivationLayout | WeightLayout, box: ActivationBox | WeightBox
) -> Service:
    """What moving a box of a tensor takes of a device at rest."""
    return banks.alone(layout.runs(*box))


def box_services(
    dram: DeviceDram, layout: ActivationLayout, boxes: Boxes, bits: Sequence[Vector]
) -> tuple[Vector, Vector]:
    """Clocks and activates of moving each box.

    Boxes of as many bits in as many runs are of one kind, and take what the middle one of them
    takes. (The first often begins with a row, which few of the others do.)

    bits: of each box, by kind
    """
    _, kinds = distinct([*bits, _runs(layout, boxes)])
    banks = banks_of(dram.own, dram.channels, dram.order)
    each = [service(banks, layout, boxes.at(at)) for at in _middles(kinds)]
    clocks, activates = np.array(each, np.int64).reshape(-1, 2).T[:, kinds]
    return clocks, activates


def weight_services(
    dram: DeviceDram, layout: WeightLayout, tiles: WeightTiles, bits: Sequence[Vector]
) -> tuple[Vector, Vector]:
    """The same of tiles of W."""
    _, kinds = distinct(bits)
    banks = banks_of(dram.own, dram.channels, dram.order)
    each = [service(banks, layout, tiles.at(at)) for at in _middles(kinds)]
    clocks, activates = np.array(each, np.int64).reshape(-1, 2).T[:, kinds]
    return clocks, activates


def _middles(kinds: Vector) -> list[int]:
    """Of each kind, the place of the middle one."""
    counts = np.bincount(kinds)
    begins = np.cumsum(counts) - counts
    middles: list[int] = np.argsort(kinds, kind="stable")[begins + counts // 2].tolist()
    return middles


def _runs(layout: ActivationLayout, boxes: Boxes) -> Vector:
    """How many contiguous runs each box lies in.

    A record is a pixel. If a box's runs reach from end to end of each, those of neighbours join,
    along rows, where it has whole rows over them, and so on.
    """
    parts = [layout.record_runs(channels) for channels in boxes.channels.intervals]
    of_pixel = np.array([len(runs.starts) for runs in parts])[boxes.channels.which]
    whole = (0, layout.record_bits)
    ends = [bool(len(runs.starts)) and (runs.starts[0], runs.ends[-1]) == whole for runs in parts]
    joined = np.array(ends)[boxes.channels.which]
    _, height, width = layout.grid
    rows = boxes.w.lengths == width
    images = rows & (boxes.h.lengths == height)
    images_each, rows_each = boxes.n.lengths, boxes.n.lengths * boxes.h.lengths
    stretches = np.where(images, np.minimum(images_each, 1), np.where(rows, images_each, rows_each))
    return np.asarray(of_pixel * boxes.pixels - np.where(joined, boxes.pixels - stretches, 0))
