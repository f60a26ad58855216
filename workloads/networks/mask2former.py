"""Mask2Former's decoder (Cheng et al., 2022, arXiv 2112.01527) and its semantic result.

Known from the paper (section 3.2): layers of masked attention to one level, coarse to fine and
round again, then self-attention, then a perceptron; before the first layer and after each, masks
are predicted, which restrict the next layer's attention. From code (``mask2former_head.py`` of
mmdetection and the repositories that took it over): mask embeddings by three linear layers, the
semantic result at the masks' own stride of 4.

Classes are predicted once, from the last layer: those of other layers only serve training.
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.networks.pixel_decoder import Pixels
from bfpsim.workloads.networks.transformer import add_and_norm, multi_head_attention, perceptron


def mask2former(
    build: NetworkBuilder,
    pixels: Pixels,
    *,
    queries: int,
    classes: int,
    heads: int,
    hidden: int,
    layers: int = 9,
) -> str:
    """Append the decoder and its product of masks and classes; names are ``decoder...``.

    The result is a score for each position of stride 4 and each of ``classes``. hidden: channels
    inside a perceptron
    """
    N, _, _, width = build.shape(pixels.memory)
    levels = len(pixels.sizes)
    memory = [pixels.level(build, f"decoder.level{number}", number) for number in range(levels)]
    x = build.host("decoder.queries", "parameter", shape=(N, queries, 1, width))
    for number in range(layers):
        name = f"decoder{number}"
        level = levels - 1 - number % levels  # the coarsest first
        masks = _masks(build, f"{name}.masks", x, pixels, queries)
        rows, columns = pixels.sizes[level]
        mask = build.host(
            f"{name}.mask", "attention_mask", masks, shape=(N, queries, 1, rows * columns)
        )
        values = build.host(f"{name}.level", "add_parameter", memory[level])
        keys = build.host(f"{name}.keys", "add_parameter", values)
        placed = build.host(f"{name}.query1", "add_parameter", x)
        y = multi_head_attention(build, f"{name}.cross", placed, keys, values, heads, mask)
        x = add_and_norm(build, f"{name}.after_cross", x, y)
        placed = build.host(f"{name}.query2", "add_parameter", x)
        y = multi_head_attention(build, f"{name}.self", placed, placed, x, heads)
        x = add_and_norm(build, f"{name}.after_self", x, y)
        y = perceptron(build, f"{name}.mlp", x, hidden, width)
        x = add_and_norm(build, f"{name}.after_mlp", x, y)
    masks = _masks(build, "decoder.masks", x, pixels, queries)
    masks = build.host("decoder.masks.sigmoid", "sigmoid", masks)
    x = build.host("decoder.classes.norm", "layer_norm", x)
    scores = build.linear("decoder.classes", x, classes + 1)  # one more: nothing
    shape = (N, queries, 1, classes)
    scores = build.host("decoder.classes.softmax", "softmax", scores, shape=shape)
    return build.matmul("decoder.semantics", masks, scores, classes)


def _masks(build: NetworkBuilder, name: str, x: str, pixels: Pixels, queries: int) -> str:
    """Append the queries' mask embeddings and their products with each pixel's features."""
    width = build.shape(x)[3]
    x = build.host(f"{name}.norm", "layer_norm", x)
    embeddings = perceptron(build, f"{name}.embed", x, width, width, width)
    return build.matmul(name, pixels.masks, embeddings, queries)
