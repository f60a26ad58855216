"""A DRAM channel bank by bank: when each burst's command goes out.

Requests wait as in a controller with a queue per bank: of each direction up to `_QUEUE` bursts in
every bank's queue, and up to `_WAITING` more, taken in order. Of the banks whose row is open the
earliest goes first, of equals the oldest; of a bank's queue the oldest, but what its open row holds
goes before. Writes gather, and are served when there are `_WAITING` of them, or nothing to read.
Neighbouring bursts of one row are a segment, and served together where nothing comes between.

Plain loops over integers, compiled if there is numba.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """A loop as machine code, if there is numba; the same function if not."""
    if find_spec("numba") is None:
        return loop
    from numba import njit

    fast: Any = njit(cache=True)(loop)
    return fast  # type: ignore[no-any-return]


Vector = NDArray[np.int64]

_QUEUE, _WAITING = 8, 32

# Columns of `banks` and of `queues`, places in `rank`, columns of `segments`.
OPEN_ROW, ACTIVATED, COLUMN_FROM, CLOSE_FROM, CLOSED_FROM, UNUSED = range(6)
FIRST, LAST, BURSTS, HEAD_ROW, HEAD_ENTRY = range(5)
CLOCK, NEXT_REFRESH, MODE, QUOTA, FRONT, ACTIVATES, MISSES, REFRESHES, COMMANDS = range(9)
ARRIVAL, BANK, ROW, LEFT, WRITES, TRANSFER, NEXT, ENTRY = range(8)
BANK_COLUMNS, QUEUE_COLUMNS, GROUP_COLUMNS, RANK_PLACES, SEGMENT_COLUMNS = 6, 5, 3, 16, 8
"""In `rank`, the last activates, the latest last, and the last read and write follow `COMMANDS`."""

# Commands, as `arch.device.COMMANDS` has them, and the scopes.
_ACT, _PRE, _RD, _WR = 0, 1, 2, 3
_OF_BANK, _OF_GROUP, _OF_RANK = 0, 1, 2

COLUMN_FIELD, CHANNEL_FIELD, BANK_FIELD, GROUP_FIELD, FIELDS = range(5)
"""Fields of an address in `radices`, and how many there are."""

# Rows of `heads`: clocks by bank, and who is first of equal ones: the oldest, with its bank.
GOES, OPENS, AGE = range(3)
_BANKS, _KEYS = 6, 26  # bits of a bank, and of an age and a bank
_BANK, _AGES = (1 << _BANKS) - 1, (1 << _KEYS - _BANKS) - 1

LONG_AGO = -(1 << 40)
NEVER = 1 << 62
_FAR = NEVER >> _KEYS
LATEST = _FAR >> 1
"""The last clock at which something may be requested: half a minute of a device at 1 GHz."""


@compiled
def _refresh(begin: int, closing: int, refresh: int, banks: Vector) -> None:
    """Close all rows, and let none open until the refresh has ended."""
    due = begin
    for bank in range(len(banks)):
        if banks[bank, OPEN_ROW] >= 0:
            begin = max(begin, max(due, banks[bank, CLOSE_FROM]) + closing)
        begin = max(begin, banks[bank, CLOSED_FROM])
    for bank in range(len(banks)):
        banks[bank, OPEN_ROW] = -1
        banks[bank, UNUSED] = 0
        banks[bank, CLOSED_FROM] = begin + refresh


@compiled
def _next(open_row: int, queue: Vector, segments: Vector) -> None:
    """A queue's first segment has been served: what the open row holds comes before the others."""
    first = segments[queue[FIRST], NEXT]
    if segments[first, ROW] != open_row:
        seen, before = segments[first, LEFT], first
        while seen < _QUEUE:
            at = segments[before, NEXT]
            if at < 0:
                break
            if segments[at, ROW] == open_row:
                segments[before, NEXT] = segments[at, NEXT]
                if queue[LAST] == at:
                    queue[LAST] = before
                segments[at, NEXT] = first
                first = at
                break
            seen, before = seen + segments[at, LEFT], at
    queue[FIRST] = first
    queue[HEAD_ROW], queue[HEAD_ENTRY] = segments[first, ROW], segments[first, ENTRY]


@compiled
def _look(
    way: int, bank: int, queues: Vector, banks: Vector, closing: int, cycle: int, heads: Vector
) -> None:
    """Note from when on a bank allows its first request a column, or an activate."""
    heads[GOES, bank] = heads[OPENS, bank] = _FAR
    heads[AGE, bank] = -1
    if queues[way, bank, BURSTS] == 0:
        return
    at = queues[way, bank, HEAD_ENTRY]
    heads[AGE, bank] = (queues[way, bank, FIRST] & _AGES) << _BANKS | bank
    if banks[bank, OPEN_ROW] == queues[way, bank, HEAD_ROW]:
        heads[GOES, bank] = max(at, banks[bank, COLUMN_FROM])
        return
    if banks[bank, OPEN_ROW] >= 0:
        at = max(at, banks[bank, CLOSE_FROM]) + closing
    heads[OPENS, bank] = max(at, max(banks[bank, CLOSED_FROM], banks[bank, ACTIVATED] + cycle))


@compiled
def serve(
    between: Vector,
    constants: Vector,
    banks: Vector,
    groups: Vector,
    rank: Vector,
    queues: Vector,
    segments: Vector,
    done: Vector,
    until: int,
) -> None:
    """Serve what was requested, up to a clock; all arrays go on from there.

    between: clocks by scope, command before and command after
    constants: clocks of four activates, of a refresh, from one to the next, and of a burst; banks
        in a group
    banks: the open row (-1 if none); when it was activated; from when on it takes a column, may
        close, may open again; whether its row has yet to be used
    groups: the last activate, read and write of each
    rank: the channel's own, by the places named above
    queues: by direction and bank, the first and the last segment that wait, bursts, and of the
        first its row and when it was taken in
    segments: requests in order; NEXT and ENTRY are filled in
    done: by transfer, the clock of its last command so far
    until: nothing that begins at this clock or later is done
    """
    four, refresh, every, burst, per_group = constants
    number, count = len(segments), len(banks)
    row_cycle, act_act = between[_OF_BANK, _ACT, _ACT], between[_OF_RANK, _ACT, _ACT]
    group_act, closing = between[_OF_GROUP, _ACT, _ACT], between[_OF_BANK, _PRE, _ACT]
    act_close = between[_OF_BANK, _ACT, _PRE]
    now, next_refresh, way, quota, front = rank[0], rank[1], rank[2], rank[3], rank[4]
    first_act, second_act, third_act, last_act = rank[8], rank[9], rank[10], rank[11]
    last_read, last_write = rank[12], rank[13]
    reads = writes = waiting = 0
    grouped = per_group < count
    heads, looked = np.zeros((3, count), np.int64), -1  # `heads` are of the direction `looked`
    for bank in range(count):
        reads += queues[0, bank, BURSTS]
        waiting += max(0, queues[0, bank, BURSTS] - _QUEUE)
        writes += queues[1, bank, BURSTS]
    while True:
        # Take in what there is room for.
        room = False
        while front < number:
            onto = segments[front, WRITES]
            room = writes < _WAITING if onto else waiting < _WAITING
            if not room or segments[front, ARRIVAL] > now:
                break
            bank, left = segments[front, BANK], segments[front, LEFT]
            before = queues[onto, bank, BURSTS]
            segments[front, ENTRY], segments[front, NEXT] = now, -1
            if before:
                segments[queues[onto, bank, LAST], NEXT] = front
            else:
                queues[onto, bank, FIRST] = front
                queues[onto, bank, HEAD_ROW] = segments[front, ROW]
                queues[onto, bank, HEAD_ENTRY] = now
            queues[onto, bank, LAST] = front
            queues[onto, bank, BURSTS] = before + left
            if not before and onto == looked:
                _look(onto, bank, queues, banks, closing, row_cycle, heads)
            if onto:
                writes += left
            else:
                reads += left
                waiting += max(0, before + left - _QUEUE) - max(0, before - _QUEUE)
            front += 1
        arrival = segments[front, ARRIVAL] if front < number and room else NEVER
        if way and (quota <= 0 or writes == 0):
            way = 0
        if not way and writes and (writes >= _WAITING or reads == 0):
            way, quota = 1, writes
        if reads + writes == 0:
            idle_until = min(arrival, until)
            while next_refresh < idle_until < NEVER:
                _refresh(next_refresh, closing, refresh, banks)
                rank[REFRESHES] += 1
                next_refresh += every
                looked = -1
            if arrival >= until:
                break
            now = arrival
            continue
        if looked != way:
            looked = way
            for bank in range(count):
                _look(way, bank, queues, banks, closing, row_cycle, heads)
        # The next activate and the next column.
        column = _RD + way
        pace = max(burst, between[_OF_RANK, column, column])
        pace = max(pace, between[_OF_GROUP, column, column])
        of_rank = max(
            last_read + between[_OF_RANK, _RD, column], last_write + between[_OF_RANK, _WR, column]
        )
        read_column, write_column = (
            between[_OF_GROUP, _RD, column],
            between[_OF_GROUP, _WR, column],
        )
        window = max(first_act + four, last_act + act_act)
        soonest = next_row = NEVER
        for bank in range(count):
            if heads[AGE, bank] < 0:
                continue
            goes, opens = max(heads[GOES, bank], of_rank), max(heads[OPENS, bank], window)
            if grouped:
                group = bank // per_group
                goes = max(goes, groups[group, 1] + read_column)
                goes = max(goes, groups[group, 2] + write_column)
                opens = max(opens, groups[group, 0] + group_act)
            soonest = min(soonest, goes << _KEYS | heads[AGE, bank])
            next_row = min(next_row, opens << _KEYS | heads[AGE, bank])
        goes, going = soonest >> _KEYS, soonest & _BANK
        opens, opening = next_row >> _KEYS, next_row & _BANK
        event = min(opens, goes)
        if arrival < event and arrival < until and arrival < next_refresh:
            now = max(now, arrival)
            continue
        if next_refresh <= event and next_refresh < until:
            _refresh(next_refresh, closing, refresh, banks)
            rank[REFRESHES] += 1
            next_refresh += every
            looked = -1
            continue
        if event >= until:
            break
        if opens <= goes:
            banks[opening, OPEN_ROW] = queues[way, opening, HEAD_ROW]
            banks[opening, ACTIVATED] = opens
            banks[opening, COLUMN_FROM] = opens + between[_OF_BANK, _ACT, column]
            banks[opening, CLOSE_FROM] = opens + act_close
            banks[opening, UNUSED] = 1
            groups[opening // per_group, 0] = opens
            first_act, second_act, third_act, last_act = second_act, third_act, last_act, opens
            rank[ACTIVATES] += 1
            heads[GOES, opening], heads[OPENS, opening] = banks[opening, COLUMN_FROM], _FAR
            continue
        gone = queues[way, going, FIRST]
        left, before = segments[gone, LEFT], queues[way, going, BURSTS]
        some = min(left, -(-(min(until, next_refresh) - goes) // pace))
        if way:
            some = min(some, quota)
        if left > _QUEUE:  # short ones go at once
            oldest, oldest_goes = gone, goes
            for bank in range(count):
                if heads[AGE, bank] < 0 or heads[GOES, bank] == _FAR:
                    continue
                if queues[way, bank, FIRST] < oldest:
                    oldest = queues[way, bank, FIRST]
                    oldest_goes = max(heads[GOES, bank], of_rank)
                    if grouped:
                        group = bank // per_group
                        oldest_goes = max(oldest_goes, groups[group, 1] + read_column)
                        oldest_goes = max(oldest_goes, groups[group, 2] + write_column)
            if oldest < gone:
                some = min(some, max(1, -(-(oldest_goes - goes) // pace)))
            if arrival < NEVER:
                some = min(some, max(1, -(-(arrival - goes) // pace)))
            elif front < number:
                over = writes if segments[front, WRITES] else waiting
                some = min(some, max(1, over - _WAITING + 1))
        final = goes + (some - 1) * pace
        now = max(now, final)
        groups[going // per_group, 1 + way] = final
        close_from = final + between[_OF_BANK, column, _PRE]
        banks[going, CLOSE_FROM] = max(banks[going, CLOSE_FROM], close_from)
        rank[MISSES] += banks[going, UNUSED]
        banks[going, UNUSED] = 0
        transfer = segments[gone, TRANSFER]
        done[transfer] = max(done[transfer], final)
        segments[gone, LEFT] = left - some
        queues[way, going, BURSTS] = before - some
        if way:
            last_write = final
            writes -= some
            quota -= some
        else:
            last_read = final
            reads -= some
            waiting -= max(0, before - _QUEUE) - max(0, before - some - _QUEUE)
        if left == some:
            if before > some:
                _next(banks[going, OPEN_ROW], queues[way, going], segments)
            _look(way, going, queues, banks, closing, row_cycle, heads)
    rank[0], rank[1], rank[2], rank[3], rank[4] = now, next_refresh, way, quota, front
    rank[8], rank[9], rank[10], rank[11] = first_act, second_act, third_act, last_act
    rank[12], rank[13] = last_read, last_write


@compiled
def at_rest(banks: int, groups: int) -> tuple[Vector, Vector, Vector, Vector]:
    """Arrays of a channel whose rows are closed: banks, groups, rank and queues.

    banks: of each group
    """
    every = np.full((banks * groups, BANK_COLUMNS), LONG_AGO)
    every[:, OPEN_ROW] = -1
    every[:, UNUSED] = 0
    rank = np.zeros(RANK_PLACES, np.int64)
    rank[COMMANDS:] = LONG_AGO
    queues = np.zeros((2, banks * groups, QUEUE_COLUMNS), np.int64)
    return every, np.full((groups, GROUP_COLUMNS), LONG_AGO), rank, queues


@compiled
def spread(
    starts: Vector, ends: Vector, radices: Vector, burst: int, channel: int, base: int
) -> Vector:
    """One channel's segments of a transfer's runs, as `serve` takes them.

    starts, ends: of each run [bit]
    radices: (field, size) of an address's fields, the least significant first; the row is the rest
    base: the tensor's first burst
    """
    found = np.zeros((16, SEGMENT_COLUMNS), np.int64)
    count = 0
    in_row = radices[0, 1] if radices[0, 0] == COLUMN_FIELD else 1
    per_group = 1
    for place in range(len(radices)):
        if radices[place, 0] == BANK_FIELD:
            per_group = radices[place, 1]
    for run in range(len(starts)):
        at = base + starts[run] // burst
        end = base + -(-ends[run] // burst)
        while at < end:
            some = min(end - at, in_row - at % in_row)
            rest, own, bank, group = at, 0, 0, 0
            for place in range(len(radices)):
                field, size = radices[place, 0], radices[place, 1]
                if field == CHANNEL_FIELD:
                    own = rest % size
                elif field == BANK_FIELD:
                    bank = rest % size
                elif field == GROUP_FIELD:
                    group = rest % size
                rest //= size
            at += some
            if own != channel:
                continue
            bank += group * per_group
            if count and found[count - 1, BANK] == bank and found[count - 1, ROW] == rest:
                found[count - 1, LEFT] += some
                continue
            if count == len(found):
                more = np.zeros((2 * count, SEGMENT_COLUMNS), np.int64)
                more[:count] = found
                found = more
            found[count, BANK], found[count, ROW], found[count, LEFT] = bank, rest, some
            count += 1
    return found[:count]


@compiled
def alone(
    between: Vector, constants: Vector, starts: Vector, ends: Vector, radices: Vector, burst: int
) -> tuple[int, int]:
    """Clocks for which a transfer keeps an idle device busy that never refreshes, and activates.

    The first activate is not counted: it is a part of the latency.
    """
    clocks, activates, channels = 0, 0, 1
    sizes = np.ones(FIELDS, np.int64)
    for place in range(len(radices)):
        sizes[radices[place, 0]] = radices[place, 1]
    channels = sizes[CHANNEL_FIELD]
    opening = between[_OF_BANK, _ACT, _RD]
    for channel in range(channels):
        segments = spread(starts, ends, radices, burst, channel, 0)
        if len(segments) == 0:
            continue
        banks, groups, rank, queues = at_rest(sizes[BANK_FIELD], sizes[GROUP_FIELD])
        rank[NEXT_REFRESH] = NEVER
        done = np.zeros(1, np.int64)
        serve(between, constants, banks, groups, rank, queues, segments, done, NEVER)
        clocks = max(clocks, done[0] + constants[3] - opening)
        activates += rank[ACTIVATES]
    return clocks, activates
