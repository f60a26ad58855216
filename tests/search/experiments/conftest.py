import numpy as np
import pytest
import torch
from torch import nn

from bfpsim.arch import load_arch
from bfpsim.quant.study.datasets import FASHION_MNIST, ArrayDataset
from bfpsim.search.experiments.classifier import make_classifier
from tests.exports import exported_once  # noqa: F401


@pytest.fixture(scope="session")
def edge():
    return load_arch("ideal-64k")


@pytest.fixture(scope="session")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="session")
def images(module) -> ArrayDataset:
    """60 images that the module classifies right: their labels are its answers."""
    pixels = np.random.default_rng(0).integers(256, size=(60, 1, 28, 28)).astype(np.uint8)
    with torch.no_grad():
        answers = module(FASHION_MNIST.apply(pixels)).argmax(1).numpy()
    return ArrayDataset(pixels, answers, FASHION_MNIST)


@pytest.fixture
def classifier(module, images):
    return make_classifier(module, images, name="net.py:make")


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A folder with the stages and the sensitivity table that these tests share."""
    return tmp_path_factory.mktemp("kept")
