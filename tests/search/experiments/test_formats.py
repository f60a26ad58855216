"""Formats compared on a classifier, trained in, and swapped tensor by tensor."""

import pandas as pd
import torch

from bfpsim.quant.formats import parse_format
from bfpsim.quant.study.comparison import compare_formats
from bfpsim.quant.study.sensitivity import Sensitivity, measure_sensitivity
from bfpsim.search.experiments.formats import study_formats, study_sensitivity
from bfpsim.search.phases import progress_lines

NARROW = "bfp6e3b16"


def test_formats_by_name_are_compared_as_formats_are(classifier, images) -> None:
    study = study_formats(classifier, ["original", NARROW])
    expected = compare_formats(
        classifier.model,
        images,
        {"original": parse_format("plain32"), NARROW: parse_format(NARROW)},
    )
    numbers = study.accuracy.drop(columns="policy")
    pd.testing.assert_frame_equal(numbers, expected.accuracy.drop(columns="policy"))
    assert study.accuracy["policy"].tolist() == ["original", NARROW]
    assert study.accuracy["accuracy_loss"].iloc[0] == 0
    assert (study.network, study.images, study.calibration) == ("net.py:make", 60, 60)
    assert study.steps is None


def test_training_adds_rows_and_leaves_the_model_as_it_was(classifier, images, tmp_path) -> None:
    weights = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    choice = classifier.model.choice
    lines: list[str] = []
    study = study_formats(
        classifier,
        ["original", NARROW],
        training=images,
        steps=3,
        checkpoints=tmp_path / "kept",
        progress=progress_lines(lines.append),
    )
    assert study.accuracy["policy"].tolist() == ["original", NARROW, f"{NARROW} +QAT"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [
        f"net-make-{NARROW}.safetensors"
    ]
    assert lines[0] == "evaluating net.py:make: original (1 of 2)"
    assert lines[-1].startswith(f"training net.py:make {NARROW}: step 3 of 3")
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert classifier.model.choice == choice


def test_sensitivity_is_measured_on_all_images_and_written_at_once(classifier, tmp_path) -> None:
    path, formats = tmp_path / "table.csv", [parse_format("bfp8e3b4"), parse_format("bfp8e5b8")]
    study = study_sensitivity(classifier, formats, table=path)
    whole = classifier.images.batch(range(60))
    expected = measure_sensitivity(classifier.model, *whole, formats)
    pd.testing.assert_frame_equal(study.sensitivity.table, expected.table)
    assert len(Sensitivity.load(path).table) == 2 * 3 * 2
    assert len(study.additivity.table) == 40
