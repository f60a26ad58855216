"""Recurrent layers as one operation each while torch exports: their shapes need no steps.

Torch's own rules for tensors without data run an LSTM step by step, once per trace.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten

# Torch's function -> the operation that it is; both take the same arguments.
_OPERATIONS: dict[str, Any] = {
    "gru": aten.gru.input,
    "lstm": aten.lstm.input,
    "rnn_relu": aten.rnn_relu.input,
    "rnn_tanh": aten.rnn_tanh.input,
}


def _define(name: str, operation: Any) -> Any:
    """Return an operation of our own with the arguments of torch's, which knows its shapes."""
    own = f"bfpsim::{name}"
    torch.library.define(own, str(operation._schema).removeprefix(f"aten::{name}.input"))
    torch.library.impl(own, "CompositeExplicitAutograd", operation)
    torch.library.register_fake(own, _shapes_lstm if name == "lstm" else _shapes)
    return getattr(torch.ops.bfpsim, name).default


def _shapes_lstm(
    x: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool, num_layers: int, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (outputs, last outputs, last cells); with projections outputs are narrower."""
    hidden, cell = hx
    width = hidden.shape[-1] * (2 if rest[2] else 1)
    return (
        x.new_empty([*x.shape[:-1], width]),
        torch.empty_like(hidden),
        torch.empty_like(cell),
    )


def _shapes(
    x: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Return (outputs, last outputs)."""
    width = hx.shape[-1] * (2 if rest[2] else 1)
    return x.new_empty([*x.shape[:-1], width]), torch.empty_like(hx)


_OWN = {name: _define(name, operation) for name, operation in _OPERATIONS.items()}
_BACK = {_OWN[name]: operation for name, operation in _OPERATIONS.items()}


class Whole(TorchFunctionMode):
    """Runs recurrent layers of padded sequences as operations of our own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = _OWN.get(getattr(func, "__name__", ""))
        # Packed sequences have their batch sizes second, and as many arguments.
        if own is not None and len(args) == 9 and not kwargs and isinstance(args[3], bool):
            return own(*args)
        return func(*args, **(kwargs or {}))


def restore(node: fx.Node) -> None:
    """Have an operation of our own be torch's again."""
    node.target = _BACK.get(node.target, node.target)
