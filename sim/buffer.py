"""SRAM: capacity in bits, and the slots in which each tensor's tiles wait for the array."""

from collections import deque

import simpy


class Memory:
    """Bits of SRAM. Holding more than `capacity` is a defect of the model, so it raises."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.held = 0
        self.peak = 0

    def take(self, bits: int) -> None:
        """Hold `bits` more."""
        self.held += bits
        self.peak = max(self.peak, self.held)
        if self.held > self.capacity:
            raise RuntimeError(f"{self.name} holds {self.held} bit of {self.capacity} bit")

    def give(self, bits: int) -> None:
        """Hold `bits` less."""
        self.held -= bits


class TileBuffer:
    """One tensor's tiles on their way from DMA to array and back.

    A tile is reserved when the DMA engine brings it, delivered when it is there, begun at its
    first use and released after its last: four counts of tiles, each at most the one before. One
    slot without double buffering, two with it. Tiles are used in the order they came.

    env: the simulation
    memory: the SRAM that the slots lie in
    slots: tiles that may be resident or on their way at once
    """

    def __init__(self, env: simpy.Environment, memory: Memory, slots: int) -> None:
        self.reserved = 0
        self.delivered = 0
        self.begun = 0
        self.released = 0
        self._env = env
        self._memory = memory
        self._slots = slots
        self._sizes: deque[int] = deque()
        self._arrived_at: deque[int] = deque()
        self._vacancy: simpy.Event | None = None
        self._arrival: simpy.Event | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bits that each tile takes, those on their way included."""
        return tuple(self._sizes)

    @property
    def full(self) -> bool:
        """Whether no slot is left."""
        return self.reserved - self.released == self._slots

    def vacancy(self) -> simpy.Event:
        """The event of the next slot coming free."""
        self._vacancy = self._env.event()
        return self._vacancy

    @property
    def ready(self) -> bool:
        """Whether a delivered tile waits for its first use."""
        return self.delivered > self.begun

    def arrival(self) -> simpy.Event:
        """The event of the next tile becoming ready."""
        self._arrival = self._env.event()
        return self._arrival

    def reserve(self, bits: int) -> None:
        """Take a slot for a tile of `bits`."""
        self.reserved += 1
        self._sizes.append(bits)
        self._memory.take(bits)

    def deliver(self) -> None:
        """The oldest tile on its way is ready for the array."""
        self.delivered += 1
        self._arrived_at.append(int(self._env.now))
        if self._arrival is not None:
            event, self._arrival = self._arrival, None
            event.succeed()

    def begin_use(self) -> int:
        """The array starts on the oldest ready tile; the cycle at which it had arrived."""
        self.begun += 1
        return self._arrived_at.popleft()

    def release(self) -> None:
        """The oldest resident tile is no longer needed; its slot is free."""
        self.released += 1
        self._memory.give(self._sizes.popleft())
        if self._vacancy is not None:
            event, self._vacancy = self._vacancy, None
            event.succeed()

    def skip(self, tiles: int, sizes: tuple[int, ...]) -> None:
        """So many tiles have come and gone meanwhile; those that are here now take these bits."""
        self.reserved += tiles
        self.delivered += tiles
        self.begun += tiles
        self.released += tiles
        self._memory.held += sum(sizes) - sum(self._sizes)  # its peak was counted the first time
        self._sizes = deque(sizes)
