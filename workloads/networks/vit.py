"""Vision transformers: ViT (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021).

Tokens are maps (N, tokens, 1, channels). Layers bear the names of timm and of DeiT's authors' code;
an attention's two products of activations are ``blocks.N.attn.qk`` and ``blocks.N.attn.av``.
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError, integer
from bfpsim.workloads.network import Network


def vit_b16(size: int = 224, channels: int = 3, classes: int = 1000) -> Network:
    """Return ViT-B/16 on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    At 224 its convolution has 115,605,504 MACs, its 49 linear layers (24 of them an attention's
    qkv and output projections) 16,732,895,232, and its 24 products of activations 715,327,488.
    Raises `WorkloadError` as `vit`.
    """
    return vit(768, 12, 12, 16, size, channels, classes)


def deit_tiny(size: int = 224, channels: int = 3, classes: int = 1000) -> Network:
    """Return DeiT-Ti without distillation token: ViT-B/16 of 192 channels, 3 heads."""
    return vit(192, 12, 3, 16, size, channels, classes)


def deit_small(size: int = 224, channels: int = 3, classes: int = 1000) -> Network:
    """Return DeiT-S without distillation token: ViT-B/16 of 384 channels, 6 heads."""
    return vit(384, 12, 6, 16, size, channels, classes)


def deit_base(size: int = 224, channels: int = 3, classes: int = 1000) -> Network:
    """Return DeiT-B without distillation token: the layers of ViT-B/16, trained otherwise."""
    return vit(768, 12, 12, 16, size, channels, classes)


def vit(
    width: int,
    depth: int,
    heads: int,
    patch: int,
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> Network:
    """Return a pre-norm encoder of ``depth`` blocks over patches of ``patch`` x ``patch`` pixels.

    A learned class token stands before the patches' and alone is classified; positions are learned
    and added. A token has ``width`` channels, four times as many within the MLP. Raises
    `WorkloadError` for a size that is no multiple of the patch, heads that do not divide the width,
    or a count that is not > 0.
    """
    if integer("vit", "size", size) % integer("vit", "patch", patch):
        raise WorkloadError(f"vit: size={size} must be a multiple of patch={patch}")
    build = NetworkBuilder("vit", (1, size, size, channels))
    tokens = (size // patch) ** 2
    x = build.conv("patch_embed.proj", "input", width, patch, stride=patch)
    x = build.host("patch_embed.tokens", "tokens", x, shape=(1, tokens, 1, width))
    first = build.host("cls_token", "parameter", shape=(1, 1, 1, width))
    x = build.host("tokens", "concat_tokens", first, x, shape=(1, 1 + tokens, 1, width))
    x = build.host("pos_embed", "add_parameter", x)
    for index in range(depth):
        x = _block(build, f"blocks.{index}", x, heads, 4)
    x = build.host("norm", "layer_norm", x)
    x = build.host("class", "split", x, shape=(1, 1, 1, width))
    build.linear("head", x, classes)
    return build.network()


def pooled_vit(
    width: int = 64,
    depth: int = 6,
    heads: int = 4,
    patch: int = 4,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
) -> Network:
    """Return an encoder as `vit`, but smaller, that classifies its tokens' mean.

    It has no class token, and twice a token's channels within the MLP. Raises `WorkloadError` as
    `vit`.
    """
    if integer("vit", "size", size) % integer("vit", "patch", patch):
        raise WorkloadError(f"vit: size={size} must be a multiple of patch={patch}")
    build = NetworkBuilder("vit", (1, size, size, channels))
    tokens = (size // patch) ** 2
    x = build.conv("patch_embed", "input", width, patch, stride=patch)
    x = build.host("tokens", "tokens", x, shape=(1, tokens, 1, width))
    x = build.host("pos_embed", "add_parameter", x)
    for index in range(depth):
        x = _block(build, f"blocks.{index}", x, heads, 2)
    x = build.host("norm", "layer_norm", x)
    build.linear("head", build.avgpool("mean", x), classes)
    return build.network()


def _block(build: NetworkBuilder, name: str, source: str, heads: int, mlp_ratio: int) -> str:
    x = build.host(f"{name}.norm1", "layer_norm", source)
    x = build.add(f"{name}.add1", source, _attention(build, f"{name}.attn", x, heads))
    y = build.host(f"{name}.norm2", "layer_norm", x)
    y = build.linear(f"{name}.mlp.fc1", y, mlp_ratio * build.shape(x)[3])
    y = build.host(f"{name}.mlp.act", "gelu", y)
    y = build.linear(f"{name}.mlp.fc2", y, build.shape(x)[3])
    return build.add(f"{name}.add2", x, y)


def _attention(build: NetworkBuilder, name: str, source: str, heads: int) -> str:
    shape = build.shape(source)
    _, tokens, _, width = shape
    qkv = build.linear(f"{name}.qkv", source, 3 * width)
    q, k, v = (build.host(f"{name}.{part}", "split", qkv, shape=shape) for part in "qkv")
    x = build.matmul(f"{name}.qk", q, k, tokens, heads=heads)
    x = build.host(f"{name}.scale", "scale", x)  # by 1 / sqrt(channels of a head)
    x = build.host(f"{name}.softmax", "softmax", x)
    x = build.matmul(f"{name}.av", x, v, width // heads, heads=heads)
    return build.linear(f"{name}.proj", x, width)
