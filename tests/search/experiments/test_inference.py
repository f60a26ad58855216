"""Real images through the accelerator, beside float inference."""

import numpy as np

from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.search.experiments.inference import run_images
from bfpsim.sim.inference import float_predictions, run_inference
from bfpsim.workloads import LayerWeights, NetworkBuilder


def test_predictions_stand_beside_those_of_floats_and_labels(edge) -> None:
    build = NetworkBuilder("tiny", (1, 4, 4, 3))
    build.linear("fc", build.avgpool("pool", build.conv("conv", "input", 6, (3, 3))), 5)
    network, rng = build.network(), np.random.default_rng(0)
    weights = {
        layer.name: LayerWeights(
            rng.normal(size=layer.weight_shape).astype(np.float32),
            np.zeros(layer.K, np.float32),
        )
        for layer in network.layers
    }
    images, labels = rng.normal(size=(4, 4, 4, 3)), np.arange(4)
    formats = LayerFormats.uniform(parse_format("bfp8"))
    layers: list[str] = []
    run = run_images(network, edge, formats, weights, images, labels, layers.append)
    assert layers == ["conv", "fc"]
    expected = run_inference(network, edge, formats, weights, images)
    assert np.array_equal(run.predictions["simulated"], expected.predictions)
    assert run.result.traffic.equals(expected.result.traffic)
    floats = float_predictions(network, weights, images)
    assert np.array_equal(run.predictions["float"], floats)
    assert run.predictions["label"].tolist() == [0, 1, 2, 3]
    assert "label" not in run_images(network, edge, formats, weights, images).predictions
