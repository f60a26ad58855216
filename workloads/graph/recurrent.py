"""ONNX's recurrent operators, step by step, their matrix products apart from all else.

The arithmetic between products is that of the arrays it is given, numpy's or torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["RNN", "GRU", "LSTM"]
Multiply = Callable[[str, Any, Any], Any]
"""The product of (rows, channels) by a stored (columns, channels), under a name: (rows, columns)"""

GATES: dict[str, int] = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# Activation -> its alpha and beta where the operator says none.
_ALPHA_BETA = {
    "Affine": (1.0, 0.0), "Elu": (1.0, 0.0), "HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01, 0.0),
    "ScaledTanh": (1.0, 1.0), "ThresholdedRelu": (1.0, 0.0),
}  # fmt: skip
ACTIVATIONS = (
    "Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softplus",
    "Softsign", "Tanh", "ThresholdedRelu",
)  # fmt: skip


@dataclass(frozen=True)
class Recurrent:
    """A recurrent operator's attributes.

    activations, alpha, beta: of all directions, one direction's behind the other's; empty: ONNX's
    clip: largest magnitude that goes into an activation, or None
    coupled: an LSTM's forget gate is 1 less its input gate (``input_forget``)
    before_reset: a GRU multiplies before it resets (``linear_before_reset``)
    batch_first: tensors are (N, T, ...), not (T, N, ...) (``layout`` 1)
    """

    kind: Kind
    direction: str = "forward"
    activations: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    clip: float | None = None
    coupled: bool = False
    before_reset: bool = False
    batch_first: bool = False

    def run(self, xp: Any, inputs: Sequence[Any], multiply: Multiply) -> tuple[Any, Any, Any]:
        """Return (Y, Y_h, Y_c), Y_c None but of an LSTM.

        xp: numpy or torch
        inputs: X, W, R, B, sequence_lens, initial_h, and of an LSTM initial_c and P; None where
            they are left out
        multiply: gets names ``W`` and ``R``, of the second direction ``W.reverse`` and so on, and
            of a GRU that resets first ``Rh``

        Raises ValueError for a direction or an activation that there is not.
        """
        x, weight, recurrent, bias, lengths, h, c, peepholes = (*inputs, *[None] * 8)[:8]
        if self.batch_first:
            x = x.swapaxes(0, 1)
            h, c = (None if each is None else each.swapaxes(0, 1) for each in (h, c))
        turned = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        if self.direction not in turned:
            raise ValueError(f"direction {self.direction!r}; allowed: {', '.join(turned)}")
        hidden = recurrent.shape[-1]
        none = x[:1, :, :1] * xp.zeros((1, x.shape[1], hidden), dtype=x.dtype)
        runs = [
            self._direction(
                xp,
                at,
                back,
                x,
                weight[at],
                recurrent[at],
                None if bias is None else bias[at],
                lengths,
                none[0] if h is None else h[at],
                none[0] if c is None else c[at],
                None if peepholes is None else peepholes[at],
                multiply,
            )
            for at, back in enumerate(turned[self.direction])
        ]
        y = xp.stack([run[0] for run in runs], 1)
        last = [xp.stack([run[place] for run in runs], 0) for place in (1, 2)]
        if self.batch_first:
            y = y.swapaxes(1, 2).swapaxes(0, 1)
            last = [each.swapaxes(0, 1) for each in last]
        return y, last[0], last[1] if self.kind == "LSTM" else None

    def _direction(
        self,
        xp: Any,
        at: int,
        back: bool,
        x: Any,
        weight: Any,
        recurrent: Any,
        bias: Any,
        lengths: Any,
        h: Any,
        c: Any,
        peepholes: Any,
        multiply: Multiply,
    ) -> tuple[Any, Any, Any]:
        """Run one direction; return (outputs, last output, last cell)."""
        acts = self._activations(xp, at)
        end = ".reverse" if at else ""
        steps, batch = x.shape[:2]
        gates = GATES[self.kind] * h.shape[-1]
        ahead = multiply(f"W{end}", x.reshape(steps * batch, -1), weight)
        ahead = ahead.reshape(steps, batch, gates)
        own = None
        if bias is not None:
            ahead, own = ahead + bias[:gates], bias[gates:]
        outputs = [None] * steps
        for step in reversed(range(steps)) if back else range(steps):
            new = self._step(xp, ahead[step], recurrent, own, h, c, peepholes, acts, multiply, end)
            made = new[0]
            if lengths is not None:
                within = (lengths > step).reshape(-1, 1)
                new = tuple(xp.where(within, a, b) for a, b in zip(new, (h, c), strict=True))
                made = xp.where(within, made, made * 0)
            h, c = new
            outputs[step] = made
        return xp.stack(outputs, 0), h, c

    def _step(
        self,
        xp: Any,
        ahead: Any,
        recurrent: Any,
        bias: Any,
        h: Any,
        c: Any,
        peepholes: Any,
        acts: Sequence[Callable[[Any], Any]],
        multiply: Multiply,
        end: str,
    ) -> tuple[Any, Any]:
        """Return the next output and cell; ``ahead`` is what the input gives to all gates."""
        size = h.shape[-1]

        def gate(values: Any, place: int) -> Any:
            return values[..., place * size : (place + 1) * size]

        if self.kind == "GRU" and not self.before_reset:
            both = ahead[:, : 2 * size] + multiply(f"R{end}", h, recurrent[: 2 * size])
            both = both if bias is None else both + bias[: 2 * size]
            update, reset = acts[0](gate(both, 0)), acts[0](gate(both, 1))
            inner = gate(ahead, 2) + multiply(f"Rh{end}", reset * h, recurrent[2 * size :])
            fresh = acts[1](inner if bias is None else inner + gate(bias, 2))
            return (1 - update) * fresh + update * h, c
        behind = multiply(f"R{end}", h, recurrent)
        behind = behind if bias is None else behind + bias
        if self.kind == "RNN":
            return acts[0](ahead + behind), c
        if self.kind == "GRU":
            update, reset = (acts[0](gate(ahead, g) + gate(behind, g)) for g in (0, 1))
            fresh = acts[1](gate(ahead, 2) + reset * gate(behind, 2))
            return (1 - update) * fresh + update * h, c
        total = ahead + behind
        i, o, f, fresh = (gate(total, place) for place in range(4))
        if peepholes is not None:
            i, f = i + gate(peepholes, 0) * c, f + gate(peepholes, 2) * c
        enter = acts[0](i)
        forget = 1 - enter if self.coupled else acts[0](f)
        cell = forget * c + enter * acts[1](fresh)
        o = o if peepholes is None else o + gate(peepholes, 1) * cell
        return acts[0](o) * acts[2](cell), cell

    def _activations(self, xp: Any, at: int) -> list[Callable[[Any], Any]]:
        """Return a direction's activations, each with its own alpha and beta."""
        count = len(_DEFAULTS[self.kind])
        alphas, betas = list(self.alpha), list(self.beta)
        found = []
        for place, name in enumerate(self.activations or _DEFAULTS[self.kind] * (at + 1)):
            title = next((known for known in ACTIVATIONS if known.lower() == name.lower()), name)
            alpha, beta = _ALPHA_BETA.get(title, (0.0, 0.0))
            # Values are given to those that have some, in order.
            if title in _ALPHA_BETA:
                alpha = alphas.pop(0) if alphas else alpha
            if title in ("Affine", "HardSigmoid", "ScaledTanh"):
                beta = betas.pop(0) if betas else beta
            if place // count == at:
                own = self._activation(xp, title, float(alpha), float(beta))
                # As in ONNX Runtime, the last of an LSTM, of its cell, is not clipped.
                last = self.kind == "LSTM" and place % count == count - 1
                found.append(own if last else self._clipped(xp, own))
        return found

    def _clipped(self, xp: Any, activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
        most = self.clip
        return activation if not most else lambda x: activation(xp.clip(x, -most, most))

    def _activation(self, xp: Any, name: str, alpha: float, beta: float) -> Callable[[Any], Any]:
        formulas: dict[str, Callable[[Any], Any]] = {
            "Affine": lambda x: alpha * x + beta,
            "Elu": lambda x: xp.where(x < 0, alpha * (xp.exp(xp.clip(x, None, 0)) - 1), x),
            "HardSigmoid": lambda x: xp.clip(alpha * x + beta, 0, 1),
            "LeakyRelu": lambda x: xp.where(x < 0, alpha * x, x),
            "Relu": lambda x: xp.clip(x, 0, None),
            "ScaledTanh": lambda x: alpha * xp.tanh(beta * x),
            "Sigmoid": lambda x: 1 / (1 + xp.exp(-xp.clip(x, -80, None))),
            "Softplus": lambda x: xp.log1p(xp.exp(-abs(x))) + xp.clip(x, 0, None),
            "Softsign": lambda x: x / (1 + abs(x)),
            "Tanh": xp.tanh,
            "ThresholdedRelu": lambda x: xp.where(x > alpha, x, x * 0),
        }
        if name not in formulas:
            raise ValueError(f"activation {name!r}; allowed: {', '.join(ACTIVATIONS)}")
        return formulas[name]
