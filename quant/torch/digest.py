"""A short name for the values of tensors, by which stored results know what they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def tensor_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of names, dtypes, shapes and bits, in this order: 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        held = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {held.dtype} {tuple(held.shape)}\n".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
