"""The weights that a network stores: of a torch module, and of an imported file."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.operand import Mode
from bfpsim.workloads.importers.draft import Imported
from bfpsim.workloads.network import Network


def stored_weights(model: QuantizedModel, inputs: Tensor) -> dict[str, NDArray[np.float32]]:
    """The weights of every layer, as its product reads them; once where layers share them.

    Batch normalisation is folded in; biases, embeddings and the like are no operands. `inputs`
    are some images: one pass finds the weights, also those that are computed from parameters.
    """
    found: dict[str, NDArray[np.float32]] = {}
    handles = []
    for site in model.sites:
        operand = model.operand(site.name, "W")
        if operand.stored and not site.shares:

            def keep(_: nn.Module, given: tuple[Tensor, ...], name: str = site.name) -> None:
                found[name] = given[0].detach().cpu().numpy()

            handles.append(operand.register_forward_pre_hook(keep))
    try:
        with model.in_mode(Mode.FLOAT), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def imported_weights(imported: Imported) -> dict[str, NDArray[np.float32]]:
    """The weights of every layer of an imported network; once where layers have equal ones.

    An imported network does not say which layers share a weight, but those that do have equal
    ones. The phases of a transposed convolution are one layer, its weights in a row.
    """
    wholes = _transposed(imported.network)
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for layer in imported.network.layers:
        if layer.name in imported.weights:
            name = wholes.get(layer.name, layer.name)
            parts.setdefault(name, []).append(imported.weights[layer.name].weight)
    weights = {
        name: own[0] if len(own) == 1 else np.concatenate([part.ravel() for part in own])
        for name, own in parts.items()
    }
    first: dict[object, str] = {}
    for name, weight in weights.items():
        first.setdefault((weight.shape, hashlib.sha256(weight.tobytes()).digest()), name)
    return {name: weights[name] for name in first.values()}


def _transposed(network: Network) -> dict[str, str]:
    """The phases of transposed convolutions, and the convolution's name for each."""
    kinds = {node.name: node.op for node in network.nodes}
    return {
        phase: node.name.rpartition(".interleave")[0]
        for node in network.nodes
        if node.function == "interleave"
        for phase in node.inputs
        if kinds[phase] == "transposed"
    }
