"""Swin Transformer (Liu et al., 2021, arXiv 2103.14030) as a backbone.

Known from the paper (sections 3.1 to 3.3): patches of 4x4, stages and their depths, widths and
heads, the window's shift in every second block, 4 times wider perceptrons, merging of 2x2 patches.
From the authors' code for detection (microsoft/Swin-Transformer, "Swin-Transformer-Object-
Detection", which Mask2Former and Mask DINO took over): maps are padded to whole windows block by
block, so that Q, K, V and the output projection run over the padding as well; the four outputs are
normalised. Hugging Face's ``transformers`` 5.23 (``SwinBackbone``) does the same, layer for layer.

Windows are samples: (N * windows, tokens, 1, channels).
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.networks.transformer import attention

_PATCH = 4


def swin_large(build: NetworkBuilder, source: str = "input") -> tuple[str, ...]:
    """Append Swin-L with windows of 12x12; return its maps of strides 4, 8, 16 and 32.

    They have 192, 384, 768 and 1536 channels.
    """
    return swin(build, source, 192, (2, 2, 18, 2), (6, 12, 24, 48), 12)


def swin(
    build: NetworkBuilder,
    source: str,
    width: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    window: int,
) -> tuple[str, ...]:
    """Append a Swin Transformer without its classifier; return each stage's normalised output.

    width: channels of the first stage; each later stage doubles them and halves the map
    depths, heads: blocks, and heads of each block's attention, by stage
    window: rows and columns of a window, in tokens
    """
    x = _pad(build, "backbone.pad", source, _PATCH)
    x = build.conv("backbone.patch_embed", x, width, _PATCH, stride=_PATCH)
    x = build.host("backbone.patch_embed.norm", "layer_norm", x)
    maps = []
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        if stage:
            x = _merge(build, f"backbone.stage{stage}.merge", x)
        for block in range(depth):
            x = _block(build, f"backbone.stage{stage + 1}.{block}", x, count, window, block % 2)
        maps.append(build.host(f"backbone.stage{stage + 1}.norm", "layer_norm", x))
    return tuple(maps)


def _block(
    build: NetworkBuilder, name: str, source: str, heads: int, window: int, shifted: int
) -> str:
    N, H, W, C = build.shape(source)
    x = build.host(f"{name}.norm1", "layer_norm", source)
    x = _pad(build, f"{name}.pad", x, window)
    if shifted:
        x = build.host(f"{name}.shift", "roll", x)
    x = partition(build, f"{name}.windows", x, window)
    qkv = build.linear(f"{name}.attention.qkv", x, 3 * C)
    shape = build.shape(x)
    q, k, v = (build.host(f"{name}.attention.{part}", "split", qkv, shape=shape) for part in "qkv")
    x = attention(build, f"{name}.attention", q, k, v, heads)
    x = build.linear(f"{name}.attention.out", x, C)
    # Back to the map, unshifted and without the padding.
    x = build.host(f"{name}.unwindow", "window_reverse", x, shape=(N, H, W, C))
    source = build.add(f"{name}.add1", source, x)
    x = build.host(f"{name}.norm2", "layer_norm", source)
    x = build.linear(f"{name}.mlp.0", x, 4 * C)
    x = build.host(f"{name}.mlp.gelu", "gelu", x)
    x = build.linear(f"{name}.mlp.1", x, C)
    return build.add(f"{name}.add2", source, x)


def partition(build: NetworkBuilder, name: str, source: str, window: int) -> str:
    """Append the windows of a map as samples of tokens; the map is whole windows."""
    N, H, W, C = build.shape(source)
    windows = (H // window) * (W // window)
    shape = (N * windows, window * window, 1, C)
    return build.host(name, "window_partition", source, shape=shape)


def _merge(build: NetworkBuilder, name: str, source: str) -> str:
    """Each 2x2 positions become one of four times the channels, then of twice."""
    x = _pad(build, f"{name}.pad", source, 2)
    N, H, W, C = build.shape(x)
    x = build.host(f"{name}.gather", "space_to_depth", x, shape=(N, H // 2, W // 2, 4 * C))
    x = build.host(f"{name}.norm", "layer_norm", x)
    return build.linear(f"{name}.reduction", x, 2 * C)


def _pad(build: NetworkBuilder, name: str, source: str, multiple: int) -> str:
    """Append zeros below and to the right up to a multiple of rows and columns, if need be."""
    N, H, W, C = build.shape(source)
    rows, columns = -(-H // multiple) * multiple, -(-W // multiple) * multiple
    if (rows, columns) == (H, W):
        return source
    return build.host(name, "pad", source, shape=(N, rows, columns, C))
