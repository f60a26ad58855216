"""Vision transformer (Dosovitskiy et al., 2021) for 28x28 images."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.training.models import check_width

PATCH = 4
TOKENS = (28 // PATCH) ** 2
DEPTH = 6
HEAD_CHANNELS = 16
MLP_RATIO = 2


class Attention(nn.Module):
    """Self-attention, each head of 16 channels; ``qkv`` gives queries, keys, values in one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, tokens, width) for such a tensor."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, HEAD_CHANNELS)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv[0], qkv[1], qkv[2]  # each (N, heads, tokens, 16)
        scores = torch.matmul(queries, keys.transpose(-2, -1)) * HEAD_CHANNELS**-0.5
        mixed = torch.matmul(torch.softmax(scores, -1), values)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, the inner one twice as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, tokens, width) for such a tensor."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """Attention, then the MLP, each normalised before and added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, tokens, width) for such a tensor."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """A pre-norm encoder of 6 blocks over 49 patches of 4x4 pixels; ``width`` channels a token.

    Positions are learned; the tokens' mean, not a class token, is classified. Raises
    `WorkloadError` for a width that is no multiple of 16, the channels of a head.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        check_width("vit", width, HEAD_CHANNELS)
        self.patch_embed = nn.Conv2d(1, width, PATCH, PATCH)
        self.pos_embed = nn.Parameter(torch.empty(1, TOKENS, width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10) for images (N, 1, 28, 28)."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        x = self.norm(self.blocks(x))
        return cast(Tensor, self.head(x.mean(1)))
