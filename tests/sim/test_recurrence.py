"""What is not run again counts as if it had been: runs with and without every step."""

import random
from dataclasses import fields

import numpy as np
import pytest

from bfpsim.arch import replace
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.accelerator import Accelerator, Tally
from bfpsim.sim.recurrence import Moment, Recurrence, alike, promising
from bfpsim.sim.timeline import Timeline
from bfpsim.workloads import ConvLayer
from tests.generate import (
    random_arch,
    random_device,
    random_formats,
    random_layer,
    random_mapping,
)
from tests.long import often

COUNTED = [field.name for field in fields(Tally) if field.name != "timeline"]


def both(layer: ConvLayer, arch, mapping: Mapping, formats: LayerFormats) -> tuple[Tally, Tally]:
    stepwise = Accelerator(layer, arch, mapping, formats, every_step=True).run()
    return stepwise, Accelerator(layer, arch, mapping, formats).run()


def assert_equal(stepwise: Tally, skipping: Tally) -> None:
    for name in COUNTED:
        assert getattr(skipping, name) == getattr(stepwise, name), name
    assert len(skipping.timeline) == len(stepwise.timeline)
    assert list(skipping.timeline) == list(stepwise.timeline)


def random_case(seed: int, largest: int):
    rng = random.Random(seed)
    layer = random_layer(rng, largest)
    formats = random_formats(rng)
    burst = rng.choice(["1 bit", "1 bit", "4 B", "32 B"])
    return layer, random_arch(rng, burst), random_mapping(rng, layer, formats), formats


@pytest.mark.parametrize("seed", often(80, range(160)))
def test_equals_the_run_of_every_step(seed: int) -> None:
    assert_equal(*both(*random_case(seed, largest=14)))


@pytest.mark.parametrize("seed", often(20, range(200)))
def test_equals_the_run_of_every_step_on_a_device(seed: int) -> None:
    """Which way the channel was turned last is part of the state, too."""
    layer, arch, mapping, formats = random_case(seed, largest=14)
    assert_equal(*both(layer, random_device(random.Random(seed), arch), mapping, formats))


def test_who_resumes_when_is_part_of_the_state() -> None:
    """A nest whose tiles come and go alike while what is under way still differs in time."""
    assert_equal(*both(*random_case(1075, largest=24)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_equals_the_run_of_every_step_in_long_nests(seed: int) -> None:
    assert_equal(*both(*random_case(seed, largest=24)))


def test_random_runs_do_repeat() -> None:
    """Otherwise the tests above would test nothing."""
    shorter = 0
    for seed in range(160):
        timeline = Accelerator(*random_case(seed, largest=14)).run().timeline
        shorter += timeline.rows < len(timeline)
    assert shorter > 10


LONG = ConvLayer("long", K=64, C=64, P=30, Q=40, R=3, S=3, padding=1)


@pytest.mark.parametrize("order", often(4, ["KPQ", "PQK", "CKPQ", "PQCK", "KQP", "PKQ", "KCPQ"]))
@pytest.mark.parametrize("double", [False, True])
def test_every_loop_order_of_a_long_nest(order: str, double: bool) -> None:
    rng = random.Random(5)
    arch = replace(random_arch(rng, burst="4 B"), "pe_array.stationary", "weight")
    part = "sram" if arch.shared else "sram.input"
    arch = replace(arch, f"{part}.double_buffered", double)
    mapping = Mapping(order, {"K": 16, "C": 32 if "C" in order else 64, "P": 2, "Q": 1})
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    stepwise, skipping = both(LONG, arch, mapping, formats)
    assert_equal(stepwise, skipping)
    # With Q outside P every sweep of P ends at another place in a burst.
    assert skipping.timeline.rows < len(skipping.timeline) / (2 if order == "KQP" else 5)


def test_the_table_of_a_run_is_the_same() -> None:
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    arch = random_arch(random.Random(2), burst="4 B")
    stepwise, skipping = both(LONG, arch, Mapping("KPQ", {"K": 16, "P": 1, "Q": 1}), formats)
    frame = skipping.timeline.to_frame()
    assert frame.equals(stepwise.timeline.to_frame())
    assert list(frame.itertuples(index=False, name=None)) == [tuple(s) for s in stepwise.timeline]


def test_alike_counts_tiles_like_those_a_period_before() -> None:
    kinds = np.array([7, 1, 2, 3] * 200 + [1, 2, 9])
    assert alike(kinds, 4, 4) == 796  # up to the 1 that stands where a 7 was
    assert alike(kinds, 5, 3) == 0
    assert alike(kinds, 803, 4) == 0  # nothing follows
    assert alike(np.array([5] * 10), 3, 1) == 7  # to the end


def moment(done: tuple[int, ...], taken: tuple[int, ...]) -> Moment:
    return Moment(done, taken, (), 0, 0, 0, ())


def test_the_stream_that_changes_first_decides() -> None:
    seen = Recurrence((np.zeros(1000, np.int64), np.arange(500) // 100))
    before, now = moment((10, 5), (11, 7)), moment((20, 10), (21, 12))
    seen.remember("state", before)
    # 90 more tiles of the second stream are of its first kind, two of them are taken: 17 fives.
    assert seen.again("state", now) == [(before, now, 17)]
    assert seen.again("another", now) == []


def test_a_stream_that_did_not_move_does_not_limit_the_others() -> None:
    seen = Recurrence((np.zeros(1000, np.int64), np.arange(500) // 100))
    before, now = moment((10, 5), (11, 7)), moment((20, 5), (21, 7))
    seen.remember("state", before)
    assert seen.again("state", now) == [(before, now, 97)]  # 980 steps, one of them taken


def test_a_part_of_a_turn_repeats_up_to_another_moment_in_the_state() -> None:
    """Turns of 100 steps, the last ten of each unlike those of any other."""
    kinds = np.arange(1000) % 100
    kinds[kinds >= 90] += np.arange(1000)[kinds >= 90]
    seen = Recurrence((kinds,), (), (100,))
    at = {step: moment((step,), (step + 1,)) for step in (0, 40, 70, 88, 89, 90, 95, 100)}
    for step, own in at.items():
        seen.remember("other" if step == 88 else "state", own)
        if step < 100:
            continue
        # Of the 90 steps that are alike the last is only looked at.
        assert seen.again("state", own) == [(at[0], at[89], 1)]


def test_whole_turns_and_then_a_part() -> None:
    kinds = np.arange(1000) % 50
    kinds[337:] = 99
    seen = Recurrence((kinds,), (), (50,))
    at = {step: moment((step,), (step + 1,)) for step in (0, 20, 30, 36, 37, 50)}
    for own in at.values():
        seen.remember("state", own)
    # From 50 on 287 are alike: five turns, and 36 steps beyond (the 37th is looked at).
    assert seen.again("state", at[50]) == [(at[0], at[50], 5), (at[0], at[36], 1)]


def test_what_hardly_repeats_is_not_worth_it() -> None:
    kinds = np.zeros(100, np.int64)
    kinds[30:] = np.arange(70)
    seen = Recurrence((kinds,))
    for step in (0, 10):
        seen.remember("state", moment((step,), (step + 1,)))
    assert seen.again("state", moment((10,), (11,))) == []


def test_looks_where_steps_are_like_those_a_turn_before() -> None:
    kinds = np.arange(2000)
    kinds[500:900] = np.arange(100, 500)
    marked = promising((kinds,), (1, 400))
    assert not any(marked[:100])
    assert marked[100] == 2
    assert (marked[500], marked[499]) == (2, 1)
    assert not any(marked[900:])
    assert not any(promising((kinds, np.arange(2000)), (1, 400)))


def test_looking_is_rare_where_nothing_is_found() -> None:
    seen = Recurrence((np.arange(20_000) % 2,), (), (1, 2))
    looks = sum(seen.worth_a_look(step) for step in range(20_000))
    assert 10 < looks < 300


def test_a_timeline_repeats_what_repeats() -> None:
    """(a b b b) (a b b b) c, written as a b [b 2 times more] [all of it once more] c."""
    timeline = Timeline()
    timeline.add("array", "compute", 0, 1, 0, 0, "steps")
    row, length = timeline.rows, len(timeline)
    timeline.add("dram", "read", 1, 2, 8, 5, "I")
    timeline.repeat(row, length, 2, cycles=3, tiles={"I": 1, "W": 0, "O": 0, "steps": 0})
    timeline.repeat(0, 0, 1, cycles=100, tiles={"I": 10, "W": 0, "O": 0, "steps": 1})
    timeline.add("array", "wait O", 200, 201, 0, 2, "steps")
    assert timeline.rows == 3
    assert len(timeline) == 9
    assert [(s.start, s.tile) for s in timeline] == [
        (0, 0), (1, 5), (4, 6), (7, 7),
        (100, 1), (101, 15), (104, 16), (107, 17),
        (200, 2),
    ]  # fmt: skip


def test_a_timeline_repeats_a_part_of_what_it_has() -> None:
    """a b c, then a b once more."""
    timeline = Timeline()
    for start in range(3):
        timeline.add("array", "compute", start, start + 1, 0, start, "steps")
    tiles = {"I": 0, "W": 0, "O": 0, "steps": 7}
    timeline.repeat(0, 0, 1, cycles=50, tiles=tiles, until=(2, 2))
    assert len(timeline) == 5
    assert [(s.start, s.tile) for s in timeline] == [(0, 0), (1, 1), (2, 2), (50, 7), (51, 8)]
