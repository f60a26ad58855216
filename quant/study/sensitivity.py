"""The cost of each operand's format: one operand at a time is swapped into the float network.

`Sensitivity` is the table: per product, tensor and format the divergence of the outputs, the
operand's noise, the images lost, and an estimate of the divergence from a single backward pass. The
search adds these up over a network; `additivity` says how far that holds. `FloatRun` starts the
network at a swapped operand, `Fisher` makes the estimate.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812

from bfpsim.objects import brief
from bfpsim.quant.formats import BFP, Format, FormatError
from bfpsim.quant.formats.ties import OperandKey
from bfpsim.quant.study.accuracy import logits_of
from bfpsim.quant.torch.model import QuantizedModel, tensor_digest, weights_digest
from bfpsim.quant.torch.operand import Mode, Operand, sqnr_db
from bfpsim.workloads.files.atomic import write_atomic
from bfpsim.workloads.files.table import csv_of, original
from bfpsim.workloads.files.text import quote

if TYPE_CHECKING:
    import pandas as pd

# Infinite decibels are those of an operand without noise, or without signal.
_NUMBERS = {
    "kl": "a finite number", "sqnr_db": "a number", "accuracy_loss": "a finite number",
    "fisher": "a finite number", "bits": "a whole number",
}  # fmt: skip
COLUMNS = ("layer", "tensor", "format", *_NUMBERS)
_HEADER = "# bfpsim sensitivity "
_LARGEST_FILE = 1 << 26  # bytes


@brief
@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A row per product, tensor and format; all others in float.

    table: columns layer, tensor (I, W, O), format; kl: mean KL divergence of the float network's
        class probabilities from the swapped one's [nat]; sqnr_db: of the operand [dB];
        accuracy_loss: top-1, a fraction of all images, negative if more are right; fisher: the
        estimate of kl; bits: storage of the operand, E_top included, of an activation for one
        image [bit]
    images: how many it was measured on
    accuracy: of the float network on them, top-1
    weights, data: digests of the network's weights, and of the images with their labels; empty if
        nobody knows them
    """

    table: pd.DataFrame
    network: str
    images: int
    accuracy: float
    weights: str = ""
    data: str = ""

    def save(self, path: str | Path) -> None:
        """Write the table as CSV behind a line of comment, whole or not at all; OSError."""
        about = {
            "network": self.network, "images": self.images, "accuracy": self.accuracy,
            "weights": self.weights, "data": self.data,
        }  # fmt: skip
        write_atomic(path, f"{_HEADER}{json.dumps(about)}\n{csv_of(self.table)}")

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read what `save` wrote.

        Raises FormatError, naming the file and of a bad cell its row (1 is the first below the
        columns' names) and column, if it is something else; OSError.
        """
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        try:
            if len(content) > _LARGEST_FILE:
                raise ValueError(f"is longer than {_LARGEST_FILE} bytes")
            first, _, rows = content.decode("utf-8").partition("\n")
            if not first.startswith(_HEADER):
                raise ValueError(f"starts with {first[:40]!r}")
            try:
                about = json.loads(first[len(_HEADER) :])
            except RecursionError:
                about = None
            match about:
                case {
                    "network": str(network), "images": int(images),
                    "accuracy": int() | float() as accuracy,
                } if images > 0 and 0 <= accuracy <= 1:  # fmt: skip
                    weights, data = (str(about.get(key, "")) for key in ("weights", "data"))
                case _:
                    raise ValueError(f"header {quote(first[len(_HEADER) :].strip())}")
            return cls(_table(rows), network, images, accuracy, weights, data)
        except (ValueError, csv.Error) as error:
            wrong = " ".join(str(error).split())
            raise FormatError(
                f"{path}: {wrong}; allowed: a table of `bfpsim quantize --sensitivity`"
            ) from None


def _table(text: str) -> pd.DataFrame:
    """The rows of a file; raises ValueError or csv.Error."""
    import pandas as pd

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, *rows = [cells for cells in reader if cells] or [[]]
    if tuple(header) != COLUMNS:
        raise ValueError(f"columns {quote(header)}")
    for row, cells in enumerate(rows, 1):
        if len(cells) != len(COLUMNS):
            raise ValueError(f"row {row}: {len(cells)} cells, not {len(COLUMNS)}")
    # As text: names may be numbers, and what is no number is to be quoted.
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
    table["layer"] = [original(cell) for cell in table["layer"]]
    for name in _NUMBERS:
        table[name] = [_number(x, row, name) for row, x in enumerate(table[name], 1)]
    return table


def _number(cell: str, row: int, column: str) -> float:
    """Return the number in a cell; raises ValueError, which says where it is, if that is none."""
    kind = _NUMBERS[column]
    try:
        number = int(cell) if kind == "a whole number" else float(cell)
    except ValueError:
        number = math.nan
    if math.isnan(number) or (math.isinf(number) and kind != "a number"):
        raise ValueError(f"row {row}: {column} {quote(cell)} is not {kind}")
    return number


def measure_sensitivity(
    model: QuantizedModel,
    inputs: Tensor,
    labels: Tensor,
    formats: Sequence[Format],
    *,
    batch: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Sensitivity:
    """Measure every operand in every format, one at a time. Each run starts at the swapped operand.

    model: calibrated; its choice is the same afterwards
    inputs, labels: images as the module takes them, and their classes int64
    formats: deterministic ones; a block size beyond an operand's channels is the same as they are,
        and measured once
    batch: images at a time; the float network's values on them are kept
    seed: of the labels that the Fisher estimate draws from the network's own probabilities

    Raises FormatError as the model does.
    """
    import pandas as pd

    sums: dict[tuple[str, str, Format], _Sums] = {}
    bits: dict[tuple[str, str, Format], int] = {}
    right = 0
    with model.keeping_choice(), model.in_mode(Mode.FLOAT):
        for start in range(0, len(inputs), batch):
            x, y = (each[start : start + batch].to(model.device) for each in (inputs, labels))
            run, fisher = FloatRun(model, x), Fisher(model, x, seed + start)
            right += int((run.logits.argmax(1) == y).sum())
            for key, operand in model.operands.items():
                of_format: dict[Format, _Sums] = {}
                for fmt in formats:
                    effective = _effective(fmt, operand, run.value(key))
                    if effective not in of_format:
                        of_format[effective] = _measure(run, fisher, key, operand, fmt, y)
                    row, own = (*key, fmt), of_format[effective]
                    sums[row] = sums[row] + own if row in sums else own
                    if row not in bits:
                        operand.coding = fmt
                        value = run.value(key)
                        bits[row] = operand.stored_bits(value if operand.stored else value[:1])
                if progress is not None:
                    progress(" ".join(key))
    n = len(inputs)
    rows = [
        (
            layer,
            tensor,
            str(fmt),
            total.kl / n,
            sqnr_db(total.signal, total.error),
            total.losses / n,
            total.fisher / n,
            bits[layer, tensor, fmt],
        )
        for (layer, tensor, fmt), total in sums.items()
    ]
    return Sensitivity(
        *(pd.DataFrame(rows, columns=list(COLUMNS)), model.title, n, right / n),
        *(weights_digest(model), images_digest(inputs, labels)),
    )


def images_digest(inputs: Tensor, labels: Tensor) -> str:
    """The digest of images and their classes, by which a table knows what it was measured on."""
    return tensor_digest([("inputs", inputs), ("labels", labels)])


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the images of one or more batches; losses: images that are no longer right."""

    kl: float
    signal: float
    error: float
    losses: int
    fisher: float

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def _measure(
    run: FloatRun, fisher: Fisher, key: OperandKey, operand: Operand, fmt: Format, labels: Tensor
) -> _Sums:
    """One operand in one format, on the images of a run."""
    value = run.value(key)
    operand.coding = fmt
    with torch.no_grad():
        quantized = operand.quantize(value, fmt)
    error = quantized - value
    logits = run.swap(key, quantized)
    right = int((run.logits.argmax(1) == labels).sum()) - int((logits.argmax(1) == labels).sum())
    return _Sums(
        divergence(logits, run.logits),
        float(value.double().square().sum()),
        float(error.double().square().sum()),
        right,
        fisher.divergence(key, error, operand.stored, run),
    )


def divergence(outputs: Tensor, expected: Tensor) -> float:
    """The KL divergence of class probabilities from the expected ones, summed over images [nat]."""
    log, log_expected = (F.log_softmax(logits.double(), dim=1) for logits in (outputs, expected))
    return float(F.kl_div(log, log_expected, reduction="sum", log_target=True))


def _effective(fmt: Format, operand: Operand, value: Tensor) -> Format:
    """The format with no larger a block than the operand has channels."""
    if not isinstance(fmt, BFP):
        return fmt
    return replace(fmt, block_size=min(fmt.block_size, operand.channels(value.shape)))


# --- runs of the float network -------------------------------------------------------------------


class FloatRun(fx.Interpreter):
    """A batch's values in the float network, all of them; runs that start in the middle of it.

    logits: what the network gives

    The model's operands must be off.
    """

    def __init__(self, model: QuantizedModel, inputs: Tensor) -> None:
        super().__init__(model.graph_module, garbage_collect_values=False)
        self._inputs = inputs.to(model.device)
        self._graph: fx.Graph = model.graph_module.graph
        paths = {module: path for path, module in model.graph_module.named_modules()}
        nodes = {node.target: node for node in self._graph.nodes if node.op == "call_module"}
        self._nodes: dict[OperandKey, fx.Node] = {
            key: nodes[paths[operand]] for key, operand in model.operands.items()
        }
        with torch.no_grad():
            self.logits: Tensor = self.run(self._inputs)
        self._values = dict(self.env)

    def value(self, key: OperandKey) -> Tensor:
        """Return the value that reaches an operand."""
        source = self._nodes[key].args[0]
        assert isinstance(source, fx.Node)
        value: Tensor = self._values[source]
        return value.detach()

    def swap(self, key: OperandKey, value: Tensor) -> Tensor:
        """Return what the network gives if an operand gives ``value``."""
        at = self._nodes[key]
        before = {}
        for node in self._graph.nodes:
            if node is at:
                break
            before[node] = self._values[node]
        before[at] = value
        with torch.no_grad():
            logits: Tensor = self.run(self._inputs, initial_env=before)
        return logits

    def product(self, site: str, weight: Tensor) -> Tensor:
        """Return what the product of a site gives for another W, without a bias."""
        node = self._nodes[site, "O"].args[0]
        assert isinstance(node, fx.Node)
        left, _, *rest = node.args
        assert isinstance(left, fx.Node)
        call: Any = node.target
        with torch.no_grad():
            result: Tensor = call(self._values[left], weight, *rest)
        return result


class Fisher:
    """Estimates what an error in a tensor does to the network's output, from one backward pass.

    It holds the gradients of the network's own log-likelihood on a batch. With g the gradient of
    -log p(label), labels drawn from the network's own p, the KL divergence that a small error d of
    a tensor makes is half the mean of (g . d)^2, p's Fisher information in that direction. The
    errors of an activation's elements count as independent, which leaves the sum of g^2 d^2. An
    error of a stored W meets every position of every image: it goes through O, undivided.

    seed: of the labels, drawn on the CPU

    Parameters need not require a gradient, and keep the ones that they have. Raises WorkloadError
    as `quant.study.accuracy.logits_of`.
    """

    def __init__(self, model: QuantizedModel, inputs: Tensor, seed: int) -> None:
        tensors: dict[OperandKey, Tensor] = {}

        def keep(key: OperandKey) -> Callable[[Any, Any, Tensor], Tensor]:
            def hook(operand: Any, inputs: Any, result: Tensor) -> Tensor:
                # A copy: what other products read too has other gradients there.
                own = result.clone() if result.requires_grad else result.clone().requires_grad_()
                tensors[key] = own
                return own

            return hook

        hooks = [
            operand.register_forward_hook(keep(key)) for key, operand in model.operands.items()
        ]
        try:
            with torch.inference_mode(False), torch.enable_grad():
                own = inputs.clone() if inputs.is_inference() else inputs.detach()
                logits = logits_of(model, own)
                probabilities = logits.detach().cpu().softmax(1)
                generator = torch.Generator().manual_seed(seed)
                draws = torch.multinomial(probabilities, 1, generator=generator)
                labels = draws[:, 0].to(logits.device)
                loss = F.cross_entropy(logits, labels, reduction="sum")
        finally:
            for hook in hooks:
                hook.remove()
        # Not `backward`, which would add to the parameters' own gradients.
        gradients = torch.autograd.grad(loss, [*tensors.values()], materialize_grads=True)
        self._gradients: dict[OperandKey, Tensor] = dict(zip(tensors, gradients, strict=True))

    def divergence(self, key: OperandKey, error: Tensor, stored: bool, run: FloatRun) -> float:
        """The sum over images of the estimated KL divergence [nat].

        error: of the operand's tensor; stored: whether that is a parameter
        """
        if stored:
            through = run.product(key[0], error) * self._gradients[key[0], "O"]
            per_image = through.double().flatten(1).sum(1)
            return float(per_image.square().sum()) / 2
        return float((error * self._gradients[key]).double().square().sum()) / 2
