"""The accuracy side of the search: what a nat costs, and choices confirmed on real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.additivity import Additivity, check_additivity
from bfpsim.quant.study.comparison import compare_formats
from bfpsim.quant.study.datasets import Dataset, first
from bfpsim.quant.study.sensitivity import Sensitivity
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.search.bitwidth.search import Proposal, SearchResult
from bfpsim.search.bitwidth.space import Space

if TYPE_CHECKING:
    import pandas as pd

_CHOICES = 20
_MILD = 0.2


def loss_per_nat(
    model: QuantizedModel,
    sensitivity: Sensitivity,
    images: Dataset,
    progress: Callable[[str], None] | None = None,
) -> float:
    """The top-1 that is lost per nat of predicted divergence, over random mixed choices.

    A least-squares line through the origin over the choices that lose at most a fifth: a network
    that is lost loses no more, however large the divergence, and small losses drown in the noise
    of so many images.

    Raises FormatError if the choices lose nothing on these images.
    """
    whole = first(images, sensitivity.images).batch(range(min(sensitivity.images, len(images))))
    drawn = check_additivity(model, sensitivity, *whole, choices=_CHOICES, progress=progress)
    mild = drawn.table["accuracy_loss"] <= _MILD
    slope = Additivity(drawn.table[mild]).slope("accuracy_loss", by="kl")
    if not slope > 0:
        raise FormatError(
            f"{model.title}: {_CHOICES} random choices lose {slope:.3g} of top-1 per nat on "
            f"{len(whole[0])} images; allowed: more images, or a value above 0 of your own"
        )
    return slope


def check_names(space: Space, model: QuantizedModel) -> None:
    """Raise FormatError unless the model's products are the network's layers."""
    own, layers = {site.name for site in model.sites}, {p.name for p in space.products}
    if own != layers:
        wrong = sorted(own ^ layers)
        raise FormatError(
            f"network {space.network} and module {model.title}: {wrong[0]!r} is only in one of "
            f"them ({len(wrong)} in all); allowed: the network that the module makes"
        )


def confirm(
    model: QuantizedModel,
    images: Dataset,
    searched: SearchResult,
    named: Mapping[str, Proposal],
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Evaluate choices for real: a row each, the same choice under several names once.

    named: choices by name

    Columns: choice, predicted_loss, accuracy_loss, top1, top5, weight_width, activation_width
    [bit per element], simulated (cost), value: what was to be made least, with the measured loss.
    """
    distinct = {found.choice.formats: name for name, found in reversed(list(named.items()))}
    policies = {name: searched.formats(named[name]) for name in distinct.values()}
    measured = compare_formats(model, images, policies, progress=progress).accuracy
    rows = measured.set_index("policy")
    scale = searched.by("simulated").dm_max
    names = list(named)
    table = rows.loc[[distinct[found.choice.formats] for found in named.values()]]
    table = table[["accuracy_loss", "top1", "top5", "weight_width", "activation_width"]]
    table = table.reset_index(drop=True)
    table.insert(0, "choice", names)
    table.insert(1, "predicted_loss", [found.loss for found in named.values()])
    table["simulated"] = [found.simulated for found in named.values()]
    table["value"] = [
        searched.target.value(float(loss), found.simulated, scale)
        for loss, found in zip(table["accuracy_loss"], named.values(), strict=True)
    ]
    return table
