"""The DRAM channel: one FIFO server of transfers, or a device bank by bank."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import simpy

from bfpsim.arch import Arch, DeviceDram
from bfpsim.mapping.channel import Timing

if TYPE_CHECKING:
    from bfpsim.mapping.counts import Direction
    from bfpsim.mapping.steps.dram import Place


class Channel:
    """Serves transfers in the order they arrive.

    Because service is first come first served, the end of a transfer is known when it is
    requested, and one event per transfer is enough.

    env: the simulation
    timing: how long a transfer takes, and how long the channel rests between two directions
    """

    def __init__(self, env: simpy.Environment, timing: Timing) -> None:
        self._env = env
        self._timing = timing
        self._free_at = 0
        self._last: Direction | None = None

    @property
    def state(self) -> Hashable:
        """What decides how long it holds up what comes next: cycles relative to now."""
        left = self._free_at - int(self._env.now)
        waits = (left + self._timing.rest(self._last, way) for way in ("read", "write"))
        return tuple(max(0, cycles) for cycles in waits)

    def request(
        self,
        payload: int,
        padding: int = 0,
        clocks: int = 0,
        direction: Direction = "read",
        place: Callable[[], Place] | None = None,
    ) -> tuple[int, int]:
        """Enqueue a transfer; the cycles at which it gets the channel and leaves it.

        payload, padding: bits without burst padding, and the padding
        clocks: that a DRAM device takes alone
        place: where it lies, for a channel that asks
        """
        rested = self._free_at + self._timing.rest(self._last, direction)
        start = max(int(self._env.now), rested)
        self._free_at = start + self._timing.cycles(payload, padding, clocks)
        self._last = direction
        return start, self._free_at


class BankedChannel:
    """Serves bursts as a device's banks and its controller do (`mapping.steps.banks`).

    A transfer ends as if nothing came behind it; what comes behind may hold up its last bursts by a
    few clocks, which those behind it feel.
    """

    def __init__(self, env: simpy.Environment, arch: Arch) -> None:
        from bfpsim.mapping.steps.dram import BankedDevice

        dram = arch.dram
        assert isinstance(dram, DeviceDram)
        self._env = env
        self._clock = arch.clock / dram.own.clock
        self._width = arch.dma.width
        self._device = BankedDevice(dram.own, dram.channels, dram.order)
        self._free_at = 0

    def request(
        self,
        payload: int,
        padding: int = 0,
        clocks: int = 0,
        direction: Direction = "read",
        place: Callable[[], Place] | None = None,
    ) -> tuple[int, int]:
        """Enqueue a transfer, as `Channel.request`."""
        assert place is not None
        now = int(self._env.now)
        start = max(now, self._free_at)
        at = -(-now * self._clock.denominator // self._clock.numerator)
        end = self._device.request(at, place(), direction) * self._clock
        done = -(-end.numerator // end.denominator)
        if self._width is not None:
            done = max(done, start - (-payload // self._width))
        self._free_at = max(start, done)
        return start, self._free_at

    @property
    def state(self) -> Hashable:
        """Its banks' rows and times are no state that recurs: one of its own every time."""
        return object()

    @property
    def activates(self) -> int:
        """Rows that were opened for all that was requested."""
        self._device.finish()
        return self._device.activates
