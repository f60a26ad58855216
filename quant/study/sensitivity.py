"""What each operand's format costs: one swapped into the float network at a time.

Per product, tensor and format: the divergence of the outputs, the operand's noise, the images lost,
and an estimate of the divergence from a single backward pass. The search adds these up over a
network; `additivity` says how far that holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bfpsim.quant.formats import BFP, Format, FormatError
from bfpsim.quant.study.fisher import Fisher
from bfpsim.quant.torch.float_run import FloatRun
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.operand import Mode, Operand, sqnr_db
from bfpsim.quant.torch.tied import Place
from bfpsim.workloads.files.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd

# Infinite decibels are those of an operand without noise, or without signal.
_NUMBERS = {
    "kl": "a finite number", "sqnr_db": "a number", "accuracy_loss": "a finite number",
    "fisher": "a finite number", "bits": "a whole number",
}  # fmt: skip
COLUMNS = ("layer", "tensor", "format", *_NUMBERS)
_HEADER = "# bfpsim sensitivity "


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
    """

    table: pd.DataFrame
    network: str
    images: int
    accuracy: float

    def save(self, path: str | Path) -> None:
        """Write the table as CSV behind a line of comment, whole or not at all; OSError."""
        about = {"network": self.network, "images": self.images, "accuracy": self.accuracy}
        text = self.table.to_csv(index=False, lineterminator="\n")
        write_atomic(path, f"{_HEADER}{json.dumps(about)}\n{text}")

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read what `save` wrote.

        Raises FormatError, naming the file and of a bad cell its row (1 is the first below the
        columns' names) and column, if it is something else; OSError.
        """
        import pandas as pd

        with open(path, encoding="utf-8") as file:
            try:
                first = file.readline()
                if not first.startswith(_HEADER):
                    raise ValueError(f"starts with {first[:40]!r}")
                match json.loads(first[len(_HEADER) :]):
                    case {
                        "network": str(network), "images": int(images),
                        "accuracy": int() | float() as accuracy,
                    } if images > 0 and 0 <= accuracy <= 1:  # fmt: skip
                        pass
                    case _:
                        raise ValueError(f"header {first[len(_HEADER) :].strip()!r}")
                # As text: names may be numbers, and what is no number is to be quoted.
                table = pd.read_csv(file, dtype=str, keep_default_na=False)
                if tuple(table.columns) != COLUMNS:
                    raise ValueError(f"columns {list(table.columns)}")
                for name in _NUMBERS:
                    table[name] = [_number(x, row, name) for row, x in enumerate(table[name], 1)]
                return cls(table, network, images, accuracy)
            except ValueError as error:
                raise FormatError(
                    f"{path}: {error}; allowed: a table of `bfpsim quantize --sensitivity`"
                ) from None


def _number(cell: str, row: int, column: str) -> float:
    """The number in a cell; raises ValueError, which says where it is, if that is none."""
    kind = _NUMBERS[column]
    try:
        number = int(cell) if kind == "a whole number" else float(cell)
    except (ValueError, TypeError):  # no text at all: the row is too short
        number = math.nan
    if math.isnan(number) or (math.isinf(number) and kind != "a number"):
        raise ValueError(f"row {row}: {column} {cell!r} is not {kind}")
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
    """Measure every operand in every format, one at a time.

    model: calibrated; its choice is the same afterwards
    inputs, labels: images as the module takes them, and their classes int64
    formats: deterministic ones; a block size beyond an operand's channels is the same as they are,
        and measured once
    batch: images at a time; the float network's values on them are kept
    seed: of the labels that the Fisher estimate draws from the network's own probabilities

    Each run starts at the swapped operand. Raises FormatError as the model does.
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
                known: dict[Format, _Sums] = {}
                for fmt in formats:
                    alike = _effective(fmt, operand, run.value(key))
                    if alike not in known:
                        known[alike] = _measured(run, fisher, key, operand, fmt, y)
                    row = (*key, fmt)
                    sums[row] = sums[row] + known[alike] if row in sums else known[alike]
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
            total.lost / n,
            total.fisher / n,
            bits[layer, tensor, fmt],
        )
        for (layer, tensor, fmt), total in sums.items()
    ]
    return Sensitivity(pd.DataFrame(rows, columns=list(COLUMNS)), model.title, n, right / n)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over the images of one or more batches."""

    kl: float
    signal: float
    error: float
    lost: int
    fisher: float

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def _measured(
    run: FloatRun, fisher: Fisher, key: Place, operand: Operand, fmt: Format, labels: Tensor
) -> _Sums:
    """One operand in one format, on the images of a run."""
    value = run.value(key)
    operand.coding = fmt
    with torch.no_grad():
        quantized = operand.quantized(value, fmt)
    error = quantized - value
    logits = run.swapped(key, quantized)
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
