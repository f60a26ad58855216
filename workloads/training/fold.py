"""Folding batch normalisation into the convolutions before it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workloads.checkpoint import LayerWeights
from workloads.training.module import NetworkModule


def fold_batch_norm(module: NetworkModule) -> dict[str, LayerWeights]:
    """Return layer name -> weights that compute what the module does in evaluation.

    With scale = gamma / sqrt(variance + epsilon), a filter is multiplied by its channel's scale,
    and the bias is beta - mean * scale; computed in float64, rounded once to float32.
    """
    folded = {}
    layers = module.network.layers
    for layer, conv, norm in zip(layers, module.convs, module.norms, strict=True):
        assert isinstance(conv, nn.Conv2d)
        weight = _float64(conv.weight)
        bias = np.zeros(len(weight)) if conv.bias is None else _float64(conv.bias)
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = _float64(norm.weight) / np.sqrt(_float64(norm.running_var) + norm.eps)
            weight = weight * scale[:, None, None, None]
            bias = (bias - _float64(norm.running_mean)) * scale + _float64(norm.bias)
        folded[layer.name] = LayerWeights(weight.astype(np.float32), bias.astype(np.float32))
    return folded


def max_difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of two modules' outputs on the images."""
    with torch.no_grad():
        return float((one(images) - other(images)).abs().max())


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)
