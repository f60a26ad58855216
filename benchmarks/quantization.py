"""Fake quantisation beside copying the same tensor: `python -m benchmarks.quantization`.

Every figure is the best of several repeats, taken in turns, so that a machine that is busy for a
while is busy for all of them. torchao and qtorch are timed if installed (torchao==0.18.0 and
qtorch==0.3.0 were); their formats differ in detail, the work is the same in kind.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from bfpsim.quant.formats import BFP
from bfpsim.quant.formats.blocks import CHANNELS
from bfpsim.quant.torch.fake_quantize import fake_quantize

SHAPE = (32, 128, 64, 64)
"""16.8 M elements."""


def main() -> None:
    """Print the table."""
    print(table())


def table(
    shape: tuple[int, int, int, int] = SHAPE, fmt: BFP | None = None, repeats: int = 25
) -> str:
    """One row per way to quantise: milliseconds, GB/s read and written, share of copy's speed."""
    fmt = fmt or BFP(8, 3, 16)
    fast, slow = _cases(shape, fmt)
    seconds = _best(fast, repeats) | _best(slow, 3)
    gigabytes = 2 * 4 * torch.Size(shape).numel() / 1e9
    lines = [f"Fake quantisation, {fmt}, float32 {shape}, {torch.get_num_threads()} threads"]
    for name, time_taken in seconds.items():
        lines.append(
            f"  {name:44} {time_taken * 1e3:8.1f} ms {gigabytes / time_taken:6.2f} GB/s "
            f"{seconds['copy_'] / time_taken:7.1%} of copy"
        )
    return "\n".join(lines)


Cases = dict[str, Callable[[], object]]


def _cases(shape: tuple[int, int, int, int], fmt: BFP) -> tuple[Cases, Cases]:
    nchw = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    nhwc = nchw.contiguous(memory_format=torch.channels_last)
    out, out_last, top = torch.empty_like(nchw), torch.empty_like(nhwc), 2
    fast: Cases = {
        "copy_": lambda: out.copy_(nchw),
        "NCHW": lambda: fake_quantize(nchw, fmt, CHANNELS, top, out=out),
        "NHWC": lambda: fake_quantize(nhwc, fmt, CHANNELS, top, out=out_last),
        "NCHW, E_top from the tensor": lambda: fake_quantize(nchw, fmt, CHANNELS, out=out),
        "NHWC, E_top from the tensor": lambda: fake_quantize(nhwc, fmt, CHANNELS, out=out_last),
        "NCHW, result in fresh memory": lambda: fake_quantize(nchw, fmt, CHANNELS, top),
    }
    for size in (1, 4, 8, 24, 48):
        other = BFP(fmt.bits, fmt.exponent_bits, size)
        fast[f"NCHW, blocks of {size}"] = lambda other=other: fake_quantize(
            nchw, other, CHANNELS, top, out=out
        )
        fast[f"NHWC, blocks of {size}"] = lambda other=other: fake_quantize(
            nhwc, other, CHANNELS, top, out=out_last
        )
    slow: Cases = {"NCHW, plain torch operators": lambda: in_torch(nchw, fmt, top)}
    blocks = nhwc.permute(0, 2, 3, 1).reshape(-1, fmt.block_size)
    if find_spec("torchao"):
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        slow["NHWC, torchao MX (e4m3), there and back"] = lambda: MXTensor.to_mx(
            blocks, torch.float8_e4m3fn, block_size=fmt.block_size
        ).dequantize(torch.float32)
    if find_spec("qtorch"):
        from qtorch.quant import block_quantize

        slow["NHWC, qtorch block_quantize, 8 bits"] = lambda: block_quantize(
            blocks, wl=8, dim=0, rounding="nearest"
        )
    return fast, slow


def in_torch(x: Tensor, fmt: BFP, top: int) -> Tensor:
    """The rule for ordinary values in float32, as one would write it down.

    Whole blocks and nearest even only; units must be normal floats.
    """
    n, channels, height, width = x.shape
    blocks = x.view(n, channels // fmt.block_size, fmt.block_size, height, width)
    largest = blocks.abs().amax(2, keepdim=True)
    exponent = (torch.frexp(largest).exponent - 1).clamp(top - (1 << fmt.exponent_bits) + 1, top)
    unit = torch.exp2((exponent - (fmt.mantissa_bits - 2)).float())
    limit = (1 << (fmt.mantissa_bits - 1)) - 1
    return ((blocks / unit).round().clamp(-limit, limit) * unit).view_as(x)


def _best(cases: Cases, repeats: int) -> dict[str, float]:
    """Seconds of each case, the least of its repeats; the first, which compiles, not counted."""
    best = dict.fromkeys(cases, float("inf"))
    for turn in range(repeats + 1):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
