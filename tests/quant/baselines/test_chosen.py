"""FAST and DBPS choose by the values as their rules say; BSFP is near the best there is."""

import subprocess
import sys
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.quant.baselines import BSFP, DBPS, FAST, bsfp
from bfpsim.quant.baselines.bsfp import by_kernel, by_operators
from bfpsim.quant.formats import BFP, MSFP
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT
from tests.quant.adapter import Stored
from tests.quant.oracle import quantised


def ordinary(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def kept_in_fractions(x: torch.Tensor, fmt: BFP, top: int | None) -> dict:
    return quantised(x.numpy(), fmt, (1, fmt.block_size), top).kept


# --- FAST ---------------------------------------------------------------------------------------


def fast_choices(x: torch.Tensor) -> tuple[dict, dict, Fraction]:
    """Both precisions and the relative improvement between them."""
    low, high = (kept_in_fractions(x, BFP(1 + m + 3, 3, 16), None) for m in (2, 4))
    total = sum(map(abs, low.values()))
    return low, high, sum(abs(high[i] - low[i]) for i in low) / total


@pytest.mark.parametrize("seed", range(5))
def test_fast_takes_four_bits_where_they_improve_by_the_threshold(seed: int) -> None:
    x = ordinary((3, 37), seed)
    low, high, improvement = fast_choices(x)
    assert improvement > 0
    for threshold, expected, m in (
        (float(improvement) * 0.999, high, 4),
        (float(improvement) * 1.001, low, 2),
    ):
        fmt = FAST(threshold)
        kept = fmt.quantize(x, LAST)
        assert {i: Fraction(float(kept[i])) for i in expected} == expected
        assert fmt.mantissa_bits(x, LAST) == m
        # 3 rows of 3 groups with 3 bits; 3 bits for every 2 of mantissa; 8 for the reference
        assert fmt.bits(x, LAST) == 111 * 3 * m // 2 + 9 * 3 + 8


def test_fast_keeps_two_bits_where_four_change_nothing() -> None:
    x = torch.tensor([[3.0, -2.0, 1.0, 0.0]])
    assert FAST(0).mantissa_bits(x, LAST) == 2
    assert torch.equal(FAST(0).quantize(x, LAST), x)
    assert FAST().mantissa_bits(torch.zeros(1, 4), LAST) == 2


# --- DBPS ---------------------------------------------------------------------------------------


def heavy_tailed(seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal((4, 72)) ** (2 * seed + 1)).astype(np.float32))


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_dbps_takes_the_smallest_candidate_within_its_limit(width: int, seed: int) -> None:
    x = heavy_tailed(seed)
    nonzero = int((x != 0).sum())
    found = []  # bits, share set to zero, values
    for m, size in product((width // 2, width), (64, 32, 16, 8)):
        kept = kept_in_fractions(x, BFP(m + 8, 8, size), 127)
        lost = sum(kept[i] == 0 and float(x[i]) != 0 for i in kept)
        found.append((288 * m + 4 * -(-72 // size) * 8, Fraction(lost, nonzero), kept))
    shares = sorted({float(share) for _, share, _ in found})
    for limit in {0.0, 0.01, 0.2, *shares}:
        allowed = [f for f in found if float(f[1]) <= limit] or [found[-1]]
        bits, _, expected = min(allowed, key=lambda f: f[0])
        fmt = DBPS(width, limit)
        kept = fmt.quantize(x, LAST)
        assert fmt.bits(x, LAST) == bits
        assert {i: Fraction(float(kept[i])) for i in expected} == expected


def test_dbps_uses_more_bits_for_heavier_tails() -> None:
    fmt = DBPS(16)
    used = [fmt.format(heavy_tailed(seed), LAST).mantissa_bits for seed in (0, 4)]
    assert used == [8, 16]


@pytest.mark.parametrize("fmt", [FAST(), DBPS(8)])
def test_neighbours_in_the_batch_change_what_an_image_becomes(fmt) -> None:
    """As docs/baselines.md says: both choose for the whole batch."""
    quiet, loud = ordinary((1, 64), 1), ordinary((1, 64), 2) ** 3 * 1e3
    alone, beside = fmt.quantize(quiet, LAST), fmt.quantize(torch.cat([quiet, loud]), LAST)[:1]
    assert not torch.equal(alone, beside)


# --- BSFP ---------------------------------------------------------------------------------------


def scales(top: int) -> np.ndarray:
    """All 128 low-bit floats under a reference: sign, 8 exponents down from it, 8 mantissas."""
    return np.array(
        [
            sign * (1 + mantissa / 8) * 2.0 ** (top - code)
            for sign, code, mantissa in product((1, -1), range(8), range(8))
        ]
    )


def nearest_sums(vector: np.ndarray, c: int, f: int, tops: tuple[int, int]) -> float:
    """The least squared error over all pairs of scales and all pairs of subwords."""
    coarse, fine = (np.arange(-(2 ** (k - 1)), 2 ** (k - 1)) for k in (c, f))
    least = np.inf
    for first in scales(tops[0]):
        levels = first * coarse[None, :, None] + scales(tops[1])[:, None, None] * fine[None, None]
        levels = levels.reshape(128, -1)
        distance = np.abs(levels[:, :, None] - vector[None, None]).min(1)
        least = min(least, float((distance**2).sum(1).min()))
    return least


def tops_of(x: torch.Tensor, c: int, f: int) -> tuple[int, int]:
    """References: the coarse one reaches twice over the maximum, the fine one starts f below."""
    top = int(np.floor(np.log2(float(x.abs().max())))) - c + 2
    return top, top - f + 1


@pytest.mark.parametrize(("c", "f"), [(2, 2), (3, 2)])
def test_bsfp_vectors_are_sums_of_scaled_subwords_and_near_the_best(c: int, f: int) -> None:
    x = ordinary((3, 32), 7) * 0.1
    kept = BSFP(c, f).quantize(x, WEIGHT)
    tops = tops_of(x, c, f)
    errors, best = 0.0, 0.0
    for row, out in zip(x.double().numpy(), kept.double().numpy(), strict=True):
        for at in (0, 16):
            vector, stored = row[at : at + 16], out[at : at + 16]
            assert nearest_sums(stored, c, f, tops) == 0
            least, error = nearest_sums(vector, c, f, tops), float(((vector - stored) ** 2).sum())
            assert error >= least
            errors, best = errors + error, best + least
    assert errors < 1.4 * best


@given(
    bits=st.sampled_from([(2, 2), (4, 4), (2, 5), (6, 2), (3, 3)]),
    seed=st.integers(0, 2**32),
    binades=st.integers(0, 60),
    grid=st.booleans(),
)
def test_bsfps_kernel_and_operators_give_the_same_bits(bits, seed, binades, grid) -> None:
    """Vectors of very different size, of zeros, of one value, and of values halfway."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((40, 16)) * 2.0 ** -rng.integers(0, binades + 1, (40, 1))
    values[rng.random((40, 16)) < 0.1] = 0
    values[0], values[1], values[2, 1:] = 0, values[1, 0], 0
    values = np.round(values * 8) / 8 if grid else values
    vectors = torch.from_numpy(values.astype(np.float32)).double()
    top = int(torch.frexp(vectors.abs().max()).exponent) - 1 - bits[0] + 2
    tops = top, top - bits[1] + 1
    ours, oracle = (search(vectors, bits, tops).numpy() for search in (by_kernel, by_operators))
    assert ours.tobytes() == oracle.tobytes()


@pytest.mark.parametrize("search", [by_kernel, by_operators])
@pytest.mark.parametrize(("c", "f"), [(2, 2), (4, 4), (6, 2)])
def test_bsfps_references_have_eight_bits(c: int, f: int, search, monkeypatch) -> None:
    """They stop at 2^127 and at 2^-128, whose lowest scale is 2^-135."""
    monkeypatch.setattr(bsfp, "by_kernel", search)
    fmt, tops = BSFP(c, f), (127, 127 - f + 1)
    largest = sum(scales(top).max() * 2.0 ** (b - 1) for top, b in zip(tops, (c, f), strict=True))
    x = torch.zeros(9, 16, dtype=torch.float64)
    for sign in (1, -1):
        x[0] = sign * 1e300
        kept = fmt.quantize(x, WEIGHT)
        assert torch.equal(kept[0], torch.full((16,), sign * largest, dtype=torch.float64))
        assert not kept[1:].any()
    for value in (1e-300, 2.0**-140):  # less than half of (1 1/8 - 1) 2^-135
        assert not fmt.quantize(torch.full_like(x, value), WEIGHT).any()
    smallest = torch.full_like(x, 2.0**-135)
    assert torch.equal(fmt.quantize(smallest, WEIGHT), smallest)
    top = torch.full((1, 16), torch.finfo(torch.float32).max)
    assert fmt.quantize(top, WEIGHT).isfinite().all()  # 2^128 is nearer than any sum below


def test_bsfp_is_split_among_threads_without_a_seam() -> None:
    x = ordinary((150, 16), 11)
    expected = by_operators(x.double(), (3, 3), (tops := tops_of(x, 3, 3)))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(by_kernel(x.double(), (3, 3), tops), expected)
    finally:
        torch.set_num_threads(threads)


FORK = """
import os, sys, torch
from bfpsim.quant.formats.blocks import WEIGHT
from bfpsim.quant.baselines import BSFP
def threads():
    return len(os.listdir("/proc/self/task"))
x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
counts = []
for count in (1, 2):
    torch.set_num_threads(count)
    kept = BSFP(2, 2).quantize(x, WEIGHT)
    counts.append(threads())
print(*counts, flush=True)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(BSFP(2, 2).quantize(x, WEIGHT), kept) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_bsfp_keeps_to_torchs_count_of_threads_and_outlives_a_fork() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = map(int, done.stdout.split())
    assert two - one == 2


@pytest.mark.parametrize("bits", [2, 4])
def test_bsfp_weights_are_closer_than_msfps_of_the_same_width(bits: int) -> None:
    skewed = torch.from_numpy(np.random.default_rng(3).gamma(2, 1, (8, 64)) - 1).float()
    for x in (ordinary((8, 64), 1), skewed):
        ours, theirs = (
            (fmt.quantize(x, WEIGHT) - x).square().mean()
            for fmt in (BSFP(bits, bits), Stored(MSFP(8 + 2 * bits)))
        )
        assert ours < 0.75 * theirs


def test_bsfp_follows_input_channels_tap_by_tap_and_filters_where_there_is_one() -> None:
    fmt = BSFP(2, 2)
    x = ordinary((2, 20, 1, 2), 5)
    flat = fmt.quantize(x.movedim(1, -1).reshape(4, 20), WEIGHT)
    assert torch.equal(fmt.quantize(x, WEIGHT), flat.reshape(2, 1, 2, 20).movedim(-1, 1))
    depthwise = ordinary((20, 1, 2, 2), 6)
    flat = fmt.quantize(depthwise.reshape(20, 4).T.contiguous(), WEIGHT)
    assert torch.equal(fmt.quantize(depthwise, WEIGHT), flat.T.reshape(20, 1, 2, 2))


def test_bsfp_bits_by_hand_and_activations_in_msfp() -> None:
    """20 channels are 2 vectors at each of 3 filters x 4 taps; activations: 2 boxes at 2 x 5."""
    assert BSFP(2, 2).bits(torch.zeros(3, 20, 2, 2), WEIGHT) == 240 * 4 + 24 * 14 + 16
    assert BSFP(4, 4).bits(torch.zeros(2, 20, 5), CHANNELS) == 200 * 8 + 20 * 8
    x = ordinary((2, 20, 5), 9)
    assert torch.equal(BSFP(4, 4).quantize(x, CHANNELS), Stored(MSFP(16)).quantize(x, CHANNELS))
