"""The events of a run on arrays: what `sim.accelerator` does with SimPy, in one loop.

Four processes, and each waits for one thing at a time: the DMA engines of I and of W, the array,
and the DMA engine of O. Whoever's time comes first goes on; of equal times, whoever was scheduled
first. What sets a waiting process free schedules it now, behind all that is due now already. That
is SimPy's order.

Plain loops over integers, so that numba can compile them (`mapping.steps.schedule` does).
"""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]

_I, _W, _O = 0, 1, 2
_ARRAY, _DRAIN = 2, 3  # processes; those of I and W have the numbers of their tensors
_NEVER = np.iinfo(np.int64).max

_IDLE, _BUSY, _READS, _WAITS = 0, 1, 2, 3


def events(
    latency: int,
    rests: Vector,
    slots: Vector,
    tiles: Vector,
    fetches: Vector,
    drains: Vector,
    lasting: Vector,
    begins: Vector,
    ends: Vector,
) -> Vector:
    """Cycles of a run: in all, and stalled for I, for W and for O, the last drain included.

    latency: that trails each read
    rests: of the channel, before a write that follows a read, and a read that follows a write
    slots: of I, W and O, 1 or 2
    tiles: of I, W and O
    fetches: cycles of the channel for what arrives with each tile, those of I first, then W's, then
        O's; -1 where nothing does
    drains: cycles of the channel for each tile of O that leaves
    lasting: cycles of each step
    begins, ends: tensors whose tile has its first or last use in each step, 1 for I, 2 for W, 4 for
        O
    """
    steps = len(lasting)
    offset = np.array([0, tiles[0], tiles[0] + tiles[1]])
    reserved, delivered, begun, released = (
        np.zeros(3, np.int64),
        np.zeros(3, np.int64),
        np.zeros(3, np.int64),
        np.zeros(3, np.int64),
    )
    arrived = np.zeros((3, 2), np.int64)
    stalled = np.zeros(3, np.int64)
    when, turn = np.zeros(4, np.int64), np.arange(4)
    state = np.zeros(4, np.int64)
    scheduled = 4
    wants_slot = np.zeros(3, np.bool_)
    awaited = -1  # the tensor that the array waits for
    drain_waits = False
    free_at, last = 0, -1  # the last transfer on the channel: 0 for a read, 1 for a write
    step, needed, idle_since, latest, culprit = 0, _I, 0, -1, -1
    computing, computed = 0, 0
    while True:
        who = 0
        for other in range(1, 4):
            if when[other] < when[who] or (when[other] == when[who] and turn[other] < turn[who]):
                who = other
        now = when[who]
        when[who] = _NEVER
        arrives = -1  # the tensor of which a tile arrives
        if who < _ARRAY:
            if state[who] == _BUSY:
                arrives = who
            state[who] = _IDLE
            while True:
                if arrives >= 0:
                    arrived[who, delivered[who] % 2] = now
                    delivered[who] += 1
                    if awaited == who:
                        awaited = -1
                        when[_ARRAY], turn[_ARRAY] = now, scheduled
                        scheduled += 1
                if reserved[who] == tiles[who]:
                    break
                if reserved[who] - released[who] == slots[who]:
                    wants_slot[who] = True
                    break
                cycles = fetches[offset[who] + reserved[who]]
                reserved[who] += 1
                if cycles >= 0:
                    if last == 1:
                        free_at += rests[1]
                    free_at, last = max(now, free_at) + cycles, 0
                    when[who], turn[who] = free_at + latency, scheduled
                    scheduled += 1
                    state[who] = _BUSY
                    break
                arrives = who
        elif who == _ARRAY:
            if state[_ARRAY] == _BUSY:
                state[_ARRAY] = _IDLE
                for tensor in range(3):
                    if not ends[step] >> tensor & 1:
                        continue
                    if tensor == _O:
                        computed += 1
                        if drain_waits:
                            drain_waits = False
                            when[_DRAIN], turn[_DRAIN] = now, scheduled
                            scheduled += 1
                    else:
                        released[tensor] += 1
                        if wants_slot[tensor]:
                            wants_slot[tensor] = False
                            when[tensor], turn[tensor] = now, scheduled
                            scheduled += 1
                step += 1
                if step == steps:
                    continue
                needed, idle_since, latest, culprit = _I, now, -1, -1
            while needed < 3:
                if begins[step] >> needed & 1:
                    if delivered[needed] == begun[needed]:
                        awaited = needed
                        break
                    arrival = arrived[needed, begun[needed] % 2]
                    begun[needed] += 1
                    if arrival > latest:
                        latest, culprit = arrival, needed
                needed += 1
            if needed == 3:
                if culprit >= 0:
                    stalled[culprit] += now - idle_since
                computing += lasting[step]
                when[_ARRAY], turn[_ARRAY] = now + lasting[step], scheduled
                scheduled += 1
                state[_ARRAY] = _BUSY
        else:
            if state[_DRAIN] == _BUSY:
                released[_O] += 1
            elif state[_DRAIN] == _READS:
                arrives = _O
            state[_DRAIN] = _IDLE
            while True:
                if arrives >= 0:
                    arrived[_O, delivered[_O] % 2] = now
                    delivered[_O] += 1
                    if awaited == _O:
                        awaited = -1
                        when[_ARRAY], turn[_ARRAY] = now, scheduled
                        scheduled += 1
                    arrives = -1
                left = tiles[_O] - reserved[_O]
                if left and reserved[_O] - released[_O] < slots[_O]:
                    cycles = fetches[offset[_O] + reserved[_O]]
                    reserved[_O] += 1
                    if cycles < 0:
                        arrives = _O
                        continue
                    if last == 1:
                        free_at += rests[1]
                    free_at, last = max(now, free_at) + cycles, 0
                    when[_DRAIN], turn[_DRAIN] = free_at + latency, scheduled
                    scheduled += 1
                    state[_DRAIN] = _READS
                    break
                if released[_O] == tiles[_O]:
                    stalled[_O] = now - computing - stalled[_I] - stalled[_W]
                    return np.array([now, stalled[_I], stalled[_W], stalled[_O]])
                if computed <= released[_O]:
                    drain_waits = True
                    state[_DRAIN] = _WAITS
                    break
                if last == 0:
                    free_at += rests[0]
                free_at, last = max(now, free_at) + drains[released[_O]], 1
                when[_DRAIN], turn[_DRAIN] = free_at, scheduled
                scheduled += 1
                state[_DRAIN] = _BUSY
                break
