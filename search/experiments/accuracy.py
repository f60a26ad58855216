"""The search's choices and real images: what a nat costs, choices confirmed, choices trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.accuracy import top_k
from bfpsim.quant.study.additivity import Additivity, check_additivity
from bfpsim.quant.study.comparison import compare_formats
from bfpsim.quant.study.datasets import Batch, Dataset
from bfpsim.quant.study.sensitivity import Sensitivity, images_digest
from bfpsim.quant.torch.model import QuantizedModel, weights_digest
from bfpsim.quant.torch.operand import Mode
from bfpsim.search.bitwidth.problem import Losses, check_per_nat, make_losses
from bfpsim.search.bitwidth.search import Proposal, SearchResult
from bfpsim.search.bitwidth.space import Space
from bfpsim.search.experiments.classifier import Classifier
from bfpsim.search.experiments.formats import measure_on, training_in
from bfpsim.search.phases import Phases, silent
from bfpsim.search.store import Stages

if TYPE_CHECKING:
    import pandas as pd

_CHOICES = 20
_MILD = 0.2


def measure_losses(
    space: Space,
    classifier: Classifier,
    *,
    table: str | Path | None = None,
    per_nat: float | None = None,
    stages: Stages | None = None,
    progress: Phases = silent,
) -> Losses:
    """Measure what the formats of a search's space lose, on the classifier's sample.

    table: file of a sensitivity table, read, or measured and written if it does not exist
    per_nat: top-1 lost per nat; None: measured on 20 random mixed choices
    stages: where the measured one is kept

    Where no choice loses anything, per_nat is what one lost image in each would make, and says so
    (`Losses.below_one_image`): fewer are not seen on so many images.

    Raises FormatError for a per_nat that is no number above 0, a table of another network, other
    formats or other images, or if the network's layers are not the model's products.
    """
    if per_nat is not None:
        check_per_nat(per_nat)
    _check_names(space, classifier.model)
    sensitivity = _sensitivity(space, classifier, table, progress)
    hidden = False
    if per_nat is None:
        deciding = (classifier.digest, sensitivity.table.to_csv(), sensitivity.images)
        with progress("running mixed choices", _CHOICES) as step:
            per_nat, hidden = (stages or Stages()).once(
                "nat", deciding, lambda: _loss_per_nat(classifier, sensitivity, step)
            )
    matrix = make_losses(space, sensitivity, per_nat)
    return Losses(matrix, sensitivity.images, per_nat, hidden)


def _check_names(space: Space, model: QuantizedModel) -> None:
    """Raise FormatError unless the model's products are the network's layers."""
    own, layers = {site.name for site in model.sites}, {p.name for p in space.products}
    if own != layers:
        wrong = sorted(own ^ layers)
        raise FormatError(
            f"network {space.network} and module {model.title}: {wrong[0]!r} is only in one of "
            f"them ({len(wrong)} in all); allowed: the network that the module makes"
        )


def _sensitivity(
    space: Space, classifier: Classifier, table: str | Path | None, progress: Phases
) -> Sensitivity:
    if table is not None and Path(table).exists():
        known = Sensitivity.load(table)
        own = weights_digest(classifier.model)
        if known.weights != own:
            weights = f"of weights {known.weights!r}" if known.weights else "that names no weights"
            raise FormatError(
                f"{table}: a table {weights}, for {classifier.name}, whose are {own!r}; allowed: "
                "one measured on these weights, or a new file"
            )
        return known
    sensitivity = measure_on(classifier.model, classifier.sample, space.formats, progress)
    if table is not None:
        sensitivity.save(table)
    return sensitivity


def _loss_per_nat(
    classifier: Classifier, sensitivity: Sensitivity, progress: Callable[[str], None]
) -> tuple[float, bool]:
    """The top-1 that is lost per nat of predicted divergence, over random mixed choices.

    The second is whether they lose nothing, and the first what one lost image in each would make.

    A least-squares line through the origin over the choices that lose at most a fifth: a network
    that is lost loses no more, however large the divergence, and small losses drown in the noise
    of so many images.
    """
    model = classifier.model
    whole = _measured_images(classifier, sensitivity)
    mixed = check_additivity(model, sensitivity, *whole, choices=_CHOICES, progress=progress)
    mild = mixed.table[mixed.table["accuracy_loss"] <= _MILD]
    if not mild["predicted_kl"].any():  # nothing is lost, whatever a nat is
        return 1.0, True
    slope = Additivity(mild).slope("accuracy_loss", by="kl")
    if slope > 0:
        return slope, False
    one_each = mild.assign(accuracy_loss=1 / len(whole[0]))
    return Additivity(one_each).slope("accuracy_loss", by="kl"), True


def _measured_images(classifier: Classifier, sensitivity: Sensitivity) -> Batch:
    """The images that a sensitivity was measured on: the sample's, or those of all."""
    count = sensitivity.images
    for images in (classifier.sample, classifier.images):
        if len(images) >= count:
            whole = images.batch(range(count))
            if images_digest(*whole) == sensitivity.data:
                return whole
    raise FormatError(
        f"sensitivity table of {sensitivity.network}: measured on {count} images "
        f"{sensitivity.data!r}, which are not the first ones here; allowed: the same images, or a "
        "loss per nat (--nat)"
    )


def confirm_choices(
    classifier: Classifier,
    search: SearchResult,
    proposals: Mapping[str, Proposal],
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Evaluate choices on the classifier's images: a row each, equal ones evaluated once.

    proposals: of the search, by name
    progress: called with the name of each when it is done

    Columns: choice, predicted_loss, accuracy_loss, top1, top5, weight_width, activation_width
    [bit per element], simulated (cost), value: what was to be made least, with the measured loss.
    """
    distinct = {own.choice.formats: name for name, own in reversed(list(proposals.items()))}
    policies = {name: search.formats(proposals[name]) for name in distinct.values()}
    comparison = compare_formats(
        classifier.model, classifier.images, policies, progress=progress
    ).accuracy
    rows = comparison.set_index("policy")
    scale = search.by("simulated").dm_max
    table = rows.loc[[distinct[own.choice.formats] for own in proposals.values()]]
    table = table[["accuracy_loss", "top1", "top5", "weight_width", "activation_width"]]
    table = table.reset_index(drop=True)
    table.insert(0, "choice", list(proposals))
    table.insert(1, "predicted_loss", [own.loss for own in proposals.values()])
    table["simulated"] = [own.simulated for own in proposals.values()]
    table["value"] = [
        search.target.value(float(loss), own.simulated, scale)
        for loss, own in zip(table["accuracy_loss"], proposals.values(), strict=True)
    ]
    return table


def train_choice(
    name: str,
    proposal: Proposal,
    search: SearchResult,
    classifier: Classifier,
    training: Dataset,
    steps: int,
    *,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    progress: Phases = silent,
) -> pd.DataFrame:
    """Train a choice from the float weights and evaluate it: a row as `confirm_choices` has.

    seed: of the order of training images
    checkpoints: what the checkpoint's name begins with; the rest tells classifier, formats, steps
        and seed apart

    Its loss is counted from the float network before training, whose weights the model has again.
    Raises as `fine_tune`.
    """
    model = classifier.model
    with model.in_mode(Mode.FLOAT):
        best = top_k(model, classifier.images, (1,))[1]
    formats = search.formats(proposal)
    checkpoint = None
    if checkpoints is not None:
        run = hashlib.sha256(f"{classifier.digest} {formats} {steps} {seed}".encode()).hexdigest()
        path = Path(checkpoints)
        checkpoint = path.with_name(f"{path.name}-{run[:8]}.safetensors")
    with training_in(model, formats, training, steps, name, seed, checkpoint, progress):
        row = confirm_choices(classifier, search, {name: proposal})
    row["accuracy_loss"] = best - row["top1"]
    row["value"] = search.target.value(
        float(row["accuracy_loss"].iloc[0]), proposal.simulated, search.by("simulated").dm_max
    )
    return row
