"""The shipped networks as the front end has them, exported once in each process."""

from functools import cache

from bfpsim.quant.study.datasets import shipped_test_images
from bfpsim.quant.torch.model import QuantizedModel, quantize_model
from bfpsim.workloads.training.shipped import shipped_module


@cache
def exported(network: str) -> QuantizedModel:
    """A network without formats, calibrated on 8 images. Whoever changes it takes a copy."""
    return quantize_model(shipped_module(network), shipped_test_images().batch(range(8)).inputs)
