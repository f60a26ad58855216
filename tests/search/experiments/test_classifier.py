"""A trained module with its images: what it is called, what decides stored results, its layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bfpsim.quant.study.accuracy import top_k
from bfpsim.search.experiments.classifier import make_classifier
from bfpsim.workloads import WorkloadError


def test_a_classifier_is_calibrated_and_judged_in_floats(classifier, module, images) -> None:
    assert top_k(classifier.model, images, (1,))[1] == 1
    assert len(classifier.sample) == 60
    assert len(make_classifier(module, images, sample=7).sample) == 7
    assert make_classifier(module, images, sample=7).name == "Sequential"
    assert classifier.some(3).shape == (3, 1, 28, 28)
    assert classifier.some(1000).shape == (60, 1, 28, 28)


def test_its_network_has_the_layers_of_its_model(classifier) -> None:
    assert [layer.name for layer in classifier.network.layers] == ["0", "3"]
    assert [site.name for site in classifier.model.sites] == ["0", "3"]
    assert classifier.network.layers[0].N == 1


def test_other_weights_and_other_images_have_other_digests(classifier, module, images) -> None:
    assert classifier.digest == make_classifier(module, images).digest
    relabelled = replace(images, labels=(images.labels + 1) % 10)
    assert classifier.digest != make_classifier(module, relabelled).digest
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert classifier.digest != make_classifier(other, images).digest


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18-fashion", "resnet18-fashion"),
        ("trained/w8.safetensors", "w8"),
        ("nets/net.py:make", "net-make"),
        ("package.nets:make", "package.nets-make"),
    ],
)
def test_files_bear_the_network_and_what_makes_it(classifier, name: str, stem: str) -> None:
    assert replace(classifier, name=name).stem == stem


def test_what_is_no_classifier_is_refused(images) -> None:
    with pytest.raises(WorkloadError, match=r"module maps: output \(4, 2, 28, 28\) for 4 images"):
        make_classifier(nn.Conv2d(1, 2, 1), images, name="maps")
