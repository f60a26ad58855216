"""Quantisation-aware training: some more steps on a module whose tensors are quantised.

The BitQ paper trains "1,000 steps" more, "following the recommended parameters" of each network,
and names no optimiser, rate or batch. Here: cross-entropy, stochastic gradient descent with
momentum 0.9, and a rate that falls to zero as half a cosine.

A run can be killed and goes on from its checkpoint to the same parameters, bit for bit: which
images a step sees, and its random numbers, depend on seed and step alone. The same holds from run
to run on the same machine with as many threads, and on a GPU with torch's deterministic algorithms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import SGD

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.accuracy import classify, keeping_modes, title
from bfpsim.quant.study.datasets import Batch, Dataset
from bfpsim.quant.torch.model import tensor_digest
from bfpsim.workloads.files.atomic import write_atomic
from bfpsim.workloads.layer import WorkloadError

STEPS = 1000
BATCH = 64
# 0.001 and 0.005 both recover the shipped ResNet-18 at 6 bits; 0.02 makes it diverge.
RATE = 0.002
MOMENTUM = 0.9
EVERY = 100

# First words of the two kinds of random numbers that a seed gives.
_ORDER, _DRAWS = 0, 1


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The course of a training.

    losses: mean cross-entropy of each step's images
    resumed_at: steps that the checkpoint had
    """

    losses: tuple[float, ...]
    resumed_at: int


@dataclass(frozen=True, slots=True)
class _Run:
    """The settings that a checkpoint and the run that goes on from it must share."""

    name: str
    steps: int
    batch: int
    rate: float
    momentum: float
    seed: int
    images: int

    def __post_init__(self) -> None:
        for key in ("steps", "batch"):
            value = getattr(self, key)
            if value < 1:
                raise WorkloadError(f"{key}={value}; allowed: 1 or more")
        if not 0 < self.rate < math.inf:
            raise WorkloadError(f"rate={self.rate}; allowed: a finite number above 0")
        if self.seed < 0:
            raise WorkloadError(f"seed={self.seed}; allowed: 0 or more")
        if self.images < 1:
            raise WorkloadError("training on 0 images; allowed: at least one")


def fine_tune(
    module: nn.Module,
    dataset: Dataset,
    steps: int = STEPS,
    batch: int = BATCH,
    rate: float = RATE,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = EVERY,
    progress: Callable[[str], None] | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    name: str = "",
) -> FineTuned:
    """Train the module's parameters that require a gradient, in place, in training mode.

    batch: images per step. Every image is seen once before any is seen again
    rate: of the first step; step t of T has rate * (1 + cos(pi t / T)) / 2
    checkpoint: file to go on from if it is there, and to write every ``every`` steps and at the
        end. Where it has all steps, the module only takes its values
    progress: called with "step 7 of 1000: loss 0.123" after each step
    augment: changes a batch's inputs (n, channels, H, W); what it draws from torch's generator
        depends on seed and step alone
    name: what else tells this run from others, such as network and formats. It stands in the
        checkpoint, and a run of another name, of other starting values or of other first images
        does not go on from it

    Raises WorkloadError for settings out of range, nothing to train or to train on, a checkpoint
    that cannot be read or written or is of another run or module, and as
    `quant.study.accuracy.classify` does.
    Raises FormatError, naming the step, for a loss or a trained value that is NaN or infinite; the
    checkpoint then holds the last steps that were right.
    """
    if every < 1:
        raise WorkloadError(f"every={every}; allowed: 1 or more")
    run = _Run(name, steps, batch, rate, MOMENTUM, seed, len(dataset))
    trained = {key: each for key, each in module.named_parameters() if each.requires_grad}
    if not trained:
        raise WorkloadError(
            f"module {title(module)}: no parameter requires a gradient; allowed: at least "
            "one that does"
        )
    optimiser = SGD(trained.values(), lr=rate, momentum=MOMENTUM)
    path = None if checkpoint is None else Path(checkpoint)
    start = "" if path is None else _start(module, dataset, run)
    losses = [] if path is None else _resume(path, run, start, module, optimiser)
    resumed_at = len(losses)
    # Gradients are wanted, whatever mode the caller is in.
    with keeping_modes(module), torch.inference_mode(False), torch.enable_grad():
        module.train()
        for step in range(resumed_at, steps):
            optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            part = dataset.batch(image_order(seed, step, batch, len(dataset)).tolist())
            part = Batch(*(x.clone() if x.is_inference() else x for x in part))
            with _seeded_draws(seed, step, next(iter(trained.values())).device):
                if augment is not None:
                    part = part._replace(inputs=augment(part.inputs))
                logits, labels = classify(module, part)
                loss = F.cross_entropy(logits, labels)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise FormatError(
                        f"step {step + 1}: loss {losses[-1]}; allowed: finite numbers"
                    )
                optimiser.zero_grad()
                torch.autograd.backward(loss)
            optimiser.step()
            if (step + 1) % every == 0 or step + 1 == steps:
                _check_finite(step + 1, trained)
                if path is not None:
                    _write(path, run, start, module, optimiser, losses)
            if progress is not None:
                progress(f"step {step + 1} of {steps}: loss {losses[-1]:.3f}")
    return FineTuned(tuple(losses), resumed_at)


def image_order(seed: int, step: int, batch: int, images: int) -> NDArray[np.int64]:
    """Indices of the images of a step (batch,), a pure function of its arguments.

    The steps go through one endless row: all images in a random order, then all in another.
    """
    start, stop = step * batch, (step + 1) * batch
    epochs = range(start // images, (stop - 1) // images + 1)
    row = [np.random.default_rng((seed, _ORDER, epoch)).permutation(images) for epoch in epochs]
    skipped = epochs[0] * images
    return np.concatenate(row)[start - skipped : stop - skipped]


def _start(module: nn.Module, dataset: Dataset, run: _Run) -> str:
    """Digest of the state before the first step, and of its images and labels."""
    first = dataset.batch(image_order(run.seed, 0, run.batch, len(dataset)).tolist())
    state = {key: x for key, x in module.state_dict().items() if isinstance(x, Tensor)}
    named = {**state, **_values(module), "inputs": first.inputs, "labels": first.labels}
    return tensor_digest(named.items())


@contextmanager
def _seeded_draws(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for one step; they are as before at the end."""
    (word,) = np.random.SeedSequence((seed, _DRAWS, step)).generate_state(1, np.uint64)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(word))
        yield


def _check_finite(step: int, trained: dict[str, nn.Parameter]) -> None:
    for name, parameter in trained.items():
        if not parameter.isfinite().all():
            raise FormatError(
                f"step {step}: parameter {name!r} is NaN or infinite; allowed: finite numbers"
            )


# --- the checkpoint ------------------------------------------------------------------------------
# A safetensors file: a checked header, no code to run, and the same bytes for the same run, where
# torch's own format is a zipped pickle. The run stands in the metadata as JSON.

_KEY = "fine-tuning"
_START = "start"


def _write(
    path: Path,
    run: _Run,
    start: str,
    module: nn.Module,
    optimiser: SGD,
    losses: Sequence[float],
) -> None:
    tensors = {f"module.{name}": each.detach() for name, each in _values(module).items()}
    for name, parameter in module.named_parameters():
        if (momentum := optimiser.state.get(parameter, {}).get("momentum_buffer")) is not None:
            tensors[f"momentum.{name}"] = momentum
    # The format wants each tensor in memory of its own, without gaps.
    stored = {
        name: torch.empty(each.shape, dtype=each.dtype).copy_(each)
        for name, each in tensors.items()
    }
    stored["losses"] = torch.tensor(losses, dtype=torch.float64)
    try:
        write_atomic(path, save(stored, {_KEY: json.dumps(asdict(run) | {_START: start})}))
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be written: {error.strerror}") from None


def _resume(path: Path, run: _Run, start: str, module: nn.Module, optimiser: SGD) -> list[float]:
    """Take module and optimiser to where the checkpoint is; return the losses until there."""
    if not path.exists():
        if not path.parent.is_dir():
            raise WorkloadError(f"{path}: its folder does not exist; allowed: an existing one")
        return []
    written, tensors = _read(path)
    for key, value in asdict(run).items():
        if key not in written or written[key] != value:
            raise WorkloadError(
                f"{path}: checkpoint of a run with {key}={written.get(key)!r}; allowed: {value!r}, "
                "or another file"
            )
    values = {f"module.{name}": each for name, each in _values(module).items()}
    trained = {
        f"momentum.{name}": each for name, each in module.named_parameters() if each.requires_grad
    }
    count = tensors["losses"].numel() if "losses" in tensors else 0
    losses = torch.empty(count, dtype=torch.float64)
    _check_tensors(path, tensors, {**values, **trained, "losses": losses}, {*values, "losses"})
    if not 1 <= count <= run.steps:
        raise WorkloadError(f"{path}: {count} losses; allowed: 1..{run.steps}")
    if written.get(_START) != start:
        raise WorkloadError(
            f"{path}: checkpoint of a run that began with other weights or images; allowed: those "
            "of that run, or another file"
        )
    with torch.no_grad():
        for name, value in values.items():
            value.copy_(tensors[name])
    for name, parameter in trained.items():
        if name in tensors:
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(tensors[name])
            optimiser.state[parameter]["momentum_buffer"] = momentum
    return tensors["losses"].tolist()


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise WorkloadError(f"{path}: cannot be read as a safetensors file: {reason}") from None
    try:
        run = json.loads(text or "")
    except ValueError:
        run = None
    if not isinstance(run, dict):
        raise WorkloadError(
            f"{path}: metadata {_KEY}={text!r}; allowed: a checkpoint that fine-tuning wrote"
        )
    return run, tensors


def _check_tensors(
    path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], needs: Set[str]
) -> None:
    faults = {"missing": needs - tensors.keys(), "not the module's": tensors.keys() - own.keys()}
    for fault, names in faults.items():
        if names:
            raise WorkloadError(
                f"{path}: tensors {fault}: {', '.join(sorted(names))}; allowed: a checkpoint of "
                "the same module"
            )
    for name, tensor in tensors.items():
        value = own[name]
        if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
            raise WorkloadError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}; allowed: "
                f"{value.dtype} {tuple(value.shape)}"
            )
