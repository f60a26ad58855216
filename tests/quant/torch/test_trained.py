"""The shipped networks: a simulated layer of each gives what the torch front end gives."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from bfpsim.mapping.mapper import find_mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.quant.formats.quantize import quantize_activation, quantize_weight
from bfpsim.quant.study.datasets import shipped_test_images
from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import load_workload
from tests.exports import exported
from tests.generate import make_arch
from tests.long import often

FORMATS = LayerFormats(BFP(8, 3, 16), BFP(8, 2, 4), BFP(8, 3, 8))


def passed(model: QuantizedModel, inputs: Tensor, layer: str) -> dict[str, Tensor]:
    """What the operands of one product were given (I, W), and what O gave."""
    seen: dict[str, Tensor] = {}
    for tensor in "IWO":
        model.operand(layer, tensor).register_forward_hook(
            lambda _, given, result, tensor=tensor: seen.__setitem__(
                tensor, (result if tensor == "O" else given[0]).detach()
            )
        )
    with torch.no_grad():
        model(inputs)
    return seen


@cache
def quantized(network: str) -> QuantizedModel:
    """In float64; not to be changed."""
    model = copy.deepcopy(exported(network)).double()
    model.choose(FORMATS, tied=False)
    return model


@pytest.mark.parametrize(
    ("network", "layer"),
    often(
        2,
        [
            ("resnet18-fashion", "layer4.0.conv1"),
            ("vit-fashion", "blocks.3.attn.qk"),
            ("resnet18-fashion", "layer3.0.downsample"),
            ("mobilenetv2-fashion", "blocks.5.depthwise"),
            ("mobilenetv2-fashion", "blocks.5.eca.conv"),
            ("googlenet-fashion", "inception4a.branch2.1"),
            ("vit-fashion", "patch_embed"),
            ("vit-fashion", "blocks.3.mlp.fc2"),
        ],
    ),
)
def test_a_simulated_layer_equals_the_front_end(network: str, layer: str) -> None:
    """In float64, where the front end's sums of 7-bit mantissas are exact."""
    model = quantized(network)
    seen = passed(model, shipped_test_images().batch([7]).inputs.double(), layer)
    shape = next(each for each in load_workload(network).layers if each.name == layer)
    if layer.endswith(".qk"):  # the first head of the only image, as the workload has it
        seen = {tensor: values[0, 0] for tensor, values in seen.items()}
        seen["W"] = seen["W"].T
    elif layer not in ("blocks.3.mlp.fc2",):  # channels behind, as they are stored
        seen |= {tensor: seen[tensor].movedim(1, -1) for tensor in "IO"}
    given = quantize_activation(
        seen["I"].numpy().reshape(shape.input_shape), FORMATS.I, model.operand(layer, "I").top
    )
    stored = quantize_weight(
        seen["W"].numpy().reshape(shape.weight_shape), FORMATS.W, model.operand(layer, "W").top
    )
    arch = make_arch()
    result = simulate(
        shape, arch, find_mapping(shape, arch, FORMATS), FORMATS, (given, stored),
        output_top=model.operand(layer, "O").top,
    )  # fmt: skip
    assert np.array_equal(result.output, seen["O"].numpy().reshape(shape.output_shape))
    assert np.count_nonzero(result.output) > result.output.size // 2
