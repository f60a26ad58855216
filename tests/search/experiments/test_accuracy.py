"""The search's choices on real images: losses measured, choices confirmed, choices trained."""

from copy import deepcopy
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from bfpsim.quant.formats import FormatError, candidates
from bfpsim.quant.study.additivity import Additivity
from bfpsim.quant.study.comparison import compare_formats
from bfpsim.quant.study.datasets import FASHION_MNIST, ArrayDataset
from bfpsim.search.bitwidth.search import search_formats
from bfpsim.search.bitwidth.space import make_space
from bfpsim.search.bitwidth.target import Tradeoff
from bfpsim.search.crew import workers
from bfpsim.search.experiments.accuracy import confirm_choices, measure_losses, train_choice
from bfpsim.search.experiments.classifier import make_classifier
from bfpsim.search.store import Stages, open_stages
from bfpsim.workloads import NetworkBuilder


@pytest.fixture
def space(classifier):
    return make_space(classifier.network, candidates(8))


@pytest.fixture
def search(classifier, space, edge, kept):
    losses = measure_losses(space, classifier, table=kept / "table.csv", per_nat=0.5)
    with open_stages(kept / "stages") as stages, workers(1) as run:
        return search_formats(space, edge, losses.matrix, Tradeoff(0.2), "energy", run, stages)


def test_losses_are_read_where_they_were_written(classifier, space, kept) -> None:
    path, stages = kept / "table.csv", Stages()
    losses = measure_losses(space, classifier, table=path, stages=stages)
    assert losses.matrix.shape == (len(space.tensors), len(space.formats))
    assert losses.images == 60
    assert losses.per_nat > 0
    written = path.stat().st_mtime_ns
    again = measure_losses(space, classifier, table=path, stages=stages)
    assert path.stat().st_mtime_ns == written
    assert np.array_equal(again.matrix, losses.matrix)
    # A nat of one's own scales them.
    dear = measure_losses(space, classifier, table=path, per_nat=2 * losses.per_nat)
    assert np.allclose(dear.matrix, 2 * losses.matrix)


def test_where_no_choice_loses_anything_a_nat_is_one_image(
    classifier, space, kept, monkeypatch
) -> None:
    """The line through the origin and one lost image per choice, in fractions."""
    table = pd.DataFrame(
        {"predicted_kl": [0.25, 0.5, 0.125, 8.0], "accuracy_loss": [0.0, -1 / 60, 0.0, 0.5]}
    )
    monkeypatch.setattr(
        "bfpsim.search.experiments.accuracy.check_additivity", lambda *_, **__: Additivity(table)
    )
    losses = measure_losses(space, classifier, table=kept / "table.csv")
    kl = [Fraction(own) for own in (0.25, 0.5, 0.125)]  # the last is lost: not among the mild ones
    expected = Fraction(1, 60) * sum(kl) / sum(own * own for own in kl)
    assert losses.below_one_image
    assert losses.per_nat == pytest.approx(float(expected), rel=1e-12)
    table["predicted_kl"] = 0.0
    assert measure_losses(space, classifier, table=kept / "table.csv").per_nat == 1.0
    table["predicted_kl"], table["accuracy_loss"] = [0.1] * 4, [0.01] * 4
    losses = measure_losses(space, classifier, table=kept / "table.csv")
    assert (losses.per_nat, losses.below_one_image) == (pytest.approx(0.1), False)


@pytest.mark.parametrize("nat", [0.0, -1.0, float("inf"), float("nan")])
def test_a_nat_is_a_number_above_0(classifier, space, nat) -> None:
    """Refused before the table is measured."""
    with pytest.raises(FormatError, match=r"loss_per_nat=\S+; allowed: a number above 0"):
        measure_losses(space, classifier, per_nat=nat)


def test_tables_of_other_weights_or_images_are_refused(
    classifier, module, images, space, kept, tmp_path
) -> None:
    path = tmp_path / "table.csv"
    measure_losses(space, classifier, table=path, per_nat=0.5)
    other = deepcopy(module)
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 0.001
    redrawn = make_classifier(other, images, name="net.py:make")
    with pytest.raises(FormatError, match=rf"{path}: a table of weights '[0-9a-f]{{16}}', for net"):
        measure_losses(space, redrawn, table=path, per_nat=0.5)
    flipped = ArrayDataset(images.pixels[::-1], images.labels[::-1], FASHION_MNIST)
    elsewhere = make_classifier(module, flipped, name="net.py:make")
    measure_losses(space, elsewhere, table=path, per_nat=0.5)  # no image is run
    with pytest.raises(
        FormatError, match=r"60 images '[0-9a-f]{16}', which are not the first ones"
    ):
        measure_losses(space, elsewhere, table=path)
    # A table on more images than E_top is taken from is measured on all.
    fewer = make_classifier(module, images, name="net.py:make", sample=10)
    assert measure_losses(space, fewer, table=path).images == 60
    unnamed = path.read_text().replace('"weights"', '"was"')
    path.write_text(unnamed)
    with pytest.raises(FormatError, match=r"a table that names no weights, for net\.py:make"):
        measure_losses(space, classifier, table=path)


def test_another_network_is_refused(classifier) -> None:
    build = NetworkBuilder("other", (1, 4, 4, 3))
    build.conv("first", "input", 6, (3, 3))
    with pytest.raises(FormatError, match=r"network other and module net\.py:make: '0' is only in"):
        measure_losses(make_space(build.network(), candidates(8)), classifier)


def test_equal_choices_are_evaluated_once_and_stand_in_all_their_rows(classifier, search) -> None:
    best, least = search.by("simulated"), search.front[-1]
    evaluated: list[str] = []
    names = {"best": best, "again": best, "least": least}
    frame = confirm_choices(classifier, search, names, evaluated.append)
    assert frame["choice"].tolist() == ["best", "again", "least"]
    assert len(evaluated) == len({best.choice.formats, least.choice.formats})
    pd.testing.assert_series_equal(
        frame.iloc[0].drop("choice"), frame.iloc[1].drop("choice"), check_names=False
    )
    alone = compare_formats(classifier.model, classifier.images, {"x": search.formats(least)})
    row = frame.iloc[2]
    assert row["top1"] == alone.accuracy["top1"].iloc[0]
    assert row["simulated"] == least.simulated
    assert row["value"] == pytest.approx(
        row["accuracy_loss"] + 0.2 * least.simulated / search.by("simulated").dm_max
    )


def test_a_trained_choice_leaves_the_classifier_as_it_was(classifier, search, tmp_path) -> None:
    weights = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    least = search.front[-1]
    arguments = ("least +QAT", least, search, classifier, classifier.images, 3)
    row = train_choice(*arguments, checkpoints=tmp_path / "run")
    assert row["choice"].tolist() == ["least +QAT"]
    assert row["simulated"].iloc[0] == least.simulated
    assert row["accuracy_loss"].iloc[0] == 1 - row["top1"].iloc[0]  # all were right in floats
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, weights[name])
    (checkpoint,) = tmp_path.iterdir()
    assert checkpoint.name.startswith("run-")
    pd.testing.assert_frame_equal(train_choice(*arguments, checkpoints=tmp_path / "run"), row)
