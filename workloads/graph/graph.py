"""A network as it is run with data: operations in execution order, tensors between them by name.

A `Network` counts what an array does; its graph computes. Every layer is in one product of the
graph. Everything else is an operation of a library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.graph.product import Multiply, Operands, Product, Values, multiply_floats
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network

Compute = Callable[..., Sequence[Any]]
"""What an operation does: the values of its inputs, None where one is left out, to its outputs."""


class Operation(Protocol):
    """An operation of a library, ready to compute once it is known what multiplies within it."""

    def bind(self, multiply: Multiply) -> Compute:
        """Return what computes; products within the operation, if it has any, go to multiply."""


@dataclass(frozen=True, eq=False)
class Step:
    """An operation of a graph.

    name: the operator's in its file, or its first output's; kind: its type, as messages name it
    inputs: names of tensors, "" for one that is left out; outputs: likewise
    operation: a product of layers, or an operation of a library
    nodes: names of the network's nodes that it is; none if it only names elements anew
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operation: Product | Operation
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph: its shape, and the type of its elements."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network that can be run with data.

    network: what of it an array does, and what it does not
    steps: its operations in execution order
    inputs, outputs: names of tensors, in the order of the source
    constants: tensors that depend on no input; each is made when it is asked for
    """

    network: Network
    steps: tuple[Step, ...]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    constants: Mapping[str, Any]

    @property
    def products(self) -> tuple[Step, ...]:
        """The steps that are products."""
        return tuple(step for step in self.steps if isinstance(step.operation, Product))

    def steps_of(self, node: str) -> tuple[Step, ...]:
        """Return the steps that a node of the network is."""
        return tuple(step for step in self.steps if node in step.nodes)

    def feeds(self, given: Any) -> dict[str, Any]:
        """Return inputs by name, in their types.

        given: arrays by name; or one, if the graph has one input

        Raises `WorkloadError` for inputs that are missing, unknown, or of another shape.
        """
        values = given if isinstance(given, Mapping) else self._single(given)
        owner = f"network {self.network.name!r}"
        allowed = ", ".join(f"{name} {own.shape}" for name, own in self.inputs.items())
        wrong = [f"lacks {name!r}" for name in self.inputs if name not in values]
        wrong += [f"has {name!r}" for name in values if name not in self.inputs]
        if wrong:
            raise WorkloadError(f"{owner}: inputs {wrong[0]}; allowed: {allowed}")
        feeds = {}
        for name, own in self.inputs.items():
            array = np.asarray(values[name])
            if array.shape != own.shape:
                raise WorkloadError(
                    f"{owner}: input {name!r} is {array.shape}; allowed: {own.shape}"
                )
            feeds[name] = array.astype(own.dtype)
        return feeds

    def _single(self, value: Any) -> dict[str, Any]:
        if len(self.inputs) != 1:
            raise WorkloadError(
                f"network {self.network.name!r} has {len(self.inputs)} inputs; allowed: arrays by "
                f"name, of {', '.join(self.inputs)}"
            )
        return dict.fromkeys(self.inputs, value)


class Execution:
    """One run of a graph.

    `run` takes all steps in their order. Whoever has an order of their own asks for `value`, or,
    of a product, for the `operands` of its layers, and gives their sums with `finish`: what stands
    before and is no product is computed when it is needed.
    """

    def __init__(self, graph: Graph, inputs: Any, multiply: Multiply = multiply_floats) -> None:
        self.graph = graph
        self._values: dict[str, Any] = dict(graph.feeds(inputs))
        self._multiply = multiply
        self._makers = {name: step for step in graph.steps for name in step.outputs if name}

    def value(self, name: str) -> Any:
        """Return a tensor, None for the name ""; what it needs is computed first."""
        if name and name not in self._values and name not in self.graph.constants:
            waiting = [self._makers[name]]
            while waiting:
                missing = [
                    self._makers[each]
                    for each in waiting[-1].inputs
                    if each in self._makers and each not in self._values
                ]
                if missing:
                    waiting += missing
                else:
                    self._run(waiting.pop())
        return self._stored(name)

    def operands(self, step: Step) -> list[Operands]:
        """Return what the layers of a product multiply."""
        assert isinstance(step.operation, Product)
        return step.operation.operands([self.value(name) for name in step.inputs])

    def finish(self, step: Step, sums: Sequence[Values]) -> None:
        """Store the output of a product whose layers gave these sums."""
        assert isinstance(step.operation, Product)
        values = [self.value(name) for name in step.inputs]
        self._values[step.outputs[0]] = step.operation.output(values, sums)

    def run(self, keep: Callable[[str], bool] = lambda name: False) -> dict[str, Any]:
        """Run all steps; return the outputs, and the tensors whose names are to be kept.

        Any other tensor is freed after its last reader.
        """
        last = {name: place for place, step in enumerate(self.graph.steps) for name in step.inputs}
        kept = {name for name in self._values if keep(name)} | {*self.graph.outputs}
        for place, step in enumerate(self.graph.steps):
            self._run(step)
            kept.update(name for name in step.outputs if name and keep(name))
            for name in (*step.inputs, *step.outputs):
                if name not in kept and last.get(name, -1) <= place:
                    self._values.pop(name, None)
        outputs = {name: self.value(name) for name in self.graph.outputs}
        return {name: value for name, value in self._values.items() if name in kept} | outputs

    def _run(self, step: Step) -> None:
        values = [self._stored(name) for name in step.inputs]
        outputs = evaluate(step, values, self._multiply)
        named = zip(step.outputs, outputs, strict=False)
        self._values.update({name: value for name, value in named if name})

    def _stored(self, name: str) -> Any:
        if not name:
            return None
        return self._values[name] if name in self._values else self.graph.constants[name]


def evaluate(
    step: Step, inputs: Sequence[Any], multiply: Multiply = multiply_floats
) -> Sequence[Any]:
    """Return the outputs of one step, of the values of its inputs (None for one left out).

    Raises `WorkloadError`, naming the step, where the operation fails.
    """
    operation = step.operation
    if isinstance(operation, Product):
        return (operation.compute(inputs, multiply),)
    try:
        return operation.bind(multiply)(*inputs)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise WorkloadError(
            f"{step.kind} {step.name!r} cannot be run: {' '.join(str(error).split())}"
        ) from error


def result(graph: Graph, inputs: Any, multiply: Multiply = multiply_floats) -> list[NDArray[Any]]:
    """Return a graph's outputs, in its order."""
    outputs = Execution(graph, inputs, multiply).run()
    return [outputs[name] for name in graph.outputs]
