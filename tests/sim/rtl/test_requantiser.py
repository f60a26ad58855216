"""The requantiser against the rule of formats, block by block."""

import random
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from bfpsim.quant.formats import BFP, Format, LayerFormats, Plain, Rounding
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import quantize_activation
from bfpsim.sim.rtl.design import Design, design_of
from bfpsim.sim.rtl.requantiser import Requantiser
from tests.generate import make_arch
from tests.long import often

FORMATS: list[Format] = [
    BFP(8, 3, 4),
    BFP(8, 3, 4, Rounding.TRUNCATE),
    BFP(8, 3, 4, Rounding.NEAREST_AWAY),
    BFP(5, 3, 1),
    BFP(16, 7, 3),
    BFP(10, 1, 5, Rounding.NEAREST_AWAY),
    Plain(8),
    Plain(2),
]


def design_for(fmt: Format, bits: int) -> Design:
    arch = make_arch(fill="overlapped", accumulator_bits=bits, rows=("C", 1), cols=("K", 1))
    return design_of(arch, LayerFormats(BFP(8, 3, 4), BFP(8, 3, 4), fmt))


def random_block(rng: random.Random, bits: int, size: int) -> list[int]:
    """Sums of all magnitudes: the least and the largest, ties and their neighbours, zeros."""
    limit = 1 << (bits - 1)
    sums = []
    for _ in range(rng.randint(1, size)):
        width = rng.randint(0, bits - 1)
        kind = rng.random()
        if kind < 0.15:
            sums.append(rng.choice([0, limit - 1, -limit, 1, -1]))
        elif kind < 0.5:  # an odd number of halves, and what lies beside it
            at = rng.randint(0, width)
            sums.append(((2 * rng.getrandbits(width) + 1) << at) + rng.choice([-1, 0, 0, 1]))
        else:
            sums.append(rng.choice([-1, 1]) * rng.getrandbits(width))
    return [max(-limit, min(limit - 1, own)) for own in sums]


@pytest.mark.parametrize(
    ("fmt", "bits", "seed"),
    often(16, ((f, b, s) for s in range(25) for b in (9, 33) for f in FORMATS)),
)
def test_any_block(fmt: Format, bits: int, seed: int) -> None:
    rng = random.Random(f"{fmt} {bits} {seed}")
    machine = Requantiser(design_for(fmt, bits))
    size = fmt.block_size

    async def bench(ctx: Any) -> None:
        for _ in range(20):
            sums = random_block(rng, bits, size)
            unit = rng.randint(-120, 60)
            top = max(-128, min(127, unit + rng.randint(-3, bits + 3)))
            ctx.set(machine.unit, unit)
            ctx.set(machine.top, top)
            ctx.set(machine.valid, 1)
            for place, own in enumerate(sums, 1):
                assert ctx.get(machine.ready)
                ctx.set(machine.sum, own)
                ctx.set(machine.last, place == len(sums))
                await ctx.tick()
            ctx.set(machine.valid, 0)
            got = []
            while ctx.get(machine.result_valid):
                got.append(ctx.get(machine.mantissa))
                code = ctx.get(machine.code)
                await ctx.tick()
            values = ExactArray(np.array(sums).reshape(1, 1, 1, -1), unit).to_float()
            wanted = quantize_activation(values, fmt, top)
            assert got == wanted.fields.ravel().tolist(), (sums, unit, top)
            if fmt.exponent_bits:
                assert [code] == wanted.codes.ravel().tolist()

    simulator = Simulator(machine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
