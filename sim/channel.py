"""The DRAM channel: one FIFO server of transfers."""

import simpy

from bfpsim.arch import Arch
from bfpsim.mapping.channel import channel_cycles


class Channel:
    """Serves transfers in the order they arrive.

    Because service is first come first served, the end of a transfer is known when it is
    requested, and one event per transfer is enough.

    env: the simulation
    arch: DRAM's bandwidth and the DMA engines' width say how long a transfer takes
    """

    def __init__(self, env: simpy.Environment, arch: Arch) -> None:
        self._env = env
        self._arch = arch
        self._free_at = 0

    @property
    def backlog(self) -> int:
        """Cycles until what was requested so far has been served."""
        return max(0, self._free_at - int(self._env.now))

    def request(self, payload: int, padding: int = 0) -> tuple[int, int]:
        """Enqueue a transfer; the cycles at which it gets the channel and leaves it.

        payload, padding: bits without burst padding, and the padding
        """
        start = max(int(self._env.now), self._free_at)
        self._free_at = start + channel_cycles(self._arch, payload, padding)
        return start, self._free_at
