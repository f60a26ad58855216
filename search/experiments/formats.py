"""Formats and a classifier's accuracy: compared, trained in, and tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.objects import brief
from bfpsim.quant.formats import Format, candidates
from bfpsim.quant.study.additivity import Additivity, check_additivity
from bfpsim.quant.study.comparison import compare_formats, evaluate_original, parse_policy
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.study.sensitivity import Sensitivity, measure_sensitivity
from bfpsim.quant.torch.model import Chosen, QuantizedModel
from bfpsim.quant.training.fine_tuning import STEPS, fine_tune
from bfpsim.search.experiments.classifier import Classifier
from bfpsim.search.phases import Phases, silent

if TYPE_CHECKING:
    import pandas as pd

FormatsByLayer = Chosen | Mapping[str, Chosen]

STOCK = ("original", "bitq16", "bitq8")
"""The float original, and BitQ's formats by tensor: what is compared if nothing is named."""

_POLICY_IMAGES = 100
"""Images from which ``bitq...`` estimates what formats cost."""

_MIXED = 40
"""Random mixed choices over which sums of losses are checked."""


@brief
@dataclass(frozen=True, eq=False)
class FormatStudy:
    """A classifier in several formats.

    network: its name
    images: how many judged it; calibration: how many E_top was taken from
    accuracy, layers: as in `Comparison`, whose rows of training are called "... +QAT"
    steps, seed: of training; steps is None without any
    """

    network: str
    images: int
    calibration: int
    accuracy: pd.DataFrame
    layers: pd.DataFrame
    steps: int | None
    seed: int


def study_formats(
    classifier: Classifier,
    formats: Sequence[str] = STOCK,
    *,
    training: Dataset | None = None,
    steps: int = STEPS,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    progress: Phases = silent,
) -> FormatStudy:
    """Compare formats on a classifier: accuracy, storage, and noise in each layer.

    formats: ``original`` (float32), ``bitq16`` or ``bitq8`` (for each stored tensor the format of
        least estimated loss), a baseline (docs/baselines.md), or a format such as ``bfp8e3b16``
    training: images; with them, each format is trained for `steps` from the float weights, and
        evaluated again
    seed: of the order of training images
    checkpoints: folder to go on from after a stop

    Losses are counted from the float network before training; the model's weights stay as they are.

    Raises FormatError for a name that is none, WorkloadError as `top_k` and `fine_tune`.
    """
    import pandas as pd

    model, images = classifier.model, classifier.images
    policies = {
        name: parse_policy(name, model, classifier.some(_POLICY_IMAGES)) for name in formats
    }
    with progress(f"evaluating {classifier.name}", len(policies)) as step:
        original = evaluate_original(model, images)  # before any training
        result = compare_formats(model, images, policies, original=original, progress=step)
    accuracy, layers = [result.accuracy], [result.layers]
    if training is not None:
        for name, policy in policies.items():
            if name == "original":
                continue
            checkpoint = None
            if checkpoints is not None:
                Path(checkpoints).mkdir(parents=True, exist_ok=True)
                checkpoint = Path(checkpoints) / f"{classifier.stem}-{name}.safetensors"
            title = f"{classifier.name} {name}"
            with training_in(model, policy, training, steps, title, seed, checkpoint, progress):
                again = compare_formats(model, images, {f"{name} +QAT": policy}, original=original)
            accuracy.append(again.accuracy)
            layers.append(again.layers)
    return FormatStudy(
        classifier.name,
        len(images),
        len(classifier.sample),
        pd.concat(accuracy, ignore_index=True),
        pd.concat(layers, ignore_index=True),
        None if training is None else steps,
        seed,
    )


@contextmanager
def training_in(
    model: QuantizedModel,
    formats: FormatsByLayer,
    training: Dataset,
    steps: int,
    title: str,
    seed: int,
    checkpoint: Path | None,
    progress: Phases,
) -> Iterator[None]:
    """A model trained in some formats for so many steps, for a while; then as it was.

    title: what tells this training from others in its checkpoint, beside the formats

    Raises as `fine_tune`.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with model.keeping_choice():
            model.choose(formats, tied=False)
            name = f"{title} {model.described()}"
            with progress(f"training {title}", steps) as step:
                fine_tune(
                    model, training, steps, seed=seed, checkpoint=checkpoint, progress=step,
                    name=name,
                )  # fmt: skip
            yield
    finally:
        model.load_state_dict(before)


@brief
@dataclass(frozen=True, eq=False)
class SensitivityStudy:
    """The cost of each tensor's formats, and whether costs add up over mixed choices."""

    sensitivity: Sensitivity
    additivity: Additivity


def study_sensitivity(
    classifier: Classifier,
    formats: Sequence[Format] | None = None,
    *,
    table: str | Path | None = None,
    progress: Phases = silent,
) -> SensitivityStudy:
    """Swap single tensors into the float network, then run 40 random mixed choices.

    formats: None: all of BitQ's table 2 at 8 bits
    table: file that the sensitivity is written to, as soon as it is measured

    Measured on all images. Raises FormatError as the model does, OSError for the file.
    """
    model, images = classifier.model, classifier.images
    sensitivity = measure_on(model, images, formats or candidates(8), progress)
    if table is not None:
        sensitivity.save(table)
    whole = images.batch(range(len(images)))
    with progress("running mixed choices", _MIXED) as step:
        additivity = check_additivity(model, sensitivity, *whole, choices=_MIXED, progress=step)
    return SensitivityStudy(sensitivity, additivity)


def measure_on(
    model: QuantizedModel, images: Dataset, formats: Sequence[Format], progress: Phases
) -> Sensitivity:
    """`measure_sensitivity` on all of some images."""
    whole = images.batch(range(len(images)))
    with progress("swapping single tensors", -(-len(images) // 100) * len(model.operands)) as step:
        return measure_sensitivity(model, *whole, formats, progress=step)
