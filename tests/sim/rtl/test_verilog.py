"""The Verilog does what Amaranth's simulator does.

That needs Verilator on the path; it replays a layer's inputs and compares all outputs, cycle by
cycle.
"""

import random
import shutil
import subprocess
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Value
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from bfpsim.sim.functional import output_top
from bfpsim.sim.rtl.engine import Engine
from bfpsim.sim.rtl.session import Session
from bfpsim.sim.rtl.verilog import to_verilog
from tests.generate import random_layer, random_mapping
from tests.sim.rtl.test_twin import MOST_CYCLES, random_quantized, random_twin

BENCH = """
module bench;
  reg clk = 0, rst = 0;
  reg [{inputs}-1:0] given [0:{cycles}-1];
  reg [{outputs}-1:0] wanted [0:{cycles}-1];
  reg [{inputs}-1:0] now;
  wire [{outputs}-1:0] got;
  {name} dut(.clk(clk), .rst(rst), {ports});
  integer i;
  initial begin
    $readmemh("given.hex", given);
    $readmemh("wanted.hex", wanted);
    for (i = 0; i < {cycles}; i = i + 1) begin
      now = given[i];
      #1;
      if (got !== wanted[i]) begin
        $display("cycle %0d: %h, not %h", i, got, wanted[i]);
        $finish;
      end
      clk = 1; #1; clk = 0; #1;
    end
    $display("equal");
    $finish;
  end
endmodule
"""


def record(seed: int) -> tuple[Engine, list[tuple[int, int]], list[tuple[bool, str, int]]]:
    """A random machine, its ports at each cycle of a random layer, and what they are."""
    rng = random.Random(seed)
    twin = random_twin(rng)
    arch, formats, design = twin.arch, twin.design.formats, twin.design
    session = None
    while session is None:
        layer = random_layer(rng, largest=5)
        mapping = random_mapping(rng, layer, formats)
        if layer.macs > 40 * MOST_CYCLES:
            continue
        operands = [
            random_quantized(rng, layer, fmt, name)
            for fmt, name in ((formats.I, "input"), (formats.W, "weight"))
        ]
        top = output_top(layer, *operands)
        session = Session(design, arch, layer, mapping, *operands, top, repeat(False))
    engine = Engine(design)
    ports: list[tuple[bool, str, Any]] = [
        (member.flow is In, "__".join(map(str, path)), Value.cast(value))
        for path, member, value in engine.signature.flatten(engine)
    ]
    seen: list[tuple[int, int]] = []

    async def bench(ctx: Any) -> None:
        await session.run(ctx, engine)

    async def watch(ctx: Any) -> None:
        async for _, _, *values in ctx.tick().sample(*(value for _, _, value in ports)):
            sides = [0, 0]
            at = [0, 0]
            for (given, _, port), value in zip(ports, values, strict=True):
                sides[given] |= (int(value) & ((1 << len(port)) - 1)) << at[given]
                at[given] += len(port)
            seen.append((sides[True], sides[False]))

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return engine, seen, [(given, name, len(port)) for given, name, port in ports]


def slices(ports: list[tuple[bool, str, int]]) -> Iterator[str]:
    at = {True: 0, False: 0}
    for given, name, bits in ports:
        wires = "now" if given else "got"
        yield f".{name}({wires}[{at[given]} +: {bits}])"
        at[given] += bits


@pytest.mark.long
@pytest.mark.skipif(shutil.which("verilator") is None, reason="no Verilator")
@pytest.mark.parametrize("seed", range(12))
def test_verilated_array_does_the_same(seed: int, tmp_path: Path) -> None:
    engine, seen, ports = record(seed)
    (tmp_path / "array.v").write_text(to_verilog(engine.design, "dut"))
    for side, name in enumerate(("given", "wanted")):
        (tmp_path / f"{name}.hex").write_text("\n".join(f"{both[side]:x}" for both in seen))
    bench = BENCH.format(
        inputs=sum(bits for given, _, bits in ports if given),
        outputs=sum(bits for given, _, bits in ports if not given),
        cycles=len(seen),
        name="array_dut",
        ports=", ".join(slices(ports)),
    )
    (tmp_path / "bench.sv").write_text(bench)
    build = [
        "verilator",
        "--binary",
        "--timing",
        "-CFLAGS",
        "-std=c++20 -fcoroutines",
        "-Wno-fatal",
    ]
    for command in ([*build, "--top-module", "bench", "bench.sv", "array.v"], ["obj_dir/Vbench"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "equal" in done.stdout.split(), done.stdout
