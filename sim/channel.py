"""The DRAM channel: one FIFO server of bits."""

from fractions import Fraction

import simpy


class Channel:
    """Serves transfers in the order they arrive, each for ceil(bits / bits_per_cycle) cycles.

    Because service is first come first served, the end of a transfer is known when it is
    requested, and one event per transfer is enough.

    env: the simulation
    bits_per_cycle: bandwidth
    """

    def __init__(self, env: simpy.Environment, bits_per_cycle: Fraction) -> None:
        self._env = env
        self._rate = bits_per_cycle
        self._free_at = 0

    @property
    def backlog(self) -> int:
        """Cycles until what was requested so far has been served."""
        return max(0, self._free_at - int(self._env.now))

    def request(self, bits: int) -> tuple[int, int]:
        """Enqueue a transfer; the cycles at which it gets the channel and leaves it."""
        start = max(int(self._env.now), self._free_at)
        cycles = -(-bits * self._rate.denominator // self._rate.numerator)
        self._free_at = start + cycles
        return start, self._free_at
